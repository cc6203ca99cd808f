import BasicContainers
import SluiceRecordFormat
import SluiceWire

// Offers, grants and slots.
extension Dispatcher {
    mutating func offered(
        _ connection: ConnectionRef, _ frame: OfferFrame, nowUs: UInt64,
        out: inout DispatcherOutput
    ) {
        guard let supplier = peer(connection)?.supplier, supplier != noIndex else { return }
        let index = Int(supplier)
        guard suppliers[index].offers.count < WireLimits.offersMax,
            let ask = PriceList(frame.prices),
            !isTaken(supplier, frame.offer), !idleOffers.isEmpty || offers.count < limits.offers,
            let model = intern(
                frame.model, identity: identities[Int(suppliers[index].identity)].number,
                nowUs: nowUs, out: &out)
        else {
            out.messages.append(.refuseConnection(connection, .invalidOffer))
            return
        }
        var offer = Offer()
        offer.isPresent = true
        offer.supplier = supplier
        offer.model = model
        offer.identity = identities[Int(suppliers[index].identity)].number
        offer.row = books.offered(
            by: offer.identity, model: model, wallMs: wallUs / 1_000)
        offer.region = frame.region
        offer.speed = SpeedEstimate(prior: models[Int(model)].speed)
        offer.id = frame.offer
        offer.supplyType = frame.supplyType
        // The ask, frozen for its tasks [S12]. The client pays it without a fee.
        offer.prices = TaskPrices(ask: ask, consumer: ask)
        offer.standing = OfferNode(frame, shard: connection.shard)
        offer.operations = offer.standing.operations
        let position: UInt32
        if let idle = idleOffers.popLast() {
            position = idle
            offers[Int(idle)] = offer
        } else {
            position = UInt32(offers.count)
            offers.append(offer)
        }
        suppliers[index].offers.append(position)
        price(position)
        list(position, OfferKind(frame))
    }

    mutating func granted(
        _ connection: ConnectionRef, _ frame: GrantFrame, nowUs: UInt64,
        out: inout DispatcherOutput
    ) {
        guard let supplier = peer(connection)?.supplier, supplier != noIndex else { return }
        if frame.offer == .connection {
            suppliers[Int(supplier)].granted = min(frame.slots, limits.maxStreams)
            return serveAll(ofSupplier: supplier, nowUs: nowUs, out: &out)
        }
        guard let offer = findOffer(supplier, frame.offer) else {
            out.messages.append(.refuseConnection(connection, .invalidOffer))
            return
        }
        offers[Int(offer)].granted = frame.slots
        refresh(offer)
        serve(offer, nowUs: nowUs, out: &out)
    }

    mutating func withdrawn(
        _ connection: ConnectionRef, _ frame: WithdrawFrame, nowUs: UInt64,
        out: inout DispatcherOutput
    ) {
        guard let supplier = peer(connection)?.supplier, supplier != noIndex else { return }
        guard let offer = findOffer(supplier, frame.offer) else {
            out.messages.append(.refuseConnection(connection, .invalidOffer))
            return
        }
        offers[Int(offer)].isWithdrawn = true
        unlist(offer, nowUs: nowUs)
        if offers[Int(offer)].inUse == 0 { forget(offer, nowUs: nowUs) }
    }

    /// The supplier drains: none of its offers stands any more.
    mutating func withdrawnAll(_ connection: ConnectionRef, nowUs: UInt64) {
        guard let supplier = peer(connection)?.supplier, supplier != noIndex else { return }
        for offer in suppliers[Int(supplier)].offers where !offers[Int(offer)].isWithdrawn {
            offers[Int(offer)].isWithdrawn = true
            unlist(offer, nowUs: nowUs)
            if offers[Int(offer)].inUse == 0 { forget(offer, nowUs: nowUs) }
        }
    }

    /// A stream at the supplier is over: its slot is free.
    mutating func slotFreed(
        _ connection: ConnectionRef, _ id: OfferID, nowUs: UInt64, out: inout DispatcherOutput
    ) {
        guard let supplier = peer(connection)?.supplier, supplier != noIndex else { return }
        precondition(suppliers[Int(supplier)].inUse > 0, "slot freed twice")
        let wasFull = suppliers[Int(supplier)].isFull
        suppliers[Int(supplier)].inUse -= 1
        // A withdrawn offer keeps its number until its last stream has ended [S2].
        let found = suppliers[Int(supplier)].offers.first { position in
            offers[Int(position)].id == id && offers[Int(position)].inUse > 0
        }
        guard let offer = found else {
            preconditionFailure("freed slot of an unknown offer")
        }
        offers[Int(offer)].inUse -= 1
        let isGone = offers[Int(offer)].isWithdrawn && offers[Int(offer)].inUse == 0
        if isGone { forget(offer, nowUs: nowUs) }
        // The slots of a full connection were missing to all of its offers.
        if wasFull { return serveAll(ofSupplier: supplier, nowUs: nowUs, out: &out) }
        guard !isGone else { return }
        refresh(offer)
        serve(offer, nowUs: nowUs, out: &out)
    }

    /// Takes the offer of a lost connection out of every list.
    mutating func removeOffer(_ offer: UInt32, nowUs: UInt64) {
        if !offers[Int(offer)].isWithdrawn { unlist(offer, nowUs: nowUs) }
        release(offer: offer, nowUs: nowUs)
    }

    /// Tasks of its model may be matched to it from now on.
    private mutating func list(_ offer: UInt32, _ kind: OfferKind) {
        let index = Int(offer)
        let model = Int(offers[index].model)
        offers[index].place = UInt32(models[model].offers.count)
        models[model].offers.append(offer)
        let (leaf, group) = models[model].leaves.add(offer, kind)
        offers[index].leaf = leaf
        offers[index].group = group
        models[model].standing.set(Int(leaf), offers[index].standing)
        models[model].free.set(Int(leaf), .vacant)
        models[model].absentSinceMs = nil
    }

    /// Its price is another now.
    mutating func relist(_ offer: UInt32) {
        let index = Int(offer)
        let model = Int(offers[index].model)
        models[model].isDearestStale = true
        models[model].standing.set(Int(offers[index].leaf), offers[index].standing)
        refresh(offer)
    }

    /// No new task is matched to it. Others take its places.
    private mutating func unlist(_ offer: UInt32, nowUs: UInt64) {
        let index = Int(offer)
        let model = Int(offers[index].model)
        models[model].isDearestStale = true
        if offers[index].isFree { models[model].freeOffers -= 1 }
        offers[index].isFree = false
        let place = Int(offers[index].place)
        let last = models[model].offers.removeLast()
        if last != offer {
            models[model].offers[place] = last
            offers[Int(last)].place = UInt32(place)
        }
        var vacant = Int(offers[index].leaf)
        if let moved = models[model].leaves.remove(
            offers[index].leaf, group: offers[index].group)
        {
            let from = Int(moved.leaf)
            let standing = models[model].standing.leaf(from)
            models[model].standing.set(vacant, standing)
            let free = models[model].free.leaf(from)
            models[model].free.set(vacant, free)
            offers[Int(moved.offer)].leaf = UInt32(vacant)
            vacant = from
        }
        models[model].standing.set(vacant, .vacant)
        models[model].free.set(vacant, .vacant)
        offers[index].leaf = noIndex
        offers[index].place = noIndex
        if models[model].offers.isEmpty { models[model].absentSinceMs = nowUs / 1_000 }
    }

    /// A withdrawn offer whose last stream is over.
    private mutating func forget(_ offer: UInt32, nowUs: UInt64) {
        suppliers[Int(offers[Int(offer)].supplier)].offers.removeAll { $0 == offer }
        release(offer: offer, nowUs: nowUs)
    }

    private mutating func release(offer: UInt32, nowUs: UInt64) {
        books.withdrawn(offers[Int(offer)].row, nowMs: nowUs / 1_000)
        offers[Int(offer)] = Offer()
        lost.forget(offer: offer)
        idleOffers.append(offer)
    }

    /// Whether an offer of this number stands, or was withdrawn with streams that are still open.
    private func isTaken(_ supplier: UInt32, _ id: OfferID) -> Bool {
        suppliers[Int(supplier)].offers.contains { offers[Int($0)].id == id }
    }

    /// The live offer that the supplier calls by this id.
    private func findOffer(_ supplier: UInt32, _ id: OfferID) -> UInt32? {
        suppliers[Int(supplier)].offers.first { position in
            !offers[Int(position)].isWithdrawn && offers[Int(position)].id == id
        }
    }

    /// The number of a model's name; nil when too many names are known.
    private mutating func intern(
        _ name: ModelName, identity: UInt64, nowUs: UInt64, out: inout DispatcherOutput
    ) -> UInt32? {
        if let known = modelByName[name] { return known }
        let introduced = namesByIdentity[identity, default: 0]
        guard introduced < limits.modelsPerIdentity, models.count < limits.models else {
            return nil
        }
        namesByIdentity[identity] = introduced + 1
        // Numbers start at 1: 0 means "none" in records.
        if models.isEmpty { models.append(Model(name: name)) }
        let model = UInt32(models.count)
        models.append(Model(name: name))
        modelByName[name] = model
        unwrittenNames.append(NameRecord(model: model, name: name))
        writeNames(out: &out)
        return model
    }

    /// Writes new names down as far as there is room: open tasks have their ENDED reserved, and a
    /// name may not take its place. No task is admitted before all names are written.
    mutating func writeNames(out: inout DispatcherOutput) {
        var written = 0
        while written < unwrittenNames.count, hasJournalRoom {
            journalFreeRecords -= 1
            out.journal.append(.name(unwrittenNames[written]))
            written += 1
        }
        unwrittenNames.removeFirst(written)
    }
}
