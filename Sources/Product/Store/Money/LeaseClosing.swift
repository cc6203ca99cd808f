import SluiceLedgerCore

extension Store {
    /// Closes leases that nobody can use any more, so that their rest is available again:
    ///
    /// - of `node`'s instances that are not `present` any more and whose tasks have all ended; the
    ///   caller makes sure that everything these had written was applied;
    /// - of any node, those that expired longer ago than a task can last.
    ///
    /// Gives how many were closed.
    package func closeLeases(
        node: UInt64, present: Set<UInt64>, nowUs: UInt64
    ) throws(StoreError) -> Int {
        let nowMs = nowUs / 1_000
        // A look first: as a rule there is nothing to do, and a look takes no lock.
        let mayClose = try read { (transaction) throws(StoreError) in
            try transaction.endedLeases(node: node, present: present, nowMs: nowMs)
        }
        guard !mayClose.isEmpty else { return 0 }
        return try write { (transaction) throws(StoreError) in
            let ended = try transaction.endedLeases(node: node, present: present, nowMs: nowMs)
            var byAccount: [UInt64: Set<UInt64>] = [:]
            for (account, instance) in ended {
                byAccount[account, default: []].insert(instance)
            }
            var books = AccountBooks(node: node)
            try books.load(Set(byAccount.keys), transaction)
            for (account, instances) in byAccount {
                books.close(account, instances, nowMs: nowMs)
            }
            _ = try books.save(transaction)
            return ended.count
        }
    }
}

extension StoreTransaction {
    /// Leases to close, as (account, instance).
    fileprivate func endedLeases(
        node: UInt64, present: Set<UInt64>, nowMs: UInt64
    ) throws(StoreError) -> [(UInt64, UInt64)] {
        let rows = try query(
            """
            SELECT l.account, l.instance, l.node, l.expires_at_ms,
                (SELECT count(*) FROM open_task o WHERE o.instance = l.instance)
            FROM lease l WHERE l.is_closed = 0
            """)
        var ended: [(UInt64, UInt64)] = []
        for row in rows {
            let instance = try row.unsigned(1)
            let (owner, expiresAtMs) = (try row.unsigned(2), try row.unsigned(3))
            let openTasks = try row.integer(4)
            let hasVanished = owner == node && !present.contains(instance) && openTasks == 0
            let isOver =
                expiresAtMs <= nowMs && nowMs - expiresAtMs >= SluiceLedgerCore.Wallet.graceMs
            if hasVanished || isOver { ended.append((try row.unsigned(0), instance)) }
        }
        return ended
    }
}
