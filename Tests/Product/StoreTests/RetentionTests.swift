import RecordTestSupport
import SluiceLedgerCore
import SluiceRecordFormat
import SluiceWire
import Store
import Testing

/// Runs a duty to its end; gives what each batch removed.
func removeExpired(
    _ store: Store, _ duty: RetentionDuty, cutoffUs: UInt64, rows: Int = 1_024,
    keepingChanges: Int = Store.keptChanges
) throws -> [Int] {
    var batch = RetentionBatch(duty, cutoffUs: cutoffUs, rows: rows)
    var removed: [Int] = []
    while true {
        let outcome = try store.removeExpired(batch, keepingChanges: keepingChanges)
        removed.append(outcome.removed)
        guard let next = outcome.next else { return removed }
        try #require(removed.count < 1_000, "a duty does not end")
        batch.after = next
    }
}

private let dayUs: UInt64 = 86_400_000_000

@Suite struct RetentionTests {
    /// Day 100: 20 tasks that were settled, one that runs, one whose charge was not posted, one
    /// whose ACCEPTED is missing. Day 300: a task.
    private func filled(_ engine: TestEngine) throws -> Market {
        let market = try Market(engine, isPrepaid: false)
        let (old, new) = (100 * dayUs, 300 * dayUs)
        try market.store.prepareDays(nowUs: old)
        try market.store.prepareDays(nowUs: new)
        var journal = JournalSketch(instance: 5)
        journal.start()
        try journal.name()
        let supplier = market.token.entry.supplier
        for counter in 1...22 as ClosedRange<UInt64> {
            journal.accept(counter, atUs: old + counter, account: market.consumer.id)
        }
        for counter in 1...20 as ClosedRange<UInt64> {
            journal.end(counter, charge: charge(11, 10), supplier: supplier)
        }
        // Costs more than it gives: nothing is posted for such a record.
        journal.end(
            22,
            charge: TaskCharge(consumerCost: 11, supplierEarning: 3, platformFee: 1),
            supplier: supplier)
        journal.end(23, charge: charge(11, 10), supplier: supplier)
        journal.append(
            RefusedRecord(
                account: market.consumer.id, refusedAtUs: old, code: .queueFull, model: 1
            ).record)
        journal.accept(24, atUs: new, account: market.consumer.id)
        journal.end(24, charge: charge(11, 10), supplier: supplier)
        journal.append(
            RefusedRecord(
                account: market.consumer.id, refusedAtUs: new, code: .queueFull, model: 1
            ).record)
        _ = try market.store.applyBatch(journal.records, node: 7)
        return market
    }

    @Test(arguments: TestEngine.allCases)
    func oldRecordsGoInBoundedBatchesAndTheLedgerSaysTheSame(_ engine: TestEngine) throws {
        let market = try filled(engine)
        let before = try market.store.ledgerCheck()
        let balances = try market.store.balances()
        #expect(before.unsettled == 1 && before.unposted == 1 && before.sum == 0)
        let removed = try removeExpired(
            market.store, .taskRecords, cutoffUs: 101 * dayUs, rows: 8)
        #expect(removed.reduce(0, +) == 20)
        #expect(removed.allSatisfy { $0 <= 8 })
        #expect(removed.count >= 3)
        // What runs, and what was not posted, is there still.
        #expect(
            try market.store.counts()
                == RecordCounts(accepted: 3, final: 2, open: 1, duplicates: 0))
        #expect(
            try market.store.openTasks(acceptedBefore: .max >> 1, node: 7).map(\.task.counter)
                == [21])
        #expect(try market.store.finalRecords(last: 9).map(\.task.counter) == [22, 24])
        let after = try market.store.ledgerCheck()
        #expect(after.sum == 0 && after.contradictions == 0 && after.negativeBalances == 0)
        #expect(after.unsettled == before.unsettled && after.unposted == before.unposted)
        #expect(after.postings == before.postings)
        #expect(try market.store.balances() == balances)
        // What runs is settled, and then it goes too.
        var journal = JournalSketch(instance: 6)
        journal.end(
            21, of: 5, charge: charge(11, 10), supplier: market.token.entry.supplier)
        _ = try market.store.applyBatch(journal.records, node: 7)
        #expect(try market.balance(.supplier(market.supplier)) == 22 * 10)
        #expect(
            try removeExpired(market.store, .taskRecords, cutoffUs: 101 * dayUs)
                .reduce(0, +) == 1)
        #expect(try market.store.counts().open == 0)
        #expect(try market.store.ledgerCheck().sum == 0)
    }

    @Test(arguments: TestEngine.allCases)
    func recordsThatComeAgainAfterTheyWereRemovedChangeNothing(_ engine: TestEngine) throws {
        let market = try Market(engine, isPrepaid: false)
        var journal = JournalSketch(instance: 5)
        for counter in 1...4 as ClosedRange<UInt64> {
            journal.accept(counter, atUs: 5, account: market.consumer.id)
            journal.end(
                counter, charge: charge(11, 10), supplier: market.token.entry.supplier)
        }
        _ = try market.store.applyBatch(journal.records, node: 7)
        _ = try removeExpired(market.store, .taskRecords, cutoffUs: 9 * dayUs)
        #expect(try market.store.counts().final == 0)
        let again = try market.store.applyBatch(journal.records, node: 7)
        #expect(again.skipped == journal.records.count)
        #expect(try market.balance(.consumer(market.consumer.id)) == -44)
        try market.expectSound()
    }

    @Test(arguments: TestEngine.allCases)
    func refusalsGoByTheirDay(_ engine: TestEngine) throws {
        let market = try filled(engine)
        #expect(
            try removeExpired(market.store, .refusals, cutoffUs: 101 * dayUs, rows: 1)
                .reduce(0, +) == 1)
        #expect(
            try removeExpired(market.store, .refusals, cutoffUs: 301 * dayUs, rows: 1)
                .reduce(0, +) == 1)
    }

    @Test(arguments: TestEngine.allCases)
    func aClosedLeaseGoesAndAnOpenOneStays(_ engine: TestEngine) throws {
        let market = try Market(engine)
        let id = market.consumer.id
        _ = try market.store.topUp(id, 1_000, reference: "a", nowUs: 2)
        for instance in [1, 2] as [UInt64] {
            var journal = JournalSketch(instance: instance)
            journal.start()
            journal.lease(id, wanted: 100)
            _ = try market.store.applyBatch(journal.records, node: 7)
        }
        #expect(try market.store.closeLeases(node: 7, present: [2], nowUs: 5_000_000) == 1)
        // Granted just now by the clock that the batches were given.
        let expiresAtMs = try #require(try market.lease(2)).expiresAtMs
        func remove(atMs: UInt64) throws -> Int {
            try removeExpired(market.store, .closedLeases, cutoffUs: atMs * 1_000, rows: 1)
                .reduce(0, +)
        }
        #expect(try remove(atMs: expiresAtMs - 60_000) == 0)
        #expect(try remove(atMs: expiresAtMs + 60_000) == 1)
        #expect(try remove(atMs: expiresAtMs + 60_000) == 0)
        #expect(try market.lease(2)?.isClosed == false)
        #expect(try market.store.wallet(id).available == 900)
        try market.expectSound()
    }

    @Test(arguments: TestEngine.allCases)
    func aClosedInstanceGoesWithItsLastRecordAndItsCursorStays(_ engine: TestEngine) throws {
        let market = try filled(engine)
        let store = market.store
        var journal = JournalSketch(instance: 6)
        journal.start()
        journal.end(
            21, of: 5, charge: charge(11, 10), supplier: market.token.entry.supplier)
        // Its ACCEPTED never came: the early ENDED keeps the instance too.
        journal.append(
            InstanceClosedRecord(closed: 5, closedAtUs: 150 * dayUs, endedCount: 1).record)
        _ = try store.applyBatch(journal.records, node: 7)
        func remove(_ day: UInt64) throws -> Int {
            try removeExpired(store, .instances, cutoffUs: day * dayUs, rows: 1).reduce(0, +)
        }
        #expect(try remove(400) == 0, "records are there")
        for duty in [RetentionDuty.taskRecords, .refusals] {
            _ = try removeExpired(store, duty, cutoffUs: 400 * dayUs)
        }
        #expect(try store.finalRecords(last: 9).map(\.model) == ["demo/one"])
        #expect(try remove(400) == 0, "what was not posted, and an early ENDED, are there")

        var other = JournalSketch(instance: 9)
        other.start()
        try other.name()
        other.accept(1, atUs: 100 * dayUs, account: market.consumer.id)
        other.end(1, charge: charge(11, 10), supplier: market.token.entry.supplier)
        other.append(
            InstanceClosedRecord(closed: 9, closedAtUs: 150 * dayUs, endedCount: 0).record)
        _ = try store.applyBatch(other.records, node: 7)
        _ = try removeExpired(store, .taskRecords, cutoffUs: 101 * dayUs)
        #expect(try remove(149) == 0, "closed too lately")
        #expect(try remove(150) == 1)
        #expect(try remove(400) == 0, "the others are open or have records")
        #expect(try store.cursors()[9] == 5)
        let again = try store.applyBatch(other.records, node: 7)
        #expect(again.skipped == other.records.count)
        #expect(try store.counts().final == 1)
    }

    /// Its broker ended in order and died before the mark, so a successor said it again.
    @Test(arguments: TestEngine.allCases)
    func anInstanceThatIsClosedTwiceKeepsTheFirstTime(_ engine: TestEngine) throws {
        let store = try filled(engine).store
        var journal = JournalSketch(instance: 9)
        journal.start()
        journal.append(
            InstanceClosedRecord(closed: 9, closedAtUs: 150 * dayUs, endedCount: 0).record)
        var successor = JournalSketch(instance: 10)
        successor.start()
        for day: UInt64 in [150, 300] {
            successor.append(
                InstanceClosedRecord(closed: 9, closedAtUs: day * dayUs, endedCount: 0).record)
        }
        _ = try store.applyBatch(journal.records, node: 7)
        _ = try store.applyBatch(successor.records, node: 7)
        #expect(try removeExpired(store, .instances, cutoffUs: 150 * dayUs) == [1])
    }

    /// In PostgreSQL a day whose tasks all went is dropped; one that holds a task stays.
    @Test func daysThatBecameEmptyAreDropped() throws {
        let market = try filled(.postgres)
        let cutoffUs = 102 * dayUs
        // Days 100 and 101 of three tables, of which nothing but day 101 is empty.
        #expect(
            try removeExpired(market.store, .emptyDays, cutoffUs: cutoffUs).reduce(0, +) == 3)
        _ = try removeExpired(market.store, .taskRecords, cutoffUs: cutoffUs)
        _ = try removeExpired(market.store, .refusals, cutoffUs: cutoffUs)
        // The refusals' day; the task that runs and the one that was not posted keep theirs.
        #expect(
            try removeExpired(market.store, .emptyDays, cutoffUs: cutoffUs).reduce(0, +) == 1)
        #expect(try market.store.counts().final == 2)
    }

    @Test(arguments: TestEngine.allCases)
    func anIdempotencyKeyIsForgottenAfterADayAndNotBefore(_ engine: TestEngine) throws {
        let market = try Market(engine, isPrepaid: false)
        var journal = JournalSketch(instance: 5)
        for (counter, key) in [(1, 7), (2, 8), (3, 9)] as [(UInt64, UInt64)] {
            journal.accept(counter, atUs: counter, account: market.consumer.id, key: key)
            journal.end(
                counter, charge: charge(11, 10), supplier: market.token.entry.supplier)
        }
        _ = try market.store.applyBatch(journal.records, node: 7)
        let removed = try removeExpired(market.store, .idempotencyKeys, cutoffUs: 2, rows: 2)
        #expect(removed.reduce(0, +) == 2)
        // The third is known still: not charged again. The first is not.
        var other = JournalSketch(instance: 6)
        other.accept(4, atUs: 10, account: market.consumer.id, key: 9)
        other.end(4, charge: charge(11, 10), supplier: market.token.entry.supplier)
        other.accept(5, atUs: 10, account: market.consumer.id, key: 7)
        other.end(5, charge: charge(11, 10), supplier: market.token.entry.supplier)
        _ = try market.store.applyBatch(other.records, node: 7)
        #expect(try market.balance(.consumer(market.consumer.id)) == -44)
        try market.expectSound()
    }

    @Test(arguments: TestEngine.allCases)
    func walletEventsOfTheAnonymousGoOnceNobodyOwesAnything(_ engine: TestEngine) throws {
        let market = try Market(engine)
        let (store, id) = (market.store, market.consumer.id)
        let other = try store.makeAccount(
            label: "other", kinds: .consumer, isPrepaid: true, nowUs: 1)
        _ = try store.topUp(other.id, 50, reference: "other", nowUs: 2)
        for count in 1...5 { _ = try store.topUp(id, 10, reference: "p\(count)", nowUs: 2) }
        // Not anonymous yet.
        #expect(try removeExpired(store, .walletEvents, cutoffUs: .max >> 1) == [0])
        try store.erasePerson(id, nowUs: 100)
        try store.erasePerson(id, nowUs: 900)
        // It has money.
        #expect(try removeExpired(store, .walletEvents, cutoffUs: 500) == [0])
        _ = try store.refund(id, 50, reference: "r", nowUs: 3)
        // Not long enough ago.
        #expect(try removeExpired(store, .walletEvents, cutoffUs: 99) == [0])
        let removed = try removeExpired(store, .walletEvents, cutoffUs: 100, rows: 4)
        #expect(removed == [4, 2])
        #expect(try store.walletEvents(id, last: 10).isEmpty)
        #expect(try store.walletEvents(other.id, last: 10).count == 1)
        #expect(try market.balance(.cash) == -50)
        try market.expectSound()
        // The number of an event that went is not given again: its posting stands.
        _ = try store.topUp(id, 10, reference: "p9", nowUs: 4)
        try market.expectSound()
    }

    @Test(arguments: TestEngine.allCases)
    func whoIsNamedAgainIsNotAnonymous(_ engine: TestEngine) throws {
        let market = try Market(engine)
        let (store, id) = (market.store, market.consumer.id)
        _ = try store.topUp(id, 10, reference: "p", nowUs: 2)
        _ = try store.refund(id, 10, reference: "r", nowUs: 2)
        try store.erasePerson(id, nowUs: 100)
        try store.setPerson(id, Person(wrappedKey: [1], fields: [1: [2]]), nowUs: 101)
        #expect(try removeExpired(store, .walletEvents, cutoffUs: .max >> 1) == [0])
        #expect(try store.walletEvents(id, last: 10).count == 2)
    }

    @Test(arguments: TestEngine.allCases)
    func theNewestChangesStayAndOlderReadersTakeTheWhole(_ engine: TestEngine) throws {
        let market = try Market(engine)
        for count in 1...20 {
            _ = try market.store.makeAccount(label: "a\(count)", kinds: .consumer, nowUs: 1)
        }
        let all = try #require(try market.store.changes(after: 0, node: 7))
        let removed = try removeExpired(
            market.store, .changes, cutoffUs: 0, rows: 4, keepingChanges: 6)
        #expect(removed.reduce(0, +) == all.count - 6)
        #expect(removed.allSatisfy { $0 <= 4 })
        #expect(try market.store.changes(after: 0, node: 7) == nil)
        let seen = all[all.count - 4].id
        #expect(try market.store.changes(after: seen, node: 7)?.count == 3)
    }
}
