package import SluiceLedgerCore
package import SluiceWire

extension LedgerAccount {
    /// Number of the kind in the database.
    var kind: Int64 {
        switch self {
        case .consumer: 1
        case .supplier: 2
        case .platformFee: 3
        case .platformLoss: 4
        case .cash: 5
        case .payoutClearing: 6
        case .adjustment: 7
        }
    }

    /// Number of the account; 0 for the platform's own.
    var owner: UInt64 {
        switch self {
        case .consumer(let account), .supplier(let account): account
        case .platformFee, .platformLoss, .cash, .payoutClearing, .adjustment: 0
        }
    }

    init?(kind: Int64, owner: UInt64) {
        switch kind {
        case 1: self = .consumer(owner)
        case 2: self = .supplier(owner)
        case 3: self = .platformFee
        case 4: self = .platformLoss
        case 5: self = .cash
        case 6: self = .payoutClearing
        case 7: self = .adjustment
        default: return nil
        }
    }
}

/// What an entry of the ledger is about: each has exactly one, so nothing is posted twice.
enum EntryReference: Hashable, Sendable {
    case task(TaskID)
    /// A top-up, refund, chargeback or adjustment.
    case walletEvent(UInt64)
    case payoutPending(UInt64)
    case payoutPaid(UInt64)
    case payoutFailed(UInt64)
    /// A task of which nothing is posted, because a balance or its own figures do not allow it. Has
    /// no postings.
    case unpostedTask(TaskID)

    /// The entry's key in the database.
    var key: (kind: Int64, high: Int64, low: Int64) {
        switch self {
        case .task(let task): (1, signed(task.instance), signed(task.counter))
        case .walletEvent(let id): (2, 0, signed(id))
        case .payoutPending(let id): (3, 0, signed(id))
        case .payoutPaid(let id): (4, 0, signed(id))
        case .payoutFailed(let id): (5, 0, signed(id))
        case .unpostedTask(let task): (6, signed(task.instance), signed(task.counter))
        }
    }
}

/// A balance.
package struct LedgerBalance: Equatable, Sendable {
    package var account: LedgerAccount
    package var amount: MicroUSD

    /// The account as the command prints it: `consumer:7`, `platform_fee`.
    package var name: String { account.text }
}

/// What a consumer has.
package struct Wallet: Equatable, Sendable {
    package var account: UInt64
    /// Sum of all postings.
    package var balance: MicroUSD
    /// Part of it that brokers hold in leases and have not spent.
    package var leased: MicroUSD

    /// What can be leased, refunded or taken back now, never below 0.
    package var available: MicroUSD {
        MicroUSD(max(0, balance.rawValue - leased.rawValue))
    }
}

/// What changed a wallet apart from tasks. Numbers are those in the database.
package enum WalletEventKind: Int64, CaseIterable, Sendable {
    /// Money came in.
    case topUp = 1
    /// Money that was not used went back.
    case refund = 2
    /// The payment was taken back by whoever had made it.
    case chargeback = 3
    /// The operator's correction, up or down.
    case adjustment = 4
}

/// A change of a wallet by somebody.
package struct WalletEvent: Equatable, Sendable {
    package var id: UInt64
    package var account: UInt64
    package var kind: WalletEventKind
    /// Above 0, except for an adjustment downwards.
    package var amount: MicroUSD
    /// The payment provider's or operator's own name for it; unique for its kind.
    package var reference: String
    /// Wall clock, microseconds since 1970.
    package var atUs: UInt64
}

/// What a wallet operation gave.
package struct WalletChange: Equatable, Sendable {
    package var event: WalletEvent
    /// The reference was known with the same account and amount: nothing was changed now.
    package var isRepeat: Bool
    /// As it is after it.
    package var wallet: Wallet
}

/// Where a payout stands. Numbers are those in the database.
package enum PayoutState: Int64, Sendable {
    case pending = 1
    case paid = 2
    case failed = 3
}

/// Money on its way to a supplier.
package struct Payout: Equatable, Sendable {
    package var id: UInt64
    package var account: UInt64
    package var amount: MicroUSD
    package var state: PayoutState
    /// Whoever asked: unique among all payouts.
    package var idempotencyKey: String
    /// Wall clock, microseconds since 1970.
    package var requestedAtUs: UInt64
    /// Nil while it is pending.
    package var settledAtUs: UInt64?
}

/// Whether the ledger is what it must be.
package struct LedgerCheck: Equatable, Sendable {
    /// Of all postings: 0.
    package var sum: MicroUSD
    /// Ledger accounts with a balance, also one of 0.
    package var accounts: Int
    package var postings: Int
    /// Tasks that have ended.
    package var tasks: Int
    /// Ended tasks with money in them and no entry, and ends that wait for their task's start.
    package var unsettled: Int
    /// Ended tasks with money in them of which nothing is posted for good: a balance or their own
    /// figures did not allow it.
    package var unposted: Int
    /// The newest of them, at most `Store.unpostedTasksNamed`.
    package var unpostedTasks: [TaskID]
    /// Prepaid consumers and suppliers below 0: none.
    package var negativeBalances: Int
    /// Balances that differ from the sum of their postings, entries whose postings do not sum to
    /// 0, and leases that give more than their wallet has: none.
    package var contradictions: Int

    /// All is as it must be; unsettled tasks may be on their way, and an unposted one moved nothing.
    package var isSound: Bool { sum == 0 && negativeBalances == 0 && contradictions == 0 }

    /// One JSON object in one line.
    package var json: String {
        """
        {"sumMicroUSD":\(sum.rawValue),"accounts":\(accounts),"postings":\(postings),\
        "tasks":\(tasks),"unsettled":\(unsettled),"negativeBalances":\(negativeBalances),\
        "contradictions":\(contradictions),"unposted":\(unposted),\
        "unpostedTasks":[\(unpostedTasks.map { "\"\($0)\"" }.joined(separator: ","))]}
        """
    }
}

/// What an account paid or earned for tasks, from their records alone.
package struct Statement: Equatable, Sendable {
    /// One task.
    package struct Line: Equatable, Sendable {
        package var task: TaskID
        /// Wall clock, microseconds since 1970.
        package var acceptedAtUs: UInt64
        /// Empty if the NAME is missing.
        package var model: String
        package var usage: Usage
        /// What the consumer paid or the supplier earned.
        package var amount: MicroUSD
    }

    package var lines: [Line]
    package var total: MicroUSD
}
