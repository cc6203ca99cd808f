package import SluiceRecordFormat
package import SluiceWire

/// Why money cannot move. Closed.
package enum LedgerError: Error, Equatable, Sendable {
    /// An amount of nothing, or below nothing where that has no meaning.
    case notPositive
    /// More than is there; so much is.
    case notAvailable(MicroUSD)
    /// A sum does not fit 63 bits.
    case overflow
    /// The two sides of a task's charge differ.
    case unbalanced
}

/// An account of the ledger. A positive balance is what the platform owes, a negative one what it
/// has (`cash`) or has lost.
package enum LedgerAccount: Hashable, Sendable {
    /// What a consumer has paid in and not used.
    case consumer(UInt64)
    /// What a supplier has earned and was not paid.
    case supplier(UInt64)
    case platformFee
    case platformLoss
    /// Money at the payment provider.
    case cash
    /// Payouts that are on their way.
    case payoutClearing
    case adjustment

    /// The name in stores and output: `consumer:7`, `platform_fee`.
    package var text: String {
        switch self {
        case .consumer(let account): "consumer:\(account)"
        case .supplier(let account): "supplier:\(account)"
        case .platformFee: "platform_fee"
        case .platformLoss: "platform_loss"
        case .cash: "cash"
        case .payoutClearing: "payout_clearing"
        case .adjustment: "adjustment"
        }
    }

    /// Nil for a text that names no account.
    package init?(text: String) {
        switch text {
        case "platform_fee": self = .platformFee
        case "platform_loss": self = .platformLoss
        case "cash": self = .cash
        case "payout_clearing": self = .payoutClearing
        case "adjustment": self = .adjustment
        default:
            let parts = text.split(separator: ":", omittingEmptySubsequences: false)
            guard parts.count == 2, let number = UInt64(parts[1]), parts[1] == "\(number)"
            else { return nil }
            switch parts[0] {
            case "consumer": self = .consumer(number)
            case "supplier": self = .supplier(number)
            default: return nil
            }
        }
    }

    /// Its balance is never below 0.
    package var isOwed: Bool {
        switch self {
        case .consumer, .supplier, .payoutClearing: true
        case .platformFee, .platformLoss, .cash, .adjustment: false
        }
    }
}

/// One side of an entry.
package struct Posting: Equatable, Sendable {
    package var account: LedgerAccount
    /// Never 0.
    package var amount: MicroUSD

    package init(_ account: LedgerAccount, _ amount: MicroUSD) {
        self.account = account
        self.amount = amount
    }
}

/// The postings of everything that moves money. Those of one entry sum to zero.
package enum Settlement {
    /// Most that tasks may bring a supplier to have earned, or a consumer to owe, and most that one
    /// task may post anywhere: nine billion dollars. A thousandth of what 64 bits hold, so that
    /// neither few accounts nor few tasks together can fill the platform's own, which every task
    /// needs.
    package static let taskBalanceMax = MicroUSD(1 << 53)

    /// Whether an account whose balance is this takes a task's posting: the sum fits, and is within
    /// `taskBalanceMax` where a task brings it further from nothing. An entry of which one posting
    /// is not taken is not posted at all.
    package static func admits(_ posting: Posting, at balance: MicroUSD) -> Bool {
        guard let sum = balance.adding(posting.amount),
            posting.amount.rawValue.magnitude <= taskBalanceMax.rawValue.magnitude
        else { return false }
        switch posting.account {
        case .consumer: return posting.amount > 0 || sum.rawValue >= -taskBalanceMax.rawValue
        // Number 0 is nobody's: all suppliers that have no account.
        case .supplier(let owner): return owner == 0 || posting.amount < 0 || sum <= taskBalanceMax
        case .platformFee, .platformLoss, .cash, .payoutClearing, .adjustment: return true
        }
    }

    /// A task ended: the consumer pays, the supplier earns, the fee is the platform's. What the
    /// consumer does not cover is taken from the platform's loss in its place.
    package static func task(
        _ charge: TaskCharge, cover: TaskCover, consumer: UInt64, supplier: UInt64
    ) throws(LedgerError) -> [Posting] {
        guard charge.isBalanced, charge.supplierEarning >= 0, cover.byConsumer >= 0,
            cover.byPlatform >= 0,
            cover.byConsumer.adding(cover.byPlatform) == charge.consumerCost
        else { throw .unbalanced }
        return entry([
            Posting(.consumer(consumer), MicroUSD(-cover.byConsumer.rawValue)),
            Posting(.platformLoss, MicroUSD(-cover.byPlatform.rawValue)),
            Posting(.supplier(supplier), charge.supplierEarning),
            Posting(.platformFee, charge.platformFee),
        ])
    }

    /// A consumer paid in. The caller keeps the payment's reference unique.
    package static func topUp(
        _ amount: MicroUSD, consumer: UInt64
    ) throws(LedgerError) -> [Posting] {
        try move(amount, from: .cash, to: .consumer(consumer))
    }

    /// What a consumer paid in goes back, at most what is available.
    package static func refund(
        _ amount: MicroUSD, consumer: UInt64, available: MicroUSD
    ) throws(LedgerError) -> [Posting] {
        guard amount <= available else { throw .notAvailable(available) }
        return try move(amount, from: .consumer(consumer), to: .cash)
    }

    /// The payment provider took the payment back: the consumer bears it as far as its available
    /// money goes, the platform the rest.
    package static func chargeback(
        _ amount: MicroUSD, consumer: UInt64, available: MicroUSD
    ) throws(LedgerError) -> [Posting] {
        guard amount > 0 else { throw .notPositive }
        let borne = max(0, min(amount, available))
        return entry([
            Posting(.consumer(consumer), MicroUSD(-borne.rawValue)),
            Posting(.platformLoss, MicroUSD(borne.rawValue - amount.rawValue)),
            Posting(.cash, amount),
        ])
    }

    /// The operator gives (positive) or takes (negative, at most what is available).
    package static func adjustment(
        _ amount: MicroUSD, consumer: UInt64, available: MicroUSD
    ) throws(LedgerError) -> [Posting] {
        guard amount < 0 else {
            return try move(amount, from: .adjustment, to: .consumer(consumer))
        }
        guard amount > MicroUSD(.min) else { throw .overflow }
        let taken = MicroUSD(-amount.rawValue)
        guard taken <= available else { throw .notAvailable(available) }
        return try move(taken, from: .consumer(consumer), to: .adjustment)
    }

    /// What a supplier earned is on its way to it, at most its balance. The caller keeps the
    /// idempotency key unique.
    package static func payoutPending(
        _ amount: MicroUSD, supplier: UInt64, balance: MicroUSD
    ) throws(LedgerError) -> [Posting] {
        guard amount <= balance else { throw .notAvailable(balance) }
        return try move(amount, from: .supplier(supplier), to: .payoutClearing)
    }

    /// A payout arrived.
    package static func payoutPaid(_ amount: MicroUSD) throws(LedgerError) -> [Posting] {
        try move(amount, from: .payoutClearing, to: .cash)
    }

    /// A payout did not arrive: the supplier has it again.
    package static func payoutFailed(
        _ amount: MicroUSD, supplier: UInt64
    ) throws(LedgerError) -> [Posting] {
        try move(amount, from: .payoutClearing, to: .supplier(supplier))
    }

    private static func move(
        _ amount: MicroUSD, from: LedgerAccount, to: LedgerAccount
    ) throws(LedgerError) -> [Posting] {
        guard amount > 0 else { throw .notPositive }
        return entry([Posting(from, MicroUSD(-amount.rawValue)), Posting(to, amount)])
    }

    /// Leaves out postings of nothing.
    private static func entry(_ postings: [Posting]) -> [Posting] {
        postings.filter { $0.amount != 0 }
    }
}

/// The balances of all accounts, in memory. It takes whole entries only.
package struct LedgerBalances: Equatable, Sendable {
    package private(set) var balances: [LedgerAccount: MicroUSD] = [:]

    /// No account has anything.
    package init() {}

    /// 0 for an account without postings.
    package func balance(of account: LedgerAccount) -> MicroUSD { balances[account] ?? 0 }

    /// Posts an entry, all of it or nothing.
    package mutating func post(_ entry: [Posting]) throws(LedgerError) {
        var sum: MicroUSD = 0
        var changed = balances
        for posting in entry {
            guard let next = sum.adding(posting.amount),
                let balance = changed[posting.account, default: 0].adding(posting.amount)
            else { throw .overflow }
            sum = next
            changed[posting.account] = balance
        }
        guard sum == 0 else { throw .unbalanced }
        balances = changed
    }

    /// 0 unless a posting was lost; nil where the sum does not fit 63 bits.
    package var sum: MicroUSD? {
        Int64(exactly: balances.values.reduce(Int128(0)) { $0 + Int128($1.rawValue) })
            .map { MicroUSD($0) }
    }

    /// Accounts that are below 0 and must not be.
    package var negativeAccounts: [LedgerAccount] {
        balances.filter { $0.key.isOwed && $0.value < 0 }.map(\.key)
    }
}
