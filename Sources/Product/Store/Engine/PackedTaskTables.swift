import GRDB
import SQLiteBinding
import SluiceRecordFormat
import SluiceWire

/// One packed row for each task that has ended, and what is open in `open_task`: in SQLite the
/// cost of a task is that of its rows, columns and indexes.
struct PackedTaskTables: TaskTables {
    private static let rowsPerStatement = 32
    private static let openColumns = RecordTable.openTask.columns + ["record"]
    private static let taskColumns = ["instance", "counter", "record"]

    let transaction: any StoreTransaction
    let database: Database

    /// Nothing is written yet.
    func accept(
        _ tasks: borrowing BatchTasks, lookingUp places: [Int]
    ) throws(StoreError) -> [Int] {
        let accepted = tasks.accepted
        return try wrapped { try places.filter { try isKnown(accepted[$0].task) } }
    }

    private func isKnown(_ task: TaskID) throws -> Bool {
        let statement = try IntegerStatement(
            database,
            """
            SELECT 1 FROM task WHERE instance = ?1 AND counter = ?2
            UNION ALL SELECT 1 FROM open_task WHERE instance = ?1 AND counter = ?2
            """)
        var found: [Int64] = []
        let key = [signed(task.instance), signed(task.counter)] as [2 of Int64]
        return try statement.fetch(key.span, into: &found) > 0
    }

    func findOpen(_ tasks: [TaskID]) throws(StoreError) -> [StoredTask] {
        try wrapped {
            let statement = try IntegerStatement(
                database,
                """
                SELECT \(Self.openColumns.joined(separator: ", ")) FROM open_task
                WHERE instance = ?1 AND counter = ?2
                """)
            var found: [StoredTask] = []
            var row: [Int64] = []
            for task in tasks {
                row.removeAll(keepingCapacity: true)
                let key = [signed(task.instance), signed(task.counter)] as [2 of Int64]
                let count = try statement.fetch(
                    key.span, packedCount: PackedTask.acceptedFields.count, into: &row)
                guard count > 0 else { continue }
                var stored = StoredTask(row[...])
                stored.numbers = Array(row[RecordTable.openTask.columns.count...])
                // A damaged record: the row itself still says when and whose, and its end is not
                // to stop everybody's.
                stored.numbers[0] = signed(stored.acceptedAtUs)
                stored.numbers[1] = signed(stored.account)
                stored.model = UInt32(truncatingIfNeeded: stored.numbers[PackedTask.model])
                found.append(stored)
            }
            return found
        }
    }

    /// In the order of `entries`, which is nearly that of the table's key, and not in that of the
    /// ends: so rows come at the table's end, and positions in long runs.
    func end(_ tasks: borrowing BatchTasks) throws(StoreError) -> [Int] {
        var rows = PackedRows(columnCount: 2, rowCount: tasks.ended.count)
        var ends: [Int32] = []
        ends.reserveCapacity(tasks.ended.count)
        var numbers = [37 of Int64](repeating: 0)
        for (index, stored) in tasks.stored.enumerated() {
            let entry = tasks.entries[tasks.accepted.count + index]
            for field in 0..<18 { numbers[field] = stored.numbers[field] }
            Self.append(entry.task, tasks.ended[Int(entry.end)], &numbers, &rows)
            ends.append(entry.end)
        }
        for place in tasks.accepted.indices where tasks.entries[place].end >= 0 {
            let end = tasks.entries[place].end
            let accepted = tasks.accepted[place].numbers
            for field in 0..<18 { numbers[field] = accepted[field] }
            Self.append(tasks.entries[place].task, tasks.ended[Int(end)], &numbers, &rows)
            ends.append(end)
        }
        guard !ends.isEmpty else { return [] }
        let known = try insertNew(rows, into: "task", Self.taskColumns)
        try addRuns(ends.map { tasks.ended[Int($0)].task }, without: Set(known))
        return known.map { Int(ends[$0]) }
    }

    /// Adds what an ENDED says to the numbers of its ACCEPTED, and both to the rows.
    private static func append(
        _ task: TaskID, _ record: EndedRecord, _ numbers: inout [37 of Int64],
        _ rows: inout PackedRows
    ) {
        let ended = record.numbers
        for field in 0..<19 { numbers[18 + field] = ended[field] }
        let key = [signed(task.instance), signed(task.counter)] as [2 of Int64]
        rows.append(key.span, packed: numbers.span)
    }

    /// Gives positions to tasks that have just ended.
    private func addRuns(_ tasks: [TaskID], without known: Set<Int>) throws(StoreError) {
        var runs = IntegerRows(.endedRun)
        var position = try transaction.takePositions(tasks.count)
        var run: (position: Int64, instance: UInt64, first: Int64, last: Int64)?
        for (row, task) in tasks.enumerated() {
            guard known.isEmpty || !known.contains(row) else { continue }
            let counter = signed(task.counter)
            if let old = run {
                if old.instance == task.instance, old.last != .max, old.last + 1 == counter {
                    run?.last = counter
                } else {
                    runs.append([old.position, signed(old.instance), old.first, old.last])
                    run = nil
                }
            }
            if run == nil { run = (position, task.instance, counter, counter) }
            position += 1
        }
        if let run { runs.append([run.position, signed(run.instance), run.first, run.last]) }
        try transaction.insert(runs)
    }

    func keepOpen(_ tasks: borrowing BatchTasks) throws(StoreError) {
        var rows = PackedRows(columnCount: RecordTable.openTask.columns.count, rowCount: 0)
        for place in tasks.accepted.indices where tasks.entries[place].isOpen {
            let row = tasks.entries[place].openRow
            let numbers = tasks.accepted[place].numbers
            rows.append(row.span, packed: numbers.span)
        }
        let known = try insertNew(rows, into: "open_task", Self.openColumns)
        guard known.isEmpty else { throw .damaged }
    }

    /// Hardly ever is one of them known. So a block is tried whole; SQLite undoes the whole
    /// statement where a key is there already, and then its rows come one by one.
    private func insertNew(
        _ rows: borrowing PackedRows, into table: String, _ columns: [String]
    ) throws(StoreError) -> [Int] {
        let names = columns.joined(separator: ", ")
        let row = "(" + columns.map { _ in "?" }.joined(separator: ", ") + ")"
        var known: [Int] = []
        do {
            var position = 0
            for size in [Self.rowsPerStatement, 1] where rows.rowCount - position >= size {
                let list = Array(repeating: row, count: size).joined(separator: ", ")
                let statement = try IntegerStatement(
                    database, "INSERT INTO \(table) (\(names)) VALUES \(list)")
                while rows.rowCount - position >= size {
                    let block = position..<position + size
                    position += size
                    do {
                        _ = try rows.run(statement, rows: block, in: database)
                    } catch let error as DatabaseError
                        where error.resultCode == .SQLITE_CONSTRAINT
                    {
                        let single = try IntegerStatement(
                            database, "INSERT OR IGNORE INTO \(table) (\(names)) VALUES \(row)")
                        for index in block {
                            let isNew = try rows.run(
                                single, rows: index..<index + 1, in: database)
                            if !isNew { known.append(index) }
                        }
                    }
                }
            }
        } catch {
            throw StoreError(error)
        }
        return known
    }

    private func wrapped<Value>(_ body: () throws -> Value) throws(StoreError) -> Value {
        do {
            return try body()
        } catch {
            throw StoreError(error)
        }
    }
}
