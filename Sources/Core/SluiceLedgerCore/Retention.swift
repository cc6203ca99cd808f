/// How long what is about people is kept (`Protocol/Money.md`). Postings are kept for good: they
/// name accounts by number only.
package enum Retention {
    /// Task records and logs.
    package static let recordDays: UInt64 = 90
    /// Wallet events, counted from the account's anonymisation.
    package static let walletEventDays: UInt64 = 365
    /// Hashes of network addresses, and the secret they were made with.
    package static let addressHashDays: UInt64 = 90
    /// Idempotency keys in the store.
    package static let idempotencyHours: UInt64 = 24

    private static let usPerHour: UInt64 = 3_600_000_000

    /// What is older than this is deleted: `nowUs` less so many days, 0 at least.
    package static func cutoffUs(days: UInt64, nowUs: UInt64) -> UInt64 {
        cutoffUs(hours: days * 24, nowUs: nowUs)
    }

    /// What is older than this is deleted: `nowUs` less so many hours, 0 at least.
    package static func cutoffUs(hours: UInt64, nowUs: UInt64) -> UInt64 {
        let (age, overflow) = hours.multipliedReportingOverflow(by: usPerHour)
        return overflow || age > nowUs ? 0 : nowUs - age
    }
}
