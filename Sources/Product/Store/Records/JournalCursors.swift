import SluiceRecordFormat

/// How far each journal was applied, for the instances of one transaction's records.
struct JournalCursors {
    struct Cursor {
        /// Of the last record that was applied; 0 = none.
        var sequence: UInt64 = 0
        /// The highest counter of the instance's tasks, as the engines compare numbers; 0 = none. A
        /// broker counts upwards, so a task above it is new.
        var newestTask: Int64 = 0
    }

    private var cursors: [UInt64: Cursor] = [:]

    init() {}

    init(
        of records: [JournalRecord], _ transaction: any StoreTransaction
    ) throws(StoreError) {
        var instances: Set<UInt64> = []
        var last: UInt64?
        for record in records where record.instance != last {
            last = record.instance
            instances.insert(record.instance)
        }
        let found = try transaction.fetch(
            ["instance", "sequence", "newest_task"], from: "journal_cursor", where: "instance",
            in: instances.map { signed($0) }, and: nil)
        for start in stride(from: 0, to: found.count, by: 3) {
            cursors[unsigned(found[start])] = Cursor(
                sequence: unsigned(found[start + 1]), newestTask: found[start + 2])
        }
    }

    subscript(instance: UInt64) -> Cursor {
        get { cursors[instance] ?? Cursor() }
        set { cursors[instance] = newValue }
    }

    /// Places of tasks that may be known: a broker that counts upwards has none.
    func placesToLookUp(_ accepted: [AcceptedRecord]) -> [Int] {
        var places: [Int] = []
        var instance: UInt64?
        var newest: Int64 = 0
        for (place, record) in accepted.enumerated() {
            if record.instance != instance {
                instance = record.instance
                newest = self[record.instance].newestTask
            }
            if signed(record.counter) <= newest { places.append(place) }
        }
        return places
    }

    /// Notes tasks that were applied.
    mutating func note(_ accepted: [AcceptedRecord]) {
        var instance: UInt64?
        var newest: Int64 = 0
        for record in accepted {
            if record.instance != instance {
                if let instance { self[instance].newestTask = newest }
                instance = record.instance
                newest = self[record.instance].newestTask
            }
            newest = max(newest, signed(record.counter))
        }
        if let instance { self[instance].newestTask = newest }
    }

    func save(_ transaction: any StoreTransaction) throws(StoreError) {
        for (instance, cursor) in cursors {
            try transaction.execute(
                """
                INSERT INTO journal_cursor (instance, sequence, newest_task) VALUES ($1, $2, $3)
                ON CONFLICT (instance) DO UPDATE
                    SET sequence = excluded.sequence, newest_task = excluded.newest_task
                """,
                [
                    .integer(signed(instance)), .integer(signed(cursor.sequence)),
                    .integer(cursor.newestTask),
                ])
        }
    }
}
