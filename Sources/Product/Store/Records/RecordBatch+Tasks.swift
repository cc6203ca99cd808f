import SluiceRecordFormat
import SluiceWire

extension RecordBatch {
    mutating func applyAccepted(
        _ tables: any TaskTables, _ cursors: JournalCursors,
        _ transaction: any StoreTransaction
    ) throws(StoreError) {
        guard !tasks.accepted.isEmpty else { return }
        for place in try tables.accept(tasks, lookingUp: cursors.placesToLookUp(tasks.accepted)) {
            tasks.drop(place)
            countDuplicate()
        }
        try noteKeys(transaction)
        try takeEarly(transaction)
    }

    private mutating func countDuplicate() {
        counts.applied -= 1
        counts.duplicates += 1
    }

    /// ENDED records that waited for one of these ACCEPTED.
    fileprivate mutating func takeEarly(
        _ transaction: any StoreTransaction
    ) throws(StoreError) {
        // In one order, whatever the engine's: money moves in it.
        let rows = try transaction.query(
            "SELECT instance, counter, record FROM early_end ORDER BY instance, counter")
        for row in rows {
            let task = TaskID(instance: try row.unsigned(0), counter: try row.unsigned(1))
            guard tasks.place(of: task) != nil else { continue }
            let bytes = try row.bytes(2)
            guard let words = RecordWords(bytes.span),
                let record = EndedRecord(JournalRecord(words: words))
            else { throw .damaged }
            try transaction.remove(
                from: "early_end", where: ("instance", "counter"),
                in: [signed(task.instance), signed(task.counter)])
            end(record)
            counts.applied += 1
        }
    }

    /// Writes the ENDED that are the first of their task.
    mutating func applyEnded(
        _ tables: any TaskTables, _ transaction: any StoreTransaction
    ) throws(StoreError) {
        let (unmatched, duplicates) = try tasks.matchEnds(tables)
        for _ in 0..<duplicates { countDuplicate() }
        try findModels(transaction)
        for end in try tables.end(tasks) {
            tasks.refuse(end)
            countDuplicate()
        }
        try keepEarly(unmatched, transaction)
        try tables.keepOpen(tasks)
        var removed: [Int64] = []
        for entry in tasks.entries[tasks.accepted.count...] where entry.end >= 0 {
            removed += [signed(entry.task.instance), signed(entry.task.counter)]
        }
        try transaction.remove(
            from: "open_task", where: ("instance", "counter"), in: removed)
    }

    /// What was asked for by tasks that waited for longer than a batch and never had a supplier.
    private mutating func findModels(_ transaction: any StoreTransaction) throws(StoreError) {
        var keys: [Int64] = []
        for entry in tasks.entries[tasks.accepted.count...]
        where entry.model == 0 && entry.end >= 0
            && tasks.ended[Int(entry.end)].offerModel == 0
        {
            keys += [signed(entry.task.instance), signed(entry.task.counter)]
        }
        let found = try transaction.fetch(
            ["instance", "counter", "model"], from: "accepted", where: ("instance", "counter"),
            in: keys)
        for start in stride(from: 0, to: found.count, by: 3) {
            let task = TaskID(
                instance: unsigned(found[start]), counter: unsigned(found[start + 1]))
            guard let place = tasks.place(of: task) else { continue }
            tasks.entries[place].model = UInt32(truncatingIfNeeded: found[start + 2])
        }
    }

    /// An ENDED without an open task is a second one, or came before its ACCEPTED: a successor's
    /// journal may be applied before the dead broker's.
    fileprivate mutating func keepEarly(
        _ indexes: [Int], _ transaction: any StoreTransaction
    ) throws(StoreError) {
        for index in indexes {
            let record = tasks.ended[index]
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

    /// Neighbours end alike, as a rule: they are counted together.
    mutating func countEnded() {
        var run: (outcome: ModelOutcome, count: Int, oldestEndUs: UInt64)?
        for (end, record) in tasks.ended.enumerated() {
            guard let entry = tasks.entry(ofEnd: end) else { continue }
            let outcome = ModelOutcome(record, askedFor: entry.model)
            let atUs = entry.acceptedAtUs &+ record.durationUs
            if let old = run, old.outcome == outcome {
                run = (outcome, old.count + 1, min(old.oldestEndUs, atUs))
            } else {
                if let run {
                    counts.settled.ended(
                        run.outcome, count: run.count, oldestEndUs: run.oldestEndUs)
                }
                run = (outcome, 1, atUs)
            }
        }
        if let run {
            counts.settled.ended(run.outcome, count: run.count, oldestEndUs: run.oldestEndUs)
        }
    }
}
