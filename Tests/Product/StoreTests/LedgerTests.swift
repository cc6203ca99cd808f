import Foundation
import RecordTestSupport
import SluiceLedgerCore
import SluiceRecordFormat
import SluiceWire
import Store
import Testing

/// A deployment with one prepaid consumer and one supplier.
struct Market {
    let test: TestStore
    let consumer: Account
    let supplier: UInt64
    let token: IssuedKey
    var store: Store { test.store }

    init(_ engine: TestEngine, isPrepaid: Bool = true) throws {
        test = try TestStore(engine)
        consumer = try test.store.makeAccount(
            label: "consumer", kinds: .consumer, isPrepaid: isPrepaid, nowUs: 1)
        token = try test.store.issueKey(
            account: "supplier", role: .supplier, nowUs: 1, digest: fakeDigest)
        supplier = token.account
    }

    func balance(_ account: LedgerAccount) throws -> Int64 {
        try store.balances().first { $0.account == account }?.amount.rawValue ?? 0
    }

    /// The newest entry about the lease of `instance` that brokers of node 7 are told.
    func lease(_ instance: UInt64) throws -> DirectoryLease? {
        let told = try store.changes(after: 0, node: 7) ?? []
        for change in told.reversed() {
            if case .lease(let lease) = change.entry, lease.instance == instance { return lease }
        }
        return nil
    }

    func expectSound(sourceLocation: SourceLocation = #_sourceLocation) throws {
        let check = try store.ledgerCheck()
        #expect(check.isSound, "\(check.json)", sourceLocation: sourceLocation)
    }
}

func charge(_ cost: Int64, _ earning: Int64) -> TaskCharge {
    TaskCharge(
        consumerCost: MicroUSD(cost), supplierEarning: MicroUSD(earning),
        platformFee: MicroUSD(cost - earning))
}

@Suite struct LedgerTests {
    @Test(arguments: TestEngine.allCases)
    func aTopUpCountsOncePerReference(_ engine: TestEngine) throws {
        let market = try Market(engine)
        let id = market.consumer.id
        let first = try market.store.topUp(id, 1_000, reference: "pay-1", nowUs: 2)
        #expect(!first.isRepeat && first.wallet.balance == 1_000)
        let again = try market.store.topUp(id, 1_000, reference: "pay-1", nowUs: 3)
        #expect(again.isRepeat && again.wallet.balance == 1_000 && again.event == first.event)
        #expect(throws: StoreError.referenceUsed) {
            _ = try market.store.topUp(id, 999, reference: "pay-1", nowUs: 3)
        }
        #expect(throws: StoreError.referenceUsed) {
            _ = try market.store.topUp(market.supplier, 1_000, reference: "pay-1", nowUs: 3)
        }
        #expect(throws: StoreError.unknownAccount) {
            _ = try market.store.topUp(99, 1, reference: "pay-2", nowUs: 3)
        }
        #expect(throws: StoreError.invalidValue) {
            _ = try market.store.topUp(id, 0, reference: "pay-3", nowUs: 3)
        }
        #expect(throws: StoreError.overflow) {
            _ = try market.store.topUp(id, MicroUSD(.max), reference: "pay-4", nowUs: 3)
        }
        #expect(try market.balance(.cash) == -1_000)
        try market.expectSound()
    }

    @Test(arguments: TestEngine.allCases)
    func whatIsTakenOutIsNeverMoreThanThereIs(_ engine: TestEngine) throws {
        let market = try Market(engine)
        let (store, id) = (market.store, market.consumer.id)
        _ = try store.topUp(id, 1_000, reference: "a", nowUs: 2)
        #expect(throws: StoreError.insufficientFunds) {
            _ = try store.refund(id, 1_001, reference: "r1", nowUs: 3)
        }
        #expect(throws: StoreError.insufficientFunds) {
            _ = try store.adjust(id, -1_001, reference: "x1", nowUs: 3)
        }
        #expect(try store.refund(id, 100, reference: "r2", nowUs: 3).wallet.balance == 900)
        #expect(try store.adjust(id, -100, reference: "x2", nowUs: 3).wallet.balance == 800)
        #expect(try store.adjust(id, 50, reference: "x3", nowUs: 3).wallet.balance == 850)
        // What is gone is the platform's loss.
        #expect(try store.chargeback(id, 1_000, reference: "c1", nowUs: 4).wallet.balance == 0)
        #expect(try market.balance(.platformLoss) == -150)
        #expect(
            try store.walletEvents(id, last: 10).map(\.kind)
                == [.topUp, .refund, .adjustment, .adjustment, .chargeback])
        try market.expectSound()
    }

    @Test(arguments: TestEngine.allCases)
    func aTaskMovesItsCostOnce(_ engine: TestEngine) throws {
        let market = try Market(engine, isPrepaid: false)
        var journal = JournalSketch(instance: 5)
        journal.start()
        try journal.name()
        for counter in 1...3 as ClosedRange<UInt64> {
            journal.accept(counter, account: market.consumer.id)
            journal.end(
                counter, charge: charge(110, 100), supplier: market.token.entry.supplier)
        }
        _ = try market.store.applyBatch(Array(journal.records.prefix(5)), node: 7)
        _ = try market.store.applyBatch(journal.records, node: 7)
        _ = try market.store.applyBatch(journal.records, node: 7)
        #expect(try market.balance(.consumer(market.consumer.id)) == -330)
        #expect(try market.balance(.supplier(market.supplier)) == 300)
        #expect(try market.balance(.platformFee) == 30)
        let check = try market.store.ledgerCheck()
        #expect(check.tasks == 3 && check.unsettled == 0 && check.postings == 9)
        try market.expectSound()
    }

    @Test(arguments: TestEngine.allCases)
    func statementsFromRecordsEqualThePostings(_ engine: TestEngine) throws {
        let market = try Market(engine, isPrepaid: false)
        var journal = JournalSketch(instance: 5)
        try journal.name()
        for counter in 1...20 as ClosedRange<UInt64> {
            journal.accept(counter, atUs: counter * 1_000_000, account: market.consumer.id)
            let cost = Int64(counter % 7) * 13
            journal.end(
                counter, charge: charge(cost, cost / 2), supplier: market.token.entry.supplier)
        }
        _ = try market.store.applyBatch(journal.records, node: 7)
        let paid = try market.store.consumerStatement(market.consumer.id, 0..<(.max))
        let earned = try market.store.supplierStatement(market.supplier, 0..<(.max))
        #expect(paid.total.rawValue == -(try market.balance(.consumer(market.consumer.id))))
        #expect(earned.total.rawValue == (try market.balance(.supplier(market.supplier))))
        #expect(paid.lines.count == 18)
        #expect(paid.lines.first?.model == "demo/one")
        let part = try market.store.consumerStatement(
            market.consumer.id, 1_000_000..<3_000_000)
        #expect(part.lines.map(\.task.counter) == [1, 2])
        #expect(try market.store.consumerStatement(99, 0..<(.max)).lines.isEmpty)
    }

    @Test(arguments: TestEngine.allCases)
    func aPayoutIsAskedForOnceAndSettledOnce(_ engine: TestEngine) throws {
        let market = try Market(engine, isPrepaid: false)
        let store = market.store
        var journal = JournalSketch(instance: 5)
        journal.accept(1, account: market.consumer.id)
        journal.end(1, charge: charge(110, 100), supplier: market.token.entry.supplier)
        _ = try store.applyBatch(journal.records, node: 7)
        #expect(try store.earned(market.supplier) == 100)
        #expect(throws: StoreError.insufficientFunds) {
            _ = try store.requestPayout(market.supplier, 101, idempotencyKey: "k", nowUs: 1)
        }
        let payout = try store.requestPayout(market.supplier, 60, idempotencyKey: "k", nowUs: 1)
        #expect(
            try store.requestPayout(market.supplier, 60, idempotencyKey: "k", nowUs: 2) == payout)
        #expect(throws: StoreError.referenceUsed) {
            _ = try store.requestPayout(market.supplier, 61, idempotencyKey: "k", nowUs: 2)
        }
        #expect(try store.earned(market.supplier) == 40)
        #expect(try market.balance(.payoutClearing) == 60)
        let paid = try store.settlePayout(payout.id, isPaid: true, nowUs: 3)
        #expect(paid.state == .paid)
        #expect(try store.settlePayout(payout.id, isPaid: true, nowUs: 4) == paid)
        #expect(throws: StoreError.payoutSettled) {
            _ = try store.settlePayout(payout.id, isPaid: false, nowUs: 4)
        }
        let other = try store.requestPayout(market.supplier, 40, idempotencyKey: "l", nowUs: 5)
        _ = try store.settlePayout(other.id, isPaid: false, nowUs: 6)
        #expect(try store.earned(market.supplier) == 40)
        #expect(try store.payouts(market.supplier).map(\.state) == [.paid, .failed])
        #expect(throws: StoreError.unknownPayout) {
            _ = try store.settlePayout(99, isPaid: true, nowUs: 4)
        }
        try market.expectSound()
    }

    @Test(arguments: TestEngine.allCases)
    func anEndBeforeItsStartIsSettledWhenThatComes(_ engine: TestEngine) throws {
        let market = try Market(engine, isPrepaid: false)
        var dead = JournalSketch(instance: 5)
        dead.accept(1, account: market.consumer.id)
        var successor = JournalSketch(instance: 6)
        successor.end(
            1, of: 5, charge: charge(11, 10), supplier: market.token.entry.supplier)
        let early = try market.store.applyBatch(successor.records, node: 7)
        #expect(early.early == 1)
        #expect(try market.store.ledgerCheck().unsettled == 1)
        #expect(try market.store.counts().final == 0)
        let batch = try market.store.applyBatch(dead.records, node: 7)
        #expect(batch.duplicates == 0)
        #expect(
            try market.store.counts()
                == RecordCounts(accepted: 1, final: 1, open: 0, duplicates: 0))
        #expect(try market.balance(.consumer(market.consumer.id)) == -11)
        #expect(try market.store.ledgerCheck().unsettled == 0)
        try market.expectSound()
    }

    /// Two brokers' tasks with key 9; `later` is accepted so many seconds after the first.
    private struct Repeat {
        let market: Market
        var first = JournalSketch(instance: 5)
        var second = JournalSketch(instance: 6)

        init(_ engine: TestEngine, later seconds: UInt64 = 1) throws {
            market = try Market(engine, isPrepaid: false)
            let atUs: UInt64 = 1_792_800_000_000_000
            first.accept(1, atUs: atUs, account: market.consumer.id, key: 9)
            second.accept(
                1, atUs: atUs + seconds * 1_000_000, account: market.consumer.id, key: 9)
        }

        func end(_ journal: inout JournalSketch, _ cost: Int64) {
            journal.end(
                1, charge: cost == 0 ? .none : charge(cost, cost - 1),
                supplier: market.token.entry.supplier)
        }

        /// Applies journals of which the first ones are known already.
        func apply(_ journals: JournalSketch...) throws {
            for journal in journals { _ = try market.store.applyBatch(journal.records, node: 7) }
        }

        func expect(consumer: Int64, platformLoss: Int64) throws {
            #expect(try market.balance(.consumer(market.consumer.id)) == consumer)
            #expect(try market.balance(.platformLoss) == platformLoss)
            try market.expectSound()
        }
    }

    @Test(
        "two brokers' tasks of one idempotency key cost what the dearer does, in every order",
        arguments: TestEngine.allCases, [(11, 11), (11, 15), (15, 11), (0, 11), (11, 0)])
    func aKeyOfTwoBrokersIsChargedOnce(_ engine: TestEngine, _ costs: (Int64, Int64)) throws {
        let most = max(costs.0, costs.1)
        let least = min(costs.0, costs.1)
        // Both accepted before either ends; then one after the other; then as one batch of each.
        for order in 0..<4 {
            var pair = try Repeat(engine)
            if order < 2 { try pair.apply(pair.first, pair.second) }
            pair.end(&pair.first, costs.0)
            pair.end(&pair.second, costs.1)
            if order.isMultiple(of: 2) {
                try pair.apply(pair.first, pair.second)
            } else {
                try pair.apply(pair.second, pair.first)
            }
            try pair.expect(consumer: -most, platformLoss: -least)
        }
    }

    @Test(
        "a key is charged again once its broker may have forgotten it",
        arguments: TestEngine.allCases)
    func aKeyOfLongAgoIsChargedAgain(_ engine: TestEngine) throws {
        for (seconds, cost) in [(UInt64(1_199), Int64(-11)), (1_201, -22)] {
            var pair = try Repeat(engine, later: seconds)
            pair.end(&pair.first, 11)
            pair.end(&pair.second, 11)
            try pair.apply(pair.first, pair.second)
            try pair.expect(consumer: cost, platformLoss: -22 - cost)
        }
    }

    @Test(
        "what one broker accepts twice it had forgotten: both are charged, in one batch or two",
        arguments: TestEngine.allCases)
    func aKeyThatItsBrokerHasForgottenIsChargedAgain(_ engine: TestEngine) throws {
        let market = try Market(engine, isPrepaid: false)
        var journal = JournalSketch(instance: 5)
        for counter in UInt64(1)...3 {
            journal.accept(counter, account: market.consumer.id, key: 9)
            journal.end(counter, charge: charge(11, 10), supplier: market.token.entry.supplier)
        }
        _ = try market.store.applyBatch(Array(journal.records.prefix(4)), node: 7)
        _ = try market.store.applyBatch(journal.records, node: 7)
        #expect(try market.balance(.consumer(market.consumer.id)) == -33)
        #expect(try market.balance(.platformLoss) == 0)
        #expect(try market.balance(.supplier(market.supplier)) == 30)
        try market.expectSound()
    }
}
