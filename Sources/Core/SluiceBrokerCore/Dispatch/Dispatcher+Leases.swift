import BasicContainers
import SluiceLedgerCore
import SluiceRecordFormat
import SluiceWire

// What this instance asks of wallets and gives back, told by LEASE records.
extension Dispatcher {
    /// What an account's wallet has given to this instance changed.
    mutating func leaseChanged(
        _ entry: DirectoryLease, nowUs: UInt64, out: inout DispatcherOutput
    ) {
        guard entry.instance == instance else { return }
        let account = account(entry.account)
        if accounts[Int(account)].share != entry.share {
            accounts[Int(account)].share = entry.share
            accounts[Int(account)].applyLimits(nowUs: nowUs)
            for key in accounts[Int(account)].keys {
                keys[Int(key)].applyLimits(share: entry.share, nowUs: nowUs)
            }
        }
        let lease = lease(account, nowUs: nowUs)
        leases[Int(lease)].amounts.apply(entry)
        roomGrew(lease, nowUs: nowUs, out: &out)
    }

    /// Something of the lease may be free: for those that wait, and else for the wallet if that
    /// wants it back.
    mutating func roomGrew(_ lease: UInt32, nowUs: UInt64, out: inout DispatcherOutput) {
        if !leases[Int(lease)].waiters.isEmpty { serveWaiters(lease, nowUs: nowUs, out: &out) }
        if leases[Int(lease)].amounts.returnRecalled() > .zero { writeLease(Int(lease), out: &out) }
    }

    /// Asks for what those that wait miss, or for as much as the account spends in 20 s. Not more
    /// often than the directory is looked at: what comes between asks with the next.
    mutating func ask(_ lease: Int, nowUs: UInt64, out: inout DispatcherOutput) {
        let isFirst = leases[lease].lastAskUs == 0
        guard isFirst || nowUs >= leases[lease].lastAskUs + BrokerLimits.leaseAskPauseUs else {
            return
        }
        let recent = leases[lease].recent.total(nowMs: nowUs / 1_000)
        let missing = MicroUSD(
            max(0, leases[lease].waiters.missing.rawValue - leases[lease].amounts.free.rawValue))
        let isMore = leases[lease].amounts.ask(
            missing: missing, recentCost: MicroUSD(Int64(clamping: recent)))
        // An expired lease that has enough is asked for again as it is, but not all the time: who
        // waits may do so until its deadline.
        let isLate = nowUs >= leases[lease].lastAskUs + BrokerLimits.leaseRepeatUs
        guard
            isMore
                || (isFirst || isLate) && leases[lease].amounts.isExpired(nowMs: wallUs / 1_000)
        else { return }
        leases[lease].lastAskUs = nowUs
        counters.leaseAsks += 1
        writeLease(lease, out: &out)
    }

    private mutating func writeLease(_ lease: Int, out: inout DispatcherOutput) {
        guard hasJournalRoom else {
            // What open tasks need comes first. The amounts are totals: one record says it all.
            if !leases[lease].isRecordDue { dueLeases.append(UInt32(lease)) }
            leases[lease].isRecordDue = true
            return
        }
        journalFreeRecords -= 1
        out.journal.append(.lease(leases[lease].amounts.record(atUs: wallUs)))
    }

    /// Once a second: LEASE records that found no room, renewals at half of their time, reserves of
    /// accounts in use, and what nobody needed for a minute goes back.
    mutating func keepLeases(nowUs: UInt64, out: inout DispatcherOutput) {
        let due = dueLeases
        dueLeases.removeAll(keepingCapacity: true)
        for lease in due {
            leases[Int(lease)].isRecordDue = false
            writeLease(Int(lease), out: &out)
        }
        for lease in leases.indices {
            withdrawAsk(lease, nowUs: nowUs, out: &out)
            renew(lease, nowUs: nowUs, out: &out)
            let recent = leases[lease].recent.total(nowMs: nowUs / 1_000)
            let reserve = BrokerLease.reserveTarget(
                recentCost: MicroUSD(Int64(clamping: recent)))
            keepReserve(lease, reserve, nowUs: nowUs, out: &out)
            giveBackIdle(lease, above: reserve, nowUs: nowUs, out: &out)
        }
    }

    /// Nobody waits any more for what was asked and not granted: other brokers may keep it.
    private mutating func withdrawAsk(_ lease: Int, nowUs: UInt64, out: inout DispatcherOutput) {
        let amounts = leases[lease].amounts
        guard amounts.wanted > amounts.granted, leases[lease].waiters.isEmpty,
            nowUs >= leases[lease].lastAskUs + BrokerLimits.leaseWithdrawUs
        else { return }
        leases[lease].amounts.withdrawAsk()
        writeLease(lease, out: &out)
    }

    private mutating func renew(_ lease: Int, nowUs: UInt64, out: inout DispatcherOutput) {
        guard leases[lease].amounts.needsRenewal(nowMs: wallUs / 1_000),
            nowUs >= leases[lease].lastRenewalUs + BrokerLimits.leaseRenewalPauseUs
        else { return }
        leases[lease].lastRenewalUs = nowUs
        writeLease(lease, out: &out)
    }

    /// Asks before anybody waits, so that an account in use goes on when the store is away.
    private mutating func keepReserve(
        _ lease: Int, _ reserve: MicroUSD, nowUs: UInt64, out: inout DispatcherOutput
    ) {
        guard leases[lease].amounts.keepReserve(reserve), leases[lease].waiters.isEmpty,
            nowUs >= leases[lease].lastReserveUs + BrokerLimits.leaseReservePauseUs
        else { return }
        leases[lease].lastReserveUs = nowUs
        counters.leaseAsks += 1
        writeLease(lease, out: &out)
    }

    private mutating func giveBackIdle(
        _ lease: Int, above reserve: MicroUSD, nowUs: UInt64, out: inout DispatcherOutput
    ) {
        let free = leases[lease].amounts.free
        leases[lease].idleFree = min(leases[lease].idleFree, free)
        guard nowUs >= leases[lease].idleSinceUs + BrokerLimits.leaseIdleUs else { return }
        let idle = MicroUSD(max(0, leases[lease].idleFree.rawValue - reserve.rawValue))
        if idle > .zero {
            _ = leases[lease].amounts.returnFree(idle)
            writeLease(lease, out: &out)
        }
        leases[lease].idleFree = leases[lease].amounts.free
        leases[lease].idleSinceUs = nowUs
    }
}
