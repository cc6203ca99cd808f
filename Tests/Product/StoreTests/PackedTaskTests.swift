import Foundation
import GRDB
import RecordTestSupport
import SQLiteBinding
import SluiceLedgerCore
import SluiceRecordFormat
import SluiceWire
import Store
import Testing

private let dayUs: UInt64 = 86_400_000_000

/// SQLite's packed tasks: that nothing shows but their size.
@Suite struct PackedTaskTests {
    let scratch = ScratchDirectory()
    private static let instance: UInt64 = 0xFEDC_BA98_7654_3210
    private static let all: Range<UInt64> = 0..<(.max >> 1)

    /// A connection as another program has it, which knows the functions of the views.
    private func connect(_ path: String) throws -> DatabaseQueue {
        let queue = try DatabaseQueue(path: path)
        try queue.inDatabase { try PackedIntegers.addFunctions(to: $0) }
        return queue
    }

    private func integers(_ path: String, _ sql: String) throws -> [[Int64]] {
        try connect(path).read { database in
            try Row.fetchAll(database, sql: sql).map { row in
                try row.databaseValues.map { try #require(Int64.fromDatabaseValue($0)) }
            }
        }
    }

    // MARK: What earlier versions wrote

    /// Tasks that ended in another order than they began, one by one; 5 and 7 run still.
    private static let endOrder: [UInt64] = [1, 2, 4, 6, 3, .max]

    private func fill(_ store: Store) throws {
        var journal = JournalSketch(instance: Self.instance)
        journal.start()
        try journal.name()
        for counter in Array(1...7 as ClosedRange<UInt64>) + [.max] { journal.accept(counter) }
        _ = try store.applyBatch(journal.records, node: 7)
        for counter in Self.endOrder {
            journal.end(counter, ttftUs: counter == 6 ? nil : 5)
            _ = try store.applyBatch(journal.records, node: 7)
        }
    }

    /// Gives a database the shape of version 5, with the rows that that would have written.
    private func downgrade(_ path: String) throws {
        let (accepted, ended) = (Self.acceptedColumns, Self.endedColumns)
        try connect(path).write { database in
            try database.execute(
                sql: """
                    CREATE TABLE old_accepted (\(accepted),
                        PRIMARY KEY (instance, counter)) STRICT, WITHOUT ROWID;
                    CREATE TABLE old_ended (position INTEGER PRIMARY KEY, \(ended),
                        UNIQUE (instance, counter)) STRICT;
                    INSERT INTO old_accepted SELECT * FROM accepted;
                    INSERT INTO old_ended SELECT o.position, e.* FROM ended_in_order o
                        JOIN ended e ON e.instance = o.instance AND e.counter = o.counter;
                    DROP VIEW ended_in_order;
                    DROP VIEW ended_task;
                    DROP VIEW accepted;
                    DROP VIEW ended;
                    DROP TABLE task;
                    DROP TABLE ended_run;
                    ALTER TABLE open_task DROP COLUMN record;
                    ALTER TABLE old_accepted RENAME TO accepted;
                    ALTER TABLE old_ended RENAME TO ended;
                    ALTER TABLE journal_cursor DROP COLUMN newest_task;
                    DELETE FROM grdb_migrations
                        WHERE identifier IN ('6 packed tasks', '7 newest tasks');
                    """)
        }
    }

    private static let acceptedColumns = columns(
        """
        instance counter day accepted_at_us account key_digest_prefix model operation encoding \
        priority preference deadline_ms body_bytes max_input_tokens max_output_tokens input_price \
        output_price trace_high trace_low trace_span idempotency_digest
        """)
    private static let endedColumns = columns(
        """
        instance counter day status code finish_reason input_tokens cached_tokens output_tokens \
        reasoning_tokens delivered_bytes ttft_us duration_us queue_us consumer_cost \
        supplier_earning platform_fee supplier offer_model supply_type dispatches win_reason
        """)

    private static func columns(_ names: String) -> String {
        names.split(separator: " ").map { "\($0) INTEGER NOT NULL" }.joined(separator: ", ")
    }

    @Test func whatEarlierVersionsWroteIsReadAsBefore() throws {
        let test = try TestStore(.sqlite)
        try fill(test.store)
        guard case .sqlite(let path) = test.location else { return }
        let old = scratch.path + "/old.sqlite"
        #expect(try test.store.checkpoint())
        try FileManager.default.copyItem(atPath: path, toPath: old)
        try downgrade(old)
        // The old shape itself, so that the test is of what it says.
        #expect(
            try integers(old, "SELECT position, counter FROM ended ORDER BY position")
                == [[1, 1], [2, 2], [3, 4], [4, 6], [5, 3], [6, -1]])
        let moved = try Store(path: old, durability: .checkpoint)
        try expectSame(moved, test.store)
        // 1 and 2 are neighbours in both orders; 3 is not, though its counter lies between.
        #expect(
            try integers(old, "SELECT position, first, last FROM ended_run ORDER BY position")
                == [[1, 1, 2], [3, 4, 4], [4, 6, 6], [5, 3, 3], [6, -1, -1]])
        // What ran then ends now.
        var journal = JournalSketch(instance: 3)
        journal.end(5, of: Self.instance)
        for store in [moved, test.store] {
            #expect(try store.applyBatch(journal.records, node: 7).settled.outcomes.count == 1)
        }
        try expectSame(moved, test.store)
        // What had been accepted before is known, open or not.
        var again = JournalSketch(instance: Self.instance)
        for _ in 0..<30 { again.start() }
        for counter in [2, 7] as [UInt64] { again.accept(counter) }
        #expect(try moved.applyBatch(again.records, node: 7).duplicates == 2)
        #expect(try moved.counts().open == 1)
        #expect(try moved.ledgerCheck().isSound)
    }

    /// No store of ours has such rows; one that was repaired might.
    @Test func rowsWithoutTheirOtherHalfAreKept() throws {
        let test = try TestStore(.sqlite)
        try fill(test.store)
        guard case .sqlite(let path) = test.location else { return }
        let old = scratch.path + "/halves.sqlite"
        #expect(try test.store.checkpoint())
        try FileManager.default.copyItem(atPath: path, toPath: old)
        try downgrade(old)
        try connect(old).write { database in
            try database.execute(
                sql: """
                    DELETE FROM accepted WHERE counter = 1;
                    UPDATE ended SET day = 9223372036854775807 WHERE counter = 1;
                    DELETE FROM ended WHERE counter = 2;
                    DELETE FROM accepted WHERE counter = 5;
                    """)
        }
        let moved = try Store(path: old, durability: .checkpoint)
        let counts = try moved.counts()
        #expect(counts.final == Self.endOrder.count - 1)
        #expect(counts.open == 3, "2, which has no end any more, beside 5 and 7")
        #expect(try moved.openTasks(acceptedBefore: .max >> 1, node: 7).count == 3)
        #expect(try moved.finalRecords(last: 99).count == counts.final)
    }

    private func expectSame(_ one: Store, _ other: Store) throws {
        #expect(try one.counts() == other.counts())
        #expect(try one.finalRecords(last: 99) == other.finalRecords(last: 99))
        #expect(try one.finalRecords(last: 2) == other.finalRecords(last: 2))
        #expect(
            try one.tracedTasks(after: 0, count: 99) == other.tracedTasks(after: 0, count: 99))
        #expect(
            try one.openTasks(acceptedBefore: .max >> 1)
                == other.openTasks(acceptedBefore: .max >> 1))
        #expect(try one.usage(by: .model, Self.all) == other.usage(by: .model, Self.all))
        #expect(try one.usage(by: .day, Self.all) == other.usage(by: .day, Self.all))
        for counter in 1...8 as ClosedRange<UInt64> {
            let task = TaskID(instance: Self.instance, counter: counter)
            #expect(try one.history(of: task) == other.history(of: task))
        }
    }

    // MARK: Positions

    @Test func endsOfOneTransactionAreOneRunAndKeepTheirOrder() throws {
        let test = try TestStore(.sqlite)
        guard case .sqlite(let path) = test.location else { return }
        var journal = JournalSketch(instance: 9)
        for counter in 1...6 as ClosedRange<UInt64> { journal.accept(counter) }
        // 4 ends in a later transaction than its neighbours.
        for counter in [6, 1, 2, 3, 5] as [UInt64] { journal.end(counter) }
        _ = try test.store.applyBatch(journal.records)
        journal.end(4)
        _ = try test.store.applyBatch(journal.records)
        #expect(
            try integers(path, "SELECT position, first, last FROM ended_run ORDER BY position")
                == [[1, 1, 3], [4, 5, 6], [6, 4, 4]])
        #expect(
            try test.store.finalRecords(last: 4).map(\.task.counter) == [3, 5, 6, 4])
        let traced = try test.store.tracedTasks(after: 2, count: 3)
        #expect(traced.map(\.position) == [3, 4, 5])
        #expect(traced.map(\.task.counter) == [3, 5, 6])
        #expect(try test.store.tracedTasks(after: 5, count: 3).map(\.task.counter) == [4])
        #expect(try test.store.lastPosition() == 6)
    }

    @Test(arguments: [1, 2, 3, 7, 100])
    func runsGoWithTheirLastTask(rows: Int) throws {
        let market = try Market(.sqlite, isPrepaid: false)
        guard case .sqlite(let path) = market.test.location else { return }
        var journal = JournalSketch(instance: 5)
        for start in [1, 11, 21] as [UInt64] {
            for counter in start..<start + 10 {
                journal.accept(counter, atUs: counter * dayUs, account: market.consumer.id)
                // What costs more than it gives is never posted, and stays.
                journal.end(
                    counter,
                    charge: counter == 15
                        ? TaskCharge(consumerCost: 11, supplierEarning: 3, platformFee: 1)
                        : charge(11, 10), supplier: market.token.entry.supplier)
            }
            _ = try market.store.applyBatch(journal.records, node: 7)
        }
        func expire(_ day: UInt64) throws -> Int {
            // Each pass ends at a window that has nothing old; the next goes on behind it.
            let removed = try removeExpired(
                market.store, .taskRecords, cutoffUs: day * dayUs, rows: rows)
            #expect(removed.allSatisfy { $0 <= rows })
            return removed.reduce(0, +)
        }
        #expect(try expire(5) == 4)
        #expect(try expire(26) == 20)
        #expect(try expire(26) == 0)
        #expect(
            try market.store.finalRecords(last: 99).map(\.task.counter)
                == [15] + Array(26...30))
        #expect(
            try integers(path, "SELECT position, first, last FROM ended_run ORDER BY position")
                == [[11, 11, 20], [21, 21, 30]])
        #expect(try expire(40) == 5)
        #expect(
            try integers(path, "SELECT position, first, last FROM ended_run")
                == [[11, 11, 20]])
        #expect(try market.store.counts().final == 1)
    }

    // MARK: Second records

    @Test(arguments: TestEngine.allCases)
    func secondRecordsCountForNothingWhereverTheFirstStand(_ engine: TestEngine) throws {
        let store = try TestStore(engine).store
        var first = JournalSketch(instance: 9)
        // Another day, which is part of PostgreSQL's key.
        let again: UInt64 = 1_792_900_000_999_999
        for counter in 1...4 as ClosedRange<UInt64> { first.accept(counter) }
        first.end(1)
        first.end(2)
        _ = try store.applyBatch(first.records)
        // Known and ended, with an end again; known and open, with its first end; open; new.
        first.accept(2, atUs: again)
        first.end(2, ttftUs: 77)
        first.accept(3, atUs: again)
        first.end(3, ttftUs: 78)
        first.end(3, ttftUs: 79)
        first.accept(4, atUs: again)
        first.accept(5)
        first.accept(5, atUs: again)
        first.end(5)
        let batch = try store.applyBatch(first.records)
        #expect(batch.applied == 3 && batch.duplicates == 6 && batch.early == 0)
        #expect(
            try store.counts() == RecordCounts(accepted: 5, final: 4, open: 1, duplicates: 6))
        let final = try store.finalRecords(last: 9).sorted { $0.task.counter < $1.task.counter }
        #expect(final.map(\.ttftUs) == [5, 5, 78, 5])
        #expect(final.allSatisfy { $0.acceptedAtUs != again })
        #expect(try store.ledgerCheck().isSound)
    }

    /// Two brokers' journals at random, cut into batches at random: both engines say the same.
    @Test func bothEnginesSayTheSameOfWhateverComes() throws {
        let stores = try TestEngine.allCases.map { try TestStore($0) }
        var random = SystemRandomNumberGenerator()
        for round in 0..<30 as Range<UInt64> {
            var journals = [100 + 2 * round, 101 + 2 * round].map { JournalSketch(instance: $0) }
            for _ in 0..<60 {
                let broker = Int.random(in: 0...1, using: &random)
                let counter = UInt64.random(in: 1...12, using: &random)
                if Bool.random(using: &random) {
                    journals[broker].accept(
                        counter, account: 5,
                        key: UInt64.random(in: 0...40, using: &random) / 10)
                } else {
                    journals[broker].end(
                        counter, of: 100 + 2 * round + UInt64.random(in: 0...1, using: &random),
                        ttftUs: UInt64.random(in: 0...9, using: &random),
                        charge: Bool.random(using: &random) ? .none : charge(11, 10))
                }
            }
            var batches: [[JournalRecord]] = []
            var rest = journals.map { $0.records[...] }
            while rest.contains(where: { !$0.isEmpty }) {
                var batch: [JournalRecord] = []
                for broker in rest.indices.shuffled(using: &random) {
                    let count = Int.random(in: 0...30, using: &random)
                    batch += rest[broker].prefix(count)
                    rest[broker] = rest[broker].dropFirst(count)
                }
                batches.append(batch)
            }
            for batch in batches {
                let applied = try stores.map { try $0.store.applyBatch(batch, node: 7) }
                #expect(applied[0] == applied[1])
            }
            try expectEqual(stores[0].store, stores[1].store)
        }
    }

    private func expectEqual(_ one: Store, _ other: Store) throws {
        #expect(try one.counts() == other.counts())
        #expect(try one.balances() == other.balances())
        #expect(try one.ledgerCheck() == other.ledgerCheck())
        #expect(
            try one.openTasks(acceptedBefore: .max >> 1)
                == other.openTasks(acceptedBefore: .max >> 1))
        func final(_ store: Store) throws -> [FinalRecord] {
            try store.finalRecords(last: 9_999).sorted {
                ($0.task.instance, $0.task.counter) < ($1.task.instance, $1.task.counter)
            }
        }
        #expect(try final(one) == final(other))
        #expect(try one.lastPosition() >= one.counts().final)
    }

    // MARK: Queries

    /// The plans of what the store asks: by key where it knows one, and without sorting.
    @Test(arguments: [
        "SELECT model FROM accepted WHERE instance = 1 AND counter = 2",
        "SELECT counter FROM ended WHERE instance = 1 AND counter = 2",
        """
        SELECT e.consumer_cost FROM accepted a
            JOIN idempotency i ON i.account = a.account AND i.digest = a.idempotency_digest
            LEFT JOIN ended e ON e.instance = i.instance AND e.counter = i.counter
            WHERE a.instance = 1 AND a.counter = 2
        """,
        "SELECT * FROM ended_in_order ORDER BY run DESC, counter DESC LIMIT 5",
        """
        SELECT * FROM ended_in_order WHERE position > 7 AND run >= coalesce(
            (SELECT max(position) FROM ended_run WHERE position <= 7), 0)
            ORDER BY run, counter LIMIT 5
        """,
        "SELECT 1 WHERE EXISTS (SELECT 1 FROM task r WHERE r.instance = 3)",
    ])
    func tasksAreFoundByTheirKey(sql: String) throws {
        let test = try TestStore(.sqlite)
        guard case .sqlite(let path) = test.location else { return }
        let plan = try connect(path).read { database in
            try Row.fetchAll(database, sql: "EXPLAIN QUERY PLAN " + sql).map { row -> String in
                row["detail"]
            }
        }
        for step in plan {
            #expect(!step.contains("SCAN task") && !step.contains("SCAN t "), "\(plan)")
            #expect(!step.contains("SCAN open_task") && !step.contains("TEMP B-TREE"), "\(plan)")
            #expect(!step.contains("AUTOMATIC"), "\(plan)")
        }
    }

    // MARK: Damage

    @Test func aDamagedRecordIsSaid() throws {
        for damage in ["x''", "x'25'", "x'00'", "x'ff'", "zeroblob(20)"] {
            let test = try TestStore(.sqlite)
            try fill(test.store)
            guard case .sqlite(let path) = test.location else { return }
            try connect(path).write { database in
                try database.execute(sql: "UPDATE task SET record = \(damage) WHERE counter = 2")
                try database.execute(
                    sql: "UPDATE open_task SET record = \(damage) WHERE counter = 5")
            }
            #expect(throws: StoreError.damaged, "\(damage)") {
                _ = try test.store.finalRecords(last: 99)
            }
            #expect(throws: StoreError.damaged, "\(damage)") {
                _ = try test.store.usage(by: .model, Self.all)
            }
            #expect(throws: StoreError.damaged, "\(damage)") {
                _ = try test.store.history(of: TaskID(instance: Self.instance, counter: 2))
            }
            var journal = JournalSketch(instance: 3)
            journal.end(5, of: Self.instance)
            // One damaged row stops nobody: it ends as what the row itself still says.
            #expect(try test.store.applyBatch(journal.records).settled.outcomes.count == 1)
            #expect(try test.store.counts().open == 1, "7 runs still")
        }
    }
}
