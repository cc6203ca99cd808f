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
            var cursors = try Self.cursors(of: records, transaction)
            for record in records {
                guard record.sequence > cursors[record.instance] ?? 0 else {
                    batch.counts.skipped += 1
                    continue
                }
                cursors[record.instance] = record.sequence
                batch.add(record)
            }
            try batch.apply(to: transaction)
            for (instance, sequence) in cursors {
                try transaction.execute(
                    """
                    INSERT INTO journal_cursor (instance, sequence) VALUES ($1, $2)
                    ON CONFLICT (instance) DO UPDATE SET sequence = excluded.sequence
                    """, [.integer(signed(instance)), .integer(signed(sequence))])
            }
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

    private static func cursors(
        of records: [JournalRecord], _ transaction: any StoreTransaction
    ) throws(StoreError) -> [UInt64: UInt64] {
        var instances: Set<UInt64> = []
        var last: UInt64?
        for record in records where record.instance != last {
            last = record.instance
            instances.insert(record.instance)
        }
        let found = try transaction.fetch(
            ["instance", "sequence"], from: "journal_cursor", where: "instance",
            in: instances.map { signed($0) }, and: nil)
        var cursors: [UInt64: UInt64] = [:]
        for start in stride(from: 0, to: found.count, by: 2) {
            cursors[unsigned(found[start])] = unsigned(found[start + 1])
        }
        return cursors
    }
}

/// Records of one transaction, sorted by what has to be done with them.
struct RecordBatch {
    private let node: UInt64
    private let nowUs: UInt64
    var counts = AppliedBatch()

    private var accepted: [AcceptedRecord] = []
    private var ended: [EndedRecord] = []
    private var money: [MoneyEvent] = []
    private var refused = IntegerRows(.refused)
    private var names: [(instance: UInt64, record: NameRecord)] = []
    private var started: [(instance: UInt64, record: InstanceStartRecord)] = []
    private var closed: [InstanceClosedRecord] = []

    /// What a task's ACCEPTED left for its ENDED.
    private struct OpenEntry {
        var acceptedAtUs: UInt64
        var account: UInt64
        /// What was asked for; 0 where it has to be looked up.
        var model: UInt32
        /// Another broker's task has the same idempotency key: together they cost what the dearest
        /// of them does.
        var isRepeat: Bool
        /// It stands in `open_task`, from an earlier batch.
        var isStored: Bool
        /// One of the batch's ENDED is its own.
        var isFinished = false
    }

    /// What moves money, in the order of the journals.
    private enum MoneyEvent {
        /// Position in `ended`.
        case ended(Int)
        case lease(instance: UInt64, LeaseRecord)
    }

    init(node: UInt64, nowUs: UInt64) {
        self.node = node
        self.nowUs = nowUs
    }

    /// Takes a record that is new to the store.
    mutating func add(_ record: JournalRecord) {
        switch record.kind {
        case .accepted:
            guard let record = AcceptedRecord(record) else { return counts.unreadable += 1 }
            accepted.append(record)
        case .ended:
            guard let record = EndedRecord(record) else { return counts.unreadable += 1 }
            money.append(.ended(ended.count))
            ended.append(record)
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
            money.append(.lease(instance: record.instance, lease))
        case nil:
            return counts.unreadable += 1
        }
        counts.applied += 1
    }

    /// Writes everything that was taken.
    mutating func apply(to transaction: any StoreTransaction) throws(StoreError) {
        try applyInstances(transaction)
        _ = try transaction.insertNew(refused)
        var open = try applyAccepted(transaction)
        let isNew = try applyEnded(transaction, &open)
        countEnded(open, isNew)
        try settle(transaction, open, isNew)
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

    // MARK: Accepted

    private mutating func applyAccepted(
        _ transaction: any StoreTransaction
    ) throws(StoreError) -> [TaskID: OpenEntry] {
        guard !accepted.isEmpty else { return [:] }
        var open: [TaskID: OpenEntry] = [:]
        open.reserveCapacity(accepted.count)
        var rows = IntegerRows(.accepted, rowCount: accepted.count)
        var inserted: [AcceptedRecord] = []
        for record in accepted {
            let entry = OpenEntry(
                acceptedAtUs: record.acceptedAtUs, account: record.account, model: record.model,
                isRepeat: false, isStored: false)
            guard open.updateValue(entry, forKey: record.task) == nil else {
                countDuplicate()
                continue
            }
            rows.append(record)
            inserted.append(record)
        }
        let known = try transaction.insertNew(rows)
        for row in known {
            open[inserted[row].task] = nil
            countDuplicate()
        }
        try noteKeys(inserted, transaction, &open)
        try takeEarly(transaction, open)
        return open
    }

    private mutating func countDuplicate() {
        counts.applied -= 1
        counts.duplicates += 1
    }

    /// How long after its acceptance a task's idempotency key makes another broker's task a repeat:
    /// as long as its own broker may know the key, the longest deadline and the time keys are kept.
    private static let repeatUs: UInt64 = 1_200_000_000

    /// Finds the tasks whose account and idempotency key another broker's task has too. What one
    /// broker accepts twice is no repeat: it knew its keys, and had let this one go [Q15].
    private func noteKeys(
        _ records: [AcceptedRecord], _ transaction: any StoreTransaction,
        _ open: inout [TaskID: OpenEntry]
    ) throws(StoreError) {
        var rows = IntegerRows(.idempotency)
        var tasks: [AcceptedRecord] = []
        var seen: Set<[UInt64]> = []
        // The same key again in these very records: decided when the first stands.
        var later: [AcceptedRecord] = []
        for record in records where record.idempotencyDigest != 0 && open[record.task] != nil {
            guard seen.insert([record.account, record.idempotencyDigest]).inserted else {
                later.append(record)
                continue
            }
            rows.append(
                [
                    signed(record.account), signed(record.idempotencyDigest),
                    signed(record.instance), signed(record.counter), signed(record.acceptedAtUs),
                ] as [5 of Int64])
            tasks.append(record)
        }
        let known = try transaction.insertNew(rows).map { tasks[$0] }
        for record in known + later where try !takeKey(of: record, transaction) {
            open[record.task]?.isRepeat = true
            try flagHolder(of: record, transaction, &open)
        }
    }

    /// The task that has the key is one of several as well, unless it has ended.
    private func flagHolder(
        of record: AcceptedRecord, _ transaction: any StoreTransaction,
        _ open: inout [TaskID: OpenEntry]
    ) throws(StoreError) {
        let rows = try transaction.query(
            "SELECT instance, counter FROM idempotency WHERE account = $1 AND digest = $2",
            [.integer(signed(record.account)), .integer(signed(record.idempotencyDigest))])
        guard let row = rows.first else { return }
        let holder = TaskID(instance: try row.unsigned(0), counter: try row.unsigned(1))
        guard open[holder] == nil else {
            open[holder]?.isRepeat = true
            return
        }
        try transaction.execute(
            "UPDATE open_task SET is_repeat = 1 WHERE instance = $1 AND counter = $2",
            [.integer(signed(holder.instance)), .integer(signed(holder.counter))])
    }

    /// Gives a key that is known to this task if it is the same broker's or was used long ago; false
    /// if not.
    private func takeKey(
        of record: AcceptedRecord, _ transaction: any StoreTransaction
    ) throws(StoreError) -> Bool {
        let beforeUs = record.acceptedAtUs - min(record.acceptedAtUs, Self.repeatUs)
        return try transaction.execute(
            """
            UPDATE idempotency SET instance = $1, counter = $2, at_us = $3
            WHERE account = $4 AND digest = $5 AND (at_us <= $6 OR instance = $1)
            """,
            [
                .integer(signed(record.instance)), .integer(signed(record.counter)),
                .integer(signed(record.acceptedAtUs)), .integer(signed(record.account)),
                .integer(signed(record.idempotencyDigest)),
                .integer(signed(beforeUs)),
            ]) > 0
    }

    /// ENDED records that waited for one of these ACCEPTED.
    private mutating func takeEarly(
        _ transaction: any StoreTransaction, _ open: [TaskID: OpenEntry]
    ) throws(StoreError) {
        for row in try transaction.query("SELECT instance, counter, record FROM early_end") {
            let task = TaskID(instance: try row.unsigned(0), counter: try row.unsigned(1))
            guard open[task] != nil else { continue }
            let bytes = try row.bytes(2)
            guard let words = RecordWords(bytes.span),
                let record = EndedRecord(JournalRecord(words: words))
            else { throw .damaged }
            try transaction.remove(
                from: "early_end", where: ("instance", "counter"),
                in: [signed(task.instance), signed(task.counter)])
            money.append(.ended(ended.count))
            ended.append(record)
            counts.applied += 1
        }
    }

    // MARK: Ended

    /// Writes the ENDED that are the first of their task; says of each whether it is.
    private mutating func applyEnded(
        _ transaction: any StoreTransaction, _ open: inout [TaskID: OpenEntry]
    ) throws(StoreError) -> [Bool] {
        try findOpen(transaction, &open)
        var isNew = [Bool](repeating: false, count: ended.count)
        var rows = IntegerRows(.ended, rowCount: ended.count)
        var indexes: [Int] = []
        var unmatched: [Int] = []
        var position = try takePositions(ended.count, transaction)
        for (index, record) in ended.enumerated() {
            guard let place = open.index(forKey: record.task) else {
                unmatched.append(index)
                continue
            }
            guard !open.values[place].isFinished else {
                countDuplicate()
                continue
            }
            open.values[place].isFinished = true
            rows.append(
                record, position: position,
                day: day(ofMicroseconds: open.values[place].acceptedAtUs))
            position += 1
            indexes.append(index)
            isNew[index] = true
        }
        // None of them may be known: an open task has no ENDED. The unique key has the last word.
        for row in try transaction.insertNew(rows) {
            isNew[indexes[row]] = false
            countDuplicate()
        }
        try keepEarly(unmatched, transaction)
        try updateOpen(transaction, open)
        return isNew
    }

    private func takePositions(
        _ count: Int, _ transaction: any StoreTransaction
    ) throws(StoreError) -> Int64 {
        guard count > 0 else { return 0 }
        let rows = try transaction.query(
            "UPDATE tally SET value = value + $1 WHERE name = 'position' RETURNING value",
            [.integer(Int64(count))])
        guard let row = rows.first else { throw .damaged }
        return try row.integer(0) - Int64(count) + 1
    }

    /// Adds what earlier batches left about the tasks that end now.
    private func findOpen(
        _ transaction: any StoreTransaction, _ open: inout [TaskID: OpenEntry]
    ) throws(StoreError) {
        var keys: [Int64] = []
        for record in ended where open[record.task] == nil {
            keys += [signed(record.task.instance), signed(record.task.counter)]
        }
        let found = try transaction.fetch(
            RecordTable.openTask.columns, from: "open_task", where: ("instance", "counter"),
            in: keys)
        for start in stride(from: 0, to: found.count, by: 5) {
            let task = TaskID(
                instance: unsigned(found[start]), counter: unsigned(found[start + 1]))
            open[task] = OpenEntry(
                acceptedAtUs: unsigned(found[start + 2]), account: unsigned(found[start + 3]),
                model: 0, isRepeat: found[start + 4] != 0, isStored: true)
        }
        try findModels(transaction, &open)
    }

    /// What was asked for by tasks that waited for longer than a batch and never had a supplier.
    private func findModels(
        _ transaction: any StoreTransaction, _ open: inout [TaskID: OpenEntry]
    ) throws(StoreError) {
        var keys: [Int64] = []
        for record in ended where record.offerModel == 0 && open[record.task]?.model == 0 {
            keys += [signed(record.task.instance), signed(record.task.counter)]
        }
        let found = try transaction.fetch(
            ["instance", "counter", "model"], from: "accepted", where: ("instance", "counter"),
            in: keys)
        for start in stride(from: 0, to: found.count, by: 3) {
            let task = TaskID(
                instance: unsigned(found[start]), counter: unsigned(found[start + 1]))
            open[task]?.model = UInt32(truncatingIfNeeded: found[start + 2])
        }
    }

    /// An ENDED without an open task is a second one, or came before its ACCEPTED: a successor's
    /// journal may be applied before the dead broker's.
    private mutating func keepEarly(
        _ indexes: [Int], _ transaction: any StoreTransaction
    ) throws(StoreError) {
        for index in indexes {
            let record = ended[index]
            let key = [signed(record.task.instance), signed(record.task.counter)]
            let known = try transaction.fetch(
                ["counter"], from: "ended", where: ("instance", "counter"), in: key)
            guard known.isEmpty else {
                countDuplicate()
                continue
            }
            var bytes: [UInt8] = []
            record.record.words.append(to: &bytes)
            let inserted = try transaction.execute(
                """
                INSERT INTO early_end (instance, counter, record) VALUES ($1, $2, $3)
                ON CONFLICT DO NOTHING
                """, [.integer(key[0]), .integer(key[1]), .bytes(bytes)])
            guard inserted > 0 else {
                countDuplicate()
                continue
            }
            counts.applied -= 1
            counts.early += 1
        }
    }

    /// What stays open is kept for later batches; what was kept and has ended is removed. A task
    /// that begins and ends in one batch touches `open_task` not at all.
    private func updateOpen(
        _ transaction: any StoreTransaction, _ open: [TaskID: OpenEntry]
    ) throws(StoreError) {
        var rows = IntegerRows(.openTask)
        var removed: [Int64] = []
        for (task, entry) in open {
            if entry.isStored {
                guard entry.isFinished else { continue }
                removed += [signed(task.instance), signed(task.counter)]
            } else if !entry.isFinished {
                rows.append(
                    [
                        signed(task.instance), signed(task.counter), signed(entry.acceptedAtUs),
                        signed(entry.account), entry.isRepeat ? 1 : 0,
                    ] as [5 of Int64])
            }
        }
        try transaction.insert(rows)
        try transaction.remove(
            from: "open_task", where: ("instance", "counter"), in: removed)
    }

    private mutating func countEnded(_ open: [TaskID: OpenEntry], _ isNew: [Bool]) {
        for (index, record) in ended.enumerated() where isNew[index] {
            guard let entry = open[record.task] else { continue }
            counts.settled.ended(
                record, askedFor: entry.model, atUs: entry.acceptedAtUs &+ record.durationUs)
        }
    }

    // MARK: Money

    private mutating func settle(
        _ transaction: any StoreTransaction, _ open: [TaskID: OpenEntry], _ isNew: [Bool]
    ) throws(StoreError) {
        var books = AccountBooks(node: node)
        var accounts: Set<UInt64> = []
        var suppliers: Set<UInt64> = []
        for event in money {
            switch event {
            case .ended(let index):
                let record = ended[index]
                guard isNew[index], record.charge != .none,
                    let entry = open[record.task]
                else { continue }
                accounts.insert(entry.account)
                suppliers.insert(record.supplier)
            case .lease(_, let lease):
                accounts.insert(lease.account)
            }
        }
        guard !accounts.isEmpty else { return }
        try books.load(accounts, suppliers: suppliers, transaction)
        // Of the batch's own, those whose turn is still to come or of which nothing was posted;
        // asked of repeats alone, which are rare.
        let hasRepeats = open.values.contains { $0.isRepeat }
        var unsettled: Set<TaskID> = []
        if hasRepeats {
            for (record, isNew) in zip(ended, isNew) where isNew { unsettled.insert(record.task) }
        }
        for event in money {
            switch event {
            case .ended(let index):
                let record = ended[index]
                if hasRepeats { unsettled.remove(record.task) }
                guard isNew[index], record.charge != .none, let entry = open[record.task] else {
                    continue
                }
                let owed =
                    entry.isRepeat && record.charge.isPostable
                    ? try owed(record, transaction, unsettled) : record.charge.consumerCost
                let isPosted = try books.settle(
                    record, account: entry.account, owed: owed,
                    atUs: entry.acceptedAtUs &+ record.durationUs)
                guard !isPosted else { continue }
                counts.unposted += 1
                if hasRepeats { unsettled.insert(record.task) }
            case .lease(let instance, let lease):
                books.apply(lease, instance: instance, nowMs: max(nowUs, lease.atUs) / 1_000)
            }
        }
        counts.hasChanges = try books.save(transaction)
    }

    /// What a task adds to the dearest settled one of its idempotency key, which is then the dearer
    /// of the two: in whichever order they end, all together cost the consumer what that one does.
    private func owed(
        _ record: EndedRecord, _ transaction: any StoreTransaction, _ unsettled: Set<TaskID>
    ) throws(StoreError) -> MicroUSD {
        let cost = record.charge.consumerCost
        let rows = try transaction.query(
            """
            SELECT i.account, i.digest, i.instance, i.counter,
                CASE WHEN u.kind IS NULL THEN e.consumer_cost ELSE 0 END
            FROM accepted a
            JOIN idempotency i ON i.account = a.account AND i.digest = a.idempotency_digest
            LEFT JOIN ended e ON e.instance = i.instance AND e.counter = i.counter
            LEFT JOIN ledger_entry u
                ON u.kind = 6 AND u.high = i.instance AND u.low = i.counter
            WHERE a.instance = $1 AND a.counter = $2
            """,
            [.integer(signed(record.task.instance)), .integer(signed(record.task.counter))])
        guard let row = rows.first else { return cost }
        let holder = TaskID(instance: try row.unsigned(2), counter: try row.unsigned(3))
        guard holder != record.task else { return cost }
        let isSettled = !unsettled.contains(holder)
        let charged = MicroUSD(isSettled ? try row.optionalInteger(4) ?? 0 : 0)
        guard cost > charged else { return 0 }
        try transaction.execute(
            """
            UPDATE idempotency SET instance = $1, counter = $2 WHERE account = $3 AND digest = $4
            """,
            [
                .integer(signed(record.task.instance)), .integer(signed(record.task.counter)),
                .integer(try row.integer(0)), .integer(try row.integer(1)),
            ])
        return MicroUSD(cost.rawValue - charged.rawValue)
    }
}
