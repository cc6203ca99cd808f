import SluiceLedgerCore
import SluiceWire

/// Entries of one transaction on their way into the ledger.
struct LedgerWriter {
    private var entries = IntegerRows(.ledgerEntry)
    private var postings = IntegerRows(.posting)
    private var deltas: [LedgerAccount: Int64] = [:]
    /// As they were when the transaction began; 0 where there is none.
    private var balances: [LedgerAccount: MicroUSD] = [:]

    /// Notes the balance of an account that tasks' entries may concern.
    mutating func begin(_ account: LedgerAccount, with balance: MicroUSD) {
        balances[account] = balance
    }

    /// Posts a task's entry if every account of it takes its part; else notes that nothing is posted
    /// for the task, and gives false. What a task says must never end the transaction: it would be
    /// tried again for ever, and everybody's tasks with it.
    mutating func postTask(
        _ task: TaskID, _ parts: [Posting]?, atUs: UInt64
    ) throws(StoreError) -> Bool {
        guard let parts, parts.allSatisfy(admits) else {
            try post(.unpostedTask(task), [], atUs: atUs)
            return false
        }
        try post(.task(task), parts, atUs: atUs)
        return true
    }

    /// An entry of a task names each account once.
    private func admits(_ posting: Posting) -> Bool {
        let change = MicroUSD(deltas[posting.account] ?? 0)
        guard let balance = (balances[posting.account] ?? .zero).adding(change),
            change.adding(posting.amount) != nil
        else { return false }
        return Settlement.admits(posting, at: balance)
    }

    /// Notes an entry, whose postings sum to 0: anything else is our own fault.
    mutating func post(
        _ reference: EntryReference, _ parts: [Posting], atUs: UInt64
    ) throws(StoreError) {
        let key = reference.key
        entries.append([key.kind, key.high, key.low, signed(atUs)] as [4 of Int64])
        var sum: Int64 = 0
        for posting in parts {
            let (account, amount) = (posting.account, posting.amount.rawValue)
            sum = try checkedSum(sum, amount)
            postings.append(
                [key.kind, key.high, key.low, account.kind, signed(account.owner), amount]
                    as [6 of Int64])
            deltas[account] = try checkedSum(deltas[account] ?? 0, amount)
        }
        precondition(sum == 0, "the postings of an entry sum to zero")
    }

    /// Writes entries, postings and balances.
    func save(_ transaction: any StoreTransaction) throws(StoreError) {
        try transaction.insert(entries)
        try transaction.insert(postings)
        var balances = IntegerRows(.balance)
        for (account, amount) in deltas {
            balances.append([account.kind, signed(account.owner), amount] as [3 of Int64])
        }
        try transaction.addToBalances(balances)
    }
}

/// The sum, or `overflow`.
func checkedSum(_ left: Int64, _ right: Int64) throws(StoreError) -> Int64 {
    let (sum, overflow) = left.addingReportingOverflow(right)
    guard !overflow else { throw .overflow }
    return sum
}

extension StoreError {
    /// Why a rule of the ledger refuses what was asked.
    init(_ error: LedgerError) {
        self =
            switch error {
            case .notPositive: .invalidValue
            case .notAvailable: .insufficientFunds
            case .overflow: .overflow
            case .unbalanced: .damaged
            }
    }
}

/// The value of `body`, its refusal as the store says it.
func ruled<Value>(_ body: () throws(LedgerError) -> Value) throws(StoreError) -> Value {
    do {
        return try body()
    } catch {
        throw StoreError(error)
    }
}
