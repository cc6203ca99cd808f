import Privacy
import RecordTestSupport
import SluiceLedgerCore
import Store
import TLSEngine
import Testing

@Suite struct AddressBookTests {
    private let dayUs: UInt64 = 86_400_000_000
    private let address: [UInt8] = [192, 0, 2, 7]

    private func hashesRemoved(_ store: Store, nowUs: UInt64) throws -> Int {
        let cutoffUs = RetentionSchedule.cutoffUs(.addressHashes, wallUs: nowUs)
        var batch = RetentionBatch(.addressHashes, cutoffUs: cutoffUs, rows: 2)
        var removed = 0
        while true {
            let outcome = try store.removeExpired(batch)
            removed += outcome.removed
            guard let next = outcome.next else { return removed }
            batch.after = next
        }
    }

    @Test(arguments: TestEngine.allCases)
    func anAddressIsFoundAgainByWhoeverHasTheSecret(_ engine: TestEngine) throws {
        let test = try TestStore(engine)
        let book = AddressBook(test.store, MasterKeys(.random()))
        let mapped = [UInt8](repeating: 0, count: 10) + [0xFF, 0xFF] + address
        for bytes in [address, mapped, address] {
            try book.note(bytes, account: test.account, nowUs: dayUs)
        }
        try book.note([192, 0, 2, 8], account: test.account, nowUs: dayUs)
        #expect(try test.store.addressCount() == 2)
        #expect(try book.accounts(from: address) == [test.account])
        #expect(try book.accounts(from: [192, 0, 2, 9]) == [])
        #expect(try test.store.addressSecrets().count == 1)
        #expect(throws: PrivacyError.invalidValue) {
            try book.note([1, 2, 3], account: test.account, nowUs: dayUs)
        }
    }

    @Test(arguments: TestEngine.allCases)
    func after90DaysThereIsANewSecretAndTheOldOneGoesWithItsHashes(
        _ engine: TestEngine
    ) throws {
        let test = try TestStore(engine)
        let book = AddressBook(test.store, MasterKeys(.random()))
        for last in 1...5 as ClosedRange<UInt8> {
            try book.note([10, 0, 0, last], account: test.account, nowUs: dayUs)
        }
        #expect(try hashesRemoved(test.store, nowUs: 91 * dayUs - 1) == 0)
        // Due, before anything was removed: a new one.
        try book.note(address, account: test.account, nowUs: 91 * dayUs)
        #expect(try test.store.addressSecrets().count == 2)
        #expect(try hashesRemoved(test.store, nowUs: 91 * dayUs) == 5)
        #expect(try test.store.addressSecrets().map(\.madeAtUs) == [91 * dayUs])
        #expect(try test.store.addressCount() == 1)
        #expect(try book.accounts(from: address) == [test.account])
        #expect(try book.accounts(from: [10, 0, 0, 1]) == [])
    }

    @Test(arguments: TestEngine.allCases)
    func aRotationDestroysSecretAndHashesAtOnce(_ engine: TestEngine) throws {
        let test = try TestStore(engine)
        let book = AddressBook(test.store, MasterKeys(.random()))
        try book.note(address, account: test.account, nowUs: dayUs)
        let before = try test.store.addressSecrets()
        #expect(try test.store.destroyAddressSecrets(nowUs: dayUs) == 1)
        #expect(try test.store.audit(last: 1).map(\.action) == [.rotateAddresses])
        #expect(try book.accounts(from: address) == [])
        #expect(try hashesRemoved(test.store, nowUs: dayUs) == 1)
        #expect(try test.store.addressCount() == 0)
        try book.note(address, account: test.account, nowUs: dayUs)
        let after = try test.store.addressSecrets()
        // A number is never given twice: an old hash can never pass for a new one.
        #expect((after.last?.generation ?? 0) > (before.last?.generation ?? .max))
        #expect(after.map(\.wrapped) != before.map(\.wrapped))
    }
}
