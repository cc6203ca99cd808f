import BasicContainers
import SluiceLedgerCore
import SluiceRecordFormat
import SluiceWire

// Those that wait for their account's lease: admissions, queued tasks that found an offer they
// could not pay, and answers that near the end of their hold.
extension Dispatcher {
    mutating func wait(
        _ lease: Int, _ waiter: AccountLease.Waiter, nowUs: UInt64, out: inout DispatcherOutput
    ) {
        counters.leaseWaits += 1
        if !leases[lease].isListed { waitingLeases.append(UInt32(lease)) }
        leases[lease].isListed = true
        leases[lease].waiters.append(waiter)
        ask(lease, nowUs: nowUs, out: &out)
    }

    /// An accepted task found an offer that it could pay if its account's lease had more. It stays
    /// in the queue, in its turn, and until the money comes only offers that it can pay see it: so
    /// it is in nobody's way, and is not tried in vain. How long it may wait its deadline says:
    /// only an empty wallet ends it earlier.
    mutating func waitQueued(
        _ task: TaskIndex, for offer: UInt32, nowUs: UInt64, out: inout DispatcherOutput
    ) {
        let index = Int(task)
        let lease = Int(accounts[Int(tasks[index].accountIndex)].lease)
        let prices = offers[Int(offer)].prices.consumer
        let isAwaited = tasks[index].unpaidPrices != nil
        precondition(!isAwaited, "an offer within what is held for can be paid")
        tasks[index].unpaidPrices = prices
        if tasks[index].state == .queued {
            models[Int(tasks[index].model)].queue.change(tasks[index].place, payable(task))
        } else {
            // It has just come, or come back: a cheaper one may be free.
            if let (other, reason) = choose(task, nowUs: nowUs) {
                return dispatch(task, to: other, reason, nowUs: nowUs, out: &out)
            }
            enqueue(task, isReturned: tasks[index].state == .running)
        }
        counters.queuedLeaseWaits += 1
        let amount = firstHold(task, at: prices)?.amount ?? MicroUSD(.max)
        wait(
            lease,
            AccountLease.Waiter(
                task: task, stream: tasks[index].stream,
                purpose: .match(arrival: tasks[index].arrival),
                missing: MicroUSD(amount.rawValue - tasks[index].hold.rawValue), untilUs: .max),
            nowUs: nowUs, out: &out)
    }

    /// What a task asks of an offer that may have it now: its demand, and while it waits for its
    /// account's lease at no higher prices than those that are held for.
    mutating func payable(_ task: TaskIndex) -> Demand {
        let index = Int(task)
        return tasks[index].unpaidPrices == nil
            ? tasks[index].demand : tasks[index].demand.limited(to: tasks[index].holdPrices)
    }

    // MARK: News of a lease

    /// The first in line get what they miss, as far as there is enough.
    mutating func serveWaiters(_ lease: UInt32, nowUs: UInt64, out: inout DispatcherOutput) {
        let index = Int(lease)
        guard !leases[index].isServing else { return }
        leases[index].isServing = true
        while let waiter = leases[index].waiters.first {
            guard isWaiting(waiter) else {
                leases[index].waiters.removeFirst()
                continue
            }
            let isServed =
                switch waiter.purpose {
                case .admission: serveAdmission(waiter, nowUs: nowUs, out: &out)
                case .match: serveQueued(waiter, nowUs: nowUs, out: &out)
                case .step: serveStep(waiter, out: &out)
                }
            guard isServed else { break }
        }
        leases[index].isServing = false
    }

    /// Each of these takes the first in line out, who gets its money or hears that there is none;
    /// false where it has to wait on.
    private mutating func serveAdmission(
        _ waiter: AccountLease.Waiter, nowUs: UInt64, out: inout DispatcherOutput
    ) -> Bool {
        let index = Int(waiter.task)
        let lease = Int(accounts[Int(tasks[index].accountIndex)].lease)
        let amount = holdAmount(
            waiter.task, tokens: tasks[index].heldTokens, at: tasks[index].holdPrices)
        if let amount, hold(amount, of: waiter.task) {
            leases[lease].waiters.removeFirst()
            admitted(waiter.task, nowUs: nowUs, out: &out)
            return true
        }
        guard leases[lease].isDry else { return false }
        leases[lease].waiters.removeFirst()
        counters.holdsRefused += 1
        refuseAdmitted(waiter.task, .insufficientFunds, retryAfterMs: 0, nowUs: nowUs, out: &out)
        return true
    }

    private mutating func serveQueued(
        _ waiter: AccountLease.Waiter, nowUs: UInt64, out: inout DispatcherOutput
    ) -> Bool {
        let task = waiter.task
        let index = Int(task)
        let lease = Int(accounts[Int(tasks[index].accountIndex)].lease)
        guard let prices = tasks[index].unpaidPrices else { preconditionFailure("it waits") }
        // What is left of an empty wallet is used up; else all that was asked for comes.
        guard leases[lease].isDry || hasFree(waiter.missing, lease) else { return false }
        leases[lease].waiters.removeFirst()
        guard hold(for: task, at: prices, usesFree: true) else {
            endUnaffordable(task, nowUs: nowUs, out: &out)
            return true
        }
        counters.queuedLeaseGrants += 1
        models[Int(tasks[index].model)].queue.change(tasks[index].place, payable(task))
        guard let (offer, reason) = choose(task, nowUs: nowUs) else { return true }
        dispatch(task, to: offer, reason, nowUs: nowUs, out: &out)
        return true
    }

    private mutating func hasFree(_ amount: MicroUSD, _ lease: Int) -> Bool {
        leases[lease].usable(nowMs: wallUs / 1_000) >= amount
    }

    private mutating func serveStep(
        _ waiter: AccountLease.Waiter, out: inout DispatcherOutput
    ) -> Bool {
        guard let held = extend(waiter.task) else { return false }
        let lease = Int(accounts[Int(tasks[Int(waiter.task)].accountIndex)].lease)
        leases[lease].waiters.removeFirst()
        out.messages.append(.held(waiter.stream, held))
        return true
    }

    /// Its task is still there and in the state in which it began to wait.
    private mutating func isWaiting(_ waiter: AccountLease.Waiter) -> Bool {
        guard isCurrent(waiter.task, waiter.stream) else { return false }
        let index = Int(waiter.task)
        switch waiter.purpose {
        case .admission: return tasks[index].state == .admitted
        case .match(let arrival):
            return tasks[index].state == .queued && tasks[index].arrival == arrival
                && tasks[index].unpaidPrices != nil
        case .step(let dispatchedUs):
            return tasks[index].state == .running && tasks[index].dispatchedUs == dispatchedUs
        }
    }

    /// Those who waited too long for their admission are refused; asks that were put off are made.
    /// Called every few milliseconds while `isLeaseAwaited`.
    package mutating func advanceLeases(
        nowUs: UInt64, wallUs: UInt64, out: inout DispatcherOutput
    ) {
        self.wallUs = wallUs
        var kept = 0
        for position in waitingLeases.indices {
            let lease = waitingLeases[position]
            let index = Int(lease)
            refuseLate(index, nowUs: nowUs, out: &out)
            serveWaiters(lease, nowUs: nowUs, out: &out)
            leases[index].isListed = !leases[index].waiters.isEmpty
            guard leases[index].isListed else { continue }
            ask(index, nowUs: nowUs, out: &out)
            waitingLeases[kept] = lease
            kept += 1
        }
        waitingLeases.removeLast(waitingLeases.count - kept)
    }

    /// Takes out who waited too long, and who waits no more: what these miss is not asked for.
    private mutating func refuseLate(
        _ lease: Int, nowUs: UInt64, out: inout DispatcherOutput
    ) {
        var waiters = WaitingLine()
        swap(&waiters, &leases[lease].waiters)
        let gone = waiters.remove { $0.untilUs <= nowUs || !isWaiting($0) }
        swap(&waiters, &leases[lease].waiters)
        for waiter in gone where isWaiting(waiter) {
            counters.holdsRefused += 1
            refuseAdmitted(
                waiter.task, .rateLimited, retryAfterMs: jittered(BrokerLimits.leaseRetryMs),
                nowUs: nowUs, out: &out)
        }
    }

    /// Somebody waits for an entry of the directory. Mutating, so that the dispatcher is not copied
    /// for the look.
    package var isLeaseAwaited: Bool {
        mutating get { !waitingLeases.isEmpty }
    }
}
