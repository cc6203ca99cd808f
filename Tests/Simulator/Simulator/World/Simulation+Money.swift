import SluiceBrokerCore
import SluiceInMemory
import SluiceLedgerCore
import SluiceRecordFormat
import SluiceWire

/// Rules of money that hold after every step, and those that hold at the end.
extension Simulation {
    var accountNumbers: [UInt64] { (0..<options.accounts).map { UInt64(100 + $0) } }

    /// After every transaction.
    func checkStore() {
        let model = store.wallets
        if let failure = model.failures.first { oracle.fail(failure) }
        oracle.check(model.ledger.sum == 0, "[I8] the ledger's sum is not zero")
        oracle.check(model.ledger.negativeAccounts.isEmpty, "[I8] a ledger account is below zero")
        oracle.check(model.lost == 0, "[I8] the platform lost \(model.lost)")
        guard options.prepaid else { return }
        for account in accountNumbers {
            guard let wallet = model.wallets[account] else { continue }
            oracle.check(wallet.available >= 0, "[I8] more of \(account) is leased than there is")
            oracle.check(
                wallet.balance == model.ledger.balance(of: .consumer(account)),
                "[I8] wallet and ledger of \(account) differ")
        }
    }

    /// After every turn of a broker: what it holds is what its open tasks hold, out of what it was
    /// granted.
    func checkLeases(_ node: Node) {
        guard options.prepaid, !node.broker.isDead else { return }
        for account in accountNumbers {
            guard let lease = node.broker.dispatcher.lease(ofAccount: account),
                let wallet = store.wallets.wallets[account]
            else { continue }
            let held = node.broker.dispatcher.heldForTasks(ofAccount: account)
            oracle.check(lease.held == held, "[I8] \(lease.held) held for tasks that hold \(held)")
            let row = wallet.leases.first { $0.instance == node.broker.instance.id }
            oracle.check(
                lease.granted <= row?.granted ?? 0,
                "[I8] \(account) at a broker has \(lease.granted) of \(row?.granted ?? 0) granted")
            oracle.check(
                lease.returned >= row?.returned ?? 0, "[I8] more was returned than given back")
            oracle.check(
                lease.spent.rawValue + lease.held.rawValue + lease.returned.rawValue
                    <= lease.granted.rawValue, "[I8] a lease gives more than it has")
        }
    }

    mutating func topUp(_ amount: Int64) {
        for account in accountNumbers where options.prepaid {
            store.topUp(MicroUSD(amount), of: account, nowMs: (nowUs + Self.wallOffsetUs) / 1_000)
        }
        checkStore()
    }

    /// Every journal is in the store to its end, and nobody holds money any more.
    var isSettled: Bool {
        for node in nodes {
            guard node.graveyard.isEmpty, !node.isBrokerDown else { return false }
            let instance = node.broker.instance
            guard store.wallets.cursors[instance.id, default: 0] == UInt64(instance.tail) else {
                return false
            }
        }
        guard store.wallets.openCount == 0 else { return false }
        return !options.prepaid
            || accountNumbers.allSatisfy {
                store.wallets.wallets[$0].map { $0.available == $0.balance } ?? true
            }
    }

    /// Where it stands, for a failure.
    var unsettled: String {
        let rings = nodes.map { node in
            let instance = node.broker.instance
            return "\(store.wallets.cursors[instance.id, default: 0]) of \(instance.tail)"
        }
        return "journals \(rings), dead \(nodes.map(\.graveyard.count)), "
            + "open \(store.wallets.openCount), early \(store.wallets.early.count)"
    }

    /// [I1], [I9]: the store has exactly one final record of every task, and it is the one that
    /// was published, except for what a power failure took from the disk.
    func checkRecords() {
        let settled = store.wallets.settled
        for (id, task) in oracle.tasks where task.acceptedRecords > 0 {
            guard let record = settled[id] else {
                oracle.check(task.isForgiven, "[I1] \(id) has no final record in the store")
                continue
            }
            if task.isForgiven { continue }
            if task.isCutOff {
                oracle.check(record.status == .lost, "[I9] \(id) ended by a record that is gone")
            } else {
                oracle.check(record == task.ended, "[I9] \(id) ended otherwise in the store")
            }
        }
        for id in settled.keys {
            oracle.check(
                oracle.tasks[id]?.acceptedRecords == 1, "[I1] the store invented \(id)")
        }
        for id in store.wallets.early.keys {
            oracle.check(
                oracle.tasks[id]?.isForgiven == true, "[I9] the ACCEPTED of \(id) never came")
        }
    }
}
