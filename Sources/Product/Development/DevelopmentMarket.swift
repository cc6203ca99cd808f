import SharedMemory
import SluiceRecordFormat
package import SluiceWire
import Store

/// The accounts and money that `sluice dev` begins with: a consumer that prepays and has a
/// starting balance, a supplier, and a fee.
package enum DevelopmentMarket {
    /// What the consumer can spend at first.
    package static let startingBalance: MicroUSD = 10_000_000
    /// Names the top-up, so that it comes once.
    private static let startingReference = "starting balance of sluice dev"
    /// The platform's, until the operator sets another.
    package static let feeBasisPoints: UInt32 = 1_000

    /// Makes what is missing. What the operator has changed since stays.
    package static func openOrMake(_ book: KeyBook) throws(DevelopmentError) {
        let nowUs = LocalFileSystem.wallUs()
        let store = book.store
        do {
            if try store.fees().isEmpty {
                try store.setFee(
                    DirectoryFee(basisPoints: feeBasisPoints, effectiveFromMs: 0), nowUs: nowUs)
            }
            if try store.account(label: DevelopmentKeys.clientAccount) == nil {
                let consumer = try store.makeAccount(
                    label: DevelopmentKeys.clientAccount, kinds: .consumer, isPrepaid: true,
                    nowUs: nowUs)
                _ = try store.topUp(
                    consumer.id, startingBalance, reference: startingReference, nowUs: nowUs)
            }
            if try store.account(label: DevelopmentKeys.supplierAccount) == nil {
                _ = try store.makeAccount(
                    label: DevelopmentKeys.supplierAccount, kinds: .supplier, nowUs: nowUs)
            }
        } catch {
            throw DevelopmentError(error)
        }
        try book.syncDirectory()
    }
}
