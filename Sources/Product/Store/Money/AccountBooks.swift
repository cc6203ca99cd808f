import SluiceLedgerCore
import SluiceRecordFormat
import SluiceWire

/// Wallets, leases and ledger entries of one transaction: loaded, changed by the rules of
/// SluiceLedgerCore, written back.
struct AccountBooks {
    private typealias Rules = SluiceLedgerCore.Wallet

    private let node: UInt64
    private var wallets: [UInt64: Rules] = [:]
    /// As they were loaded: what differs is written.
    private var stored: [UInt64: Rules] = [:]
    /// Whose sidecar a lease's instance belongs to.
    private var nodes: [LeaseKey: UInt64] = [:]
    private var supplierAccounts: [UInt64: UInt64] = [:]
    private var ledger = LedgerWriter()

    private struct LeaseKey: Hashable {
        var account: UInt64
        var instance: UInt64
    }

    private static let leaseColumns = [
        "account", "instance", "node", "granted", "spent", "returned", "recalled", "wanted",
        "expires_at_ms", "is_dry", "is_closed",
    ]

    init(node: UInt64) {
        self.node = node
    }

    /// Loads the wallets of the prepaid ones among `accounts` with their open leases, whom each
    /// supplier's identity belongs to, and the balances that tasks of these change.
    mutating func load(
        _ accounts: Set<UInt64>, suppliers: Set<UInt64> = [], _ transaction: any StoreTransaction
    ) throws(StoreError) {
        let prepaid = try transaction.fetch(
            ["id"], from: "account", where: "id", in: accounts.map { signed($0) },
            and: "is_prepaid <> 0")
        try loadSuppliers(suppliers, transaction)
        let amounts = try loadBalances(accounts, transaction)
        let rows = try transaction.fetch(
            Self.leaseColumns, from: "lease", where: "account", in: prepaid, and: "is_closed = 0")
        var leases: [UInt64: [WalletLease]] = [:]
        for start in stride(from: 0, to: rows.count, by: Self.leaseColumns.count) {
            let row = rows[start..<start + Self.leaseColumns.count]
            let key = LeaseKey(account: unsigned(row[start]), instance: unsigned(row[start + 1]))
            nodes[key] = unsigned(row[start + 2])
            leases[key.account, default: []].append(WalletLease(row))
        }
        for id in prepaid {
            let account = unsigned(id)
            let balance = amounts[account] ?? 0
            let own = (leases[account] ?? []).sorted { $0.instance < $1.instance }
            let leased = own.reduce(0) { $0 + $1.rest.rawValue }
            // A database that says so was changed by somebody else: the rules must not see it.
            guard own.allSatisfy({ $0.rest >= 0 }), own.isEmpty || leased <= balance else {
                throw .damaged
            }
            let wallet = Rules(balance: MicroUSD(balance), leases: own)
            wallets[account] = wallet
            stored[account] = wallet
        }
    }

    private mutating func loadSuppliers(
        _ suppliers: Set<UInt64>, _ transaction: any StoreTransaction
    ) throws(StoreError) {
        // A supplier's identity is the number of its key, by which the table is sorted.
        let keys = try transaction.fetch(
            ["supplier", "account"], from: "access_key", where: "id",
            in: suppliers.filter { $0 != 0 }.map { signed($0) }, and: "supplier = id")
        for start in stride(from: 0, to: keys.count, by: 2) {
            supplierAccounts[unsigned(keys[start])] = unsigned(keys[start + 1])
        }
    }

    /// The balances of these consumers, and for the ledger those of the suppliers that were loaded
    /// and of the platform.
    private mutating func loadBalances(
        _ accounts: Set<UInt64>, _ transaction: any StoreTransaction
    ) throws(StoreError) -> [UInt64: Int64] {
        let owners = accounts.union(supplierAccounts.values).union([0])
        // Kinds of the accounts that tasks' entries have (`LedgerAccount.kind`).
        let balances = try transaction.fetch(
            ["kind", "owner", "amount"], from: "balance", where: "owner",
            in: owners.map { signed($0) }, and: "kind IN (1, 2, 3, 4)")
        var consumers: [UInt64: Int64] = [:]
        for start in stride(from: 0, to: balances.count, by: 3) {
            let (owner, amount) = (unsigned(balances[start + 1]), balances[start + 2])
            guard let account = LedgerAccount(kind: balances[start], owner: owner) else {
                throw .damaged
            }
            ledger.begin(account, with: MicroUSD(amount))
            if case .consumer = account { consumers[owner] = amount }
        }
        return consumers
    }

    /// What can be taken out of an account that was loaded; nil if it is not prepaid.
    func available(_ account: UInt64) -> MicroUSD? { wallets[account]?.available }

    /// Money came into a wallet or went out of it by other than a task.
    mutating func change(
        _ account: UInt64, by amount: MicroUSD, nowMs: UInt64
    ) throws(StoreError) {
        try ruled { () throws(LedgerError) in
            try wallets[account]?.post(amount, nowMs: nowMs)
        }
    }

    /// Closes the leases of these instances: they are gone, and their tasks have ended.
    mutating func close(_ account: UInt64, _ instances: Set<UInt64>, nowMs: UInt64) {
        for instance in instances {
            _ = wallets[account]?.close(instance: instance, nowMs: nowMs)
        }
    }

    /// Posts a task's charge, of which the consumer owes `owed`, 0…cost: less than all where its
    /// idempotency key is that of a task already charged. The rest, and what a prepaid consumer's
    /// lease and wallet do not cover, is the platform's loss.
    ///
    /// Gives false where nothing is posted and nobody pays: an account does not take its part
    /// (`Settlement.admits`), or the record's amounts contradict each other, which a broker never
    /// writes and a damaged record must not make money of.
    mutating func settle(
        _ record: EndedRecord, account: UInt64, owed: MicroUSD, atUs: UInt64
    ) throws(StoreError) -> Bool {
        guard record.charge.isPostable else {
            return try ledger.postTask(record.task, nil, atUs: atUs)
        }
        let cost = record.charge.consumerCost
        var wallet = wallets[account]
        var cover =
            wallet?.spend(owed, instance: record.task.instance)
            ?? TaskCover(byConsumer: owed, byPlatform: 0)
        cover.byPlatform = MicroUSD(cost.rawValue - cover.byConsumer.rawValue)
        let supplier = supplierAccounts[record.supplier] ?? 0
        let postings = try? Settlement.task(
            record.charge, cover: cover, consumer: account, supplier: supplier)
        guard try ledger.postTask(record.task, postings, atUs: atUs) else { return false }
        wallets[account] = wallet
        return true
    }

    /// Does what a LEASE record asks; nothing if the account is not prepaid.
    mutating func apply(_ record: LeaseRecord, instance: UInt64, nowMs: UInt64) {
        let key = LeaseKey(account: record.account, instance: instance)
        guard wallets[record.account] != nil else { return }
        if nodes[key] == nil { nodes[key] = node }
        wallets[record.account]?.apply(record, instance: instance, nowMs: nowMs)
    }

    /// Posts an entry.
    mutating func post(
        _ reference: EntryReference, _ parts: [Posting], atUs: UInt64
    ) throws(StoreError) {
        try ledger.post(reference, parts, atUs: atUs)
    }

    /// Writes what changed; true if the brokers have something to learn.
    func save(_ transaction: any StoreTransaction) throws(StoreError) -> Bool {
        try ledger.save(transaction)
        var hasChanges = false
        for (account, wallet) in wallets {
            guard let before = stored[account], before != wallet else { continue }
            var known: [UInt64: WalletLease] = [:]
            for lease in before.leases { known[lease.instance] = lease }
            let share = Rules.share(amongInstances: wallet.leases.count)
            let isShareNew = wallet.leases.count != before.leases.count
            for lease in wallet.leases {
                let old = known.removeValue(forKey: lease.instance)
                if old != lease { try write(lease, of: account, isClosed: false, transaction) }
                guard isShareNew || old?.isToldAs(lease) != true else { continue }
                try tell(lease.entry(of: account, share: share), transaction)
                hasChanges = true
            }
            // What is not there any more was closed.
            for lease in known.values {
                try write(lease, of: account, isClosed: true, transaction)
                try tell(lease.entry(of: account, share: share, isClosed: true), transaction)
                hasChanges = true
            }
        }
        return hasChanges
    }

    private func tell(
        _ entry: DirectoryLease, _ transaction: any StoreTransaction
    ) throws(StoreError) {
        let key = LeaseKey(account: entry.account, instance: entry.instance)
        try transaction.addChange(.lease(entry), node: nodes[key] ?? node)
    }

    private func write(
        _ lease: WalletLease, of account: UInt64, isClosed: Bool,
        _ transaction: any StoreTransaction
    ) throws(StoreError) {
        let columns = Self.leaseColumns
        let node = nodes[LeaseKey(account: account, instance: lease.instance)] ?? self.node
        let changed = columns.dropFirst(2).map { "\($0) = excluded.\($0)" }
        try transaction.execute(
            """
            INSERT INTO lease (\(columns.joined(separator: ", ")))
            VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)
            ON CONFLICT (account, instance) DO UPDATE SET \(changed.joined(separator: ", "))
            """,
            [
                .integer(signed(account)), .integer(signed(lease.instance)),
                .integer(signed(node)), .integer(lease.granted.rawValue),
                .integer(lease.spent.rawValue), .integer(lease.returned.rawValue),
                .integer(lease.recalled.rawValue), .integer(lease.wanted.rawValue),
                .integer(signed(lease.expiresAtMs)), .integer(lease.isDry ? 1 : 0),
                .integer(isClosed ? 1 : 0),
            ])
    }
}

extension TaskCharge {
    /// No part is below 0, and they add up.
    var isPostable: Bool {
        consumerCost >= 0 && supplierEarning >= 0 && platformFee >= 0 && isBalanced
    }
}

extension WalletLease {
    /// From the columns of a row, in their order.
    fileprivate init(_ row: ArraySlice<Int64>) {
        let at = row.startIndex
        self.init(instance: unsigned(row[at + 1]))
        granted = MicroUSD(row[at + 3])
        spent = MicroUSD(row[at + 4])
        returned = MicroUSD(row[at + 5])
        recalled = MicroUSD(row[at + 6])
        wanted = MicroUSD(row[at + 7])
        expiresAtMs = unsigned(row[at + 8])
        isDry = row[at + 9] != 0
    }

    /// Whether the brokers are told the same of both.
    fileprivate func isToldAs(_ other: WalletLease) -> Bool {
        granted == other.granted && recalled == other.recalled
            && expiresAtMs == other.expiresAtMs && isDry == other.isDry
    }

    /// What the broker is told of it.
    fileprivate func entry(
        of account: UInt64, share: UInt32, isClosed: Bool = false
    ) -> DirectoryLease {
        DirectoryLease(
            account: account, instance: instance, granted: granted, recalled: recalled,
            expiresAtMs: expiresAtMs, isDry: isDry && !isClosed, isClosed: isClosed, share: share)
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
                    share: SluiceLedgerCore.Wallet.share(
                        amongInstances: Int(try row.integer(6)))))
        }
        return leases
    }
}
