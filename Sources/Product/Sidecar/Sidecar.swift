import Dispatch
import Foundation
import LinuxIO
import SharedMemory
package import Store
package import TLSEngine

/// The process beside the broker that makes its records durable: rings → segments → store.
///
/// Two threads: one copies rings to segments and never waits for the store, the other applies
/// segments to the store.
package struct Sidecar: Sendable {
    /// Where and how a sidecar works.
    package struct Options: Sendable {
        /// Holds `journal/` and `sluice.sqlite`; one sidecar at a time.
        package var dataDirectory: String
        /// Where brokers make their instances.
        package var runDirectory: String
        /// The database; a file of the data directory unless told otherwise.
        package var store: StoreLocation
        /// Time between two looks at the rings: what a power failure may cost.
        package var pollMs: UInt32 = 20
        /// Longest time that durable records wait for the store, so that many share one
        /// transaction; what a broker waits for and what is much is applied at once.
        package var applyEveryMs: UInt32 = 100
        /// Size at which a segment is followed by the next.
        package var segmentBytes = SegmentLog.segmentBytesDefault
        /// Copying stops when all segments together reach this: 1 GiB.
        package var segmentBudgetBytes = 1_024 * 1_024 * 1_024
        /// A task is lost when its instance is gone and this time has passed since it was
        /// accepted: the longest deadline and a minute.
        package var lostAfterUs: UInt64 = 660_000_000
        /// Seal the segments; nil = they are written in clear.
        package var masterKeys: MasterKeys?
        /// How long the end waits for the store; what is not applied stays in segments.
        package var stopWaitMs: UInt64 = 5_000

        package init(dataDirectory: String, runDirectory: String) {
            self.dataDirectory = dataDirectory
            self.runDirectory = runDirectory
            store = .sqlite(path: Self.storePath(dataDirectory: dataDirectory))
        }

        /// Where the store lies in a data directory.
        package static func storePath(dataDirectory: String) -> String {
            dataDirectory + "/sluice.sqlite"
        }

        /// Where the directory of credentials lies in a data directory.
        package static func directoryPath(dataDirectory: String) -> String {
            dataDirectory + "/directory"
        }
    }

    /// Exit codes of the process.
    package enum Exit: Int32, Sendable {
        case ended = 0
        /// Another sidecar works on these directories, or they cannot be used.
        case unusable = 2
        /// A sync failed or a file is damaged: start again, nothing is lost.
        case failed = 3
    }

    private let options: Options
    private let progress = SharedProgress()

    package init(_ options: Options) {
        self.options = options
    }

    /// Asks `run` to drain and return; any thread may call it.
    package func stop() {
        progress.requestStop()
    }

    /// Works until `stop` or a signal (with `handlingSignals`: SIGTERM, SIGINT), or until it
    /// cannot go on. Blocks the calling thread, which with `handlingSignals` is the process's only
    /// one. `onReady` is called once it has its locks and has read what earlier runs left.
    package func run(handlingSignals: Bool = false, onReady: () -> Void = {}) -> Exit {
        // First of all: a signal that comes from here on waits until it is asked for.
        let signals: SignalDescriptor?
        do {
            signals = handlingSignals ? try SignalDescriptor() : nil
        } catch {
            SidecarLog.write(.signalsUnusable, [.code: UInt64(error.code)])
            return .failed
        }
        do {
            try LocalFileSystem.makeDirectory(options.dataDirectory)
            _ = try LocalFile.openDirectory(options.dataDirectory)
            try LocalFileSystem.makeDirectory(options.runDirectory)
            _ = try LocalFile.openDirectory(options.runDirectory)
        } catch {
            SidecarLog.write(.directoryUnusable)
            return .unusable
        }
        do {
            let dataLock = try InstanceLock(path: options.dataDirectory + "/.lock", create: true)
            defer { _ = dataLock }
            let readerLock = try InstanceLock(
                path: options.runDirectory + "/.reader", create: true)
            defer { _ = readerLock }
            return try work(signals, onReady)
        } catch let failure as SegmentFiles.KeyFailure {
            SidecarLog.write(Self.event(failure.reason), [.segment: failure.segment])
            return .unusable
        } catch InstanceError.locked {
            SidecarLog.write(.alreadyRunning)
            return .unusable
        } catch {
            let error = error as? InstanceError ?? .interrupted
            var event = SidecarEvent.fileFailed
            if case .system(.sync, _) = error { event = .syncFailed }
            SidecarLog.write(event, [.code: UInt64(error.systemCode)])
            return .failed
        }
    }

    /// A sealed segment that cannot be opened is no damage: without its key nothing is touched.
    private static func event(_ reason: SealingError) -> SidecarEvent {
        switch reason {
        case .keyMissing, .keyUnreadable, .keyExposed, .keyMalformed: .masterKeyMissing
        case .keyUnknown: .masterKeyUnknown
        case .forged: .segmentForged
        }
    }

    private func work(
        _ signals: borrowing SignalDescriptor?, _ onReady: () -> Void
    ) throws -> Exit {
        let files = SegmentFiles(
            directory: options.dataDirectory + "/journal", masterKeys: options.masterKeys)
        try LocalFileSystem.makeDirectory(files.directory)
        _ = try LocalFile.openDirectory(files.directory)
        try files.checkKeys()
        if options.masterKeys == nil { SidecarLog.write(.segmentsInClear) }
        let log = try SegmentLog(files, segmentBytes: options.segmentBytes)
        if log.damagedCount > 0 {
            SidecarLog.write(.segmentsDamaged, [.count: UInt64(log.damagedCount)])
        }
        let numbers = try files.numbers()
        var segmentBytes = 0
        for number in numbers {
            segmentBytes += try files.byteCount(number)
        }
        var copier = JournalCopier(
            runDirectory: options.runDirectory, log: log, segmentBytes: segmentBytes,
            budgetBytes: options.segmentBudgetBytes, progress: progress)
        let applier = try RecordApplier(
            files, options: options,
            node: try NodeNumber.openOrMake(dataDirectory: options.dataDirectory),
            progress: progress)
        SidecarLog.write(
            .started, [.segments: UInt64(numbers.count), .bytes: UInt64(segmentBytes)])

        let applying = ApplyingThread(applier, options: options, progress: progress)
        applying.start()
        onReady()
        defer { applying.join() }
        do {
            while !isStopRequested(signals) {
                _ = try copier.pass()
                LocalFileSystem.sleep(microseconds: options.pollMs * 1_000)
            }
            SidecarLog.write(.stopping)
            // Brokers may still be ending: take what is there, however many passes that needs.
            let deadlineUs = LocalFileSystem.monotonicUs() + options.stopWaitMs * 1_000
            while try !copier.pass(), LocalFileSystem.monotonicUs() < deadlineUs {
                LocalFileSystem.sleep(microseconds: 1_000)
            }
            progress.finish()
        } catch {
            progress.requestStop()
            progress.finish()
            throw error
        }
        applying.join()
        SidecarLog.write(.stopped)
        return applying.hasFailed ? .failed : .ended
    }

    /// SIGHUP is taken and means nothing: there is nothing to read again.
    private func isStopRequested(_ signals: borrowing SignalDescriptor?) -> Bool {
        switch signals {
        case .some(let signals):
            while let signal = signals.next() {
                if signal == SIGTERM || signal == SIGINT { progress.requestStop() }
            }
        case .none: break
        }
        return progress.isStopRequested
    }
}
