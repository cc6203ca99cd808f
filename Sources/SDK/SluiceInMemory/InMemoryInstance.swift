package import BasicContainers
package import SluiceBrokerCore
package import SluiceRecordFormat
package import SluiceWire

/// The files of one start of a broker, in memory: journal, open-task table, end mark. They survive
/// the broker that writes them, as files on tmpfs survive a killed process.
///
/// A death can be set to strike between any two writes: from then on nothing is written.
package struct InMemoryInstance: Sendable {
    package let id: UInt64
    /// Every record that was appended; the first `tail` of them are published.
    package private(set) var records: [JournalRecord] = []
    package private(set) var tail = 0
    /// Records that the reader has released; at most `tail`.
    package private(set) var head = 0
    /// Records that fit between `head` and the last one appended.
    package let capacity: Int
    /// By task index; grows as slots are used.
    package private(set) var slots: [OpenTaskSlot] = []
    /// The instance that closed this one; 0 = not closed.
    package private(set) var closedBy: UInt64 = 0
    /// No write is performed any more.
    package private(set) var isDead = false
    private var writesLeft: Int?
    private var endedSlots: [TaskIndex] = []

    /// `capacity` is the number of records of the ring.
    package init(id: UInt64, capacity: Int) {
        self.id = id
        self.capacity = capacity
    }

    /// Records that can be appended now.
    package var freeRecords: Int { capacity - (records.count - head) }

    /// Open tasks according to the table.
    package var takenSlots: Int { slots.count { $0.acceptSequence != 0 } }

    /// The process dies after `writes` more writes.
    package mutating func die(afterWrites writes: Int) {
        writesLeft = writes
        if writes == 0 { isDead = true }
    }

    /// Takes back a death that has not struck.
    package mutating func live() {
        writesLeft = nil
    }

    /// The reader is done with everything that is published.
    package mutating func release() {
        head = tail
    }

    /// The reader is done with the records up to this sequence.
    package mutating func release(through sequence: UInt64) {
        head = max(head, min(tail, Int(sequence)))
    }

    // MARK: Writes

    /// False from the moment of death.
    private mutating func mayWrite() -> Bool {
        guard !isDead else { return false }
        guard let left = writesLeft else { return true }
        writesLeft = left - 1
        if left <= 1 { isDead = true }
        return true
    }

    private mutating func append(_ record: JournalRecord) {
        precondition(freeRecords > 0, "the journal was promised room")
        guard mayWrite() else { return }
        var numbered = record
        numbered.instance = id
        numbered.sequence = UInt64(records.count + 1)
        records.append(numbered)
    }

    private mutating func store(_ slot: TaskIndex, _ word: OpenTaskSlot.Word, _ value: UInt64) {
        guard mayWrite() else { return }
        slots[Int(slot)][word] = value
    }

    /// Performs the dispatcher's writes in order and publishes them. Only then may any message of
    /// the same turn go out.
    package mutating func write(_ actions: borrowing UniqueArray<JournalAction>) {
        for position in actions.indices { perform(actions[position]) }
        publish()
        for slot in endedSlots { store(slot, .acceptSequence, 0) }
        endedSlots.removeAll(keepingCapacity: true)
    }

    private mutating func publish() {
        guard mayWrite() else { return }
        tail = records.count
    }

    private mutating func perform(_ action: JournalAction) {
        switch action {
        case .accepted(let slot, let record, let inputBound):
            while slots.count <= Int(slot) { slots.append(OpenTaskSlot(words: RecordWords())) }
            precondition(
                isDead || slots[Int(slot)].acceptSequence == 0, "the slot is still taken")
            guard mayWrite() else { return }
            slots[Int(slot)] = OpenTaskSlot(
                counter: record.counter, acceptedAtUs: record.acceptedAtUs,
                maxInputTokens: inputBound)
            // The slot names the record before the record can be seen.
            store(slot, .acceptSequence, UInt64(records.count + 1))
            append(record.record)
        case .assigned(let slot, let assignment):
            store(slot, .supplier, assignment.supplier)
            store(
                slot, .dispatch,
                OpenTaskSlot.dispatchWord(
                    offerModel: assignment.offerModel, supplyType: assignment.supplyType,
                    dispatches: assignment.dispatches, winReason: assignment.winReason.rawValue,
                    operation: assignment.operation))
            store(slot, .askInputCached, assignment.prices.ask.firstWord)
            store(slot, .askOutputReasoning, assignment.prices.ask.secondWord)
            store(slot, .consumerInputCached, assignment.prices.consumer.firstWord)
            store(slot, .consumerOutputReasoning, assignment.prices.consumer.secondWord)
        case .ended(let slot, let record):
            store(slot, .endInstance, id)
            store(slot, .endSequence, UInt64(records.count + 1))
            append(record.record)
            endedSlots.append(slot)
        case .refused(let record):
            append(record.record)
        case .name(let record):
            append(record.record)
        case .lease(let record):
            append(record.record)
        }
    }

    /// What was sealed to the client is added to the task's slot.
    package mutating func delivered(_ delivered: DeliveredTokens) {
        guard mayWrite() else { return }
        let slot = Int(delivered.slot)
        let old = slots[slot]
        slots[slot][.delivered] = UInt64(
            low: old.deliveredTokens &+ delivered.tokens,
            high: old.reasoningTokens &+ delivered.reasoningTokens)
        slots[slot][.deliveredBytes] = old.deliveredBytes + UInt64(delivered.payloadBytes)
    }

    package mutating func firstOutput(_ slot: TaskIndex, ttftUs: UInt64) {
        store(slot, .ttftUs, ttftUs)
    }

    package mutating func started(_ slot: TaskIndex, _ frame: StartedFrame) {
        store(slot, .started, UInt64(low: frame.inputTokens, high: frame.cachedTokens))
    }

    // MARK: Closing the dead

    /// Writes the missing ENDED records of a dead instance into this one. Every dead instance of
    /// the deployment is in `all`, because a closer may itself have died half-way.
    package mutating func close(
        _ dead: inout InMemoryInstance, all: [InMemoryInstance], wallUs: UInt64
    ) {
        precondition(dead.isDead && dead.closedBy == 0)
        for index in dead.slots.indices {
            let slot = dead.slots[index]
            // Not accepted, as far as anyone can have been told.
            guard slot.acceptSequence != 0, slot.acceptSequence <= UInt64(dead.tail) else {
                continue
            }
            guard !isPublished(slot, of: dead, all: all) else { continue }
            // The place is named before the record can be seen.
            guard mayWrite() else { return }
            dead.slots[index][.endInstance] = id
            guard mayWrite() else { return }
            dead.slots[index][.endSequence] = UInt64(records.count + 1)
            append(slot.endedAfterLoss(instance: dead.id, endedAtUs: wallUs).record)
        }
        publish()
        append(InstanceClosedRecord(closed: dead.id, closedAtUs: wallUs, endedCount: 0).record)
        publish()
        guard mayWrite() else { return }
        dead.closedBy = id
    }

    /// The end of a broker that has drained: where no task is open, it needs no successor.
    package mutating func closeInOrder(wallUs: UInt64) {
        guard takenSlots == 0 else { return }
        append(InstanceClosedRecord(closed: id, closedAtUs: wallUs, endedCount: 0).record)
        publish()
        guard mayWrite() else { return }
        closedBy = id
    }

    private func isPublished(
        _ slot: OpenTaskSlot, of dead: InMemoryInstance, all: [InMemoryInstance]
    ) -> Bool {
        guard slot.endSequence != 0 else { return false }
        if slot.endInstance == dead.id { return slot.endSequence <= UInt64(dead.tail) }
        if slot.endInstance == id { return slot.endSequence <= UInt64(tail) }
        guard let closer = all.first(where: { $0.id == slot.endInstance }) else { return false }
        return slot.endSequence <= UInt64(closer.tail)
    }
}
