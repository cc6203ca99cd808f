import BasicContainers
import SluiceRecordFormat
import SluiceWire

// What suppliers showed: how fast they are, and whether they fail.
extension Dispatcher {
    /// The supplier is through with a task that it had: its breaker and its speed know.
    /// Once for every dispatch.
    mutating func supplierDone(
        _ task: TaskIndex, _ outcome: SupplierOutcome, _ report: TaskReport?, nowUs: UInt64,
        out: inout DispatcherOutput
    ) {
        let identity = tasks[Int(task)].identity
        guard identity != noIndex else { return }
        tasks[Int(task)].identity = noIndex
        books.done(tasks[Int(task)].row, SupplierBooks.End(outcome, report))
        if let report { learn(task, report, nowUs: nowUs, out: &out) }
        identities[Int(identity)].running -= 1
        let isProbe = tasks[Int(task)].isProbe
        tasks[Int(task)].isProbe = false
        let before = identities[Int(identity)].breaker.state
        let isChanged = identities[Int(identity)].breaker.record(
            outcome, isProbe: isProbe, nowUs: nowUs, limits: limits, random: &random)
        let after = identities[Int(identity)].breaker.state
        if case .open(let untilUs) = after, after != before {
            openBreakers.append(identity)
            nextProbeUs = min(nextProbeUs, untilUs)
            counters.breakersOpened += 1
        }
        if isChanged { serveAll(ofIdentity: identity, nowUs: nowUs, out: &out) }
        forgetIdentity(identity)
    }

    /// How the supplier did, as far as the end of its task tells.
    mutating func outcome(_ task: TaskIndex, _ report: TaskReport, nowUs: UInt64) -> SupplierOutcome
    {
        if report.isUnanswered { return .failure }
        switch report.status {
        case .completed: return .success
        case .supplierLost: return .lost
        case .supplierFailed:
            return report.isDeclined || report.code == .upstreamRefused ? .neutral : .failure
        case .cancelled, .clientLost, .deadlineExceeded, .drained, .budgetExhausted, .brokerLost,
            .lost:
            guard report.ttftUs == nil else {
                return report.status == .cancelled && report.code == .cancelled
                    ? .success : .neutral
            }
            return isOverdue(task, nowUs: nowUs) ? .failure : .neutral
        }
    }

    /// The task ran for far longer than a first token takes at this model.
    private mutating func isOverdue(_ task: TaskIndex, nowUs: UInt64) -> Bool {
        let usualUs = models[Int(tasks[Int(task)].model)].speed.firstTokenUs
        let mostUs = max(limits.firstTokenMs * 1_000, 4 * usualUs)
        return nowUs - tasks[Int(task)].dispatchedUs >= mostUs
    }

    /// The offer that ran the task still stands for the same supplier and model.
    private mutating func isStillThere(_ task: TaskIndex) -> Bool {
        let offer = tasks[Int(task)].offer
        return offer != noIndex && offers[Int(offer)].isPresent
            && offers[Int(offer)].model == tasks[Int(task)].model
            && offers[Int(offer)].identity == tasks[Int(task)].supplierIdentity
    }

    private mutating func learn(
        _ task: TaskIndex, _ report: TaskReport, nowUs: UInt64, out: inout DispatcherOutput
    ) {
        guard isStillThere(task), !report.isDeclined else { return }
        let offer = tasks[Int(task)].offer
        let model = Int(tasks[Int(task)].model)
        if let ttftUs = report.ttftUs {
            // What the task waited before its last dispatch is none of this supplier's doing.
            let waitedUs = tasks[Int(task)].dispatchedUs - tasks[Int(task)].acceptedUs
            let seenUs = ttftUs - min(ttftUs, waitedUs)
            offers[Int(offer)].speed.sawFirstToken(afterUs: seenUs, nowUs: nowUs)
            models[model].speed.sawFirstToken(afterUs: seenUs)
            let answerUs = nowUs - tasks[Int(task)].acceptedUs
            if report.deliveredTokens >= 8, answerUs > ttftUs {
                let each = (answerUs - ttftUs) / (report.deliveredTokens - 1)
                offers[Int(offer)].speed.sawTokens(usPerToken: each)
                models[model].speed.sawTokens(usPerToken: each)
            }
        } else if report.status != .completed {
            let ranUs = nowUs - tasks[Int(task)].dispatchedUs
            offers[Int(offer)].speed.sawNoToken(forUs: ranUs, nowUs: nowUs)
        }
        refresh(offer)
        serve(offer, nowUs: nowUs, out: &out)
    }

    // MARK: Time

    /// Breakers whose back-off is over become half-open.
    mutating func probeSuppliers(nowUs: UInt64, out: inout DispatcherOutput) {
        guard nowUs >= nextProbeUs else { return }
        nextProbeUs = .max
        var position = 0
        while position < openBreakers.count {
            let identity = openBreakers[position]
            if case .open(let untilUs) = identities[Int(identity)].breaker.state,
                !identities[Int(identity)].breaker.advance(nowUs: nowUs)
            {
                nextProbeUs = min(nextProbeUs, untilUs)
                position += 1
                continue
            }
            openBreakers.swapAt(position, openBreakers.count - 1)
            openBreakers.removeLast()
            serveAll(ofIdentity: identity, nowUs: nowUs, out: &out)
        }
    }

    /// What offers showed long ago loses weight: some at each call, all in turn.
    mutating func ageOffers(nowUs: UInt64, out: inout DispatcherOutput) {
        for _ in 0..<min(256, offers.count) {
            agedOffer = agedOffer + 1 < offers.count ? agedOffer + 1 : 0
            guard offers[agedOffer].isPresent, !offers[agedOffer].isWithdrawn else { continue }
            let prior = models[Int(offers[agedOffer].model)].speed
            guard offers[agedOffer].speed.age(prior: prior, nowUs: nowUs) else { continue }
            refresh(UInt32(agedOffer))
            serve(UInt32(agedOffer), nowUs: nowUs, out: &out)
        }
    }

    // MARK: Identities

    /// A connection of the identity is there.
    mutating func addConnection(_ supplier: UInt32, of number: UInt64) -> UInt32 {
        let identity: UInt32
        if number != 0, let known = identityByNumber[number] {
            identity = known
        } else if let idle = idleIdentities.popLast() {
            identity = idle
        } else {
            identity = UInt32(identities.count)
            identities.append(SupplierIdentity())
        }
        identities[Int(identity)].number = number
        identities[Int(identity)].connections.append(supplier)
        if number != 0 { identityByNumber[number] = identity }
        return identity
    }

    mutating func removeConnection(_ supplier: UInt32, of identity: UInt32) {
        identities[Int(identity)].connections.removeAll { $0 == supplier }
        forgetIdentity(identity)
    }

    /// Forgets an identity that is not connected, has no task and has done nothing wrong.
    private mutating func forgetIdentity(_ identity: UInt32) {
        let index = Int(identity)
        let number = identities[index].number
        guard identities[index].running == 0, identities[index].connections.isEmpty,
            identities[index].breaker.isClean || number == 0
        else { return }
        if number != 0 { identityByNumber[number] = nil }
        openBreakers.removeAll { $0 == identity }
        identities[index] = SupplierIdentity()
        idleIdentities.append(identity)
    }
}
