import BasicContainers
import SluiceRecordFormat
import SluiceWire

// Who gets which task. A task that arrives looks for the best free offer; a slot that becomes
// free looks for the first waiting task. Between two events no waiting task fits a free slot.
extension Dispatcher {
    // MARK: A task looks for an offer

    /// Whether an offer stands that may run the task, free or not.
    mutating func isServed(
        _ model: UInt32, _ demand: Demand, region: ShortText?,
        excluded: (UInt64, UInt64) = (0, 0), nowUs: UInt64
    ) -> Bool {
        let index = Int(model)
        let last = models[index].servedLeaf
        if region == nil, excluded.0 == 0, last < models[index].leaves.members.count,
            models[index].standing.leaf(last).mayServe(demand, nowUs: nowUs)
        {
            return true
        }
        var search = OfferSearch(
            demand, .balanced, region: region, excluded: excluded, nowUs: nowUs, coins: 0)
        search.run(models[index].standing, models[index].leaves.members, offers, &frontier)
        guard search.leaf >= 0 else { return false }
        models[index].servedLeaf = search.leaf
        return true
    }

    /// The offer for a task among those with a free slot: where its prefix was read, else the
    /// best as it prefers, else nil.
    mutating func choose(_ task: TaskIndex, nowUs: UInt64) -> (offer: UInt32, WinReason)? {
        let index = Int(task)
        let model = Int(tasks[index].model)
        guard models[model].freeOffers > 0 else { return nil }
        if tasks[index].affinityKeys.count > 0, let offer = affineOffer(task, nowUs: nowUs) {
            counters.affinityHits += 1
            return (offer, winReason(.affinity, offer))
        }
        let preference = tasks[index].terms.preference
        var search = OfferSearch(
            payable(task), preference, region: tasks[index].filters.region,
            excluded: tasks[index].excluded, nowUs: nowUs, coins: random.next())
        search.run(models[model].free, models[model].leaves.members, offers, &frontier)
        guard search.leaf >= 0 else { return nil }
        let offer = models[model].leaves.members[search.leaf]
        if models[model].freeOffers == 1 { return (offer, winReason(.onlyFree, offer)) }
        let own = OfferNode.bit(ofShard: tasks[index].stream.shard)
        if models[model].free.root.shards != own {
            var near = search.restarted(onShards: own)
            near.run(models[model].free, models[model].leaves.members, offers, &frontier)
            if near.key == search.key, near.leaf >= 0 {
                let winner = models[model].leaves.members[near.leaf]
                return (winner, winReason(.ownShard, winner))
            }
        }
        if search.isTied { return (offer, winReason(.drawn, offer)) }
        return (offer, winReason(WinReason(preference), offer))
    }

    private mutating func winReason(_ reason: WinReason, _ offer: UInt32) -> WinReason {
        let identity = suppliers[Int(offers[Int(offer)].supplier)].identity
        return identities[Int(identity)].breaker.state == .halfOpen ? .probe : reason
    }

    /// The free offer of whoever read the longest prefix of the task, if it may run it.
    private mutating func affineOffer(_ task: TaskIndex, nowUs: UInt64) -> UInt32? {
        let index = Int(task)
        let model = tasks[index].model
        let demand = payable(task)
        for position in 0..<Int(tasks[index].affinityKeys.count) {
            let tag = AffinityTable.tag(
                account: tasks[index].account, model: model,
                key: tasks[index].affinityKeys[position])
            guard let found = affinity.find(tag) else { continue }
            var offer = found.offer
            if !isOffer(offer, of: found.identity, model: model) {
                guard let moved = anyOffer(of: found.identity, model: model) else { continue }
                offer = moved
                affinity.move(found.place, to: offer)
            }
            let wanted = tasks[index].filters.region
            guard offers[Int(offer)].isFree, !tasks[index].excludes(found.identity),
                wanted == nil || wanted == offers[Int(offer)].region
            else { continue }
            let leaf = Int(offers[Int(offer)].leaf)
            if models[Int(model)].free.leaf(leaf).mayServe(demand, nowUs: nowUs) {
                return offer
            }
        }
        return nil
    }

    private func isOffer(_ offer: UInt32, of identity: UInt64, model: UInt32) -> Bool {
        Int(offer) < offers.count && offers[Int(offer)].isPresent
            && !offers[Int(offer)].isWithdrawn && offers[Int(offer)].identity == identity
            && offers[Int(offer)].model == model
    }

    private func anyOffer(of identity: UInt64, model: UInt32) -> UInt32? {
        guard let known = identityByNumber[identity] else { return nil }
        for supplier in identities[Int(known)].connections {
            let all = suppliers[Int(supplier)].offers
            if let offer = all.first(where: { isOffer($0, of: identity, model: model) }) {
                return offer
            }
        }
        return nil
    }

    // MARK: A slot looks for a task

    /// Gives the waiting tasks of its model to an offer, as far as it has slots.
    mutating func serve(_ offer: UInt32, nowUs: UInt64, out: inout DispatcherOutput) {
        let index = Int(offer)
        guard offers[index].isFree else { return }
        let model = Int(offers[index].model)
        while models[model].queue.count > 0, offers[index].isFree {
            let node = models[model].free.leaf(Int(offers[index].leaf))
            guard
                let task = models[model].queue.first(
                    for: node, region: offers[index].region, identity: offers[index].identity,
                    nowUs: nowUs, tasks)
            else { return }
            dispatch(task, to: offer, winReason(.waited, offer), nowUs: nowUs, out: &out)
        }
    }

    /// The same for all offers of a connection that share its slots, each in its turn first.
    mutating func serveAll(
        ofSupplier supplier: UInt32, nowUs: UInt64, out: inout DispatcherOutput
    ) {
        let index = Int(supplier)
        let count = suppliers[index].offers.count
        for position in 0..<count { refresh(suppliers[index].offers[position]) }
        guard !suppliers[index].isFull, count > 0 else { return }
        let turn = suppliers[index].turn % count
        suppliers[index].turn = turn + 1
        for step in 0..<count {
            serve(suppliers[index].offers[(turn + step) % count], nowUs: nowUs, out: &out)
        }
    }

    mutating func serveAll(
        ofIdentity identity: UInt32, nowUs: UInt64, out: inout DispatcherOutput
    ) {
        for position in identities[Int(identity)].connections.indices {
            serveAll(
                ofSupplier: identities[Int(identity)].connections[position], nowUs: nowUs,
                out: &out)
        }
    }

    // MARK: The order of offers

    /// Files an offer under what it is worth now, or takes it out when it has no free slot.
    mutating func refresh(_ offer: UInt32) {
        let index = Int(offer)
        let supplier = Int(offers[index].supplier)
        let isFree =
            !offers[index].isWithdrawn && offers[index].inUse < offers[index].granted
            && !suppliers[supplier].isFull
            && identities[Int(suppliers[supplier].identity)].breaker.admits
        guard isFree || offers[index].isFree else { return }
        let model = Int(offers[index].model)
        if isFree != offers[index].isFree {
            offers[index].isFree = isFree
            models[model].freeOffers += isFree ? 1 : -1
        }
        models[model].free.set(Int(offers[index].leaf), isFree ? worth(offer) : .vacant)
    }

    /// Predicted first token = what was seen lately, and as much again as slots are in use.
    private mutating func worth(_ offer: UInt32) -> OfferNode {
        let index = Int(offer)
        let load = min(offers[index].inUse, 1 << 20) * 16 / min(offers[index].granted, 1 << 20)
        let seenUs = offers[index].speed.firstTokenUs
        let predictedUs = seenUs + seenUs * UInt64(load) / 16
        var node = offers[index].standing
        node.keys = OfferKeys(
            firstTokenUs: predictedUs, usPerToken: offers[index].speed.usPerToken,
            price: offers[index].price, load: load)
        if offers[index].speed.isFresh { node.firstTokenUs = UInt32(clamping: predictedUs) }
        return node
    }

    // MARK: Dispatch

    /// Gives the task to the offer, which has a free slot.
    mutating func dispatch(
        _ task: TaskIndex, to offer: UInt32, _ reason: WinReason, nowUs: UInt64,
        out: inout DispatcherOutput
    ) {
        let index = Int(task)
        switch holdAtDispatch(task, offer) {
        case .held: break
        case .waits: return waitQueued(task, for: offer, nowUs: nowUs, out: &out)
        case .refused: return endUnaffordable(task, nowUs: nowUs, out: &out)
        }
        let supplier = Int(offers[Int(offer)].supplier)
        countLosses(task, winner: offer, reason, nowUs: nowUs)
        if tasks[index].state == .queued { leaveQueue(task, charges: true) }
        stopWaiting(task)
        tasks[index].state = .running
        tasks[index].offer = offer
        tasks[index].identity = suppliers[supplier].identity
        tasks[index].row = offers[Int(offer)].row
        books.dispatched(tasks[index].row)
        tasks[index].dispatchedUs = nowUs
        if tasks[index].dispatches == 0 {
            let waitedUs = nowUs - tasks[index].acceptedUs
            tasks[index].queueUs = UInt32(clamping: waitedUs)
            counters.queueUs += waitedUs
            queueHistogram[HistogramBucket.index(of: waitedUs)] += 1
            models[Int(tasks[index].model)].retries.countFirst(nowMs: nowUs / 1_000)
        }
        tasks[index].dispatches += 1
        tasks[index].winReason = reason
        tasks[index].supplierIdentity = offers[Int(offer)].identity
        tasks[index].supplyType = offers[Int(offer)].supplyType
        tasks[index].prices = offers[Int(offer)].prices
        noteAffinity(task)
        take(offer, for: task)
        counters.dispatched += 1
        out.journal.append(
            .assigned(
                slot: task,
                Assignment(
                    supplier: tasks[index].supplierIdentity, offerModel: tasks[index].model,
                    supplyType: offers[Int(offer)].supplyType, dispatches: tasks[index].dispatches,
                    winReason: reason, queueUs: tasks[index].queueUs,
                    operation: tasks[index].terms.operation, prices: tasks[index].prices)))
        out.messages.append(
            .assign(
                tasks[index].stream, suppliers[supplier].connection, offers[Int(offer)].id,
                TaskID(instance: instance, counter: tasks[index].counter), heldTokens(task)))
    }

    /// Not one token can be paid at the price of the offer that was found.
    mutating func endUnaffordable(
        _ task: TaskIndex, nowUs: UInt64, out: inout DispatcherOutput
    ) {
        if tasks[Int(task)].state == .admitted { enqueue(task, isReturned: false) }
        var report = TaskReport(task: task, status: .budgetExhausted, code: .budgetExhausted)
        report.durationUs = nowUs - tasks[Int(task)].acceptedUs
        finish(report, nowUs: nowUs, out: &out)
    }

    /// A slot of the offer and of its connection is taken; what is full leaves the order.
    private mutating func take(_ offer: UInt32, for task: TaskIndex) {
        let supplier = offers[Int(offer)].supplier
        let identity = suppliers[Int(supplier)].identity
        offers[Int(offer)].inUse += 1
        suppliers[Int(supplier)].inUse += 1
        identities[Int(identity)].running += 1
        tasks[Int(task)].isProbe = identities[Int(identity)].breaker.dispatched()
        if tasks[Int(task)].isProbe {
            refreshAll(ofIdentity: identity)
        } else if suppliers[Int(supplier)].isFull {
            for position in suppliers[Int(supplier)].offers.indices {
                refresh(suppliers[Int(supplier)].offers[position])
            }
        } else {
            refresh(offer)
        }
    }

    private mutating func refreshAll(ofIdentity identity: UInt32) {
        for connection in identities[Int(identity)].connections.indices {
            let supplier = Int(identities[Int(identity)].connections[connection])
            for position in suppliers[supplier].offers.indices {
                refresh(suppliers[supplier].offers[position])
            }
        }
    }

    private mutating func noteAffinity(_ task: TaskIndex) {
        let index = Int(task)
        for position in 0..<Int(tasks[index].affinityKeys.count) {
            let tag = AffinityTable.tag(
                account: tasks[index].account, model: tasks[index].model,
                key: tasks[index].affinityKeys[position])
            affinity.note(
                tag, identity: tasks[index].supplierIdentity, offer: tasks[index].offer)
        }
    }

    // MARK: Queues

    /// The task waits. `isReturned`: a supplier had it, so it goes before those that never ran.
    mutating func enqueue(_ task: TaskIndex, isReturned: Bool) {
        let index = Int(task)
        let model = Int(tasks[index].model)
        tasks[index].state = .queued
        arrivals += 1
        tasks[index].arrival = arrivals
        let order = TaskOrder.ofTask(
            priority: tasks[index].terms.priority, deadlineUs: tasks[index].demand.deadlineUs,
            arrival: arrivals)
        tasks[index].place = models[model].queue.push(
            task, account: tasks[index].accountIndex, isReturned: isReturned,
            TaskNode(payable(task), order))
        models[model].queuedTokens += tasks[index].estimatedTokens
        queuedTasks += 1
    }

    mutating func leaveQueue(_ task: TaskIndex, charges: Bool) {
        let index = Int(task)
        let model = Int(tasks[index].model)
        models[model].queuedTokens -= tasks[index].estimatedTokens
        queuedTasks -= 1
        guard charges else { return models[model].queue.remove(tasks[index].place) }
        let isCharged = models[model].queue.dispatch(
            tasks[index].place, tokens: tasks[index].estimatedTokens)
        if isCharged { tasks[index].chargedFlow = tasks[index].place.flow }
    }

    /// What a task is likely to need: the prompt as told or at four bytes a token, and an answer
    /// as long as they are here, but no longer than the task allows.
    mutating func estimatedTokens(_ terms: TaskTerms, model: UInt32) -> UInt64 {
        let told = terms.maxInputTokens == 0 ? UInt32.max : terms.maxInputTokens
        let most = terms.maxOutputTokens == 0 ? UInt32.max : terms.maxOutputTokens
        return min(UInt64(told), UInt64(terms.bodyBytes) / 4 + 1)
            + min(UInt64(most), models[Int(model)].speed.answerTokens)
    }
}

extension WinReason {
    /// Best as the task prefers.
    init(_ preference: Preference) {
        switch preference {
        case .balanced: self = .balanced
        case .price: self = .cheapest
        case .latency: self = .earliest
        case .throughput: self = .fastest
        }
    }
}
