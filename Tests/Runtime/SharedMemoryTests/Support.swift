import RecordTestSupport
import SharedMemory
import SluiceRecordFormat
import SluiceWire

/// The smallest instance, so that rings wrap soon.
func smallSizes(slots: Int = 64) -> InstanceSizes {
    var sizes = InstanceSizes()
    sizes.ringBytes = RingLayout.minimumByteCount
    sizes.tableSlots = slots
    sizes.shards = 1
    return sizes
}

func acceptedRecord(_ counter: UInt64) -> AcceptedRecord {
    AcceptedRecord(
        counter: counter, acceptedAtUs: 1_000, account: 1, keyDigestPrefix: 2, model: 1,
        operation: .chat, encoding: .text, priority: 128, preference: .balanced, deadlineMs: 1_000,
        bodyBytes: 10)
}

func openSlot(_ counter: UInt64) -> OpenTaskSlot {
    OpenTaskSlot(counter: counter, acceptedAtUs: 1_000, maxInputTokens: 0)
}

func endedRecord(_ task: TaskID) -> EndedRecord {
    EndedRecord(task: task, status: .completed, code: .completed)
}

extension BrokerInstance {
    /// Accepts a task as the dispatcher does; not published.
    mutating func accept(_ counter: UInt64, slot: Int) {
        table.openSlot(slot, openSlot(counter))
        table.setAcceptSequence(slot, journal.lastSequence + 1)
        journal.append(acceptedRecord(counter).record)
    }

    /// Ends it as the dispatcher does; not published, the slot not cleared.
    mutating func end(_ counter: UInt64, slot: Int) {
        table.setEndSequence(slot, instance: id, journal.lastSequence + 1)
        journal.append(endedRecord(TaskID(instance: id, counter: counter)).record)
    }
}

/// Every record that a sidecar would see, by instance.
func publishedRecords(_ runDirectory: String) throws -> [JournalRecord] {
    var all: [JournalRecord] = []
    for instance in try InstanceDirectory.findInstances(runDirectory) {
        let reader = try JournalReader(runDirectory: runDirectory, instance: instance)
        all += try reader.read(
            from: reader.releasedSequence + 1, count: reader.recordCapacity)
    }
    return all
}

func endsByTask(_ records: [JournalRecord]) -> [TaskID: Int] {
    var counts: [TaskID: Int] = [:]
    for record in records {
        if let ended = EndedRecord(record) { counts[ended.task, default: 0] += 1 }
    }
    return counts
}
