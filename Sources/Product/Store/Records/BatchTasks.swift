import SluiceRecordFormat
import SluiceWire

/// The tasks of one transaction's records: which ENDED belongs to which ACCEPTED.
struct BatchTasks {
    /// What a task's ACCEPTED left for its ENDED.
    struct Entry {
        var task: TaskID
        var acceptedAtUs: UInt64
        var account: UInt64
        /// What was asked for; 0 where it has to be looked up.
        var model: UInt32
        /// Position in `ended` of the one that counts; below 0 while there is none.
        var end: Int32 = -1
        /// Another broker's task has the same idempotency key: together they cost what the dearest
        /// of them does.
        var isRepeat = false
        /// The store has an ACCEPTED of this task: the batch's own counts for nothing.
        var isKnown = false

        var isOpen: Bool { end < 0 && !isKnown }
    }

    /// The first ACCEPTED of each task.
    private(set) var accepted: [AcceptedRecord] = []
    private(set) var ended: [EndedRecord] = []
    /// One for each of `accepted`, then those of earlier batches that end now.
    var entries: [Entry] = []
    /// What `TaskTables` keep of these earlier ones, in their order.
    private(set) var stored: [StoredTask] = []
    /// For each of `ended` the place of its task in `entries`, below 0 if it counts for nothing.
    private(set) var places: [Int32] = []
    /// Where in `entries` a task is that may end.
    private var index = TaskIndex()
    /// One of `accepted` has an idempotency key.
    private(set) var hasKeys = false

    mutating func reserve(_ count: Int) {
        accepted.reserveCapacity(count)
        entries.reserveCapacity(count)
        ended.reserveCapacity(count)
        index = TaskIndex(capacity: count)
    }

    /// Takes an ACCEPTED; false if the batch has one of this task.
    mutating func accept(_ record: AcceptedRecord) -> Bool {
        guard place(of: record.task) == nil else { return false }
        accepted.append(record)
        if record.idempotencyDigest != 0 { hasKeys = true }
        add(
            Entry(
                task: record.task, acceptedAtUs: record.acceptedAtUs, account: record.account,
                model: record.model))
        return true
    }

    private mutating func add(_ entry: Entry) {
        index.insert(entry.task, at: entries.count, in: entries)
        entries.append(entry)
    }

    mutating func end(_ record: EndedRecord) { ended.append(record) }

    /// The place of a task that may end.
    func place(of task: TaskID) -> Int? { index.find(task, in: entries) }

    /// Forgets the ACCEPTED of a task that the store knows.
    mutating func drop(_ place: Int) {
        entries[place].isKnown = true
    }

    /// Links each ENDED with its task. Gives those whose task is not open, and how many were not
    /// the first of theirs.
    mutating func matchEnds(
        _ tables: any TaskTables
    ) throws(StoreError) -> (unmatched: [Int], duplicates: Int) {
        places = [Int32](repeating: -1, count: ended.count)
        var duplicates = 0
        var missing: [Int] = []
        for end in ended.indices where !link(end, &duplicates) { missing.append(end) }
        guard !missing.isEmpty else { return ([], duplicates) }
        // In the order of the tables' keys, so that neighbours are found and written side by side.
        let tasks = missing.map { ended[$0].task }.sorted {
            ($0.instance, $0.counter) < ($1.instance, $1.counter)
        }
        for found in try tables.findOpen(tasks) {
            // Two ENDED of one task ask for it twice.
            guard place(of: found.task) == nil else { continue }
            add(
                Entry(
                    task: found.task, acceptedAtUs: found.acceptedAtUs, account: found.account,
                    model: found.model, isRepeat: found.isRepeat))
            stored.append(found)
        }
        missing.removeAll { link($0, &duplicates) }
        return (missing, duplicates)
    }

    /// False if the task is not there.
    private mutating func link(_ end: Int, _ duplicates: inout Int) -> Bool {
        guard let place = place(of: ended[end].task) else { return false }
        if entries[place].end < 0 {
            entries[place].end = Int32(end)
            places[end] = Int32(place)
        } else {
            duplicates += 1
        }
        return true
    }

    /// The tables know an ENDED of its task already.
    mutating func refuse(_ end: Int) { places[end] = -1 }

    /// The entry of an ENDED that counts.
    func entry(ofEnd end: Int) -> Entry? {
        places[end] < 0 ? nil : entries[Int(places[end])]
    }
}
