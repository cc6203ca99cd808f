package import SluiceRecordFormat
import SluiceWire

/// What one transaction did.
package struct AppliedBatch: Equatable, Sendable {
    /// Records that are new to the store.
    package var applied = 0
    /// Records at or below their instance's cursor: seen before.
    package var skipped = 0
    /// ACCEPTED or ENDED of a task that has one already; the first one counts.
    package var duplicates = 0
    /// Records of a kind or content that this version does not know.
    package var unreadable = 0
    /// ENDED whose ACCEPTED stands in a journal that was not applied yet; they wait for it.
    package var early = 0
    /// Ended tasks of which nothing is posted, for good: the ledger does not take their amounts.
    package var unposted = 0
    /// The brokers have something to learn: a `DirectorySync` is due.
    package var hasChanges = false
    /// What was settled, for `SettlementReport`.
    package var settled = SettledTasks()

    package init() {}
}

extension Store {
    /// Applies records in the order of their journals, settles what ended, answers what leases
    /// ask, and moves the cursors: all in one transaction, all or nothing. Applying the same
    /// records again changes nothing.
    ///
    /// After `outcomeUnknown` the caller applies the same records again: what was committed stands
    /// at or below the cursors, and the rest is done then.
    ///
    /// - Parameters:
    ///   - node: The node whose instances wrote the records.
    ///   - nowUs: Wall clock; leases last from then.
    package func applyBatch(
        _ records: [JournalRecord], node: UInt64 = 0, nowUs: UInt64 = 0
    ) throws(StoreError) -> AppliedBatch {
        try write { (transaction) throws(StoreError) in
            var batch = RecordBatch(node: node, nowUs: nowUs)
            var cursors = try JournalCursors(of: records, transaction)
            batch.reserve(records.count)
            // Runs of records are of one instance: its cursor is not looked up for each.
            var (instance, sequence) = (records.first?.instance ?? 0, UInt64(0))
            sequence = cursors[instance].sequence
            for record in records {
                if record.instance != instance {
                    cursors[instance].sequence = sequence
                    (instance, sequence) = (record.instance, cursors[record.instance].sequence)
                }
                guard record.sequence > sequence else {
                    batch.counts.skipped += 1
                    continue
                }
                sequence = record.sequence
                batch.add(record)
            }
            if !records.isEmpty { cursors[instance].sequence = sequence }
            try batch.apply(to: transaction, after: cursors)
            cursors.note(batch.tasks.accepted)
            try cursors.save(transaction)
            return batch.counts
        }
    }

    /// Sequence of the last applied record of every instance.
    package func cursors() throws(StoreError) -> [UInt64: UInt64] {
        try read { (transaction) throws(StoreError) in
            var cursors: [UInt64: UInt64] = [:]
            for row in try transaction.query("SELECT instance, sequence FROM journal_cursor") {
                cursors[try row.unsigned(0)] = try row.unsigned(1)
            }
            return cursors
        }
    }
}

/// Records of one transaction, sorted by what has to be done with them.
struct RecordBatch {
    let node: UInt64
    let nowUs: UInt64
    var counts = AppliedBatch()

    var tasks = BatchTasks()
    /// What moves money, in the order of the journals.
    var money: [MoneyEvent] = []
    var leases: [(instance: UInt64, record: LeaseRecord)] = []
    private var refused = IntegerRows(.refused)
    private var names: [(instance: UInt64, record: NameRecord)] = []
    private var started: [(instance: UInt64, record: InstanceStartRecord)] = []
    private var closed: [InstanceClosedRecord] = []

    enum MoneyEvent {
        /// Position in the tasks' `ended`.
        case ended(Int)
        /// Position in `leases`.
        case lease(Int)
    }

    init(node: UInt64, nowUs: UInt64) {
        self.node = node
        self.nowUs = nowUs
    }

    /// Makes room for so many records: half of them are ACCEPTED, as a rule.
    mutating func reserve(_ count: Int) {
        tasks.reserve(count / 2 + 1)
        money.reserveCapacity(count / 2 + 1)
    }

    /// Takes a record that is new to the store.
    mutating func add(_ record: JournalRecord) {
        switch record.kind {
        case .accepted:
            guard let record = AcceptedRecord(record) else { return counts.unreadable += 1 }
            guard tasks.accept(record) else { return counts.duplicates += 1 }
        case .ended:
            guard let record = EndedRecord(record) else { return counts.unreadable += 1 }
            end(record)
        case .refused:
            guard let refusal = RefusedRecord(record) else { return counts.unreadable += 1 }
            refused.append(refusal, of: record)
            counts.settled.refused(refusal)
        case .name:
            guard let name = NameRecord(record) else { return counts.unreadable += 1 }
            names.append((record.instance, name))
            counts.settled.names[
                NumberedModel(instance: record.instance, model: name.model)] =
                name.name.description
        case .instanceStart:
            guard let start = InstanceStartRecord(record) else { return counts.unreadable += 1 }
            started.append((record.instance, start))
        case .instanceClosed:
            guard let close = InstanceClosedRecord(record) else { return counts.unreadable += 1 }
            closed.append(close)
        case .lease:
            guard let lease = LeaseRecord(record) else { return counts.unreadable += 1 }
            money.append(.lease(leases.count))
            leases.append((record.instance, lease))
        case nil:
            return counts.unreadable += 1
        }
        counts.applied += 1
    }

    mutating func end(_ record: EndedRecord) {
        money.append(.ended(tasks.ended.count))
        tasks.end(record)
    }

    /// Writes everything that was taken.
    mutating func apply(
        to transaction: any StoreTransaction, after cursors: JournalCursors
    ) throws(StoreError) {
        try applyInstances(transaction)
        _ = try transaction.insertNew(refused)
        let tables = transaction.taskTables
        try applyAccepted(tables, cursors, transaction)
        try applyEnded(tables, transaction)
        countEnded()
        try settle(transaction)
        if counts.duplicates > 0 { try tally("duplicates", counts.duplicates, transaction) }
        if counts.unreadable > 0 { try tally("unreadable", counts.unreadable, transaction) }
    }

    private func tally(
        _ name: String, _ amount: Int, _ transaction: any StoreTransaction
    ) throws(StoreError) {
        try transaction.execute(
            "UPDATE tally SET value = value + $1 WHERE name = $2",
            [.integer(Int64(amount)), .text(name)])
    }

    private func applyInstances(_ transaction: any StoreTransaction) throws(StoreError) {
        for (instance, name) in names {
            try transaction.execute(
                """
                INSERT INTO model_name (instance, model, name) VALUES ($1, $2, $3)
                ON CONFLICT DO NOTHING
                """,
                [
                    .integer(signed(instance)), .integer(Int64(name.model)),
                    .text(name.name.description),
                ])
        }
        for (instance, start) in started {
            try transaction.execute(
                """
                INSERT INTO instance (instance, node, started_at_us) VALUES ($1, $2, $3)
                ON CONFLICT DO NOTHING
                """,
                [
                    .integer(signed(instance)), .integer(signed(node)),
                    .integer(signed(start.startedAtUs)),
                ])
        }
        // It comes twice where whoever wrote it died before it marked the ring: the first one stands.
        for close in closed {
            try transaction.execute(
                """
                UPDATE instance SET closed_at_us = $1 WHERE instance = $2 AND closed_at_us IS NULL
                """,
                [.integer(signed(close.closedAtUs)), .integer(signed(close.closed))])
        }
    }
}
