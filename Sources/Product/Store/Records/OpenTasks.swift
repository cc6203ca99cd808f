import SluiceRecordFormat
package import SluiceWire

/// A task that has an ACCEPTED and no ENDED.
package struct OpenTask: Equatable, Sendable {
    package var task: TaskID
    /// Wall clock, microseconds since 1970.
    package var acceptedAtUs: UInt64
}

extension Store {
    /// Tasks accepted at or before `acceptedAtUs` that have not ended, oldest first, at most
    /// `count`: those of `node`'s instances, those whose instance nobody knows, and other nodes'
    /// that were accepted before `foreignBefore`.
    package func openTasks(
        acceptedBefore acceptedAtUs: UInt64, node: UInt64 = 0, foreignBefore: UInt64 = 0,
        count: Int = 10_000
    ) throws(StoreError) -> [OpenTask] {
        try read { (transaction) throws(StoreError) in
            let rows = try transaction.query(
                """
                SELECT instance, counter, accepted_at_us FROM open_task
                WHERE accepted_at_us <= $1 AND (accepted_at_us <= $2 OR NOT EXISTS (
                    SELECT 1 FROM instance i
                    WHERE i.instance = open_task.instance AND i.node <> $3))
                ORDER BY accepted_at_us, instance, counter LIMIT $4
                """,
                [
                    .integer(signed(acceptedAtUs)), .integer(signed(foreignBefore)),
                    .integer(signed(node)), .integer(Int64(count)),
                ])
            var tasks: [OpenTask] = []
            for row in rows {
                tasks.append(
                    OpenTask(
                        task: TaskID(instance: try row.unsigned(0), counter: try row.unsigned(1)),
                        acceptedAtUs: try row.unsigned(2)))
            }
            return tasks
        }
    }

    /// Ends tasks as `lost`, at no cost; one that has ended is left as it is.
    @discardableResult
    package func closeAsLost(
        _ tasks: [OpenTask], atUs: UInt64
    ) throws(StoreError) -> AppliedBatch {
        guard !tasks.isEmpty else { return AppliedBatch() }
        return try write { (transaction) throws(StoreError) in
            var batch = RecordBatch(node: 0, nowUs: atUs)
            for open in tasks {
                let ended = EndedRecord(
                    task: open.task, status: .lost, code: .internalFault,
                    durationUs: atUs > open.acceptedAtUs ? atUs - open.acceptedAtUs : 0)
                let known = try transaction.fetch(
                    ["counter"], from: "open_task", where: ("instance", "counter"),
                    in: [signed(open.task.instance), signed(open.task.counter)])
                if !known.isEmpty { batch.add(ended.record) }
            }
            try batch.apply(to: transaction, after: JournalCursors())
            return batch.counts
        }
    }

    /// Makes what the coming days need: in PostgreSQL their partitions, in SQLite nothing. Called
    /// at the start and every few hours.
    package func prepareDays(nowUs: UInt64) throws(StoreError) {
        let today = day(ofMicroseconds: nowUs)
        try write { (transaction) throws(StoreError) in
            guard transaction.dialect == .postgres else { return }
            for table in Schema.partitioned {
                let known = Set(try transaction.partitionDays(of: table))
                for day in today...today + PostgresEngine.daysAhead where !known.contains(day) {
                    let isLate = try !transaction.query(
                        "SELECT 1 FROM \(table.name)_rest WHERE day = $1 LIMIT 1",
                        [.integer(day)]
                    ).isEmpty
                    // Its rows stand in the rest: they stay there.
                    guard !isLate else { continue }
                    try transaction.execute(Schema.partition(of: table, day: day))
                }
            }
        }
    }
}

extension StoreTransaction {
    /// Days that have a partition of their own, ascending.
    func partitionDays(of table: RecordTable) throws(StoreError) -> [Int64] {
        let rows = try query(
            """
            SELECT c.relname::text FROM pg_inherits i
            JOIN pg_class c ON c.oid = i.inhrelid
            JOIN pg_class p ON p.oid = i.inhparent
            WHERE p.relname = $1 ORDER BY c.relname
            """, [.text(table.name)])
        var days: [Int64] = []
        for row in rows {
            if let day = Int64(try row.text(0).dropFirst(table.name.count + 1)) {
                days.append(day)
            }
        }
        return days
    }
}
