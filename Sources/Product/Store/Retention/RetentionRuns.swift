package import SluiceLedgerCore

extension Store {
    /// Changes that stay, however many there are: a node that has not seen older ones reads the
    /// whole.
    package static let keptChanges = 65_536

    /// Runs one batch of removals in a transaction of its own, and says where to go on.
    ///
    /// Nothing that money still depends on is removed: an open task, an ENDED that was not posted,
    /// an early ENDED, a wallet with a balance. Postings stay for good, so the ledger says the
    /// same before and after.
    package func removeExpired(
        _ batch: RetentionBatch, keepingChanges: Int = Store.keptChanges
    ) throws(StoreError) -> RetentionOutcome {
        try write { (transaction) throws(StoreError) in
            switch batch.duty {
            case .taskRecords:
                try transaction.dialect == .sqlite
                    ? transaction.removePackedTasks(batch) : transaction.removeTaskRecords(batch)
            case .refusals:
                try transaction.removeByKey(
                    batch, table: "refused", key: ("instance", "sequence"),
                    expired: "day < $1", limit: day(ofMicroseconds: batch.cutoffUs))
            case .idempotencyKeys:
                try transaction.removeByKey(
                    batch, table: "idempotency", key: ("account", "digest"),
                    expired: "at_us <= $1", limit: signed(batch.cutoffUs))
            case .walletEvents: try transaction.removeWalletEvents(batch)
            case .addressHashes: try transaction.removeAddresses(batch)
            case .changes: try transaction.removeChanges(batch, keeping: keepingChanges)
            case .emptyDays: try transaction.removeEmptyDay(batch)
            case .closedLeases:
                try transaction.removeByKey(
                    batch, table: "lease", key: ("account", "instance"),
                    expired: "is_closed = 1 AND expires_at_ms <= $1",
                    limit: signed(batch.cutoffUs / 1_000))
            case .instances: try transaction.removeInstances(batch)
            }
        }
    }
}

extension StoreTransaction {
    /// In the order in which tasks ended, which is nearly that of their days: a window without an
    /// old task ends the run, and what is old behind it goes in a later one.
    fileprivate func removeTaskRecords(
        _ batch: RetentionBatch
    ) throws(StoreError) -> RetentionOutcome {
        let limit = day(ofMicroseconds: batch.cutoffUs)
        let window = try query(
            """
            SELECT position, instance, counter, day, CAST(CASE
                WHEN consumer_cost = 0 AND supplier_earning = 0 OR EXISTS (
                    SELECT 1 FROM ledger_entry l
                    WHERE l.kind = 1 AND l.high = e.instance AND l.low = e.counter)
                THEN 1 ELSE 0 END AS \(dialect.integer))
            FROM (SELECT position, instance, counter, day, consumer_cost, supplier_earning
                FROM ended WHERE position > $1 ORDER BY position LIMIT $2) e ORDER BY position
            """, [.integer(batch.after.high), .integer(Int64(batch.rows))])
        guard let last = window.last else { return RetentionOutcome(removed: 0, next: nil) }
        var isAllNew = true
        var settled: [Int64: [Int64]] = [:]
        for row in window {
            let day = try row.integer(3)
            guard day < limit else { continue }
            isAllNew = false
            guard try row.integer(4) != 0 else { continue }
            settled[day, default: []] += [try row.integer(1), try row.integer(2)]
        }
        // Day by day: PostgreSQL so looks into one day's table and its key, and into no other.
        var removed = 0
        for (day, keys) in settled {
            for table in ["accepted", "ended"] {
                try remove(
                    from: table, where: ("instance", "counter"), in: keys, and: "day = \(day)")
            }
            removed += keys.count / 2
        }
        let isDone = isAllNew || window.count < batch.rows
        return RetentionOutcome(
            removed: removed, next: isDone ? nil : RetentionMark(try last.integer(0)))
    }

    /// In the order of a table's key, whatever the age: a batch reads so many rows and no more.
    fileprivate func removeByKey(
        _ batch: RetentionBatch, table: String, key: (String, String), expired: String,
        limit: Int64
    ) throws(StoreError) -> RetentionOutcome {
        let rows = try query(
            """
            SELECT \(key.0), \(key.1) FROM \(table) WHERE (\(key.0), \(key.1)) > ($1, $2)
            ORDER BY \(key.0), \(key.1) LIMIT $3
            """,
            [
                .integer(batch.after.high), .integer(batch.after.low),
                .integer(Int64(batch.rows)),
            ])
        guard let row = rows.last else { return RetentionOutcome(removed: 0, next: nil) }
        let last = RetentionMark(try row.integer(0), try row.integer(1))
        let removed = try execute(
            """
            DELETE FROM \(table) WHERE \(expired) AND (\(key.0), \(key.1)) > ($2, $3)
                AND (\(key.0), \(key.1)) <= ($4, $5)
            """,
            [
                .integer(limit), .integer(batch.after.high), .integer(batch.after.low),
                .integer(last.high), .integer(last.low),
            ])
        return RetentionOutcome(removed: removed, next: rows.count < batch.rows ? nil : last)
    }

    /// Instances that were closed long enough ago and of which no record is left, with the names of
    /// their models. Their cursors stay: a segment that comes again must find that it was read.
    fileprivate func removeInstances(
        _ batch: RetentionBatch
    ) throws(StoreError) -> RetentionOutcome {
        // Each is looked for in every table, and in PostgreSQL in that of every day.
        let count = min(batch.rows, Self.instancesABatch)
        let window = try query(
            """
            SELECT i.instance, CAST(CASE WHEN i.closed_at_us <= $1
                \(dialect.tablesOfInstances.map { table in
                    "AND NOT EXISTS (SELECT 1 FROM \(table) r WHERE r.instance = i.instance)"
                }.joined(separator: " "))
                THEN 1 ELSE 0 END AS \(dialect.integer))
            FROM (SELECT instance, closed_at_us FROM instance WHERE instance > $2
                ORDER BY instance LIMIT $3) i ORDER BY i.instance
            """,
            [
                .integer(signed(batch.cutoffUs)), .integer(batch.after.high),
                .integer(Int64(count)),
            ])
        guard let last = window.last else { return RetentionOutcome(removed: 0, next: nil) }
        var removed = 0
        for row in window {
            guard try row.integer(1) != 0 else { continue }
            let instance = SQLValue.integer(try row.integer(0))
            try execute("DELETE FROM model_name WHERE instance = $1", [instance])
            removed += try execute("DELETE FROM instance WHERE instance = $1", [instance])
        }
        let isDone = window.count < count
        return RetentionOutcome(
            removed: removed, next: isDone ? nil : RetentionMark(try last.integer(0)))
    }

    private static var instancesABatch: Int { 64 }

    /// Of accounts that were anonymised long enough ago and that nobody owes anything any more.
    fileprivate func removeWalletEvents(
        _ batch: RetentionBatch
    ) throws(StoreError) -> RetentionOutcome {
        let removed = try execute(
            """
            DELETE FROM wallet_event WHERE id IN (
                SELECT w.id FROM anonymised a JOIN wallet_event w ON w.account = a.account
                WHERE a.at_us <= $1
                    AND NOT EXISTS (SELECT 1 FROM balance b
                        WHERE b.kind IN (1, 2) AND b.owner = a.account AND b.amount <> 0)
                    AND NOT EXISTS (SELECT 1 FROM lease l
                        WHERE l.account = a.account AND l.is_closed = 0)
                    AND NOT EXISTS (SELECT 1 FROM open_task o WHERE o.account = a.account)
                    AND NOT EXISTS (SELECT 1 FROM payout p
                        WHERE p.account = a.account AND p.state = 1)
                ORDER BY w.id LIMIT $2)
            """, [.integer(signed(batch.cutoffUs)), .integer(Int64(batch.rows))])
        return RetentionOutcome(removed: removed, next: removed < batch.rows ? nil : .start)
    }

    /// The secret goes first: from then on its hashes say nothing to anybody. With a secret go all
    /// before it, so that what is left without one stands at the beginning of the table.
    fileprivate func removeAddresses(
        _ batch: RetentionBatch
    ) throws(StoreError) -> RetentionOutcome {
        try execute(
            """
            DELETE FROM address_secret WHERE generation <= (
                SELECT max(generation) FROM address_secret WHERE made_at_us <= $1)
            """, [.integer(signed(batch.cutoffUs))])
        let removed = try execute(
            """
            DELETE FROM address_hash WHERE (generation, hash, account) IN (
                SELECT h.generation, h.hash, h.account FROM address_hash h
                WHERE h.generation < (
                    SELECT coalesce(min(generation), \(Int64.max)) FROM address_secret)
                ORDER BY h.generation, h.hash, h.account LIMIT $1)
            """, [.integer(Int64(batch.rows))])
        return RetentionOutcome(removed: removed, next: removed < batch.rows ? nil : .start)
    }

    fileprivate func removeChanges(
        _ batch: RetentionBatch, keeping count: Int
    ) throws(StoreError) -> RetentionOutcome {
        let removed = try execute(
            """
            DELETE FROM changes WHERE id IN (SELECT id FROM changes
                WHERE id <= (SELECT max(id) FROM changes) - $1 ORDER BY id LIMIT $2)
            """, [.integer(Int64(count)), .integer(Int64(batch.rows))])
        return RetentionOutcome(removed: removed, next: removed < batch.rows ? nil : .start)
    }

    /// PostgreSQL has a table for each day: one that is empty goes, one a batch. What a day still
    /// holds keeps it.
    fileprivate func removeEmptyDay(
        _ batch: RetentionBatch
    ) throws(StoreError) -> RetentionOutcome {
        guard dialect == .postgres else { return RetentionOutcome(removed: 0, next: nil) }
        let limit = day(ofMicroseconds: batch.cutoffUs)
        for table in Schema.partitioned {
            for day in try partitionDays(of: table) where day < limit {
                let name = "\(table.name)_\(day)"
                guard try query("SELECT 1 FROM \(name) LIMIT 1").isEmpty else { continue }
                try execute("DROP TABLE \(name)")
                return RetentionOutcome(removed: 1, next: .start)
            }
        }
        return RetentionOutcome(removed: 0, next: nil)
    }
}

extension SQLDialect {
    fileprivate var tablesOfInstances: [String] {
        (self == .sqlite ? ["task"] : ["accepted", "ended"])
            + ["refused", "open_task", "early_end"]
    }
}
