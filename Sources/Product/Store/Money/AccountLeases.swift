import SluiceRecordFormat
import SluiceWire

/// What a wallet has given to one instance of a broker. Amounts are totals since the instance
/// began; spent + returned <= granted at all times.
struct Lease: Equatable, Sendable {
    /// A broker that says nothing for this long may no longer admit on it.
    static let lifetimeMs: UInt64 = 3_600_000
    /// After expiry: the longest deadline and a minute. What is claimed later is the wallet's.
    static let settlingMs: UInt64 = 660_000

    var account: UInt64
    var instance: UInt64
    var node: UInt64
    var granted: Int64 = 0
    var spent: Int64 = 0
    var returned: Int64 = 0
    /// Total that the broker shall have given back as soon as it is free.
    var recalled: Int64 = 0
    /// Total that the broker asks to have been granted.
    var wanted: Int64 = 0
    var expiresAtMs: UInt64 = 0
    var isDry = false
    var isClosed = false

    /// What was given and neither spent nor given back.
    var rest: Int64 { granted - spent - returned }
}

/// The wallet's half of the leases of one prepaid account: what it has, what brokers hold of it,
/// and the rules by which it goes out and comes back (`Protocol/Money.md`). Pure: the store loads
/// it, asks it and writes what changed.
struct AccountLeases: Equatable, Sendable {
    let account: UInt64
    /// Sum of the consumer's postings, with those of this transaction.
    private(set) var balance: Int64
    /// In the order in which wants are served.
    private(set) var leases: [Lease]

    init(account: UInt64, balance: Int64, leases: [Lease]) {
        self.account = account
        self.balance = balance
        self.leases = leases
    }

    /// What is in leases.
    var leased: Int64 { leases.reduce(0) { $1.isClosed ? $0 : $0 + $1.rest } }

    /// What can be leased or taken out.
    var available: Int64 { max(0, balance - leased) }

    /// Takes a task's cost from its instance's lease, then from the wallet. Gives what the
    /// consumer pays, 0…`cost`; the balance never goes below what is leased, nor below 0.
    mutating func capture(_ cost: Int64, instance: UInt64) -> Int64 {
        precondition(cost >= 0)
        var covered: Int64 = 0
        if let index = leases.firstIndex(where: { $0.instance == instance && !$0.isClosed }) {
            covered = min(cost, leases[index].rest)
            leases[index].spent += covered
            balance -= covered
        }
        let direct = min(cost - covered, available)
        balance -= direct
        return covered + direct
    }

    /// Adds what came in, or takes out what may go: never more than is available.
    mutating func change(by amount: Int64, nowMs: UInt64) throws(StoreError) {
        guard amount >= -available else { throw .insufficientFunds }
        balance = try checkedSum(balance, amount)
        if amount > 0 { serveWants(nowMs: nowMs) }
    }

    /// Does what a broker asks: takes back what it returns, grants or renews.
    mutating func apply(_ record: LeaseRecord, instance: UInt64, node: UInt64, nowMs: UInt64) {
        if !leases.contains(where: { $0.instance == instance }) {
            leases.append(Lease(account: account, instance: instance, node: node))
        }
        guard let index = leases.firstIndex(where: { $0.instance == instance && !$0.isClosed })
        else { return }
        let lease = leases[index]
        leases[index].returned = max(
            lease.returned, min(record.returned.rawValue, lease.granted - lease.spent))
        leases[index].wanted = record.wanted.rawValue
        leases[index].expiresAtMs = max(lease.expiresAtMs, nowMs + Lease.lifetimeMs)
        serveWants(nowMs: nowMs)
    }

    /// Closes the leases of these instances, whose tasks have all ended: the rest is free.
    mutating func close(_ instances: Set<UInt64>, nowMs: UInt64) {
        for index in leases.indices where instances.contains(leases[index].instance) {
            leases[index].isClosed = true
            leases[index].isDry = false
        }
        serveWants(nowMs: nowMs)
    }

    /// Grants what is wanted as far as there is any, in order; where it does not suffice, calls
    /// back what the others have not spent, and tells who has nothing to wait for.
    private mutating func serveWants(nowMs: UInt64) {
        for index in leases.indices where !leases[index].isClosed {
            let missing = leases[index].wanted.subtractingReportingOverflow(leases[index].granted)
            guard !missing.overflow, missing.partialValue > 0 else {
                leases[index].isDry = false
                continue
            }
            let given = min(missing.partialValue, available)
            leases[index].granted += given
            guard given < missing.partialValue else {
                leases[index].isDry = false
                continue
            }
            var othersHave = false
            for other in leases.indices
            where other != index && !leases[other].isClosed && leases[other].rest > 0 {
                othersHave = true
                leases[other].recalled = max(
                    leases[other].recalled, leases[other].returned + leases[other].rest)
            }
            leases[index].isDry = !othersHave && given == 0
        }
    }
}
