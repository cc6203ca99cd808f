import BasicContainers
import SharedMemory
import SluiceBrokerCore
import SluiceRecordFormat
import SluiceWire

/// The dispatcher's writes, performed on the instance files, and its numbers for operators. Owned by
/// the dispatcher's thread.
struct InstanceJournal: ~Copyable {
    private var instance: BrokerInstance
    private let statistics: StatisticsPage
    /// Slots whose ENDED is appended; free once it is published.
    private var ended: [TaskIndex] = []

    private let runDirectory: String
    /// Every task of earlier instances has its final record.
    private(set) var isRecovered = false
    /// Instances that were said to be damaged.
    private var saidDamaged: Set<UInt64> = []

    init(_ instance: consuming BrokerInstance, runDirectory: String) {
        self.runDirectory = runDirectory
        statistics = instance.statistics(shard: 0)
        self.instance = instance
    }

    var id: UInt64 { instance.id }
    /// For the shards: each writes what it delivers.
    var table: TaskTable { instance.table }

    /// For one shard's thread: its counters. Shard 0's block also has the dispatcher's.
    func statistics(shard: Int) -> StatisticsPage { instance.statistics(shard: shard) }
    /// Records that tasks may take now.
    var roomForTasks: Int { instance.roomForTasks }

    /// Performs the writes in order and publishes them. Only then may any message of the same
    /// turn go out.
    mutating func write(_ actions: borrowing UniqueArray<JournalAction>) {
        guard !actions.isEmpty else { return }
        for position in actions.indices { perform(actions[position]) }
        instance.journal.publish()
        for slot in ended { instance.table.clearSlot(Int(slot)) }
        ended.removeAll(keepingCapacity: true)
    }

    private mutating func perform(_ action: JournalAction) {
        switch action {
        case .accepted(let slot, let record, let inputBound):
            let opened = OpenTaskSlot(
                counter: record.counter, acceptedAtUs: record.acceptedAtUs,
                maxInputTokens: inputBound)
            instance.table.openSlot(Int(slot), opened)
            // The slot names the record before the record can be seen.
            instance.table.setAcceptSequence(Int(slot), instance.journal.lastSequence + 1)
            instance.journal.append(record.record)
        case .assigned(let slot, let assignment):
            let word = OpenTaskSlot.dispatchWord(
                offerModel: assignment.offerModel, supplyType: assignment.supplyType,
                dispatches: assignment.dispatches, winReason: assignment.winReason.rawValue,
                operation: assignment.operation)
            instance.table.setSupplier(
                Int(slot), supplier: assignment.supplier, dispatchWord: word,
                prices: assignment.prices, queueUs: assignment.queueUs)
        case .ended(let slot, let record):
            instance.table.setEndSequence(
                Int(slot), instance: instance.id, instance.journal.lastSequence + 1)
            instance.journal.append(record.record)
            ended.append(slot)
            note(record)
        case .refused(let record):
            instance.journal.append(record.record)
        case .name(let record):
            instance.journal.append(record.record)
        case .lease(let record):
            instance.journal.append(record.record)
        }
    }

    /// Counts the times of a task that some supplier had; the others were answered by the broker.
    private func note(_ record: EndedRecord) {
        guard record.dispatches > 0 else { return }
        statistics.record(.queueUs, UInt64(record.queueUs))
        statistics.record(.durationUs, record.durationUs)
        if let ttftUs = record.ttftUs { statistics.record(.ttftUs, ttftUs) }
    }

    /// Writes the final records of tasks that dead instances left open, as far as the ring has
    /// room within `waitMs` beside the ends of this broker's own `openTasks`. What is damaged is
    /// said once and left alone.
    mutating func closeDeadInstances(
        openTasks: Int, wallUs: UInt64, waitMs: UInt64, _ log: BrokerLog
    ) throws(InstanceError) {
        for one in instance.damagedInstances { sayDamaged(one, .ring, log) }
        let closed = try InstanceDirectory.closeDeadInstances(
            runDirectory: runDirectory, into: &instance, openTasks: openTasks,
            wallMicroseconds: wallUs, waitMs: waitMs)
        isRecovered = closed.allSatisfy(\.isComplete)
        for one in closed where one.isComplete {
            log.event("instance_closed", ("ended", UInt64(one.endedCount)))
        }
        for one in closed {
            if let file = one.damage { sayDamaged(one.instance, file, log) }
        }
    }

    private mutating func sayDamaged(_ instance: UInt64, _ file: SharedFile, _ log: BrokerLog) {
        guard saidDamaged.insert(instance).inserted else { return }
        log.instanceDamaged(instance, file)
    }

    /// Copies the dispatcher's counters to the statistics page.
    func report(_ dispatcher: borrowing Dispatcher) {
        let dispatch = dispatcher.counters
        statistics.set(.tasksAccepted, dispatch.accepted)
        statistics.set(.tasksEnded, dispatch.ended)
        statistics.set(.tasksCompleted, dispatch.completed)
        statistics.set(.deadlinesPassed, dispatch.deadlinesPassed)
        statistics.set(.tasksRefused, dispatch.refused)
        statistics.set(.tasksDispatched, dispatch.dispatched)
        statistics.set(.tasksDispatchedAgain, dispatch.dispatchedAgain)
        statistics.set(.tasksMatchedAtOnce, dispatch.matchedAtOnce)
        statistics.set(.queueUsTotal, dispatch.queueUs)
        statistics.set(.affinityHits, dispatch.affinityHits)
        statistics.set(.retriesRefused, dispatch.retriesRefused)
        statistics.set(.breakersOpen, UInt64(dispatcher.breakersOpen))
        let supply = dispatcher.supply
        statistics.set(.suppliersConnected, supply.suppliers)
        statistics.set(.offersOpen, supply.offers)
        statistics.set(.slotsGranted, supply.slotsGranted)
        statistics.set(.slotsInUse, supply.slotsInUse)
        statistics.set(.tasksQueued, UInt64(dispatcher.queuedTasks))
        statistics.set(.tasksOpen, UInt64(dispatcher.openTasks))
        statistics.set(.bodyBytesInUse, UInt64(dispatcher.reservedBodyBytes))
        statistics.set(.reserveBytesInUse, UInt64(dispatcher.reservedAnswerBytes))
        statistics.set(.journalFullRefusals, dispatch.journalFullRefusals)
        statistics.set(.refusalsCounted, dispatch.refusalsUnwritten)
        statistics.set(.holdsRefused, dispatch.holdsRefused)
        statistics.set(.leaseWaits, dispatch.leaseWaits)
        statistics.set(.leaseAsks, dispatch.leaseAsks)
        statistics.set(.limitRefusals, dispatch.limitRefusals)
        statistics.set(.duplicatesAnswered, dispatch.duplicates)
        statistics.set(.journalRecords, instance.journal.publishedSequence)
        statistics.set(.journalRecordsFree, UInt64(max(0, instance.journal.freeRecords)))
    }

    func setBackend(isRing: Bool) {
        statistics.set(.backendIsRing, isRing ? 1 : 0)
    }

    /// Ends the instance in order.
    consuming func close(wallUs: UInt64) {
        instance.close(wallMicroseconds: wallUs)
    }
}
