import BasicContainers
import SluiceWire

// What a supplier is told when it asks how it stands [S14].
extension Dispatcher {
    /// What stands of a row's model now, over all connections of the supplier.
    private struct Standing {
        var offers: UInt64 = 0
        var slotsGranted: UInt64 = 0
        var slotsInUse: UInt64 = 0
        /// Of the fastest offer; nil = nothing was seen.
        var speed: SpeedEstimate?

        mutating func add(_ offer: Offer) {
            offers += 1
            slotsGranted += UInt64(offer.granted)
            slotsInUse += UInt64(offer.inUse)
            if speed.map({ offer.speed.firstTokenUs < $0.firstTokenUs }) ?? true {
                speed = offer.speed
            }
        }
    }

    /// Answers, but no supplier more often than once a second: a report walks its offers.
    mutating func asked(
        _ connection: ConnectionRef, _ frame: AskFrame, nowUs: UInt64,
        out: inout DispatcherOutput
    ) {
        guard let supplier = peer(connection)?.supplier, supplier != noIndex else { return }
        let identity = Int(suppliers[Int(supplier)].identity)
        let lastMs = identities[identity].reportedMs
        guard lastMs == 0 || nowUs / 1_000 >= lastMs + WireLimits.reportPauseMs else { return }
        identities[identity].reportedMs = nowUs / 1_000
        let book = books.book(of: identities[identity].number)
        var standings = [Standing](repeating: Standing(), count: max(1, book?.rows.count ?? 0))
        for connection in identities[identity].connections {
            for offer in suppliers[Int(connection)].offers where !offers[Int(offer)].isWithdrawn {
                let row = offers[Int(offer)].row
                let place = row == noIndex ? 0 : books.rows[Int(row)].place
                standings[place].add(offers[Int(offer)])
            }
        }
        var bytes: [UInt8] = []
        let rowsLeft = standings.count - 1
        var whole = ReportFrame(question: frame.question, rowsLeft: UInt16(rowsLeft))
        addWhole(to: &whole, identity: identity, standings, nowUs: nowUs)
        whole.encode(into: &bytes)
        for place in standings.indices.dropFirst() {
            guard let row = book?.rows[place] else { continue }
            var report = ReportFrame(
                question: frame.question, rowsLeft: UInt16(rowsLeft - place),
                model: models[Int(books.rows[Int(row)].model)].name)
            add(row, standings[place], to: &report)
            report.encode(into: &bytes)
        }
        out.messages.append(.report(connection, frames: bytes))
    }

    private func addWhole(
        to report: inout ReportFrame, identity: Int, _ standings: [Standing], nowUs: UInt64
    ) {
        var counts = SupplierBooks.Counts()
        let book = books.book(of: identities[identity].number)
        for row in book?.rows ?? [] { counts.add(books.rows[Int(row)].counts) }
        report.add(.clock, wallUs / 1_000)
        report.add(.since, book?.sinceMs ?? wallUs / 1_000)
        report.add(.connections, UInt64(identities[identity].connections.count))
        report.add(.offers, standings.reduce(0) { $0 + $1.offers })
        var granted: UInt64 = 0
        var inUse: UInt64 = 0
        for supplier in identities[identity].connections {
            let ofOffers = suppliers[Int(supplier)].offers.reduce(into: UInt64(0)) {
                if !offers[Int($1)].isWithdrawn { $0 += UInt64(offers[Int($1)].granted) }
            }
            granted += min(UInt64(suppliers[Int(supplier)].granted), ofOffers)
            inUse += UInt64(suppliers[Int(supplier)].inUse)
        }
        report.add(.slotsGranted, granted)
        report.add(.slotsInUse, inUse)
        add(counts, to: &report)
        switch identities[identity].breaker.state {
        case .closed: report.add(.breaker, 0)
        case .open(let untilUs):
            report.add(.breaker, 1)
            report.add(.breakerOpenMs, (untilUs - min(untilUs, nowUs)) / 1_000)
        case .halfOpen, .probing: report.add(.breaker, 2)
        }
        addLosses(of: counts, to: &report)
    }

    private func add(_ row: UInt32, _ standing: Standing, to report: inout ReportFrame) {
        let row = books.rows[Int(row)]
        report.add(.offers, standing.offers)
        report.add(.slotsGranted, standing.slotsGranted)
        report.add(.slotsInUse, standing.slotsInUse)
        report.add(.waiting, UInt64(models[Int(row.model)].queue.count))
        add(row.counts, to: &report)
        if let speed = standing.speed, speed.isFresh {
            report.add(.firstToken, speed.firstTokenUs)
            report.add(.eachToken, speed.usPerToken)
        }
        addLosses(of: row.counts, to: &report)
    }

    private func add(_ counts: SupplierBooks.Counts, to report: inout ReportFrame) {
        report.add(.dispatched, counts.dispatched)
        report.add(.completed, counts.completed)
        report.add(.declined, counts.declined)
        report.add(.failed, counts.failed)
        report.add(.otherEnds, counts.otherEnds)
        report.add(.inputTokens, counts.inputTokens)
        report.add(.outputTokens, counts.outputTokens)
        report.add(.earned, counts.earned)
        report.add(.earnedToday, counts.earnedToday(wallUs: wallUs))
    }

    private func addLosses(of counts: SupplierBooks.Counts, to report: inout ReportFrame) {
        for reason in LossReason.allCases where counts.lost[Int(reason.rawValue)] > 0 {
            report.add(reason.reportNumber, counts.lost[Int(reason.rawValue)])
        }
    }
}

extension LossReason {
    /// Its number on the wire.
    var reportNumber: ReportNumber {
        switch self {
        case .excluded: .lostExcluded
        case .capability: .lostCapability
        case .dataPolicy: .lostDataPolicy
        case .region: .lostRegion
        case .supplyType: .lostSupplyType
        case .priceCeiling: .lostPriceCeiling
        case .context: .lostContext
        case .breakerOpen: .lostBreakerOpen
        case .noFreeSlot: .lostNoFreeSlot
        case .deadline: .lostDeadline
        case .affinityElsewhere: .lostAffinity
        case .slowerOrDearer: .lostSlowerOrDearer
        case .price: .lostOperatorPrice
        }
    }
}
