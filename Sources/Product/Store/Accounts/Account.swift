/// What an account may be; one may be several.
package struct AccountKinds: OptionSet, Sendable, Hashable {
    package let rawValue: UInt8

    package init(rawValue: UInt8) {
        self.rawValue = rawValue
    }

    /// Submits tasks and pays.
    package static let consumer = AccountKinds(rawValue: 1)
    /// Offers models and earns.
    package static let supplier = AccountKinds(rawValue: 2)
    /// Runs the deployment.
    package static let `operator` = AccountKinds(rawValue: 4)
}

/// Limits of an account or key; 0 = none of its own.
package struct AccountLimits: Equatable, Sendable {
    package var concurrentTasks: UInt32
    package var requestsPerMinute: UInt32
    package var tokensPerMinute: UInt64

    package init(
        concurrentTasks: UInt32 = 0, requestsPerMinute: UInt32 = 0, tokensPerMinute: UInt64 = 0
    ) {
        self.concurrentTasks = concurrentTasks
        self.requestsPerMinute = requestsPerMinute
        self.tokensPerMinute = tokensPerMinute
    }
}

/// An account.
package struct Account: Equatable, Sendable {
    /// From 1; given by the store.
    package internal(set) var id: UInt64
    /// What the operator calls it: 1…128 printable ASCII characters, unique.
    package internal(set) var label: String
    package var kinds: AccountKinds
    /// Its tasks are paid from leases on its wallet.
    package var isPrepaid: Bool
    /// None of its credentials is taken.
    package var isSuspended: Bool
    package var limits: AccountLimits
    /// Wall clock, microseconds since 1970.
    package internal(set) var createdAtUs: UInt64
}

/// Who did something: an operator's account, or somebody who can write to the data directory.
package enum Actor: Equatable, Sendable {
    /// A person at the machine's command line, or a program of the deployment.
    case machine
    case account(UInt64)

    var number: Int64 {
        switch self {
        case .machine: 0
        case .account(let id): signed(id)
        }
    }

    init(number: Int64) {
        self = number == 0 ? .machine : .account(unsigned(number))
    }
}

/// What an operator can do that is written down. Numbers are those in the database.
package enum AuditAction: Int64, CaseIterable, Sendable {
    case makeAccount = 1
    case changeAccount = 2
    case issueKey = 3
    case revokeKey = 4
    case topUp = 5
    case refund = 6
    case chargeback = 7
    case adjustment = 8
    case requestPayout = 9
    case payoutPaid = 10
    case payoutFailed = 11
    case setPrice = 12
    case removePrice = 13
    case setFee = 14
    case setSetting = 15
    case changePerson = 16
    case erasePerson = 17
    case readPerson = 18
    case rotateAddresses = 19
    case rewrapKeys = 20
}

/// One line of the audit: who did what to which account, key, payout or event.
package struct AuditEntry: Equatable, Sendable {
    package var id: UInt64
    /// Wall clock, microseconds since 1970.
    package var atUs: UInt64
    package var actor: Actor
    package var action: AuditAction
    /// Number of the account, key or payout; 0 = none.
    package var subject: UInt64
    /// µUSD or basis points; 0 = none.
    package var amount: Int64
}
