import SluiceRecordFormat
import SluiceWire

/// Wallets, leases and ledger entries of one transaction: loaded, changed, written back.
struct AccountBooks {
    private let node: UInt64
    private var wallets: [UInt64: AccountLeases] = [:]
    /// As they were loaded: what differs is written.
    private var stored: [UInt64: AccountLeases] = [:]
    private var supplierAccounts: [UInt64: UInt64] = [:]
    private var ledger = LedgerWriter()

    private static let leaseColumns = [
        "account", "instance", "node", "granted", "spent", "returned", "recalled", "wanted",
        "expires_at_ms", "is_dry", "is_closed",
    ]

    init(node: UInt64) {
        self.node = node
    }

    /// Loads the wallets of the prepaid ones among `accounts`, and whom each supplier's identity
    /// belongs to. Of the closed leases only those of `asking` are loaded, (account, instance) in
    /// pairs: they must not be opened again.
    mutating func load(
        _ accounts: Set<UInt64>, suppliers: Set<UInt64> = [], asking: [Int64] = [],
        _ transaction: any StoreTransaction
    ) throws(StoreError) {
        let prepaid = try transaction.fetch(
            ["id"], from: "account", where: "id", in: accounts.map { signed($0) },
            and: "is_prepaid <> 0")
        let balances = try transaction.fetch(
            ["owner", "amount"], from: "balance", where: "owner", in: prepaid, and: "kind = 1")
        var amounts: [Int64: Int64] = [:]
        for start in stride(from: 0, to: balances.count, by: 2) {
            amounts[balances[start]] = balances[start + 1]
        }
        let rows =
            try transaction.fetch(
                Self.leaseColumns, from: "lease", where: "account", in: prepaid,
                and: "is_closed = 0")
            + (try transaction.fetch(
                Self.leaseColumns, from: "lease", where: ("account", "instance"), in: asking))
        var leases: [UInt64: [Lease]] = [:]
        for start in stride(from: 0, to: rows.count, by: Self.leaseColumns.count) {
            let lease = Lease(rows[start..<start + Self.leaseColumns.count])
            let known = leases[lease.account] ?? []
            guard !known.contains(where: { $0.instance == lease.instance }) else { continue }
            leases[lease.account] = known + [lease]
        }
        for id in prepaid {
            let account = unsigned(id)
            let wallet = AccountLeases(
                account: account, balance: amounts[id] ?? 0,
                leases: (leases[account] ?? []).sorted { $0.instance < $1.instance })
            wallets[account] = wallet
            stored[account] = wallet
        }
        let keys = try transaction.fetch(
            ["supplier", "account"], from: "access_key", where: "supplier",
            in: suppliers.filter { $0 != 0 }.map { signed($0) }, and: nil)
        for start in stride(from: 0, to: keys.count, by: 2) {
            supplierAccounts[unsigned(keys[start])] = unsigned(keys[start + 1])
        }
    }

    /// The wallet of an account that was loaded; nil if it is not prepaid.
    func wallet(_ account: UInt64) -> AccountLeases? { wallets[account] }

    /// Changes the wallet of an account that was loaded; nothing if it is not prepaid.
    mutating func changeWallet(
        _ account: UInt64, _ change: (inout AccountLeases) throws(StoreError) -> Void
    ) throws(StoreError) {
        guard var wallet = wallets[account] else { return }
        try change(&wallet)
        wallets[account] = wallet
    }

    /// Posts a task's charge. What a prepaid consumer's lease and wallet do not cover, and the
    /// whole cost of a repeated task, is the platform's loss.
    mutating func settle(
        _ record: EndedRecord, account: UInt64, isRepeat: Bool, atUs: UInt64
    ) throws(StoreError) {
        let cost = record.charge.consumerCost.rawValue
        let earning = record.charge.supplierEarning.rawValue
        let fee = record.charge.platformFee.rawValue
        // A broker cannot write such a record; a damaged one must not make money.
        guard cost >= 0, earning >= 0, fee >= 0, record.charge.isBalanced else { return }
        var paid = isRepeat ? 0 : cost
        if wallets[account] != nil, !isRepeat {
            paid = wallets[account]?.capture(cost, instance: record.task.instance) ?? 0
        }
        let supplier = supplierAccounts[record.supplier] ?? 0
        try ledger.post(
            .task(record.task),
            [
                (.consumer(account), -paid), (.platformLoss, paid - cost),
                (.supplier(supplier), earning), (.platformFee, fee),
            ], atUs: atUs)
    }

    /// Does what a LEASE record asks; nothing if the account is not prepaid.
    mutating func apply(_ record: LeaseRecord, instance: UInt64, nowMs: UInt64) {
        wallets[record.account]?.apply(record, instance: instance, node: node, nowMs: nowMs)
    }

    /// Posts an entry.
    mutating func post(
        _ reference: EntryReference, _ parts: [(LedgerAccount, Int64)], atUs: UInt64
    ) throws(StoreError) {
        try ledger.post(reference, parts, atUs: atUs)
    }

    /// Writes what changed; true if the brokers have something to learn.
    func save(_ transaction: any StoreTransaction) throws(StoreError) -> Bool {
        try ledger.save(transaction)
        var hasChanges = false
        for (account, wallet) in wallets {
            guard let before = stored[account], before != wallet else { continue }
            var known: [UInt64: Lease] = [:]
            for lease in before.leases { known[lease.instance] = lease }
            let share = Self.share(of: wallet)
            let isShareNew = share != Self.share(of: before)
            for lease in wallet.leases {
                let old = known[lease.instance]
                if old != lease { try Self.write(lease, transaction) }
                guard isShareNew && !lease.isClosed || old?.isToldAs(lease) != true else {
                    continue
                }
                try transaction.addChange(.lease(lease.entry(share: share)), node: lease.node)
                hasChanges = true
            }
        }
        return hasChanges
    }

    /// The part of the account's rate limits that each of its open leases may use.
    static func share(of wallet: AccountLeases) -> UInt32 {
        share(ofOpenLeases: wallet.leases.count { !$0.isClosed })
    }

    static func share(ofOpenLeases count: Int) -> UInt32 {
        max(1, DirectoryLease.shareMax / UInt32(clamping: max(1, count)))
    }

    private static func write(
        _ lease: Lease, _ transaction: any StoreTransaction
    ) throws(StoreError) {
        let columns = leaseColumns
        let changed = columns.dropFirst(2).map { "\($0) = excluded.\($0)" }
        try transaction.execute(
            """
            INSERT INTO lease (\(columns.joined(separator: ", ")))
            VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)
            ON CONFLICT (account, instance) DO UPDATE SET \(changed.joined(separator: ", "))
            """,
            [
                .integer(signed(lease.account)), .integer(signed(lease.instance)),
                .integer(signed(lease.node)), .integer(lease.granted), .integer(lease.spent),
                .integer(lease.returned), .integer(lease.recalled), .integer(lease.wanted),
                .integer(signed(lease.expiresAtMs)), .integer(lease.isDry ? 1 : 0),
                .integer(lease.isClosed ? 1 : 0),
            ])
    }
}

extension Lease {
    /// From the columns of a row, in their order.
    fileprivate init(_ row: ArraySlice<Int64>) {
        let at = row.startIndex
        self.init(
            account: unsigned(row[at]), instance: unsigned(row[at + 1]),
            node: unsigned(row[at + 2]), granted: row[at + 3], spent: row[at + 4],
            returned: row[at + 5], recalled: row[at + 6], wanted: row[at + 7],
            expiresAtMs: unsigned(row[at + 8]), isDry: row[at + 9] != 0,
            isClosed: row[at + 10] != 0)
    }

    /// Whether the brokers are told the same of both.
    fileprivate func isToldAs(_ other: Lease) -> Bool {
        granted == other.granted && recalled == other.recalled
            && expiresAtMs == other.expiresAtMs && isDry == other.isDry
            && isClosed == other.isClosed
    }

    /// What the broker is told of it.
    func entry(share: UInt32) -> DirectoryLease {
        DirectoryLease(
            account: account, instance: instance, granted: MicroUSD(granted),
            recalled: MicroUSD(recalled), expiresAtMs: expiresAtMs, isDry: isDry,
            isClosed: isClosed, share: share)
    }
}

extension StoreTransaction {
    /// The open leases of a node's instances, as their brokers are told.
    func openLeases(node: UInt64) throws(StoreError) -> [DirectoryLease] {
        let rows = try query(
            """
            SELECT l.account, l.instance, l.granted, l.recalled, l.expires_at_ms, l.is_dry,
                (SELECT count(*) FROM lease o WHERE o.account = l.account AND o.is_closed = 0)
            FROM lease l WHERE l.node = $1 AND l.is_closed = 0
            """, [.integer(signed(node))])
        var leases: [DirectoryLease] = []
        for row in rows {
            leases.append(
                DirectoryLease(
                    account: try row.unsigned(0), instance: try row.unsigned(1),
                    granted: MicroUSD(try row.integer(2)),
                    recalled: MicroUSD(try row.integer(3)), expiresAtMs: try row.unsigned(4),
                    isDry: try row.integer(5) != 0,
                    share: AccountBooks.share(ofOpenLeases: Int(try row.integer(6)))))
        }
        return leases
    }
}
