import LinuxIO
import SharedMemory
import SluiceRecordFormat
import Synchronization

/// What the copying thread tells the applying thread, and what it is told.
final class SharedProgress: Sendable {
    struct State: Sendable {
        /// Behind the last durable record.
        var end = SegmentPosition(segment: 1, offset: RecordWords.byteCount)
        /// Passes over all rings that were begun.
        var passesBegun: UInt64 = 0
        /// The latest pass that reached the end of every ring, and where the log ended then.
        var drainedPass: UInt64 = 0
        var drainedEnd = SegmentPosition(segment: 0, offset: 0)
        /// Durable records for the applying thread.
        var recent = RecentRecords()
        /// Bytes of all segments that still stand.
        var segmentBytes = 0
        /// The copier will append nothing more.
        var isFinal = false
    }

    private let state = Mutex(State())
    private let stop = Atomic<Bool>(false)
    /// Nil where the process has no descriptor left: then nobody is woken before its time. No
    /// semaphore of Dispatch: it waits by the wall clock, which may jump by months.
    private let work = try? EventDescriptor()

    var snapshot: State { state.withLock { $0 } }

    /// Durable records from `position` on, `count` at most, if they are still in memory.
    func takeRecent(
        from position: SegmentPosition, count: Int
    ) -> (records: [JournalRecord], end: SegmentPosition)? {
        state.withLock { $0.recent.take(from: position, count: count) }
    }

    func update(_ change: (inout sending State) -> Void) {
        state.withLock { change(&$0) }
    }

    /// The applying thread has something that cannot wait for its next regular turn.
    func wakeApplying() {
        switch work {
        case .some(let work): work.doorbell.ring()
        case .none: break
        }
    }

    /// Sleeps until `wakeApplying`, at most this long. Only the applying thread calls it.
    func waitForWork(ms: UInt32) {
        switch work {
        case .some(let work): work.wait(timeoutMs: Int(ms))
        case .none: LocalFileSystem.sleep(microseconds: ms * 1_000)
        }
    }

    /// The copier has appended its last.
    func finish() {
        update { $0.isFinal = true }
        wakeApplying()
    }

    /// A signal or test asks both threads to finish.
    func requestStop() { stop.store(true, ordering: .releasing) }
    var isStopRequested: Bool { stop.load(ordering: .acquiring) }
}

/// One ring and how far it is durable.
private final class InstanceCopy {
    let reader: JournalReader
    /// Sequence of the next record to copy.
    var next: UInt64
    var isDamaged = false

    init(reader: consuming JournalReader, next: UInt64) {
        self.reader = reader
        self.next = next
    }
}

/// Copies the rings of all instances to the segment log, releases what is durable, and removes
/// instances that are closed and drained. One thread owns it.
struct JournalCopier: ~Copyable {
    /// Records of all instances in one pass: 4 MiB, a third of a ring. A pass ends in a sync and a
    /// pause, so what it takes bounds what brokers can write in a second.
    private static let recordsPerPass = 32_768
    /// Of each instance, where there are many, or where disk or budget are nearly full.
    private static let recordsPerPassMin = 4_096
    /// So many records are worth a transaction of the store at once.
    private static let recordsWorthApplying = 8_192

    private let runDirectory: String
    private let budgetBytes: Int
    private let progress: SharedProgress
    private var watch: InstanceWatch
    private var log: SegmentLog
    private var copies: [UInt64: InstanceCopy] = [:]
    /// Instances whose ring cannot be read; each is said once.
    private var refused: Set<UInt64> = []
    private var retryAtUs: UInt64 = 0
    private var fullGate = EventGate()
    private var budgetGate = EventGate()
    private var isFull = false
    /// Durable records that the applying thread was not woken for.
    private var recordsUnannounced = 0

    init(
        runDirectory: String, log: consuming SegmentLog, segmentBytes: Int, budgetBytes: Int,
        progress: SharedProgress
    ) {
        self.runDirectory = runDirectory
        self.budgetBytes = budgetBytes
        self.progress = progress
        watch = InstanceWatch(runDirectory: runDirectory)
        let end = log.end
        self.log = log
        progress.update { state in
            state.end = end
            state.segmentBytes = segmentBytes
        }
    }

    /// One pass over all rings. True when every ring was copied to its end.
    ///
    /// Throws only what ends the process: a failed sync, or a run directory that cannot be read.
    mutating func pass() throws(InstanceError) -> Bool {
        progress.update { $0.passesBegun += 1 }
        let begun = progress.snapshot.passesBegun
        try findInstances()
        guard try mayCopy() else { return false }
        var isDrained = true
        var batch: [JournalRecord] = []
        var releases: [(copy: InstanceCopy, through: UInt64)] = []
        let room = (budgetBytes - progress.snapshot.segmentBytes) / RecordWords.byteCount
        let share = min(isFull ? 0 : Self.recordsPerPass, room) / max(1, copies.count)
        let count = max(share, Self.recordsPerPassMin)
        for copy in copies.values where !copy.isDamaged {
            do {
                let records = try copy.reader.read(from: copy.next, count: count)
                guard let last = records.last else { continue }
                batch += records
                releases.append((copy, last.sequence))
                if last.sequence < copy.reader.publishedSequence { isDrained = false }
            } catch {
                copy.isDamaged = true
                SidecarLog.write(.instanceDamaged, [.instance: copy.reader.instance])
            }
        }
        let before = log.writtenBytes
        guard let starts = try append(batch) else { return false }
        for (copy, sequence) in releases {
            copy.next = sequence + 1
            copy.reader.release(through: sequence)
        }
        let (end, written) = (log.end, log.writtenBytes - before)
        progress.update { state in
            state.end = end
            state.recent.append(batch, inRunsFrom: starts, to: end)
            state.segmentBytes += written
            if isDrained {
                state.drainedPass = begun
                state.drainedEnd = end
            }
        }
        announce(batch)
        if isDrained { try removeClosedInstances() }
        return isDrained
    }

    /// A broker that asks for money waits for the answer; what only has to be written down is
    /// cheaper in one transaction with what follows it.
    private mutating func announce(_ batch: [JournalRecord]) {
        recordsUnannounced += batch.count
        guard
            recordsUnannounced >= Self.recordsWorthApplying
                || batch.contains(where: { $0.kind == .lease })
        else { return }
        recordsUnannounced = 0
        progress.wakeApplying()
    }

    private mutating func findInstances() throws(InstanceError) {
        guard let found = try watch.poll() else { return }
        for instance in found where copies[instance] == nil {
            guard !refused.contains(instance) else { continue }
            let reader: JournalReader
            do {
                reader = try JournalReader(runDirectory: runDirectory, instance: instance)
            } catch .vanished {
                continue
            } catch .system {
                // For want of memory or descriptors: the ring is looked at again when the run directory
                // has changed, which each settlement report does.
                continue
            } catch {
                refused.insert(instance)
                SidecarLog.write(.instanceDamaged, [.instance: instance])
                continue
            }
            let durable = log.lastSequences[instance] ?? 0
            let released = reader.releasedSequence
            // What was released is durable or applied already; what is durable but not released
            // was interrupted between the two.
            let next = max(durable, released) + 1
            if durable > reader.publishedSequence {
                refused.insert(instance)
                SidecarLog.write(
                    .sequenceGap,
                    [
                        .instance: instance, .expected: durable,
                        .found: reader.publishedSequence,
                    ])
                continue
            }
            SidecarLog.write(.instanceFound, [.instance: instance, .records: next - 1])
            if next - 1 > released { reader.release(through: next - 1) }
            copies[instance] = InstanceCopy(reader: reader, next: next)
        }
        let present = Set(found)
        copies = copies.filter { present.contains($0.key) }
    }

    /// False while the disk is full or the budget of segments is used.
    private mutating func mayCopy() throws(InstanceError) -> Bool {
        let nowUs = LocalFileSystem.monotonicUs()
        guard nowUs >= retryAtUs else { return false }
        let used = progress.snapshot.segmentBytes
        guard used < budgetBytes else {
            if budgetGate.opens(nowUs: nowUs) {
                SidecarLog.write(.budgetUsed, [.bytes: UInt64(used)])
            }
            // The segment that is being written is never deleted: end it, or a budget below its
            // size would never come free.
            do {
                let before = log.writtenBytes
                try log.rotate()
                let (end, written) = (log.end, log.writtenBytes - before)
                progress.update { state in
                    state.end = end
                    state.segmentBytes += written
                }
            } catch .noSpace {}
            return false
        }
        return true
    }

    /// Where the batch's runs stand (`SegmentLog.append`); nil when the disk is full: the rings
    /// keep what was not taken.
    private mutating func append(
        _ batch: [JournalRecord]
    ) throws(InstanceError) -> [SegmentPosition]? {
        let starts: [SegmentPosition]
        do {
            starts = try log.append(batch)
        } catch .noSpace {
            let nowUs = LocalFileSystem.monotonicUs()
            retryAtUs = nowUs + 1_000_000
            isFull = true
            if fullGate.opens(nowUs: nowUs) { SidecarLog.write(.diskFull) }
            return nil
        }
        if isFull, !batch.isEmpty {
            isFull = false
            SidecarLog.write(.diskHasRoom)
        }
        return starts
    }

    /// Closed, drained to the durable log, and dead: nobody needs it any more.
    private mutating func removeClosedInstances() throws(InstanceError) {
        for (instance, copy) in copies
        where !copy.isDamaged && copy.reader.closedBy != 0
            && copy.next > copy.reader.publishedSequence
        {
            do {
                guard let lock = try InstanceDirectory.lockIfDead(runDirectory, instance) else {
                    continue
                }
                defer { _ = lock }
                // Once more under the lock: its last records may have come in between.
                guard copy.next > copy.reader.publishedSequence else { continue }
                try InstanceDirectory.remove(runDirectory, instance)
            } catch .vanished {}
            copies[instance] = nil
            SidecarLog.write(.instanceRemoved, [.instance: instance])
        }
    }
}
