import SluiceInMemory
import SluiceLedgerCore
import SluiceRecordFormat
import SluiceWire

/// Sidecar, store and directory as one value: what the journals say becomes postings and leases,
/// in transactions, and what changed becomes entries of the directory.
///
/// Copied before a transaction and put back when its sidecar dies in it.
struct WalletModel {
    /// A rule that is broken on purpose, to show that the checks find it.
    enum Sabotage: String, CaseIterable, Sendable {
        /// An ENDED record is settled twice.
        case settleTwice
        /// The directory says twice what the wallet granted.
        case grantTwice
        /// The lease of a living instance is closed as if that were gone.
        case closeLiving
        /// A LEASE record's return is taken, and the broker is granted it again.
        case grantReturned
    }

    let sabotage: Sabotage?
    private(set) var ledger = LedgerBalances()
    private(set) var wallets: [UInt64: Wallet] = [:]
    /// Records that are applied, by instance.
    private(set) var cursors: [UInt64: Int] = [:]
    private var accountOf: [TaskID: UInt64] = [:]
    private(set) var settled: Set<TaskID> = []
    private(set) var failures: [String] = []
    /// By instance: tasks accepted and not ended.
    private var open: [UInt64: Int] = [:]
    private var last: [DirectoryEntry.Key: DirectoryLease] = [:]
    /// Every change of a lease, oldest first.
    private(set) var changes: [DirectoryLease] = []
    /// As many of them as the directory has.
    private(set) var published = 0
    private(set) var paidIn: MicroUSD = 0
    private(set) var charged: MicroUSD = 0
    private(set) var lost: MicroUSD = 0
    private var livingClosed = false

    init(accounts: [UInt64], sabotage: Sabotage?) {
        self.sabotage = sabotage
        for account in accounts { wallets[account] = Wallet(balance: 0) }
    }

    mutating func topUp(_ amount: MicroUSD, of account: UInt64, nowMs: UInt64) {
        do throws(LedgerError) {
            try ledger.post(Settlement.topUp(amount, consumer: account))
            try wallets[account]?.post(amount, nowMs: nowMs)
            paidIn = paidIn.adding(amount) ?? paidIn
        } catch {
            failures.append("a top-up failed: \(error)")
        }
        noteChanges()
    }

    /// Applies what is published of a journal.
    mutating func apply(_ instance: InMemoryInstance, nowMs: UInt64) {
        let from = cursors[instance.id, default: 0]
        for record in instance.records[from..<max(from, instance.tail)] {
            apply(record, of: instance.id, nowMs: nowMs)
        }
        cursors[instance.id] = instance.tail
        noteChanges()
    }

    private mutating func apply(_ record: JournalRecord, of instance: UInt64, nowMs: UInt64) {
        switch record.kind {
        case .accepted:
            guard let accepted = AcceptedRecord(record) else { return }
            accountOf[accepted.task] = accepted.account
            open[instance, default: 0] += 1
        case .ended:
            guard let ended = EndedRecord(record) else { return }
            settle(ended)
            if sabotage == .settleTwice { settle(ended) }
        case .lease:
            guard let lease = LeaseRecord(record) else { return }
            wallets[lease.account]?.apply(lease, instance: instance, nowMs: nowMs)
        default:
            break
        }
    }

    private mutating func settle(_ ended: EndedRecord) {
        guard let account = accountOf[ended.task] else {
            return failures.append("ENDED of \(ended.task) before its ACCEPTED")
        }
        guard settled.insert(ended.task).inserted else {
            return failures.append("\(ended.task) was settled twice")
        }
        open[ended.task.instance, default: 0] -= 1
        guard
            let cover = wallets[account]?.spend(
                ended.charge.consumerCost, instance: ended.task.instance)
        else { return }
        charged = charged.adding(ended.charge.consumerCost) ?? charged
        lost = lost.adding(cover.byPlatform) ?? lost
        do throws(LedgerError) {
            try ledger.post(
                Settlement.task(
                    ended.charge, cover: cover, consumer: account, supplier: ended.supplier))
        } catch {
            failures.append("\(ended.task) cannot be posted: \(error)")
        }
    }

    /// An instance is gone, closed by another, and applied to its end: its leases are over.
    mutating func closeLeases(of instance: InMemoryInstance, nowMs: UInt64) {
        guard cursors[instance.id, default: 0] == instance.tail,
            open[instance.id, default: 0] == 0
        else { return }
        close(instance.id, nowMs: nowMs)
    }

    private mutating func close(_ instance: UInt64, nowMs: UInt64) {
        for account in wallets.keys.sorted() {
            _ = wallets[account]?.close(instance: instance, nowMs: nowMs)
        }
        noteChanges()
    }

    mutating func closeLiving(_ instance: UInt64, nowMs: UInt64) {
        guard sabotage == .closeLiving, !livingClosed,
            wallets.values.contains(where: {
                $0.leases.contains { $0.instance == instance && $0.rest > 0 }
            })
        else { return }
        livingClosed = true
        close(instance, nowMs: nowMs)
    }

    private mutating func noteChanges() {
        var seen: Set<DirectoryEntry.Key> = []
        for account in wallets.keys.sorted() {
            guard let wallet = wallets[account] else { continue }
            for lease in wallet.leases {
                var entry = DirectoryLease(
                    account: account, instance: lease.instance, granted: lease.granted,
                    recalled: lease.recalled, expiresAtMs: lease.expiresAtMs, isDry: lease.isDry,
                    share: Wallet.share(amongInstances: wallet.leases.count))
                if sabotage == .grantTwice { entry.granted.rawValue *= 2 }
                if sabotage == .grantReturned {
                    entry.granted.rawValue += lease.returned.rawValue
                }
                let key = DirectoryEntry.lease(entry).key
                seen.insert(key)
                guard last[key] != entry else { continue }
                last[key] = entry
                changes.append(entry)
            }
        }
        for (key, entry) in last.sorted(by: { $0.value.instance < $1.value.instance })
        where !seen.contains(key) && !entry.isClosed {
            var closed = entry
            closed.isClosed = true
            last[key] = closed
            changes.append(closed)
        }
    }

    /// The directory catches up with the store.
    mutating func publish() { published = changes.count }
}
