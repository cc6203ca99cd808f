import SluiceRecordFormat
import SluiceWire

/// Where an engine keeps what the journals say of tasks: PostgreSQL in `accepted` and `ended`, two
/// tables by days; SQLite as one packed row a task. Both have the same views for reading.
protocol TaskTables {
    /// Takes the batch's ACCEPTED. Gives the places of tasks that have one already, ascending: of
    /// those at `places`, the others are new.
    func accept(
        _ tasks: borrowing BatchTasks, lookingUp places: [Int]
    ) throws(StoreError) -> [Int]

    /// Those of these tasks that are open.
    func findOpen(_ tasks: [TaskID]) throws(StoreError) -> [StoredTask]

    /// Ends the tasks that have an `end`. Gives the positions in `ended` of those that had one
    /// already.
    func end(_ tasks: borrowing BatchTasks) throws(StoreError) -> [Int]

    /// Keeps what stays open for later batches. A task that begins and ends in one batch touches
    /// `open_task` not at all.
    func keepOpen(_ tasks: borrowing BatchTasks) throws(StoreError)
}

/// An open task of an earlier batch.
struct StoredTask {
    var task: TaskID
    var acceptedAtUs: UInt64
    var account: UInt64
    var model: UInt32
    var isRepeat: Bool
    /// What the tables keep of its ACCEPTED, if they need it again.
    var numbers: [Int64] = []

    /// From a row of `open_task`.
    init(_ row: ArraySlice<Int64>) {
        let at = row.startIndex
        task = TaskID(instance: unsigned(row[at]), counter: unsigned(row[at + 1]))
        acceptedAtUs = unsigned(row[at + 2])
        account = unsigned(row[at + 3])
        model = 0
        isRepeat = row[at + 4] != 0
    }
}

/// A table for what was accepted, one for what has ended.
struct WideTaskTables: TaskTables {
    let transaction: any StoreTransaction

    /// The unique key has the day in it, and what comes a second time may name another one.
    func accept(
        _ tasks: borrowing BatchTasks, lookingUp places: [Int]
    ) throws(StoreError) -> [Int] {
        let found = try transaction.fetch(
            ["instance", "counter"], from: "accepted", where: ("instance", "counter"),
            in: places.flatMap {
                [signed(tasks.accepted[$0].instance), signed(tasks.accepted[$0].counter)]
            })
        var known: Set<TaskID> = []
        for start in stride(from: 0, to: found.count, by: 2) {
            known.insert(
                TaskID(instance: unsigned(found[start]), counter: unsigned(found[start + 1])))
        }
        var rows = IntegerRows(.accepted, rowCount: tasks.accepted.count)
        for record in tasks.accepted where known.isEmpty || !known.contains(record.task) {
            rows.append(record)
        }
        try transaction.insert(rows)
        return places.filter { known.contains(tasks.accepted[$0].task) }
    }

    func findOpen(_ tasks: [TaskID]) throws(StoreError) -> [StoredTask] {
        let found = try transaction.fetch(
            RecordTable.openTask.columns, from: "open_task", where: ("instance", "counter"),
            in: tasks.flatMap { [signed($0.instance), signed($0.counter)] })
        let width = RecordTable.openTask.columns.count
        return stride(from: 0, to: found.count, by: width).map {
            StoredTask(found[$0..<$0 + width])
        }
    }

    /// None of them may be known: an open task has no ENDED. The unique key has the last word.
    func end(_ tasks: borrowing BatchTasks) throws(StoreError) -> [Int] {
        var position = try transaction.takePositions(tasks.ended.count)
        var rows = IntegerRows(.ended, rowCount: tasks.ended.count)
        var ends: [Int] = []
        for (end, record) in tasks.ended.enumerated() {
            guard let entry = tasks.entry(ofEnd: end) else { continue }
            rows.append(
                record, position: position, day: day(ofMicroseconds: entry.acceptedAtUs))
            position += 1
            ends.append(end)
        }
        return try transaction.insertNew(rows).map { ends[$0] }
    }

    func keepOpen(_ tasks: borrowing BatchTasks) throws(StoreError) {
        var rows = IntegerRows(.openTask)
        for place in 0..<tasks.accepted.count where tasks.entries[place].isOpen {
            rows.append(tasks.entries[place].openRow)
        }
        try transaction.insert(rows)
    }
}

extension BatchTasks.Entry {
    /// A row of `open_task`.
    var openRow: [5 of Int64] {
        [
            signed(task.instance), signed(task.counter), signed(acceptedAtUs), signed(account),
            isRepeat ? 1 : 0,
        ]
    }
}

extension StoreTransaction {
    /// The first of `count` positions in the order in which tasks end.
    func takePositions(_ count: Int) throws(StoreError) -> Int64 {
        guard count > 0 else { return 0 }
        let rows = try query(
            "UPDATE tally SET value = value + $1 WHERE name = 'position' RETURNING value",
            [.integer(Int64(count))])
        guard let row = rows.first else { throw .damaged }
        return try row.integer(0) - Int64(count) + 1
    }
}
