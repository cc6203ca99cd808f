import SluiceLedgerCore
import SluiceRecordFormat
import SluiceWire

// Prepaid tasks: money is held for them before they are accepted, for more tokens as they go on,
// and what they cost is taken from it at their end.
extension Dispatcher {
    enum HoldOutcome {
        case held
        /// Its account's lease has no room now.
        case waits
        case refused(WireCode)
    }

    /// Holds for a task that was just admitted, or lets it wait for its account's lease.
    mutating func holdAtAdmission(
        _ task: TaskIndex, nowUs: UInt64, out: inout DispatcherOutput
    ) -> HoldOutcome {
        let index = Int(task)
        let account = tasks[index].accountIndex
        let lease = Int(self.lease(account, nowUs: nowUs))
        tasks[index].isPrepaid = true
        tasks[index].inputBound = Hold.inputBound(
            maxInputTokens: tasks[index].terms.maxInputTokens,
            bodyBytes: tasks[index].terms.bodyBytes)
        tasks[index].holdPrices = holdPrices(task)
        guard let (tokens, amount) = firstHold(task) else { return .refused(.insufficientFunds) }
        tasks[index].heldTokens = tokens
        // In order: nobody passes those that wait.
        if leases[lease].waiters.isEmpty, hold(amount, of: task) { return .held }
        if leases[lease].isDry {
            counters.holdsRefused += 1
            return .refused(.insufficientFunds)
        }
        wait(
            lease,
            AccountLease.Waiter(
                task: task, stream: tasks[index].stream, dispatchedUs: nil, missing: amount,
                untilUs: nowUs + limits.leaseWaitMs * 1_000),
            nowUs: nowUs, out: &out)
        return .waits
    }

    /// Output that the client asks for at most.
    private static func outputBound(_ terms: TaskTerms) -> UInt64 {
        terms.maxOutputTokens == 0 ? UInt64(UInt32.max) : UInt64(terms.maxOutputTokens)
    }

    /// The prices that an offer for this task can have: up to its ceilings, and to the dearest
    /// that stands.
    private mutating func holdPrices(_ task: TaskIndex) -> PriceList {
        let known = dearest(tasks[Int(task)].model)
        let filters = tasks[Int(task)].filters
        let input = UInt32(min(filters.inputCeiling, UInt64(known.input)))
        let output = UInt32(min(filters.outputCeiling, UInt64(known.output)))
        return PriceList(input: input, cached: input, output: output, reasoning: output)
    }

    private func holdAmount(_ task: TaskIndex, tokens: UInt64) -> MicroUSD? {
        Hold.amount(
            inputTokens: tasks[Int(task)].inputBound, outputTokens: UInt32(clamping: tokens),
            prices: tasks[Int(task)].holdPrices, operation: tasks[Int(task)].terms.operation)
    }

    /// The tokens of its first hold, as far as its budget goes, and what they cost; nil where not
    /// even one can be paid.
    private func firstHold(_ task: TaskIndex) -> (tokens: UInt64, MicroUSD)? {
        affordable(task, upTo: firstOutputTokens(task), within: budget(task))
    }

    private func firstOutputTokens(_ task: TaskIndex) -> UInt64 {
        let terms = tasks[Int(task)].terms
        return UInt64(
            Hold.firstOutputTokens(
                maxOutputTokens: terms.maxOutputTokens, operation: terms.operation))
    }

    /// As many tokens as `amount` pays for, at most `wanted`; nil for none. Of embeddings and
    /// images all or none.
    private func affordable(
        _ task: TaskIndex, upTo wanted: UInt64, within amount: MicroUSD
    ) -> (tokens: UInt64, MicroUSD)? {
        // Nearly always all of it.
        if let whole = holdAmount(task, tokens: wanted), whole <= amount { return (wanted, whole) }
        let index = Int(task)
        guard !tasks[index].terms.operation.countsResults,
            let most = Hold.affordableOutput(
                amount, inputTokens: tasks[index].inputBound, prices: tasks[index].holdPrices,
                operation: tasks[index].terms.operation)
        else { return nil }
        let tokens = min(wanted, UInt64(most))
        guard tokens > 0, let cost = holdAmount(task, tokens: tokens) else { return nil }
        return (tokens, cost)
    }

    private func budget(_ task: TaskIndex) -> MicroUSD {
        let budget = tasks[Int(task)].budget
        return budget > .zero ? budget : MicroUSD(.max)
    }

    /// Makes the task's hold `amount` if its lease has that.
    private mutating func hold(_ amount: MicroUSD, of task: TaskIndex) -> Bool {
        let index = Int(task)
        let lease = Int(accounts[Int(tasks[index].accountIndex)].lease)
        let held = tasks[index].hold
        if amount <= held {
            leases[lease].amounts.release(MicroUSD(held.rawValue - amount.rawValue))
        } else {
            let more = MicroUSD(amount.rawValue - held.rawValue)
            guard leases[lease].amounts.hold(more, nowMs: wallUs / 1_000) else { return false }
        }
        tasks[index].hold = amount
        return true
    }

    // MARK: Dispatch

    /// The prices of a task are known: holds for them, for as many tokens as can be. False where
    /// not one can be paid.
    mutating func holdAtDispatch(_ task: TaskIndex, _ offer: UInt32) -> Bool {
        let index = Int(task)
        guard tasks[index].isPrepaid else { return true }
        let lease = Int(accounts[Int(tasks[index].accountIndex)].lease)
        tasks[index].holdPrices = offers[Int(offer)].prices.consumer
        let usable = leases[lease].usable(nowMs: wallUs / 1_000)
        let most = min(tasks[index].hold.adding(usable) ?? MicroUSD(.max), budget(task))
        guard let (tokens, amount) = affordable(task, upTo: firstOutputTokens(task), within: most),
            hold(amount, of: task)
        else { return false }
        tasks[index].heldTokens = tokens
        return true
    }

    /// What the client's shard is told of the hold. Embeddings and images that nobody asked for
    /// are not forwarded, prepaid or not.
    func heldTokens(_ task: TaskIndex) -> HeldTokens {
        let index = Int(task)
        let terms = tasks[index].terms
        guard tasks[index].isPrepaid else {
            guard terms.operation.countsResults else { return .unbounded }
            return HeldTokens(count: UInt64(terms.maxOutputTokens), isLast: true)
        }
        let tokens = tasks[index].heldTokens
        return HeldTokens(count: tokens, isLast: tokens >= outputLimit(task))
    }

    /// Output that the task may have in the end: as much as it asks and its budget pays.
    private func outputLimit(_ task: TaskIndex) -> UInt64 {
        let bound = Self.outputBound(tasks[Int(task)].terms)
        guard tasks[Int(task)].budget > .zero else { return bound }
        return affordable(task, upTo: bound, within: budget(task))?.tokens ?? 0
    }

    /// The answer nears what is held for.
    mutating func holdLow(
        _ task: TaskIndex, _ stream: StreamRef, nowUs: UInt64, out: inout DispatcherOutput
    ) {
        guard isCurrent(task, stream), tasks[Int(task)].state == .running else { return }
        let index = Int(task)
        let lease = Int(accounts[Int(tasks[index].accountIndex)].lease)
        switch extend(task) {
        case .some(let held): out.messages.append(.held(stream, held))
        case nil:
            wait(
                lease,
                AccountLease.Waiter(
                    task: task, stream: stream, dispatchedUs: tasks[index].dispatchedUs,
                    missing: missingForStep(task), untilUs: .max),
                nowUs: nowUs, out: &out)
        }
    }

    /// What the next step costs beyond what is held.
    private func missingForStep(_ task: TaskIndex) -> MicroUSD {
        let index = Int(task)
        let target = min(
            outputLimit(task), tasks[index].heldTokens + UInt64(Hold.stepTokens))
        let amount = holdAmount(task, tokens: target) ?? MicroUSD(.max)
        return MicroUSD(amount.rawValue - tasks[index].hold.rawValue)
    }

    /// Holds for the next step, or for what is left of the wallet. Nil where the lease must grow
    /// first.
    private mutating func extend(_ task: TaskIndex) -> HeldTokens? {
        let index = Int(task)
        let lease = Int(accounts[Int(tasks[index].accountIndex)].lease)
        let limit = outputLimit(task)
        let held = tasks[index].heldTokens
        guard held < limit else { return HeldTokens(count: held, isLast: true) }
        let target = min(limit, held + UInt64(Hold.stepTokens))
        if let amount = holdAmount(task, tokens: target), hold(amount, of: task) {
            tasks[index].heldTokens = target
            return HeldTokens(count: target, isLast: target >= limit)
        }
        guard leases[lease].isDry else { return nil }
        let usable = leases[lease].usable(nowMs: wallUs / 1_000)
        let most = tasks[index].hold.adding(usable) ?? MicroUSD(.max)
        guard let (tokens, amount) = affordable(task, upTo: target, within: most), tokens > held,
            hold(amount, of: task)
        else { return HeldTokens(count: held, isLast: true) }
        tasks[index].heldTokens = tokens
        return HeldTokens(count: tokens, isLast: tokens >= limit)
    }

    // MARK: The end

    /// A task is over: what it cost is spent, what else was held is free.
    mutating func capture(
        _ task: TaskIndex, cost: MicroUSD, nowUs: UInt64, out: inout DispatcherOutput
    ) {
        let index = Int(task)
        guard tasks[index].isPrepaid else { return }
        let lease = accounts[Int(tasks[index].accountIndex)].lease
        leases[Int(lease)].amounts.capture(cost: cost, held: tasks[index].hold)
        leases[Int(lease)].recent.count(UInt64(cost.rawValue), nowMs: nowUs / 1_000)
        tasks[index].hold = .zero
        roomGrew(lease, nowUs: nowUs, out: &out)
    }

    /// A task was refused after all: nothing is held for it.
    mutating func releaseHold(_ task: TaskIndex, nowUs: UInt64, out: inout DispatcherOutput) {
        let index = Int(task)
        guard tasks[index].isPrepaid, tasks[index].hold > .zero else { return }
        let lease = accounts[Int(tasks[index].accountIndex)].lease
        leases[Int(lease)].amounts.release(tasks[index].hold)
        tasks[index].hold = .zero
        roomGrew(lease, nowUs: nowUs, out: &out)
    }

    // MARK: Those that wait

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
            if waiter.dispatchedUs != nil {
                guard let held = extend(waiter.task) else { break }
                leases[index].waiters.removeFirst()
                out.messages.append(.held(waiter.stream, held))
                continue
            }
            let isHeld = holdAmount(waiter.task, tokens: tasks[Int(waiter.task)].heldTokens)
                .map { hold($0, of: waiter.task) }
            if isHeld == true {
                leases[index].waiters.removeFirst()
                admitted(waiter.task, nowUs: nowUs, out: &out)
            } else if leases[index].isDry {
                leases[index].waiters.removeFirst()
                counters.holdsRefused += 1
                refuseAdmitted(
                    waiter.task, .insufficientFunds, retryAfterMs: 0, nowUs: nowUs, out: &out)
            } else {
                break
            }
        }
        leases[index].isServing = false
    }

    /// Its task is still there and in the state in which it began to wait.
    private func isWaiting(_ waiter: AccountLease.Waiter) -> Bool {
        guard isCurrent(waiter.task, waiter.stream) else { return false }
        guard let dispatchedUs = waiter.dispatchedUs else {
            return tasks[Int(waiter.task)].state == .admitted
        }
        return tasks[Int(waiter.task)].state == .running
            && tasks[Int(waiter.task)].dispatchedUs == dispatchedUs
    }

    private mutating func wait(
        _ lease: Int, _ waiter: AccountLease.Waiter, nowUs: UInt64, out: inout DispatcherOutput
    ) {
        counters.leaseWaits += 1
        if !leases[lease].isListed { waitingLeases.append(UInt32(lease)) }
        leases[lease].isListed = true
        leases[lease].waiters.append(waiter)
        ask(lease, nowUs: nowUs, out: &out)
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
            let late = leases[index].waiters.remove { $0.untilUs <= nowUs }
            for waiter in late where isWaiting(waiter) {
                counters.holdsRefused += 1
                refuseAdmitted(
                    waiter.task, .rateLimited, retryAfterMs: jittered(BrokerLimits.leaseRetryMs),
                    nowUs: nowUs, out: &out)
            }
            serveWaiters(lease, nowUs: nowUs, out: &out)
            leases[index].isListed = !leases[index].waiters.isEmpty
            guard leases[index].isListed else { continue }
            ask(index, nowUs: nowUs, out: &out)
            waitingLeases[kept] = lease
            kept += 1
        }
        waitingLeases.removeLast(waitingLeases.count - kept)
    }

    /// Somebody waits for an entry of the directory.
    package var isLeaseAwaited: Bool { !waitingLeases.isEmpty }
}
