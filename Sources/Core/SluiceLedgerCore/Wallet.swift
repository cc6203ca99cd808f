package import SluiceRecordFormat
package import SluiceWire

/// The wallet's half of a lease: one open row of (account, instance). Amounts are totals since the
/// instance began.
package struct WalletLease: Equatable, Sendable {
    package var instance: UInt64
    package var granted: MicroUSD = 0
    /// What ENDED records of the instance took of it.
    package var spent: MicroUSD = 0
    package var returned: MicroUSD = 0
    package var recalled: MicroUSD = 0
    package var wanted: MicroUSD = 0
    package var expiresAtMs: UInt64 = 0
    /// Neither the wallet nor another lease has anything for it.
    package var isDry = false

    /// A lease over nothing.
    package init(instance: UInt64) {
        self.instance = instance
    }

    /// Neither spent nor returned.
    package var rest: MicroUSD {
        MicroUSD(granted.rawValue - spent.rawValue - returned.rawValue)
    }

    /// What was asked for and not granted.
    package var unmet: MicroUSD { MicroUSD(max(0, wanted.rawValue - granted.rawValue)) }
}

/// One account's money: its balance, and the leases over parts of it. Whoever settles loads it,
/// calls the functions in the order of the journal, and stores what changed, all in one
/// transaction.
///
/// The rests of all open leases together are never above the balance: what is granted is there.
package struct Wallet: Equatable, Sendable {
    /// A lease that its instance has not renewed is closed by anyone so long after its expiry: the
    /// longest deadline and a minute.
    package static let graceMs: UInt64 = 660_000

    /// Sum of the postings of the consumer's account.
    package private(set) var balance: MicroUSD
    /// Open leases in the order in which they were first asked for.
    package private(set) var leases: [WalletLease]

    /// An account with these open leases. Their rests are within the balance.
    package init(balance: MicroUSD, leases: [WalletLease] = []) {
        self.balance = balance
        self.leases = leases
        precondition(leases.allSatisfy { $0.rest >= 0 }, "a lease gave more than it had")
        precondition(leases.isEmpty || available >= 0, "more is leased than there is")
    }

    /// What may be granted, refunded or taken by a chargeback: balance less all rests. Not below
    /// 0 for a prepaid account.
    package var available: MicroUSD {
        MicroUSD(leases.reduce(balance.rawValue) { $0 - $1.rest.rawValue })
    }

    /// The part of the account's rate limits that each of `instances` brokers may use, so that all
    /// together use no more than the whole.
    package static func share(amongInstances instances: Int) -> UInt32 {
        max(1, DirectoryLease.shareMax / UInt32(clamping: max(1, instances)))
    }

    /// A LEASE record of an instance, in the order of its journal: takes what it returned, renews,
    /// and grants what it wants as far as there is money. Applying one again changes nothing but
    /// the expiry.
    ///
    /// An instance that outlived its lease (nobody heard of it for long) begins again with what it
    /// says to have spent and returned, which is settled, and nothing more.
    package mutating func apply(_ record: LeaseRecord, instance: UInt64, nowMs: UInt64) {
        if !leases.contains(where: { $0.instance == instance }) {
            var lease = WalletLease(instance: instance)
            if record.spent >= 0, record.returned >= 0,
                let settled = record.spent.adding(record.returned)
            {
                lease.granted = settled
                lease.spent = record.spent
                lease.returned = record.returned
            }
            leases.append(lease)
        }
        guard let index = leases.firstIndex(where: { $0.instance == instance }) else { return }
        let most = leases[index].granted.rawValue - leases[index].spent.rawValue
        leases[index].returned = MicroUSD(
            min(max(leases[index].returned.rawValue, record.returned.rawValue), most))
        leases[index].wanted = record.wanted
        leases[index].expiresAtMs = nowMs + BrokerLease.lifetimeMs
        serve(nowMs: nowMs)
        grantReserve(record.reserve, to: index)
    }

    /// What is left when nobody waits, up to an equal part of the balance for each open lease.
    /// Nothing is recalled for it and it is not remembered: the instance asks again.
    private mutating func grantReserve(_ reserve: MicroUSD, to index: Int) {
        guard leases.allSatisfy({ $0.unmet == 0 }) else { return }
        let part = balance.rawValue / Int64(leases.count) - leases[index].rest.rawValue
        let granted = min(
            reserve.rawValue - leases[index].granted.rawValue, available.rawValue, part)
        guard granted > 0 else { return }
        leases[index].granted.rawValue += granted
    }

    /// Money came (positive) or went (negative) by another posting than a task's. Callers check
    /// first that what goes is `available`.
    package mutating func post(_ amount: MicroUSD, nowMs: UInt64) throws(LedgerError) {
        let free = available
        guard let sum = balance.adding(amount), let rest = free.adding(amount) else {
            throw .overflow
        }
        guard amount >= 0 || rest >= 0 else { throw .notAvailable(free) }
        balance = sum
        serve(nowMs: nowMs)
    }

    /// A task of the instance ended at this cost: its lease pays, then what is available, and the
    /// platform loses the rest. The two parts sum to `cost`.
    package mutating func spend(_ cost: MicroUSD, instance: UInt64) -> TaskCover {
        precondition(cost >= 0, "a task earns its consumer nothing")
        var left = cost.rawValue
        if let index = leases.firstIndex(where: { $0.instance == instance }) {
            let covered = min(left, leases[index].rest.rawValue)
            leases[index].spent.rawValue += covered
            balance.rawValue -= covered
            left -= covered
        }
        let covered = min(left, max(0, available.rawValue))
        balance.rawValue -= covered
        left -= covered
        return TaskCover(byConsumer: MicroUSD(cost.rawValue - left), byPlatform: MicroUSD(left))
    }

    /// The instance is gone and all its tasks have ended: what is left of its lease is available
    /// again. False if it had none.
    package mutating func close(instance: UInt64, nowMs: UInt64) -> Bool {
        guard let index = leases.firstIndex(where: { $0.instance == instance }) else {
            return false
        }
        leases.remove(at: index)
        serve(nowMs: nowMs)
        return true
    }

    /// Closes the leases that nobody renewed; returns their instances. Claims that still come go
    /// to what is available, then to the platform's loss.
    package mutating func closeExpired(nowMs: UInt64) -> [UInt64] {
        let gone = leases.filter { nowMs >= $0.expiresAtMs + Self.graceMs }.map(\.instance)
        guard !gone.isEmpty else { return [] }
        leases.removeAll { gone.contains($0.instance) }
        serve(nowMs: nowMs)
        return gone
    }

    /// Grants unmet wants in the order of the rows; where that is not enough, recalls what others
    /// have, and says who cannot hope for more.
    private mutating func serve(nowMs: UInt64) {
        for index in leases.indices where leases[index].unmet > 0 {
            let granted = min(leases[index].unmet, max(0, available))
            guard granted > 0 else { continue }
            leases[index].granted.rawValue += granted.rawValue
            leases[index].expiresAtMs = nowMs + BrokerLease.lifetimeMs
        }
        for index in leases.indices {
            let others = leases.indices.filter { $0 != index }
            let isWanted = others.contains { leases[$0].unmet > 0 }
            leases[index].recalled =
                isWanted
                ? MicroUSD(leases[index].granted.rawValue - leases[index].spent.rawValue)
                : leases[index].returned
            leases[index].isDry =
                leases[index].unmet > 0 && others.allSatisfy { leases[$0].rest == 0 }
        }
    }
}

/// Who pays for a task.
package struct TaskCover: Equatable, Sendable {
    package var byConsumer: MicroUSD
    /// Neither lease nor wallet had it.
    package var byPlatform: MicroUSD

    package init(byConsumer: MicroUSD, byPlatform: MicroUSD) {
        self.byConsumer = byConsumer
        self.byPlatform = byPlatform
    }
}
