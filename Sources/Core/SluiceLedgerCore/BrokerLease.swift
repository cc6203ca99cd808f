package import SluiceRecordFormat
package import SluiceWire

/// The broker's half of a lease: what one account's wallet gave to this instance, and what became
/// of it. All amounts but `held` are totals since the instance began.
///
/// `spent + held + returned <= granted`, always: a task is admitted on what is free and never
/// costs more than is held for it. Where a caller breaks that it is our own bug, and traps.
package struct BrokerLease: Equatable, Sendable {
    /// A lease lives so long from its last grant or renewal.
    package static let lifetimeMs: UInt64 = 3_600_000
    /// Least that is asked for at once: smaller grants would be spent at once.
    package static let askMin: MicroUSD = 10_000
    /// An account in use keeps what it spends in so many times 10 s: 5 minutes.
    package static let reserveSpans: Int64 = 30

    package let account: UInt64
    package private(set) var granted: MicroUSD = 0
    /// Costs of tasks that have ended.
    package private(set) var spent: MicroUSD = 0
    /// Set aside for open tasks, now.
    package private(set) var held: MicroUSD = 0
    package private(set) var returned: MicroUSD = 0
    /// Total that shall have been returned as soon as it is free.
    package private(set) var recalled: MicroUSD = 0
    /// Total that was asked for.
    package private(set) var wanted: MicroUSD = 0
    /// Total that it would like to have, besides what somebody waits for.
    package private(set) var reserve: MicroUSD = 0
    /// Wall clock; 0 = never granted.
    package private(set) var expiresAtMs: UInt64 = 0
    /// The wallet said that it has no more.
    package private(set) var isDry = false

    /// An instance begins with nothing.
    package init(account: UInt64) {
        self.account = account
    }

    /// What new holds may take: never below 0.
    package var free: MicroUSD {
        MicroUSD(granted.rawValue - spent.rawValue - held.rawValue - returned.rawValue)
    }

    /// What the wallet waits for.
    package var owed: MicroUSD { MicroUSD(max(0, recalled.rawValue - returned.rawValue)) }

    /// Nothing is admitted on it any more.
    package func isExpired(nowMs: UInt64) -> Bool { nowMs >= expiresAtMs }

    /// Half of its life is over, and there is something to keep.
    package func needsRenewal(nowMs: UInt64) -> Bool {
        expiresAtMs != 0 && nowMs + Self.lifetimeMs / 2 >= expiresAtMs
            && (held > 0 || free > 0)
    }

    /// The wallet's half changed. Totals never shrink, so an entry that comes twice or late
    /// changes nothing.
    package mutating func apply(_ entry: DirectoryLease) {
        precondition(entry.account == account, "a lease of another account")
        granted = max(granted, entry.granted)
        recalled = entry.recalled
        isDry = entry.isDry
        expiresAtMs = entry.isClosed ? 0 : entry.expiresAtMs
    }

    /// Sets `amount` aside for a task, all or nothing. False where that is not free, or the lease
    /// has expired.
    package mutating func hold(_ amount: MicroUSD, nowMs: UInt64) -> Bool {
        precondition(amount >= 0, "a hold below nothing")
        guard !isExpired(nowMs: nowMs), amount <= free else { return false }
        held.rawValue += amount.rawValue
        return true
    }

    /// Part of a hold is not needed: the task was dispatched to a cheaper offer, or refused.
    package mutating func release(_ amount: MicroUSD) {
        precondition(amount >= 0 && amount <= held, "released more than is held")
        held.rawValue -= amount.rawValue
    }

    /// A task ended: its cost is spent, the rest of its hold is free again.
    package mutating func capture(cost: MicroUSD, held amount: MicroUSD) {
        precondition(cost >= 0 && cost <= amount, "a task cost more than was held for it")
        release(amount)
        spent.rawValue += cost.rawValue
    }

    /// Gives back up to `most` of what is free, for good. Returns what was given.
    package mutating func returnFree(_ most: MicroUSD) -> MicroUSD {
        let given = max(0, min(most, free))
        returned.rawValue += given.rawValue
        return given
    }

    /// Gives back what is recalled and free. Returns what was given.
    package mutating func returnRecalled() -> MicroUSD {
        returnFree(owed)
    }

    /// An admission lacks `missing`: asks for that, twice what the account cost lately, or the
    /// least, whichever is most. True if the ask rose and is to be written.
    package mutating func ask(missing: MicroUSD, recentCost: MicroUSD) -> Bool {
        let twice = recentCost.adding(recentCost) ?? MicroUSD(.max)
        let more = max(missing, twice, Self.askMin)
        let total = granted.adding(more) ?? MicroUSD(.max)
        guard total > wanted else { return false }
        wanted = total
        return true
    }

    /// What shall be free while an account that cost `recentCost` in the last 10 s is in use, so
    /// that its tasks go on while the store cannot answer.
    package static func reserveTarget(recentCost: MicroUSD) -> MicroUSD {
        let (target, isTooMuch) = recentCost.rawValue.multipliedReportingOverflow(
            by: reserveSpans)
        return isTooMuch ? MicroUSD(.max) : MicroUSD(max(0, target))
    }

    /// Sets the reserve that its next LEASE asks for to what `target` lacks. True if that is so
    /// much, a quarter, that one is to be written for it.
    package mutating func keepReserve(_ target: MicroUSD) -> Bool {
        let missing = MicroUSD(max(0, target.rawValue - max(0, free.rawValue)))
        reserve = missing > 0 ? granted.adding(missing) ?? MicroUSD(.max) : 0
        return missing > 0 && missing.rawValue > target.rawValue / 4
    }

    /// Nobody waits any more: asks for nothing beyond what it has.
    package mutating func withdrawAsk() {
        wanted = min(wanted, granted)
    }

    /// What the journal is told.
    package func record(atUs: UInt64) -> LeaseRecord {
        LeaseRecord(
            account: account, wanted: wanted, returned: returned, spent: spent, held: held,
            atUs: atUs, reserve: reserve)
    }
}
