import RecordTestSupport
import SluiceLedgerCore
import SluiceRecordFormat
import SluiceWire
import Store
import Testing

@Suite struct LeaseTests {
    @Test(arguments: TestEngine.allCases)
    func aBrokerIsGrantedWhatTheWalletHas(_ engine: TestEngine) throws {
        let market = try Market(engine)
        let id = market.consumer.id
        _ = try market.store.topUp(id, 1_000, reference: "a", nowUs: 2)
        var one = JournalSketch(instance: 1)
        one.start()
        one.lease(id, wanted: 600)
        let batch = try market.store.applyBatch(one.records, node: 7)
        #expect(batch.hasChanges)
        #expect(try market.lease(1)?.granted == 600)
        #expect(try market.lease(1)?.expiresAtMs == 1_000 + 3_600_000)
        #expect(try market.store.wallet(id).available == 400)
        // The same again grants nothing more.
        _ = try market.store.applyBatch(one.records, node: 7)
        #expect(try market.store.wallet(id).leased == 600)
        #expect(throws: StoreError.insufficientFunds) {
            _ = try market.store.refund(id, 401, reference: "r", nowUs: 3)
        }
        try market.expectSound()
    }

    @Test(arguments: TestEngine.allCases)
    func twoBrokersShareAWalletByRecall(_ engine: TestEngine) throws {
        let market = try Market(engine)
        let id = market.consumer.id
        _ = try market.store.topUp(id, 1_000, reference: "a", nowUs: 2)
        var one = JournalSketch(instance: 1)
        var two = JournalSketch(instance: 2)
        one.start()
        two.start()
        one.lease(id, wanted: 900)
        two.lease(id, wanted: 500)
        _ = try market.store.applyBatch(one.records + two.records, node: 7)
        #expect(try market.lease(2)?.granted == 100)
        #expect(try market.lease(2)?.isDry == false)
        #expect(try market.lease(1)?.recalled == 900)
        #expect(try market.lease(1)?.share == 32_768)
        // What the first gives back goes to the second in the same transaction.
        one.lease(id, wanted: 900, returned: 300)
        _ = try market.store.applyBatch(one.records, node: 7)
        #expect(try market.lease(2)?.granted == 400)
        #expect(try market.store.wallet(id).available == 0)
        // A top-up serves who waits.
        _ = try market.store.topUp(id, 1_000, reference: "b", nowUs: 2)
        #expect(try market.lease(2)?.granted == 500)
        try market.expectSound()
    }

    @Test(arguments: TestEngine.allCases)
    func anEmptyWalletIsToldToBeDry(_ engine: TestEngine) throws {
        let market = try Market(engine)
        let id = market.consumer.id
        var one = JournalSketch(instance: 1)
        one.start()
        one.lease(id, wanted: 100)
        _ = try market.store.applyBatch(one.records, node: 7)
        #expect(try market.lease(1)?.isDry == true)
        #expect(try market.lease(1)?.granted == 0)
        _ = try market.store.topUp(id, 50, reference: "a", nowUs: 2)
        #expect(try market.lease(1)?.isDry == true)
        #expect(try market.lease(1)?.granted == 50)
        _ = try market.store.topUp(id, 60, reference: "b", nowUs: 3)
        #expect(try market.lease(1)?.isDry == false)
        #expect(try market.lease(1)?.granted == 100)
        try market.expectSound()
    }

    @Test(arguments: TestEngine.allCases)
    func aTaskIsPaidFromItsInstancesLeaseThenTheWalletThenThePlatform(
        _ engine: TestEngine
    ) throws {
        let market = try Market(engine)
        let id = market.consumer.id
        _ = try market.store.topUp(id, 1_000, reference: "a", nowUs: 2)
        var one = JournalSketch(instance: 1)
        one.start()
        one.lease(id, wanted: 600)
        one.accept(1, account: id)
        one.end(1, charge: charge(250, 200), supplier: market.token.entry.supplier)
        one.accept(2, account: id)
        one.end(2, charge: charge(450, 400), supplier: market.token.entry.supplier)
        one.accept(3, account: id)
        one.end(3, charge: charge(450, 400), supplier: market.token.entry.supplier)
        _ = try market.store.applyBatch(one.records, node: 7)
        // 250 and 350 from the lease, 100 and 300 from the wallet, 150 from the platform.
        #expect(try market.store.wallet(id).balance == 0)
        #expect(try market.store.wallet(id).leased == 0)
        #expect(try market.balance(.platformLoss) == -150)
        #expect(try market.balance(.supplier(market.supplier)) == 1_000)
        try market.expectSound()
    }

    @Test(arguments: TestEngine.allCases)
    func aReturnIsNeverMoreThanIsUnspent(_ engine: TestEngine) throws {
        let market = try Market(engine)
        let id = market.consumer.id
        _ = try market.store.topUp(id, 1_000, reference: "a", nowUs: 2)
        var one = JournalSketch(instance: 1)
        one.start()
        one.lease(id, wanted: 600)
        one.accept(1, account: id)
        one.end(1, charge: charge(250, 200), supplier: market.token.entry.supplier)
        one.lease(id, wanted: 600, returned: 500)
        one.lease(id, wanted: 600, returned: 100)
        _ = try market.store.applyBatch(one.records, node: 7)
        #expect(try market.store.wallet(id).leased == 0)
        #expect(try market.store.wallet(id).balance == 750)
        try market.expectSound()
    }

    @Test(arguments: TestEngine.allCases)
    func aVanishedInstancesLeaseComesBackOnceItsTasksEnded(_ engine: TestEngine) throws {
        let market = try Market(engine)
        let store = market.store
        let id = market.consumer.id
        _ = try store.topUp(id, 1_000, reference: "a", nowUs: 2)
        var one = JournalSketch(instance: 1)
        one.start()
        one.lease(id, wanted: 1_000)
        one.accept(1, account: id)
        var two = JournalSketch(instance: 2)
        two.start()
        two.lease(id, wanted: 300)
        _ = try store.applyBatch(one.records + two.records, node: 7)
        #expect(try store.closeLeases(node: 7, present: [1, 2], nowUs: 5_000_000) == 0)
        #expect(try store.closeLeases(node: 7, present: [2], nowUs: 5_000_000) == 0)
        #expect(try store.closeLeases(node: 8, present: [], nowUs: 5_000_000) == 0)
        two.end(1, of: 1, charge: charge(110, 100), supplier: market.token.entry.supplier)
        _ = try store.applyBatch(two.records, node: 7)
        #expect(try store.closeLeases(node: 7, present: [2], nowUs: 5_000_000) == 1)
        #expect(try market.lease(1)?.isClosed == true)
        // Who waited was served.
        #expect(try market.lease(2)?.granted == 300)
        #expect(try store.wallet(id).available == 590)
        // What comes late opens it again, for an instance that only seemed to be gone; the next
        // look closes it if it is.
        one.lease(id, wanted: 2_000)
        _ = try store.applyBatch(one.records, node: 7)
        #expect(try store.wallet(id).available == 0)
        #expect(try store.closeLeases(node: 7, present: [2], nowUs: 5_000_000) == 1)
        #expect(try store.wallet(id).available == 590)
        try market.expectSound()
    }

    @Test(arguments: TestEngine.allCases)
    func anExpiredLeaseIsClosedByAnySidecar(_ engine: TestEngine) throws {
        let market = try Market(engine)
        let store = market.store
        let id = market.consumer.id
        _ = try store.topUp(id, 1_000, reference: "a", nowUs: 2)
        var one = JournalSketch(instance: 1)
        one.start()
        one.lease(id, wanted: 1_000, atUs: 0)
        one.accept(1, account: id)
        _ = try store.applyBatch(one.records, node: 7)
        let overUs: UInt64 = (3_600_000 + 660_000) * 1_000
        #expect(try store.closeLeases(node: 9, present: [], nowUs: overUs - 1_000) == 0)
        #expect(try store.closeLeases(node: 9, present: [], nowUs: overUs) == 1)
        #expect(try store.wallet(id).available == 1_000)
        // A late claim goes to the wallet.
        one.end(1, charge: charge(110, 100), supplier: market.token.entry.supplier)
        _ = try store.applyBatch(one.records, node: 7)
        #expect(try store.wallet(id).balance == 890)
        try market.expectSound()
    }

    /// Random brokers ask, return, spend and die; at every step the wallet covers its leases and
    /// nothing is created or destroyed.
    @Test(arguments: TestEngine.allCases)
    func whateverBrokersDoTheWalletHolds(_ engine: TestEngine) throws {
        let market = try Market(engine)
        let store = market.store
        let id = market.consumer.id
        var random = SeededRandom(state: 42)
        var journals = (1...4 as ClosedRange<UInt64>).map { JournalSketch(instance: $0) }
        var next: UInt64 = 0
        for index in journals.indices { journals[index].start() }
        for step in 0..<60 {
            for index in journals.indices {
                switch random.next() % 3 {
                case 0:
                    journals[index].lease(
                        id, wanted: Int64(random.next() % 3_000),
                        returned: Int64(random.next() % 2_000), atUs: 1)
                case 1:
                    next += 1
                    journals[index].accept(next, account: id)
                    let cost = Int64(random.next() % 400)
                    journals[index].end(
                        next, charge: charge(cost, cost / 2),
                        supplier: market.token.entry.supplier)
                default: break
                }
            }
            _ = try store.applyBatch(journals.flatMap(\.records), node: 7)
            if random.next() % 3 == 0 {
                _ = try store.topUp(
                    id, MicroUSD(Int64(1 + random.next() % 900)), reference: "t\(step)", nowUs: 1)
            }
            let check = try store.ledgerCheck()
            #expect(check.isSound && check.unsettled == 0, "step \(step): \(check.json)")
        }
    }
}

/// The same numbers from the same seed (splitmix64).
struct SeededRandom: RandomNumberGenerator {
    var state: UInt64

    mutating func next() -> UInt64 {
        state &+= 0x9E37_79B9_7F4A_7C15
        var mixed = state
        mixed = (mixed ^ mixed >> 30) &* 0xBF58_476D_1CE4_E5B9
        mixed = (mixed ^ mixed >> 27) &* 0x94D0_49BB_1331_11EB
        return mixed ^ mixed >> 31
    }
}
