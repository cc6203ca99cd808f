import SharedMemory
import SluiceBrokerCore
import SluiceRecordFormat
import SluiceWire

/// The dispatcher's writes, performed on the instance files, and the numbers that operators read.
/// Owned by the dispatcher's thread.
struct InstanceJournal: ~Copyable {
    private var instance: BrokerInstance
    private let statistics: StatisticsPage
    /// Slots whose ENDED is appended; free once it is published.
    private var ended: [TaskIndex] = []

    private let runDirectory: String
    /// Every task of earlier instances has its final record.
    private(set) var isRecovered = false

    init(_ instance: consuming BrokerInstance, runDirectory: String) {
        self.runDirectory = runDirectory
        statistics = instance.statistics(shard: 0)
        self.instance = instance
    }

    var id: UInt64 { instance.id }
    var freeRecords: Int { instance.journal.freeRecords }

    /// Performs the writes in order and publishes them. Only then may any message of the same
    /// turn go out.
    mutating func write(_ actions: [JournalAction]) {
        guard !actions.isEmpty else { return }
        for action in actions { perform(action) }
        instance.journal.publish()
        for slot in ended { instance.table.clearSlot(Int(slot)) }
        ended.removeAll(keepingCapacity: true)
    }

    private mutating func perform(_ action: JournalAction) {
        switch action {
        case .accepted(let slot, let record):
            let opened = OpenTaskSlot(
                counter: record.counter, acceptedAtUs: record.acceptedAtUs,
                maxInputTokens: record.maxInputTokens)
            instance.table.openSlot(Int(slot), opened)
            // The slot names the record before the record can be seen.
            instance.table.setAcceptSequence(Int(slot), instance.journal.lastSequence + 1)
            instance.journal.append(record.record)
        case .assigned(let slot, let assignment):
            let word = OpenTaskSlot.dispatchWord(
                offerModel: assignment.offerModel, supplyType: assignment.supplyType,
                dispatches: assignment.dispatches, winReason: assignment.winReason.rawValue)
            instance.table.setSupplier(
                Int(slot), supplier: assignment.supplier, dispatchWord: word,
                prices: assignment.prices, queueUs: assignment.queueUs)
        case .ended(let slot, let record):
            instance.table.setEndSequence(
                Int(slot), instance: instance.id, instance.journal.lastSequence + 1)
            instance.journal.append(record.record)
            ended.append(slot)
        case .refused(let record):
            instance.journal.append(record.record)
        case .name(let record):
            instance.journal.append(record.record)
        }
    }

    func delivered(_ slot: TaskIndex, _ sealed: SealedTokens) {
        instance.table.addDelivered(
            Int(slot), tokens: UInt32(truncatingIfNeeded: sealed.tokens),
            reasoningTokens: UInt32(truncatingIfNeeded: sealed.reasoningTokens),
            payloadBytes: UInt64(sealed.payloadBytes))
    }

    func firstOutput(_ slot: TaskIndex, ttftUs: UInt64) {
        instance.table.setFirstOutput(Int(slot), ttftUs: ttftUs)
    }

    func started(_ slot: TaskIndex, _ frame: StartedFrame) {
        instance.table.setStarted(
            Int(slot), inputTokens: frame.inputTokens, cachedTokens: frame.cachedTokens)
    }

    /// Writes the final records of tasks that dead instances left open, as far as the ring has
    /// room within `waitMs`.
    mutating func closeDeadInstances(
        wallUs: UInt64, waitMs: UInt64, _ log: BrokerLog
    ) throws(InstanceError) {
        let closed = try InstanceDirectory.closeDeadInstances(
            runDirectory: runDirectory, into: &instance, wallMicroseconds: wallUs, waitMs: waitMs)
        isRecovered = closed.allSatisfy(\.isComplete)
        for one in closed where one.isComplete {
            log.event("instance_closed", ("ended", UInt64(one.endedCount)))
        }
    }

    /// Copies the counters of this turn to the statistics page.
    func report(
        shard: borrowing ShardMachine, dispatcher: borrowing Dispatcher, wallUs: UInt64
    ) {
        let shardCounters = shard.counters
        let dispatch = dispatcher.counters
        statistics.set(.lastTurnUs, wallUs)
        statistics.set(.connectionsAccepted, shardCounters.connectionsAccepted)
        statistics.set(.connectionsCut, shardCounters.connectionsCut)
        statistics.set(.framesRelayed, shardCounters.tokenFramesRelayed)
        statistics.set(.tokensRelayed, shardCounters.tokensDelivered)
        statistics.set(.bytesRelayed, shardCounters.answerBytesDelivered)
        statistics.set(.lateFramesIgnored, shardCounters.lateFrames)
        statistics.set(.protocolErrors, shardCounters.protocolErrors)
        statistics.set(.readersStalled, shardCounters.stalledReaders)
        statistics.set(.slotsQuarantined, shardCounters.quarantinedSlots)
        statistics.set(.tasksAccepted, dispatch.accepted)
        statistics.set(.tasksEnded, dispatch.ended)
        statistics.set(.tasksCompleted, dispatch.completed)
        statistics.set(.tasksRefused, dispatch.refused)
        statistics.set(.tasksDispatched, dispatch.dispatched)
        statistics.set(.tasksDispatchedAgain, dispatch.dispatchedAgain)
        statistics.set(.tasksOpen, UInt64(dispatcher.openTasks))
        statistics.set(.journalFullRefusals, dispatch.journalFullRefusals)
        statistics.set(.refusalsCounted, dispatch.refusalsUnwritten)
        statistics.set(.journalRecords, instance.journal.publishedSequence)
        statistics.set(.journalRecordsFree, UInt64(max(0, instance.journal.freeRecords)))
    }

    func setBackend(isRing: Bool) {
        statistics.set(.backendIsRing, isRing ? 1 : 0)
    }

    /// Ends the instance in order.
    consuming func close() {
        instance.close()
    }
}
