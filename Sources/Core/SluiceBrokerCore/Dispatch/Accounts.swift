import BasicContainers
package import SluiceLedgerCore
package import SluiceRecordFormat
package import SluiceWire

/// A credential that a connection uses or used, with its own limits. Kept for good: there are no
/// more than the directory has.
struct Key {
    let account: UInt32
    var entry: DirectoryCredential
    var limits = RateLimits()
}

/// Whose tasks they are. Kept for good: there are no more than the directory has.
struct Account {
    let number: UInt64
    /// Admitted and not dispatched yet, and their bodies in whole chunks.
    var waitingTasks = 0
    var waitingBytes = 0
    /// Its own entry; nil until the directory has one.
    var entry: DirectoryAccount?
    var limits = RateLimits()
    /// Part of its limits that this broker may use, of 65,536.
    var share = DirectoryLease.shareMax
    /// Indices in `keys`.
    var keys: [UInt32] = []
    /// Index in `leases` once it prepays; `noIndex` before.
    var lease = noIndex

    var isSuspended: Bool { entry?.isSuspended ?? false }
    var isPrepaid: Bool { entry?.isPrepaid ?? false }

    /// The limits that apply now.
    mutating func applyLimits(nowUs: UInt64) {
        limits.set(
            concurrent: entry?.concurrentTasksMax ?? 0,
            requestsPerMinute: entry?.requestsPerMinuteMax ?? 0,
            tokensPerMinute: entry?.tokensPerMinuteMax ?? 0, share: share, nowUs: nowUs)
    }
}

extension Key {
    mutating func applyLimits(share: UInt32, nowUs: UInt64) {
        limits.set(
            concurrent: entry.concurrentTasksMax, requestsPerMinute: entry.requestsPerMinuteMax,
            tokensPerMinute: entry.tokensPerMinuteMax, share: share, nowUs: nowUs)
    }
}

/// What a prepaid account may spend at this instance, and who waits for more.
struct AccountLease {
    /// Somebody whose hold did not fit.
    struct Waiter {
        /// What the money is for, with what tells this wait from an earlier one of the task.
        enum Purpose {
            /// To be accepted.
            case admission
            /// To be matched with an offer that is dearer than what is held for.
            case match(arrival: UInt64)
            /// To go on answering.
            case step(dispatchedUs: UInt64)
        }

        let task: TaskIndex
        let stream: StreamRef
        let purpose: Purpose
        let missing: MicroUSD
        let untilUs: UInt64
    }

    let account: UInt32
    var amounts: BrokerLease
    var waiters = WaitingLine()
    /// µUSD charged over the last 10 s.
    var recent = ServedRate()
    /// The least that was free since then: what nobody needed.
    var idleFree = MicroUSD.zero
    var idleSinceUs: UInt64 = 0
    var lastAskUs: UInt64 = 0
    var lastRenewalUs: UInt64 = 0
    var lastReserveUs: UInt64 = 0
    /// The journal had no room for its LEASE.
    var isRecordDue = false
    /// It is in `waitingLeases`.
    var isListed = false
    /// Its waiters are being served.
    var isServing = false

    init(account: UInt32, number: UInt64, nowUs: UInt64) {
        self.account = account
        amounts = BrokerLease(account: number)
        idleSinceUs = nowUs
    }

    /// What holds may take now.
    func usable(nowMs: UInt64) -> MicroUSD {
        amounts.isExpired(nowMs: nowMs) ? .zero : amounts.free
    }

    /// The wallet has nothing for what was asked last: asking again would not help.
    var isDry: Bool { amounts.isDry && amounts.wanted > amounts.granted }
}

/// Those who wait for one lease, the oldest first.
struct WaitingLine {
    private var members: [AccountLease.Waiter] = []
    private var head = 0
    /// Sum of what they miss, not above what fits.
    private(set) var missing = MicroUSD.zero

    var isEmpty: Bool { head == members.count }
    var first: AccountLease.Waiter? { isEmpty ? nil : members[head] }

    mutating func append(_ waiter: AccountLease.Waiter) {
        members.append(waiter)
        missing = missing.adding(waiter.missing) ?? MicroUSD(.max)
    }

    mutating func removeFirst() {
        missing = MicroUSD(max(0, missing.rawValue - members[head].missing.rawValue))
        head += 1
        guard isEmpty || head >= 256 else { return }
        members.removeFirst(head)
        head = 0
    }

    /// Takes out those that are over, in order.
    mutating func remove(
        where isOver: (AccountLease.Waiter) -> Bool
    ) -> [AccountLease.Waiter] {
        guard members[head...].contains(where: isOver) else { return [] }
        let waiting = members[head...]
        self = WaitingLine()
        var removed: [AccountLease.Waiter] = []
        for waiter in waiting {
            if isOver(waiter) { removed.append(waiter) } else { append(waiter) }
        }
        return removed
    }
}

extension Dispatcher {
    // MARK: The directory

    /// An entry of the directory is new or changed.
    package mutating func directoryChanged(
        _ entry: DirectoryEntry, nowUs: UInt64, wallUs: UInt64, out: inout DispatcherOutput
    ) {
        self.wallUs = wallUs
        switch entry {
        case .credential(let credential):
            credentialChanged(credential, nowUs: nowUs, wallUs: wallUs, out: &out)
        case .account(let account):
            accountChanged(account, nowUs: nowUs, out: &out)
        case .price(let price):
            prices.apply(price)
            pricesChanged(nowUs: nowUs, out: &out)
        case .fee(let fee):
            prices.apply(fee)
            pricesChanged(nowUs: nowUs, out: &out)
        case .lease(let lease):
            leaseChanged(lease, nowUs: nowUs, out: &out)
        }
    }

    /// A credential was added, changed or revoked. A revoked one ends its connections.
    private mutating func credentialChanged(
        _ entry: DirectoryCredential, nowUs: UInt64, wallUs: UInt64, out: inout DispatcherOutput
    ) {
        credentials[entry.digest] = entry
        if let key = keyByDigest[entry.digest] {
            keys[Int(key)].entry = entry
            let share = accounts[Int(keys[Int(key)].account)].share
            keys[Int(key)].applyLimits(share: share, nowUs: nowUs)
        }
        guard !entry.isValid(nowMs: wallUs / 1_000) else { return }
        refuseConnections(out: &out) { $0.digest == entry.digest }
    }

    /// An account was added or changed. A suspended one loses its connections, and with them its
    /// streams.
    private mutating func accountChanged(
        _ entry: DirectoryAccount, nowUs: UInt64, out: inout DispatcherOutput
    ) {
        let index = account(entry.account)
        accounts[Int(index)].entry = entry
        accounts[Int(index)].applyLimits(nowUs: nowUs)
        if entry.isPrepaid { _ = lease(index, nowUs: nowUs) }
        guard entry.isSuspended else { return }
        refuseConnections(out: &out) { $0.accountIndex == index }
    }

    private mutating func refuseConnections(
        out: inout DispatcherOutput, where isMeant: (Peer) -> Bool
    ) {
        for shard in peers.indices {
            for index in peers[shard].indices
            where peers[shard][index].isPresent && isMeant(peers[shard][index]) {
                out.messages.append(
                    .refuseConnection(peers[shard][index].reference, .unauthenticated))
            }
        }
    }

    /// The credential may be used now: it is valid, and its account is neither suspended nor, if
    /// the credential needs it, unknown.
    func isUsable(_ entry: DirectoryCredential, wallUs: UInt64) -> Bool {
        guard entry.isValid(nowMs: wallUs / 1_000) else { return false }
        guard let known = accountByNumber[entry.account] else { return !entry.needsAccount }
        if accounts[Int(known)].isSuspended { return false }
        return accounts[Int(known)].entry != nil || !entry.needsAccount
    }

    // MARK: Tables

    /// The place of an account in `accounts`.
    mutating func account(_ number: UInt64) -> UInt32 {
        if let known = accountByNumber[number] { return known }
        let index = UInt32(accounts.count)
        accounts.append(Account(number: number))
        accountByNumber[number] = index
        return index
    }

    /// The place of a credential in `keys`.
    mutating func key(_ entry: DirectoryCredential, account: UInt32, nowUs: UInt64) -> UInt32 {
        if let known = keyByDigest[entry.digest] { return known }
        let index = UInt32(keys.count)
        keys.append(Key(account: account, entry: entry))
        keys[Int(index)].applyLimits(share: accounts[Int(account)].share, nowUs: nowUs)
        keyByDigest[entry.digest] = index
        accounts[Int(account)].keys.append(index)
        return index
    }

    /// The place of a prepaid account's lease in `leases`.
    mutating func lease(_ account: UInt32, nowUs: UInt64) -> UInt32 {
        let known = accounts[Int(account)].lease
        if known != noIndex { return known }
        let index = UInt32(leases.count)
        leases.append(
            AccountLease(
                account: account, number: accounts[Int(account)].number, nowUs: nowUs))
        accounts[Int(account)].lease = index
        return index
    }
}

extension Dispatcher {
    // MARK: What a checker asks

    /// The lease of an account at this instance; nil before it prepaid anything.
    package func lease(ofAccount number: UInt64) -> BrokerLease? {
        guard let account = accountByNumber[number], accounts[Int(account)].lease != noIndex
        else { return nil }
        return leases[Int(accounts[Int(account)].lease)].amounts
    }

    /// Sum of the holds of an account's open tasks.
    package func heldForTasks(ofAccount number: UInt64) -> MicroUSD {
        var sum = MicroUSD.zero
        for index in tasks.indices where tasks[index].account == number {
            guard tasks[index].state != .idle, tasks[index].state != .ended else { continue }
            sum = MicroUSD(sum.rawValue + tasks[index].hold.rawValue)
        }
        return sum
    }
}
