import Dispatch
import Foundation
import LinuxIO
import SharedMemory
import Synchronization

/// Runs a `RecordApplier` on a thread of its own until the copier is final and all is applied.
final class ApplyingThread: Sendable {
    private let applier: Mutex<RecordApplier?>
    private let options: Sidecar.Options
    private let progress: SharedProgress
    private let failed = Atomic<Bool>(false)
    private let ended = DispatchSemaphore(value: 0)

    init(
        _ applier: consuming sending RecordApplier, options: Sidecar.Options,
        progress: SharedProgress
    ) {
        self.applier = Mutex(consume applier)
        self.options = options
        self.progress = progress
    }

    /// A segment could not be read or removed.
    var hasFailed: Bool { failed.load(ordering: .acquiring) }

    func start() {
        Thread.detachNewThread { [self] in
            do {
                try loop()
            } catch {
                failed.store(true, ordering: .releasing)
                progress.requestStop()
            }
            ended.signal()
        }
    }

    /// Waits for the thread's end; may be called again.
    func join() {
        ended.wait()
        ended.signal()
    }

    private func loop() throws(InstanceError) {
        guard var applier = applier.withLock({ $0.take() }) else { return }
        // A token on the same processor is more urgent than a row or a lease. The copying thread stays as it is:
        // a broker whose ring is full waits for that.
        ThreadSchedule.batch()
        var deadlineUs: UInt64?
        while true {
            // Read first: what became durable before it was final is still applied below.
            let isFinal = progress.snapshot.isFinal
            let hasApplied = try applier.step()
            if !isFinal { applier.removeExpired() }
            applier.writeReport()
            if hasApplied { continue }
            // Without records to settle it is the directory that finds out whether the store is back.
            if !applier.isStoreRefusing || applier.isCaughtUp { applier.syncDirectory() }
            if applier.isCaughtUp {
                if isFinal { return }
                try applier.endLostTasks()
            } else if isFinal {
                // The store refuses; its records stay in the segments.
                let nowUs = LocalFileSystem.monotonicUs()
                let limitUs = deadlineUs ?? nowUs + options.stopWaitMs * 1_000
                deadlineUs = limitUs
                if nowUs >= limitUs { return }
            }
            if applier.isStoreRefusing {
                LocalFileSystem.sleep(microseconds: max(options.pollMs, 100) * 1_000)
            } else if isFinal {
                LocalFileSystem.sleep(microseconds: options.pollMs * 1_000)
            } else {
                progress.waitForWork(ms: options.applyEveryMs)
            }
        }
    }
}
