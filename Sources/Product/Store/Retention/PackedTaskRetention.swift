import SluiceLedgerCore

extension StoreTransaction {
    /// SQLite's `removeTaskRecords`: in the order of `ended_run`, and of the tasks in each of them.
    /// A window is so many tasks, and so many runs, since a run may have lost all of its own.
    func removePackedTasks(_ batch: RetentionBatch) throws(StoreError) -> RetentionOutcome {
        let runs = try query(
            """
            SELECT position, instance, first, last FROM ended_run WHERE position >= coalesce(
                (SELECT max(position) FROM ended_run WHERE position <= $1), 0)
            ORDER BY position LIMIT $2
            """, [.integer(batch.after.high), .integer(Int64(batch.rows) + 1)])
        guard !runs.isEmpty else { return RetentionOutcome(removed: 0, next: nil) }
        var window = RetentionWindow(room: batch.rows)
        for row in runs {
            guard window.room > 0 else { break }
            let run = try EndedRun(row)
            guard run.end > batch.after.high else { continue }
            try remove(from: run, batch, &window)
        }
        let isDone =
            window.isAllNew && window.sawTasks
            || window.room > 0 && runs.count <= batch.rows
        return RetentionOutcome(
            removed: window.removed,
            next: isDone ? nil : RetentionMark(max(window.reached, batch.after.high)))
    }

    /// Removes what is old and settled of a run behind the batch's mark, and the run with its last
    /// task.
    private func remove(
        from run: EndedRun, _ batch: RetentionBatch, _ window: inout RetentionWindow
    ) throws(StoreError) {
        let after = batch.after.high
        let passed = after < run.position ? 0 : after - run.position + 1
        let tasks = try query(
            """
            SELECT counter, accepted_at_us, CASE
                WHEN consumer_cost = 0 AND supplier_earning = 0 OR EXISTS (
                    SELECT 1 FROM ledger_entry l
                    WHERE l.kind = 1 AND l.high = e.instance AND l.low = e.counter)
                THEN 1 ELSE 0 END
            FROM ended_task e WHERE instance = $1 AND counter BETWEEN $2 AND $3
            ORDER BY counter LIMIT $4
            """,
            [
                .integer(run.instance), .integer(run.first + passed), .integer(run.last),
                .integer(Int64(window.room)),
            ])
        let limit = day(ofMicroseconds: batch.cutoffUs)
        var removed: [Int64] = []
        for task in tasks where day(ofMicroseconds: try task.unsigned(1)) < limit {
            window.isAllNew = false
            guard try task.integer(2) != 0 else { continue }
            removed += [run.instance, try task.integer(0)]
        }
        try remove(from: "task", where: ("instance", "counter"), in: removed)
        window.removed += removed.count / 2
        window.sawTasks = window.sawTasks || !tasks.isEmpty
        let last = try tasks.last?.integer(0) ?? run.last
        let isWhole = tasks.count < window.room || last == run.last
        window.room -= tasks.count
        guard isWhole else {
            window.reached = run.position + (last - run.first)
            return
        }
        window.reached = run.end
        try execute(
            """
            DELETE FROM ended_run WHERE position = $1 AND NOT EXISTS (
                SELECT 1 FROM task WHERE instance = $2 AND counter BETWEEN $3 AND $4)
            """,
            [
                .integer(run.position), .integer(run.instance), .integer(run.first),
                .integer(run.last),
            ])
    }
}

/// A row of `ended_run`.
private struct EndedRun {
    var position: Int64
    var instance: Int64
    var first: Int64
    var last: Int64

    /// The position of its last task.
    var end: Int64

    init(_ row: SQLRow) throws(StoreError) {
        position = try row.integer(0)
        instance = try row.integer(1)
        first = try row.integer(2)
        last = try row.integer(3)
        let (length, isLong) = last.subtractingReportingOverflow(first)
        let (end, isFar) = position.addingReportingOverflow(length)
        guard position > 0, length >= 0, !isLong, !isFar else { throw .damaged }
        self.end = end
    }
}

/// What one batch of retention has seen.
private struct RetentionWindow {
    /// Tasks that it may still look at.
    var room: Int
    var removed = 0
    var isAllNew = true
    var sawTasks = false
    /// Position up to which it has looked.
    var reached: Int64 = 0
}
