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
    private(set) var cursors: [UInt64: UInt64] = [:]
    private var accountOf: [TaskID: UInt64] = [:]
    /// The record by which each task ended.
    private(set) var settled: [TaskID: EndedRecord] = [:]
    /// An ENDED may come before its ACCEPTED, from another journal; it waits.
    var takesEarlyEnds = false
    private(set) var early: [TaskID: EndedRecord] = [:]
    private var nodeOf: [UInt64: Int] = [:]
    private var openTasks: [TaskID: AcceptedRecord] = [:]
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

    /// Applies records in one transaction; those at or below their journal's cursor are skipped.
    mutating func apply(_ records: some Sequence<JournalRecord>, node: Int, nowMs: UInt64) {
        for record in records where record.sequence > cursors[record.instance, default: 0] {
            cursors[record.instance] = record.sequence
            nodeOf[record.instance] = node
            apply(record, nowMs: nowMs)
        }
        noteChanges()
    }

    /// Only to break the rule that cursors and records are one transaction.
    mutating func setCursors(_ cursors: [UInt64: UInt64]) {
        self.cursors = cursors
    }

    private mutating func apply(_ record: JournalRecord, nowMs: UInt64) {
        switch record.kind {
        case .accepted:
            guard let accepted = AcceptedRecord(record) else { return }
            guard accountOf.updateValue(accepted.account, forKey: accepted.task) == nil else {
                return failures.append("[I9] \(accepted.task) was accepted twice in the store")
            }
            openTasks[accepted.task] = accepted
            open[record.instance, default: 0] += 1
            if let ended = early.removeValue(forKey: accepted.task) { settle(ended) }
        case .ended:
            guard let ended = EndedRecord(record) else { return }
            settle(ended)
            if sabotage == .settleTwice { settle(ended) }
        case .lease:
            guard let lease = LeaseRecord(record) else { return }
            wallets[lease.account]?.apply(lease, instance: record.instance, nowMs: nowMs)
        default:
            break
        }
    }

    private mutating func settle(_ ended: EndedRecord) {
        guard let account = accountOf[ended.task] else {
            if takesEarlyEnds {
                early[ended.task] = ended
                return
            }
            return failures.append("ENDED of \(ended.task) before its ACCEPTED")
        }
        guard settled.updateValue(ended, forKey: ended.task) == nil else {
            return failures.append("[I9] \(ended.task) was settled twice")
        }
        openTasks[ended.task] = nil
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
    mutating func closeLeases(of instance: UInt64, tail: Int, nowMs: UInt64) {
        guard cursors[instance, default: 0] == UInt64(tail), open[instance, default: 0] == 0
        else { return }
        close(instance, nowMs: nowMs)
    }

    /// Ends, at no cost, tasks of a node's instances that are gone (nil: of any node's); says how
    /// many.
    mutating func endLost(
        node: Int?, present: Set<UInt64>, acceptedBeforeUs: UInt64
    ) -> Int {
        let lost = openTasks.values.filter {
            (node == nil || nodeOf[$0.instance] == node) && !present.contains($0.instance)
                && $0.acceptedAtUs <= acceptedBeforeUs
        }.sorted { ($0.instance, $0.counter) < ($1.instance, $1.counter) }
        for record in lost {
            settle(
                EndedRecord(
                    task: record.task, status: .lost, code: .internalFault, durationUs: 0))
        }
        return lost.count
    }

    /// The leases of a node's instances that are gone and have nothing open.
    mutating func closeVanished(node: Int, present: Set<UInt64>, nowMs: UInt64) {
        for instance in nodeOf.keys.sorted()
        where nodeOf[instance] == node && !present.contains(instance)
            && open[instance, default: 0] == 0
            && wallets.values.contains(where: { $0.leases.contains { $0.instance == instance } })
        {
            close(instance, nowMs: nowMs)
        }
    }

    /// Whether the store has the task's ACCEPTED.
    func knows(_ task: TaskID) -> Bool { accountOf[task] != nil }
    var openCount: Int { openTasks.count }

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
