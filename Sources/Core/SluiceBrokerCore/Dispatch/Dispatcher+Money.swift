import BasicContainers
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
        let prices = holdPrices(task)
        tasks[index].holdPrices = prices
        guard let (tokens, amount) = firstHold(task, at: prices) else {
            return .refused(.insufficientFunds)
        }
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
                task: task, stream: tasks[index].stream, purpose: .admission, missing: amount,
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

    mutating func holdAmount(_ task: TaskIndex, tokens: UInt64, at prices: PriceList) -> MicroUSD? {
        Hold.amount(
            inputTokens: tasks[Int(task)].inputBound, outputTokens: UInt32(clamping: tokens),
            prices: prices, operation: tasks[Int(task)].terms.operation)
    }

    /// The tokens of its first hold at these prices, as far as its budget goes, and what they cost;
    /// nil where not even one can be paid.
    mutating func firstHold(
        _ task: TaskIndex, at prices: PriceList
    ) -> (tokens: UInt64, amount: MicroUSD)? {
        affordable(task, upTo: firstOutputTokens(task), within: budget(task), at: prices)
    }

    private mutating func firstOutputTokens(_ task: TaskIndex) -> UInt64 {
        let terms = tasks[Int(task)].terms
        return UInt64(
            Hold.firstOutputTokens(
                maxOutputTokens: terms.maxOutputTokens, operation: terms.operation))
    }

    /// As many tokens as `amount` pays for, at most `wanted`; nil for none. Of embeddings and
    /// images all or none.
    private mutating func affordable(
        _ task: TaskIndex, upTo wanted: UInt64, within amount: MicroUSD, at prices: PriceList
    ) -> (tokens: UInt64, amount: MicroUSD)? {
        // Nearly always all of it.
        if let whole = holdAmount(task, tokens: wanted, at: prices), whole <= amount {
            return (wanted, whole)
        }
        let index = Int(task)
        guard !tasks[index].terms.operation.countsResults,
            let most = Hold.affordableOutput(
                amount, inputTokens: tasks[index].inputBound, prices: prices,
                operation: tasks[index].terms.operation)
        else { return nil }
        let tokens = min(wanted, UInt64(most))
        guard tokens > 0, let cost = holdAmount(task, tokens: tokens, at: prices) else {
            return nil
        }
        return (tokens, cost)
    }

    private mutating func budget(_ task: TaskIndex) -> MicroUSD {
        let budget = tasks[Int(task)].budget
        return budget > .zero ? budget : MicroUSD(.max)
    }

    /// Makes the task's hold `amount` if its lease has that.
    mutating func hold(_ amount: MicroUSD, of task: TaskIndex) -> Bool {
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

    /// The prices of a task are known: holds for them, for as many tokens as can be. `refused` where
    /// not one can be paid, whatever the lease gets.
    mutating func holdAtDispatch(_ task: TaskIndex, _ offer: UInt32) -> HoldOutcome {
        let index = Int(task)
        guard tasks[index].isPrepaid else { return .held }
        let lease = Int(accounts[Int(tasks[index].accountIndex)].lease)
        let prices = offers[Int(offer)].prices.consumer
        // In order: what is free is for those that wait.
        let isFirst = leases[lease].waiters.isEmpty || leases[lease].isDry
        if hold(for: task, at: prices, usesFree: isFirst) { return .held }
        return !leases[lease].isDry && firstHold(task, at: prices) != nil
            ? .waits : .refused(.budgetExhausted)
    }

    /// Holds for as many tokens at these prices as what is held pays, and with `usesFree` what the
    /// lease has. False, and nothing changes, where not one can be paid.
    mutating func hold(
        for task: TaskIndex, at prices: PriceList, usesFree: Bool
    ) -> Bool {
        let index = Int(task)
        let lease = Int(accounts[Int(tasks[index].accountIndex)].lease)
        let free = usesFree ? leases[lease].usable(nowMs: wallUs / 1_000) : .zero
        let most = min(tasks[index].hold.adding(free) ?? MicroUSD(.max), budget(task))
        guard
            let (tokens, amount) = affordable(
                task, upTo: firstOutputTokens(task), within: most, at: prices),
            hold(amount, of: task)
        else { return false }
        tasks[index].holdPrices = prices
        tasks[index].heldTokens = tokens
        tasks[index].unpaidPrices = nil
        return true
    }

    /// What the client's shard is told of the hold. Embeddings and images that nobody asked for
    /// are not forwarded, prepaid or not.
    mutating func heldTokens(_ task: TaskIndex) -> HeldTokens {
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
    private mutating func outputLimit(_ task: TaskIndex) -> UInt64 {
        let bound = Self.outputBound(tasks[Int(task)].terms)
        guard tasks[Int(task)].budget > .zero else { return bound }
        return affordable(
            task, upTo: bound, within: budget(task), at: tasks[Int(task)].holdPrices)?.tokens ?? 0
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
                    task: task, stream: stream,
                    purpose: .step(dispatchedUs: tasks[index].dispatchedUs),
                    missing: missingForStep(task), untilUs: .max),
                nowUs: nowUs, out: &out)
        }
    }

    /// What the next step costs beyond what is held.
    private mutating func missingForStep(_ task: TaskIndex) -> MicroUSD {
        let index = Int(task)
        let target = min(
            outputLimit(task), tasks[index].heldTokens + UInt64(Hold.stepTokens))
        let amount =
            holdAmount(task, tokens: target, at: tasks[index].holdPrices) ?? MicroUSD(.max)
        return MicroUSD(amount.rawValue - tasks[index].hold.rawValue)
    }

    /// Holds for the next step, or for what is left of the wallet. Nil where the lease must grow
    /// first.
    mutating func extend(_ task: TaskIndex) -> HeldTokens? {
        let index = Int(task)
        let lease = Int(accounts[Int(tasks[index].accountIndex)].lease)
        let limit = outputLimit(task)
        let held = tasks[index].heldTokens
        guard held < limit else { return HeldTokens(count: held, isLast: true) }
        let target = min(limit, held + UInt64(Hold.stepTokens))
        let prices = tasks[index].holdPrices
        if let amount = holdAmount(task, tokens: target, at: prices), hold(amount, of: task) {
            tasks[index].heldTokens = target
            return HeldTokens(count: target, isLast: target >= limit)
        }
        guard leases[lease].isDry else { return nil }
        let usable = leases[lease].usable(nowMs: wallUs / 1_000)
        let most = tasks[index].hold.adding(usable) ?? MicroUSD(.max)
        guard
            let (tokens, amount) = affordable(task, upTo: target, within: most, at: prices),
            tokens > held, hold(amount, of: task)
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
}
