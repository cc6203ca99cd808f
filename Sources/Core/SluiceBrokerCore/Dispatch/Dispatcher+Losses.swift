import BasicContainers
import SluiceRecordFormat
package import SluiceWire

// Why offers did not win.
extension Dispatcher {
    /// Matches that the offer lost for this reason, as `LostMatches` counts; nil when there is no
    /// such offer.
    package func lostMatches(
        _ connection: ConnectionRef, _ offer: OfferID, _ reason: LossReason
    ) -> UInt64? {
        guard let supplier = Self.peer(connection, in: peers)?.supplier, supplier != noIndex else {
            return nil
        }
        let found = suppliers[Int(supplier)].offers.first {
            offers[Int($0)].id == offer
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
        let winnerPlace = Int(offers[Int(winner)].place)
        if others <= 2 {
            for place in 0...others where place != winnerPlace {
                count(loserAt: place, of: model, task, reason, weight: 1, nowUs: nowUs)
            }
            return
        }
        guard counters.dispatched % LostMatches.sampling == 0 else { return }
        // Two different ones among the others, which are numbered from the winner on.
        let first = Int(random.next(below: UInt64(others)))
        let second = (first + others / 2) % others
        let half = UInt64(others) / 2
        for (drawn, part) in [(first, half), (second, UInt64(others) - half)] {
            count(
                loserAt: (winnerPlace + 1 + drawn) % (others + 1), of: model, task, reason,
                weight: part * LostMatches.sampling, nowUs: nowUs)
        }
    }

    private mutating func count(
        loserAt place: Int, of model: Int, _ task: TaskIndex, _ reason: WinReason,
        weight: UInt64, nowUs: UInt64
    ) {
        let offer = models[model].offers[place]
        let why = lossReason(offer, task, wonBy: reason, nowUs: nowUs)
        lost.add(offer: offer, why, weight)
        books.lost(offers[Int(offer)].row, why, weight)
    }

    private func lossReason(
        _ offer: UInt32, _ task: TaskIndex, wonBy reason: WinReason, nowUs: UInt64
    ) -> LossReason {
        let index = Int(offer)
        if tasks[Int(task)].excludes(offers[index].identity) { return .excluded }
        if let reason = failedFilter(offer, task) { return reason }
        let identity = suppliers[Int(offers[index].supplier)].identity
        if !identities[Int(identity)].breaker.admits { return .breakerOpen }
        guard offers[index].isFree else { return .noFreeSlot }
        let node = models[Int(offers[index].model)].free.leaf(Int(offers[index].leaf))
        if nowUs + UInt64(node.firstTokenUs) > tasks[Int(task)].demand.deadlineUs {
            return .deadline
        }
        return reason == .affinity ? .affinityElsewhere : .slowerOrDearer
    }

    /// The first filter that keeps the task from the offer [Q9][D2].
    private func failedFilter(_ offer: UInt32, _ task: TaskIndex) -> LossReason? {
        if offers[Int(offer)].isPricedOut { return .price }
        let node = offers[Int(offer)].standing
        let demand = tasks[Int(task)].demand
        if node.operations & demand.operations == 0 || node.encodings & demand.encodings == 0 {
            return .capability
        }
        if node.dataPolicy < demand.dataPolicy { return .dataPolicy }
        if let region = tasks[Int(task)].filters.region, region != offers[Int(offer)].region {
            return .region
        }
        if node.supplyTypes & demand.supplyTypes == 0 { return .supplyType }
        if node.inputPrice > demand.inputCeiling || node.outputPrice > demand.outputCeiling {
            return .priceCeiling
        }
        return node.contextTokens < demand.contextTokens ? .context : nil
    }
}
