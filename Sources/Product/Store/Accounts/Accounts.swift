import SluiceRecordFormat

extension Store {
    /// Makes an account; its directory entry follows with the next `DirectorySync`.
    /// `accountExists` if the label is taken, `invalidValue` if it is not 1…128 printable ASCII.
    package func makeAccount(
        label: String, kinds: AccountKinds, isPrepaid: Bool = false,
        limits: AccountLimits = AccountLimits(), nowUs: UInt64, by actor: Actor = .machine
    ) throws(StoreError) -> Account {
        try write { (transaction) throws(StoreError) in
            guard try transaction.account(label: label) == nil else { throw .accountExists }
            return try transaction.insertAccount(
                label: label, kinds: kinds, isPrepaid: isPrepaid, limits: limits, nowUs: nowUs,
                by: actor)
        }
    }

    /// The account of this label; nil if there is none.
    package func account(label: String) throws(StoreError) -> Account? {
        try read { (transaction) throws(StoreError) in try transaction.account(label: label) }
    }

    /// The account of this number; nil if there is none.
    package func account(_ id: UInt64) throws(StoreError) -> Account? {
        try read { (transaction) throws(StoreError) in try transaction.account(id) }
    }

    /// All accounts, oldest first.
    package func accounts() throws(StoreError) -> [Account] {
        try read { (transaction) throws(StoreError) in try transaction.allAccounts() }
    }

    /// Changes kinds, prepayment, limits or suspension of an account; label and number stay.
    @discardableResult
    package func changeAccount(
        _ id: UInt64, nowUs: UInt64, by actor: Actor = .machine,
        _ change: (inout Account) -> Void
    ) throws(StoreError) -> Account {
        try write { (transaction) throws(StoreError) in
            guard var account = try transaction.account(id) else { throw .unknownAccount }
            change(&account)
            try transaction.execute(
                """
                UPDATE account SET kinds = $1, is_prepaid = $2, is_suspended = $3,
                    concurrent_tasks = $4, requests_per_minute = $5, tokens_per_minute = $6
                WHERE id = $7
                """,
                [
                    .integer(Int64(account.kinds.rawValue)), .integer(account.isPrepaid ? 1 : 0),
                    .integer(account.isSuspended ? 1 : 0),
                    .integer(Int64(account.limits.concurrentTasks)),
                    .integer(Int64(account.limits.requestsPerMinute)),
                    .integer(signed(account.limits.tokensPerMinute)), .integer(signed(id)),
                ])
            try transaction.addChange(account.entry)
            try transaction.audit(actor, .changeAccount, subject: id, nowUs: nowUs)
            return account
        }
    }

    /// The newest lines of the audit, oldest of them first.
    package func audit(last count: Int) throws(StoreError) -> [AuditEntry] {
        try read { (transaction) throws(StoreError) in
            try transaction.query(
                """
                SELECT id, at_us, actor, action, subject, amount FROM audit
                ORDER BY id DESC LIMIT $1
                """, [.integer(Int64(max(0, count)))]
            ).reversed().map { (row) throws(StoreError) in
                guard let action = AuditAction(rawValue: try row.integer(3)) else {
                    throw .damaged
                }
                return AuditEntry(
                    id: try row.unsigned(0), atUs: try row.unsigned(1),
                    actor: Actor(number: try row.integer(2)), action: action,
                    subject: try row.unsigned(4), amount: try row.integer(5))
            }
        }
    }
}

extension Account {
    private static let labelBytesMax = 128

    static let columns = """
        id, label, kinds, is_prepaid, is_suspended, concurrent_tasks, requests_per_minute, \
        tokens_per_minute, created_at_us
        """

    /// Whether a label or reference is 1…128 printable ASCII characters.
    static func isValidLabel(_ label: String) -> Bool {
        (1...labelBytesMax).contains(label.utf8.count)
            && label.utf8.allSatisfy { (0x20...0x7E).contains($0) }
    }

    init(_ row: SQLRow) throws(StoreError) {
        guard let kinds = UInt8(exactly: try row.integer(2)) else { throw .damaged }
        self.init(
            id: try row.unsigned(0), label: try row.text(1), kinds: AccountKinds(rawValue: kinds),
            isPrepaid: try row.integer(3) != 0, isSuspended: try row.integer(4) != 0,
            limits: AccountLimits(
                concurrentTasks: try row.unsigned32(5), requestsPerMinute: try row.unsigned32(6),
                tokensPerMinute: try row.unsigned(7)), createdAtUs: try row.unsigned(8))
    }

    /// What the brokers are told of it.
    var entry: DirectoryEntry {
        .account(
            DirectoryAccount(
                account: id, isSuspended: isSuspended, isPrepaid: isPrepaid,
                concurrentTasksMax: limits.concurrentTasks,
                requestsPerMinuteMax: limits.requestsPerMinute,
                tokensPerMinuteMax: limits.tokensPerMinute))
    }
}

extension StoreTransaction {
    func account(label: String) throws(StoreError) -> Account? {
        let rows = try query(
            "SELECT \(Account.columns) FROM account WHERE label = $1", [.text(label)])
        guard let row = rows.first else { return nil }
        return try Account(row)
    }

    func account(_ id: UInt64) throws(StoreError) -> Account? {
        let rows = try query(
            "SELECT \(Account.columns) FROM account WHERE id = $1", [.integer(signed(id))])
        guard let row = rows.first else { return nil }
        return try Account(row)
    }

    func allAccounts() throws(StoreError) -> [Account] {
        var accounts: [Account] = []
        for row in try query("SELECT \(Account.columns) FROM account ORDER BY id") {
            accounts.append(try Account(row))
        }
        return accounts
    }

    func insertAccount(
        label: String, kinds: AccountKinds, isPrepaid: Bool, limits: AccountLimits,
        nowUs: UInt64, by actor: Actor
    ) throws(StoreError) -> Account {
        guard Account.isValidLabel(label) else { throw .invalidValue }
        let rows = try query(
            """
            INSERT INTO account (label, kinds, is_prepaid, is_suspended, concurrent_tasks,
                requests_per_minute, tokens_per_minute, created_at_us)
            VALUES ($1, $2, $3, 0, $4, $5, $6, $7) RETURNING id
            """,
            [
                .text(label), .integer(Int64(kinds.rawValue)), .integer(isPrepaid ? 1 : 0),
                .integer(Int64(limits.concurrentTasks)),
                .integer(Int64(limits.requestsPerMinute)),
                .integer(signed(limits.tokensPerMinute)), .integer(signed(nowUs)),
            ])
        guard let row = rows.first else { throw .damaged }
        let account = Account(
            id: try row.unsigned(0), label: label, kinds: kinds, isPrepaid: isPrepaid,
            isSuspended: false, limits: limits, createdAtUs: nowUs)
        try addChange(account.entry)
        try audit(actor, .makeAccount, subject: account.id, nowUs: nowUs)
        return account
    }

    func audit(
        _ actor: Actor, _ action: AuditAction, subject: UInt64 = 0, amount: Int64 = 0,
        nowUs: UInt64
    ) throws(StoreError) {
        try execute(
            """
            INSERT INTO audit (at_us, actor, action, subject, amount)
            VALUES ($1, $2, $3, $4, $5)
            """,
            [
                .integer(signed(nowUs)), .integer(actor.number), .integer(action.rawValue),
                .integer(signed(subject)), .integer(amount),
            ])
    }
}
