import RecordTestSupport
import SluiceLedgerCore
import SluiceRecordFormat
import SluiceWire
import Store
import Testing

/// No task's figures stop the ledger for others (`Protocol/Money.md`, Ledger).
@Suite struct UnpostedTaskTests {
    private let most = Settlement.taskBalanceMax.rawValue

    /// A second consumer and supplier, who have nothing to do with the first.
    private func neighbours(_ market: Market) throws -> (consumer: UInt64, supplier: IssuedKey) {
        let consumer = try market.store.makeAccount(
            label: "neighbour", kinds: .consumer, isPrepaid: false, nowUs: 1)
        let supplier = try market.store.issueKey(
            account: "other supplier", role: .supplier, nowUs: 1, digest: fakeDigest)
        return (consumer.id, supplier)
    }

    @Test(
        "a task that no balance takes is kept, counted and named, and everybody else's is posted",
        arguments: TestEngine.allCases)
    func poison(_ engine: TestEngine) throws {
        let market = try Market(engine, isPrepaid: false)
        let other = try neighbours(market)
        let supplier = market.token.entry.supplier
        var journal = JournalSketch(instance: 5)
        // Whole 63 bits twice: neither fits, and together they would not fit the batch.
        for counter in UInt64(1)...2 {
            journal.accept(counter, account: market.consumer.id)
            journal.end(counter, charge: charge(.max, .max), supplier: supplier)
        }
        journal.accept(3, account: other.consumer)
        journal.end(3, charge: charge(11, 10), supplier: other.supplier.entry.supplier)
        // Up to the bound, and one beyond it; in the same batch, and in a later one.
        for (counter, cost) in [(UInt64(4), most), (5, 1)] {
            journal.accept(counter, account: market.consumer.id)
            journal.end(counter, charge: charge(cost, cost), supplier: supplier)
        }
        let first = try market.store.applyBatch(journal.records, node: 7)
        #expect(first.unposted == 3 && first.applied == 10)
        journal.accept(6, account: market.consumer.id)
        journal.end(6, charge: charge(1, 0), supplier: other.supplier.entry.supplier)
        journal.accept(7, account: other.consumer)
        journal.end(7, charge: charge(1, 1), supplier: supplier)
        journal.accept(8, account: other.consumer)
        journal.end(8, charge: charge(22, 20), supplier: other.supplier.entry.supplier)
        let second = try market.store.applyBatch(journal.records, node: 7)
        #expect(second.unposted == 2 && second.applied == 6 && second.skipped == 10)
        #expect(try market.store.applyBatch(journal.records, node: 7).unposted == 0)

        #expect(try market.balance(.consumer(market.consumer.id)) == -most)
        #expect(try market.balance(.supplier(market.supplier)) == most)
        #expect(try market.balance(.consumer(other.consumer)) == -33)
        #expect(try market.balance(.supplier(other.supplier.account)) == 30)
        #expect(try market.balance(.platformFee) == 3)
        let check = try market.store.ledgerCheck()
        #expect(check.isSound && check.unsettled == 0, "\(check.json)")
        #expect(check.tasks == 8 && check.unposted == 5)
        #expect(Set(check.unpostedTasks.map(\.counter)) == [1, 2, 5, 6, 7])
        #expect(try market.store.counts().final == 8)
    }

    @Test(
        "statements, sums and the task's own page say what was posted, not what was claimed",
        arguments: TestEngine.allCases)
    func reports(_ engine: TestEngine) throws {
        let market = try Market(engine, isPrepaid: false)
        let supplier = market.token.entry.supplier
        var journal = JournalSketch(instance: 5)
        for (counter, cost) in [(UInt64(1), Int64.max), (2, .max), (3, 110)] {
            journal.accept(counter, account: market.consumer.id)
            journal.end(counter, charge: charge(cost, cost - 10), supplier: supplier)
        }
        _ = try market.store.applyBatch(journal.records, node: 7)
        let paid = try market.store.consumerStatement(market.consumer.id, 0..<(.max))
        #expect(paid.lines.map(\.task.counter) == [3] && paid.total == 110)
        let earned = try market.store.supplierStatement(market.supplier, 0..<(.max))
        #expect(earned.lines.map(\.task.counter) == [3] && earned.total == 100)
        for grouping in UsageGrouping.allCases {
            let rows = try market.store.usage(by: grouping, 0..<(.max))
            #expect(rows.map(\.tasks) == [3] && rows.map(\.cost) == [110], "\(grouping)")
        }
        let unposted = try #require(
            try market.store.history(of: TaskID(instance: 5, counter: 1)))
        #expect(unposted.isUnposted && unposted.postings.isEmpty)
        #expect(unposted.end?.charge == charge(.max, .max - 10))
        let posted = try #require(try market.store.history(of: TaskID(instance: 5, counter: 3)))
        #expect(!posted.isUnposted && posted.postings.count == 3)
    }

    @Test(
        "a prepaid task that is not posted leaves wallet and lease as they are",
        arguments: TestEngine.allCases)
    func prepaid(_ engine: TestEngine) throws {
        let market = try Market(engine)
        let (store, id) = (market.store, market.consumer.id)
        _ = try store.topUp(id, MicroUSD(most + 5_000), reference: "a", nowUs: 2)
        var journal = JournalSketch(instance: 5)
        journal.lease(id, wanted: most + 1_000)
        for (counter, cost) in [(UInt64(1), most + 1), (2, 400), (3, .max)] {
            journal.accept(counter, account: id)
            journal.end(
                counter, charge: charge(cost, cost), supplier: market.token.entry.supplier)
        }
        #expect(try store.applyBatch(journal.records, node: 7).unposted == 2)
        let wallet = try store.wallet(id)
        #expect(wallet.balance == MicroUSD(most + 4_600))
        #expect(wallet.leased == MicroUSD(most + 600) && wallet.available == 4_000)
        // The lease goes on: more of it is granted.
        journal.lease(id, wanted: most + 2_000)
        _ = try store.applyBatch(journal.records, node: 7)
        #expect(try market.lease(5)?.granted == MicroUSD(most + 2_000))
        try market.expectSound()
    }

    @Test(
        "figures that contradict each other are not posted either, whatever their key",
        arguments: TestEngine.allCases)
    func damaged(_ engine: TestEngine) throws {
        let market = try Market(engine, isPrepaid: false)
        let damaged = [
            TaskCharge(consumerCost: 11, supplierEarning: 3, platformFee: 1),
            TaskCharge(
                consumerCost: MicroUSD(.min), supplierEarning: MicroUSD(.min), platformFee: 0),
            TaskCharge(consumerCost: 0, supplierEarning: 5, platformFee: -5),
            TaskCharge(
                consumerCost: -2, supplierEarning: MicroUSD(.max), platformFee: MicroUSD(.max)),
        ]
        var journals = [JournalSketch(instance: 5), JournalSketch(instance: 6)]
        for (index, charge) in damaged.enumerated() {
            let key = UInt64(index + 1)
            for broker in journals.indices {
                journals[broker].accept(key, account: market.consumer.id, key: key)
                journals[broker].end(
                    key, charge: charge, supplier: market.token.entry.supplier)
            }
        }
        let records = journals.flatMap(\.records)
        #expect(try market.store.applyBatch(records, node: 7).unposted == 8)
        #expect(try market.store.balances().isEmpty)
        #expect(try market.store.ledgerCheck().unposted == 8)
        try market.expectSound()
    }

    @Test(
        "a task that was not posted frees no other of its idempotency key",
        arguments: TestEngine.allCases, [false, true])
    func key(_ engine: TestEngine, isOneBatch: Bool) throws {
        let market = try Market(engine, isPrepaid: false)
        var first = JournalSketch(instance: 5)
        first.accept(1, account: market.consumer.id, key: 9)
        first.end(1, charge: charge(.max, .max), supplier: market.token.entry.supplier)
        var second = JournalSketch(instance: 6)
        second.accept(1, account: market.consumer.id, key: 9)
        second.end(1, charge: charge(11, 10), supplier: market.token.entry.supplier)
        if isOneBatch {
            _ = try market.store.applyBatch(first.records + second.records, node: 7)
        } else {
            _ = try market.store.applyBatch(first.records, node: 7)
            _ = try market.store.applyBatch(second.records, node: 7)
        }
        #expect(try market.balance(.consumer(market.consumer.id)) == -11)
        #expect(try market.balance(.platformLoss) == 0)
        try market.expectSound()
    }
}
