package import SluiceWire

// Why offers did not win.
extension Dispatcher {
    /// Matches that the offer lost for this reason, as `LostMatches` counts; nil when there is no
    /// such offer.
    package func lostMatches(
        _ connection: ConnectionRef, _ offer: OfferID, _ reason: LossReason
    ) -> UInt64? {
        guard let supplier = peer(connection)?.supplier, supplier != noIndex else { return nil }
        let found = suppliers[Int(supplier)].offers.first {
            offers[Int($0)].frame?.offer == offer
        }
        return found.map { lost.count(offer: $0, reason) }
    }

    /// All offers together, by the number of the reason.
    package var lostMatches: [UInt64] { lost.totals }

    /// Counts one match for those of the model's offers that did not get it.
    mutating func countLosses(
        _ task: TaskIndex, winner: UInt32, _ reason: WinReason, nowUs: UInt64
    ) {
        let model = Int(tasks[Int(task)].model)
        let others = models[model].offers.count - 1
        guard others > 0 else { return }
        let winnerLeaf = Int(offers[Int(winner)].leaf)
        if others <= 2 {
            for leaf in 0...others where leaf != winnerLeaf {
                count(loserAt: leaf, of: model, task, reason, weight: 1, nowUs: nowUs)
            }
            return
        }
        let half = UInt64(others) / 2
        // Two different ones among the others, which are numbered from the winner on.
        let first = Int(random.next(below: UInt64(others)))
        let second = (first + others / 2) % others
        count(
            loserAt: (winnerLeaf + 1 + first) % (others + 1), of: model, task, reason,
            weight: half, nowUs: nowUs)
        count(
            loserAt: (winnerLeaf + 1 + second) % (others + 1), of: model, task, reason,
            weight: UInt64(others) - half, nowUs: nowUs)
    }

    private mutating func count(
        loserAt leaf: Int, of model: Int, _ task: TaskIndex, _ reason: WinReason,
        weight: UInt64, nowUs: UInt64
    ) {
        let offer = models[model].offers[leaf]
        lost.add(offer: offer, lossReason(offer, task, wonBy: reason, nowUs), weight)
    }

    private func lossReason(
        _ offer: UInt32, _ task: TaskIndex, wonBy reason: WinReason, _ nowUs: UInt64
    ) -> LossReason {
        let index = Int(offer)
        let supplier = Int(offers[index].supplier)
        guard let frame = offers[index].frame else { preconditionFailure("offer is gone") }
        if tasks[Int(task)].excludes(offers[index].identity) { return .excluded }
        if let reason = failedFilter(frame, tasks[Int(task)].terms, tasks[Int(task)].filters) {
            return reason
        }
        if !identities[Int(suppliers[supplier].identity)].breaker.admits { return .breakerOpen }
        guard offers[index].isFree else { return .noFreeSlot }
        let node = models[Int(offers[index].model)].free.leaf(Int(offers[index].leaf))
        if !node.mayServe(tasks[Int(task)].demand, nowUs: nowUs) {
            return .deadline
        }
        return reason == .affinity ? .affinityElsewhere : .slowerOrDearer
    }

    /// The first filter that keeps the task from the offer [Q9][D2].
    private func failedFilter(
        _ frame: OfferFrame, _ terms: TaskTerms, _ filters: OfferFilters
    ) -> LossReason? {
        guard frame.operations.contains(OperationSet(terms.operation)),
            frame.encodings.contains(EncodingSet(terms.encoding))
        else { return .capability }
        if frame.dataPolicy.rawValue < filters.dataPolicy.rawValue { return .dataPolicy }
        if let region = filters.region, region != frame.region { return .region }
        if !filters.supplyTypes.contains(SupplyTypeSet(frame.supplyType)) { return .supplyType }
        if UInt64(frame.prices.input.rawValue) > filters.inputCeiling
            || UInt64(frame.prices.output.rawValue) > filters.outputCeiling
        {
            return .priceCeiling
        }
        let wanted = UInt64(terms.maxInputTokens) + UInt64(terms.maxOutputTokens)
        if frame.contextTokens != 0, wanted > UInt64(frame.contextTokens) { return .context }
        return nil
    }
}
