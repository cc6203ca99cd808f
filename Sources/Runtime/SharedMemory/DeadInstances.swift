import CLinuxIO
import SluiceRecordFormat
import SluiceWire

/// What a closing did with one dead instance.
package struct ClosedInstance: Equatable, Sendable {
    package var instance: UInt64
    /// ENDED records written for it this time.
    package var endedCount: Int
    /// Every task of it has its ENDED and it is marked closed. False: the ring had no room (call
    /// again later) or a file is damaged.
    package var isComplete: Bool
    /// The file that cannot be right: of this instance, or of the closer that a slot of it names.
    package var damage: SharedFile?
}

extension InstanceDirectory {
    /// Writes into `broker`'s journal the ENDED of every task that was open when its instance
    /// died, under the task's old identity and with the usage that was delivered, and marks those
    /// instances closed.
    ///
    /// Any closer may die at any store: the next one finishes, and each task gets exactly one
    /// ENDED. For that, closers take turns (the run directory's lock), take the oldest instance
    /// first, and note in the slot where the ENDED will stand before it can be seen. The ends of
    /// the `openTasks` of `broker` keep their room in its ring. Where there is no more of it the
    /// sidecar is given `waitMs` in all; what is left stays for the next call, and until then
    /// `roomForTasks` leaves it room. With `waitMs` 0 nothing is waited for: `locked` if another
    /// broker is closing or starting. `afterEachStore` lets a test end the closing at every store.
    package static func closeDeadInstances(
        runDirectory: String, into broker: inout BrokerInstance, openTasks: Int,
        wallMicroseconds: UInt64, waitMs: UInt64 = 2_000,
        afterEachStore: (() throws(InstanceError) -> Void)? = nil
    ) throws(InstanceError) -> [ClosedInstance] {
        let turn = try InstanceLock(
            path: runDirectory + "/.lock", create: true, wait: waitMs > 0)
        defer { _ = turn }
        var closing = Closing(
            runDirectory: runDirectory, openTasks: openTasks, wallMicroseconds: wallMicroseconds,
            deadlineUs: LocalFileSystem.monotonicUs() + waitMs * 1_000,
            afterEachStore: afterEachStore)
        var results: [ClosedInstance] = []
        for instance in try closing.oldestFirst() where instance != broker.id {
            guard let result = try closing.close(instance, into: &broker) else { continue }
            results.append(result)
            // The rest may only be closed after this one: its slots may point into theirs.
            if closing.isOutOfRoom { break }
        }
        broker.closingLacksRoom = closing.isOutOfRoom
        return results
    }
}

/// One run over the dead instances of a run directory.
private struct Closing {
    /// ENDED records between two publishes.
    private static let batch = 64

    let runDirectory: String
    let openTasks: Int
    let wallMicroseconds: UInt64
    let deadlineUs: UInt64
    let afterEachStore: (() throws(InstanceError) -> Void)?
    private(set) var isOutOfRoom = false

    init(
        runDirectory: String, openTasks: Int, wallMicroseconds: UInt64, deadlineUs: UInt64,
        afterEachStore: (() throws(InstanceError) -> Void)?
    ) {
        self.runDirectory = runDirectory
        self.openTasks = openTasks
        self.wallMicroseconds = wallMicroseconds
        self.deadlineUs = deadlineUs
        self.afterEachStore = afterEachStore
    }

    /// Instances in the order they were started. A slot names only its own instance or a later
    /// one, so whatever a slot names is still there when the slot is judged.
    func oldestFirst() throws(InstanceError) -> [UInt64] {
        var found: [(startNumber: UInt64, instance: UInt64)] = []
        for instance in try InstanceDirectory.findInstances(runDirectory) {
            do {
                let ring = try DeadRing(runDirectory: runDirectory, instance: instance)
                found.append((ring.startNumber ?? 0, instance))
            } catch .vanished, .damaged {
                found.append((0, instance))
            }
        }
        found.sort { $0 < $1 }
        return found.map(\.instance)
    }

    /// Nil when there is nothing to do: the instance lives, was closed before, or is gone.
    mutating func close(
        _ instance: UInt64, into broker: inout BrokerInstance
    ) throws(InstanceError) -> ClosedInstance? {
        var result = ClosedInstance(instance: instance, endedCount: 0, isComplete: false)
        do throws(InstanceError) {
            guard let lock = try InstanceDirectory.lockIfDead(runDirectory, instance) else {
                return nil
            }
            defer { _ = lock }
            let ring = try DeadRing(runDirectory: runDirectory, instance: instance)
            guard ring.closedBy == 0 else { return nil }
            guard ring.positionsAreSound else { throw .damaged(.ring) }
            let table = try DeadTable(runDirectory: runDirectory, instance: instance)
            try writeMissingEnds(of: ring, table, into: &broker, counting: &result)
            guard !isOutOfRoom, try makeRoom(in: &broker) else { return result }
            broker.journal.append(
                InstanceClosedRecord(
                    closed: instance, closedAtUs: wallMicroseconds,
                    endedCount: UInt32(result.endedCount)
                ).record)
            try afterEachStore?()
            broker.journal.publish()
            try afterEachStore?()
            ring.markClosed(by: broker.id)
            try afterEachStore?()
            result.isComplete = true
            return result
        } catch .vanished {
            return nil
        } catch .damaged(let file) {
            result.damage = file
            return result
        }
    }

    private mutating func writeMissingEnds(
        of ring: borrowing DeadRing, _ table: borrowing DeadTable,
        into broker: inout BrokerInstance, counting result: inout ClosedInstance
    ) throws(InstanceError) {
        let endedAtUs = lastTurnUs(of: ring.instance) ?? wallMicroseconds
        for index in 0..<table.slots.slotCount {
            let slot = table.slots.slot(index)
            guard slot.acceptSequence != 0, slot.acceptSequence <= ring.publishedSequence,
                try !isEnded(slot, of: ring, by: broker)
            else { continue }
            guard try makeRoom(in: &broker) else { return }
            table.slots.setEndSequence(
                index, instance: broker.id, broker.journal.lastSequence + 1)
            try afterEachStore?()
            broker.journal.append(
                slot.endedAfterLoss(instance: ring.instance, endedAtUs: endedAtUs).record)
            try afterEachStore?()
            result.endedCount += 1
            if result.endedCount % Self.batch == 0 { broker.journal.publish() }
        }
        broker.journal.publish()
    }

    /// Whether the slot's ENDED can be seen by the sidecar, now or when this closing publishes.
    private func isEnded(
        _ slot: OpenTaskSlot, of ring: borrowing DeadRing, by broker: borrowing BrokerInstance
    ) throws(InstanceError) -> Bool {
        guard slot.endSequence != 0 else { return false }
        if slot.endInstance == ring.instance { return slot.endSequence <= ring.publishedSequence }
        if slot.endInstance == broker.id { return slot.endSequence <= broker.journal.lastSequence }
        do {
            let other = try DeadRing(runDirectory: runDirectory, instance: slot.endInstance)
            return slot.endSequence <= other.publishedSequence
        } catch .vanished {
            // An instance is removed only when it ended in order, and then it had published all,
            // or when a closer marked it, and that closer had finished the older ones first.
            return true
        }
    }

    /// Leaves to the broker what it may not do without; waits for the sidecar if need be.
    private mutating func makeRoom(in broker: inout BrokerInstance) throws(InstanceError) -> Bool {
        while !JournalReserve.admits(
            freeRecords: broker.journal.freeRecords, openTasks: openTasks)
        {
            broker.journal.publish()
            guard LocalFileSystem.monotonicUs() < deadlineUs else {
                isOutOfRoom = true
                return false
            }
            LocalFileSystem.sleep(microseconds: 1_000)
        }
        return true
    }

    /// When the dead broker was last seen at work, if it said so.
    private func lastTurnUs(of instance: UInt64) -> UInt64? {
        guard
            let statistics = try? StatisticsReader(
                runDirectory: runDirectory, instance: instance)
        else { return nil }
        let last = (0..<statistics.shardCount).reduce(UInt64(0)) {
            max($0, statistics.value(.lastTurnUs, shard: $1))
        }
        return last == 0 ? nil : last
    }
}

/// The ring header of another instance.
struct DeadRing: ~Copyable {
    private let file: MappedFile
    let instance: UInt64

    init(runDirectory: String, instance: UInt64) throws(InstanceError) {
        file = try MappedFile.open(
            InstanceDirectory.path(runDirectory, instance, .ring), as: .ring,
            magic: RingLayout.magic, instance: instance,
            byteCountForCapacity: { FileHeader.byteCount + $0 * RecordWords.byteCount })
        self.instance = instance
    }

    /// Nil where it is none: neither counting starts nor a wall clock in microseconds comes to half
    /// of all numbers. So there is always one after it.
    var startNumber: UInt64? {
        let number = file.load(at: RingLayout.startNumberOffset)
        return number <= .max / 2 ? number : nil
    }

    /// Whether head and tail can both be right, as the sidecar judges too. Only for a ring whose
    /// broker is dead: of a living one both move.
    var positionsAreSound: Bool {
        RingLayout.arePositionsSound(
            head: file.load(at: RingLayout.headOffset), tail: publishedSequence,
            capacity: file.capacity)
    }

    var publishedSequence: UInt64 { file.loadAcquire(at: RingLayout.tailOffset) }
    var closedBy: UInt64 { file.loadAcquire(at: RingLayout.closedByOffset) }

    func markClosed(by closer: UInt64) {
        file.storeRelease(closer, at: RingLayout.closedByOffset)
    }
}

/// The open-task table of a dead instance, whose lock the closer holds.
private struct DeadTable: ~Copyable {
    private let file: MappedFile
    /// Valid while this value lives.
    let slots: TaskTable

    init(runDirectory: String, instance: UInt64) throws(InstanceError) {
        file = try MappedFile.open(
            InstanceDirectory.path(runDirectory, instance, .table), as: .table,
            magic: TableLayout.magic, instance: instance,
            byteCountForCapacity: { TableLayout.byteCount(slots: $0) })
        // SAFETY: the file is owned by this value; the handle stays beside it.
        slots = unsafe TaskTable(
            firstSlot: file.base + FileHeader.byteCount, slotCount: file.capacity)
    }
}
