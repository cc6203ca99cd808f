import SluiceRecordFormat
import SluiceWire

/// What tasks of one idempotency key owe together.
extension RecordBatch {
    /// How long after its acceptance a task's idempotency key makes another broker's task a repeat:
    /// as long as its own broker may know the key, the longest deadline and the time keys are kept.
    private static let repeatUs: UInt64 = 1_200_000_000

    /// Finds the tasks whose account and idempotency key another broker's task has too. What one
    /// broker accepts twice is no repeat: it knew its keys, and had let this one go [Q15].
    mutating func noteKeys(_ transaction: any StoreTransaction) throws(StoreError) {
        guard tasks.hasKeys else { return }
        var rows = IntegerRows(.idempotency)
        var records: [AcceptedRecord] = []
        var seen: Set<[UInt64]> = []
        // The same key again in these very records: decided when the first stands.
        var later: [AcceptedRecord] = []
        for (place, record) in tasks.accepted.enumerated()
        where record.idempotencyDigest != 0 && !tasks.entries[place].isKnown {
            guard seen.insert([record.account, record.idempotencyDigest]).inserted else {
                later.append(record)
                continue
            }
            rows.append(
                [
                    signed(record.account), signed(record.idempotencyDigest),
                    signed(record.instance), signed(record.counter), signed(record.acceptedAtUs),
                ] as [5 of Int64])
            records.append(record)
        }
        let known = try transaction.insertNew(rows).map { records[$0] }
        for record in known + later where try !takeKey(of: record, transaction) {
            if let place = tasks.place(of: record.task) { tasks.entries[place].isRepeat = true }
            try flagHolder(of: record, transaction)
        }
    }

    /// The task that has the key is one of several as well, unless it has ended.
    private mutating func flagHolder(
        of record: AcceptedRecord, _ transaction: any StoreTransaction
    ) throws(StoreError) {
        let rows = try transaction.query(
            "SELECT instance, counter FROM idempotency WHERE account = $1 AND digest = $2",
            [.integer(signed(record.account)), .integer(signed(record.idempotencyDigest))])
        guard let row = rows.first else { return }
        let holder = TaskID(instance: try row.unsigned(0), counter: try row.unsigned(1))
        if let place = tasks.place(of: holder) {
            tasks.entries[place].isRepeat = true
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

    /// What a task adds to the dearest settled one of its idempotency key, which is then the dearer
    /// of the two: in whichever order they end, all together cost the consumer what that one does.
    func owed(
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
