import Development
import SharedMemory
import SluiceRecordFormat
import Store
import SluiceWire
import Testing

struct MarketTests {
    @Test("the first run gives a balance once, a fee, and keys whose account is known")
    func beginning() throws {
        let temporary = try TemporaryHome()
        for _ in 0..<2 { _ = try DevelopmentKeys.openOrMake(temporary.home) }
        let store = try KeyBook(temporary.home).store
        let consumer = try #require(
            try store.account(label: DevelopmentKeys.clientAccount))
        #expect(consumer.isPrepaid)
        #expect(consumer.kinds == .consumer)
        #expect(try store.wallet(consumer.id).available == 10_000_000)
        let supplier = try #require(
            try store.account(label: DevelopmentKeys.supplierAccount))
        #expect(!supplier.isPrepaid)
        #expect(supplier.kinds == .supplier)
        #expect(try store.fees().map(\.basisPoints) == [1_000])
        #expect(try store.ledgerCheck().isSound)
        var reader = DirectoryReader(directory: temporary.home.directoryPath)
        let entries = try reader.poll()
        for account in [consumer.id, supplier.id] {
            #expect(entries.contains { $0.key == .account(account) })
        }
        #expect(entries.contains { $0.key == .fee(effectiveFromMs: 0) })
    }

    @Test("what the operator changed is left as it is")
    func changesStay() throws {
        let temporary = try TemporaryHome()
        _ = try DevelopmentKeys.openOrMake(temporary.home)
        let store = try KeyBook(temporary.home).store
        let consumer = try #require(
            try store.account(label: DevelopmentKeys.clientAccount))
        _ = try store.refund(consumer.id, 10_000_000, reference: "all", nowUs: 1)
        try store.setFee(DirectoryFee(basisPoints: 0, effectiveFromMs: 0), nowUs: 1)
        _ = try DevelopmentKeys.openOrMake(temporary.home)
        #expect(try store.wallet(consumer.id).balance == 0)
        #expect(try store.fees().map(\.basisPoints) == [0])
    }

    @Test("a store without a home has nothing to tell")
    func storeAlone() throws {
        let temporary = try TemporaryHome()
        let book = try KeyBook(store: .sqlite(path: temporary.home.path + "/alone.sqlite"))
        let issued = try book.issue(
            .client, account: "someone", limits: AccountLimits(concurrentTasks: 3))
        #expect(try book.keys().map(\.limits.concurrentTasks) == [3])
        #expect(try !book.isValid(issued.secret))
    }
}
