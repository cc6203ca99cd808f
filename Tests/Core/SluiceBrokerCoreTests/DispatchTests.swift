import SluiceBrokerCore
import SluiceInMemory
import SluiceRecordFormat
import SluiceSession
import SluiceWire
import Testing

@Suite("Dispatch") struct DispatchTests {
    @Test("[D8][D10] lost before output: dispatched again, unseen by the client")
    func lostBeforeOutput() throws {
        var rig = Rig()
        let first = rig.supplier()
        let client = rig.client()
        rig.submit(client)
        #expect(rig.hear(first).compactMap(\.assign).count == 1)
        let second = rig.supplier()
        rig.hangUp(first)
        let assign = try #require(rig.hear(second).compactMap(\.assign).first)
        #expect(assign.creditLimitBytes == 16_384)
        rig.tokens(second, [1])
        rig.end(second)
        #expect(rig.hear(client).map(\.kind) == [.queued, .tokens, .end])
        #expect(rig.ended.map(\.dispatches) == [2])
    }

    @Test("[D8] queued but unsealed TOKENS are not forwarded", arguments: [true, false])
    func unsealed(_ isLost: Bool) {
        var rig = Rig()
        let first = rig.supplier()
        let client = rig.client()
        rig.submit(client)
        _ = rig.hear(first)
        let second = rig.supplier()
        // TOKENS and the end of their supplier in one turn: nothing was sealed between them.
        var bytes: [UInt8] = []
        FrameHeader(kind: .tokens, stream: StreamID(1), payloadBytes: 1, tokens: 1)
            .encode(into: &bytes)
        bytes.append(9)
        if !isLost {
            EndFrame(code: .upstreamUnavailable).encode(stream: StreamID(1), into: &bytes)
        }
        rig.broker.receive(first, bytes, nowUs: rig.nowUs)
        if isLost { rig.broker.disconnected(first, nowUs: rig.nowUs) }
        rig.turn()
        #expect(rig.hear(second).compactMap(\.assign).count == 1)
        rig.tokens(second, [7])
        rig.end(second)
        let frames = rig.hear(client)
        #expect(frames.filter { $0.kind == .tokens }.map(\.payload) == [[7]])
        #expect(frames.last?.end?.code == .completed)
    }

    @Test("[D9] lost after output: supplier_lost with exact usage")
    func lostAfterOutput() throws {
        var rig = Rig()
        let first = rig.supplier()
        let client = rig.client()
        rig.submit(client)
        _ = rig.supplier()
        rig.say(first, started(inputTokens: 6))
        rig.tokens(first, [1, 2], tokens: 2)
        rig.hangUp(first)
        let end = try #require(rig.hear(client).last?.end)
        #expect(end.code == .supplierLost)
        #expect(end.usage == Usage(inputTokens: 6, outputTokens: 2))
    }

    @Test("[D8][D9] at most twice more, never the same identity")
    func threeDispatches() {
        var rig = Rig()
        let client = rig.client()
        let suppliers = (0..<4).map { _ in rig.supplier() }
        rig.submit(client)
        var had: [Int] = []
        for _ in 0..<4 {
            for (number, supplier) in suppliers.enumerated() {
                guard rig.hear(supplier).contains(where: { $0.kind == .assign }) else { continue }
                had.append(number)
                rig.end(supplier, .upstreamUnavailable)
                break
            }
        }
        #expect(had.count == 3)
        #expect(Set(had).count == 3)
        #expect(rig.hear(client).compactMap(\.end).map(\.code) == [.supplierFailed])
    }

    @Test("[D8] a second connection of the same identity is not another supplier")
    func sameIdentity() {
        var rig = Rig()
        let first = rig.supplier(identity: 3)
        let client = rig.client()
        rig.submit(client)
        _ = rig.hear(first)
        let second = rig.supplier(identity: 3)
        rig.end(first, .declined)
        #expect(rig.hear(second).isEmpty)
        #expect(rig.hear(client).compactMap(\.end).map(\.code) == [.supplierFailed])
    }

    @Test("[D9] declined is never told to a client")
    func declined() {
        var rig = Rig()
        let supplier = rig.supplier()
        let client = rig.client()
        rig.submit(client)
        _ = rig.hear(supplier)
        rig.end(supplier, .declined)
        #expect(rig.hear(client).compactMap(\.end).map(\.code) == [.supplierFailed])
        #expect(rig.ended.map(\.code) == [.supplierFailed])
    }

    @Test("[S2] the number of a withdrawn offer is taken while its streams are open")
    func offerNumber() {
        var rig = Rig()
        let supplier = rig.supplier()
        let client = rig.client()
        rig.submit(client)
        _ = rig.hear(supplier)
        rig.say(supplier) { WithdrawFrame(offer: OfferID(1)).encode(into: &$0) }
        rig.say(supplier) { OfferFrame(offer: OfferID(2), model: Rig.model).encode(into: &$0) }
        #expect(rig.hear(supplier).isEmpty)
        rig.say(supplier) { OfferFrame(offer: OfferID(1), model: Rig.model).encode(into: &$0) }
        #expect(rig.error(supplier) == .invalidOffer)
    }

    @Test("the offers of all connections together are bounded")
    func brokerOffers() {
        var limits = BrokerLimits()
        limits.offers = 2
        var rig = Rig(limits: limits)
        _ = rig.supplier()
        let second = rig.supplier()
        rig.say(second) { OfferFrame(offer: OfferID(2), model: Rig.model).encode(into: &$0) }
        #expect(rig.error(second) == .invalidOffer)
    }

    @Test("[S2] at most 256 offers stand at once")
    func offerCount() {
        var rig = Rig()
        let supplier = rig.supplier()
        for number in 2...256 {
            rig.say(supplier) {
                OfferFrame(offer: OfferID(UInt32(number)), model: Rig.model).encode(into: &$0)
            }
        }
        #expect(rig.hear(supplier).isEmpty)
        rig.say(supplier) { OfferFrame(offer: OfferID(300), model: Rig.model).encode(into: &$0) }
        #expect(rig.error(supplier) == .invalidOffer)
    }

    @Test("[S10] GRANT and WITHDRAW for what does not stand")
    func unknownOffer() {
        var rig = Rig()
        var supplier = rig.supplier()
        rig.say(supplier) { GrantFrame(offer: OfferID(9), slots: 1).encode(into: &$0) }
        #expect(rig.error(supplier) == .invalidOffer)
        supplier = rig.supplier()
        rig.say(supplier) { WithdrawFrame(offer: .connection).encode(into: &$0) }
        #expect(rig.error(supplier) == .invalidOffer)
    }

    @Test(
        "[S4][S5][S6] slots of the offer and of the connection both bound; lowering takes nothing")
    func grants() {
        var rig = Rig()
        let supplier = rig.supplier(slots: 0)
        let client = rig.client()
        for stream in UInt32(1)...5 { rig.submit(client, stream: stream) }
        func grant(_ offer: UInt32, _ slots: UInt32, _ rig: inout Rig) -> Int {
            rig.say(supplier) { GrantFrame(offer: OfferID(offer), slots: slots).encode(into: &$0) }
            return rig.hear(supplier).compactMap(\.assign).count
        }
        #expect(rig.hear(supplier).isEmpty)
        #expect(grant(1, 2, &rig) == 2)
        #expect(grant(0, 3, &rig) == 0)
        #expect(grant(1, 9, &rig) == 1)
        #expect(grant(0, 1, &rig) == 0)
        rig.end(supplier, stream: 1)
        #expect(rig.hear(supplier).isEmpty)
        #expect(grant(0, 4, &rig) == 2)
    }

    @Test("[G4][S8] GO-AWAY of a supplier withdraws its offers; what runs goes on")
    func supplierGoesAway() {
        var rig = Rig()
        let supplier = rig.supplier()
        let client = rig.client()
        rig.submit(client, stream: 1)
        _ = rig.hear(supplier)
        rig.say(supplier) { GoAwayFrame(code: .shuttingDown, graceMs: 1).encode(into: &$0) }
        rig.submit(client, stream: 2)
        #expect(rig.hear(supplier).isEmpty)
        rig.end(supplier)
        #expect(rig.hear(client).compactMap(\.end).map(\.code) == [.completed])
    }

    @Test("[Q9] every filter keeps an offer out; meeting all of them lets it in")
    func filters() {
        func end(
            _ add: (inout ExtensionWriter) -> Void, _ edit: (inout OfferFrame) -> Void
        ) -> WireCode? {
            var rig = Rig()
            let supplier = rig.supplier(edit: edit)
            let client = rig.client()
            var extensions = ExtensionWriter()
            add(&extensions)
            rig.submit(client, extensions: extensions)
            if rig.hear(supplier).contains(where: { $0.kind == .assign }) { return nil }
            return rig.hear(client).compactMap(\.end).first?.code
        }
        let eu = { (writer: inout ExtensionWriter) in writer.add(0x8013, Array("eu".utf8)) }
        #expect(end(eu) { _ in } == .noSupplier)
        #expect(end(eu) { $0.region = ShortText("us") } == .noSupplier)
        #expect(end(eu) { $0.region = ShortText("eu") } == nil)
        let policy = { (writer: inout ExtensionWriter) in writer.add(0x8014, [2]) }
        #expect(end(policy) { $0.dataPolicy = .noTraining } == .noSupplier)
        #expect(end(policy) { $0.dataPolicy = .noRetention } == nil)
        let types = { (writer: inout ExtensionWriter) in writer.add(0x8015, [0b100]) }
        #expect(end(types) { $0.supplyType = .dedicated } == .noSupplier)
        #expect(end(types) { $0.supplyType = .datacenter } == nil)
        let ceilings = { (writer: inout ExtensionWriter) in
            var value: [UInt8] = []
            value.appendLittleEndian(UInt64(100))
            value.appendLittleEndian(UInt64(200))
            writer.add(0x8012, value)
        }
        #expect(end(ceilings) { $0.prices.input = 101 } == .noSupplier)
        #expect(end(ceilings) { $0.prices.output = 201 } == .noSupplier)
        #expect(
            end(ceilings) {
                $0.prices.input = 100
                $0.prices.output = 200
            } == nil)
    }

    @Test("[D2] only offers of the operation and encoding, with room for the context")
    func capability() {
        var rig = Rig()
        let supplier = rig.supplier {
            $0.operations = OperationSet(.completion)
            $0.contextTokens = 100
        }
        let client = rig.client()
        rig.submit(client)
        #expect(rig.hear(client).compactMap(\.end).map(\.code) == [.noSupplier])
        rig.submit(client) {
            $0.terms.operation = .completion
            $0.terms.maxInputTokens = 60
            $0.terms.maxOutputTokens = 41
        }
        #expect(rig.hear(client).compactMap(\.end).map(\.code) == [.noSupplier])
        rig.submit(client) {
            $0.terms.operation = .completion
            $0.terms.maxInputTokens = 60
            $0.terms.maxOutputTokens = 40
        }
        #expect(rig.hear(supplier).compactMap(\.assign).count == 1)
    }

    @Test("the queue of a model is bounded; retry-after is told [Q11]")
    func queueBound() {
        var limits = BrokerLimits()
        limits.queuedTasksPerModel = 2
        var rig = Rig(limits: limits)
        _ = rig.supplier(slots: 1)
        let client = rig.client()
        for stream in UInt32(1)...4 { rig.submit(client, stream: stream) }
        let ends = rig.hear(client).compactMap(\.end)
        #expect(ends.map(\.code) == [.queueFull])
        #expect(ends[0].retryAfterMs >= 100)
    }

    @Test("[C7] the reserves of a connection: a floor each, and one pool above it")
    func reserves() {
        var limits = BrokerLimits()
        limits.extraPoolBytes = 70_000
        var rig = Rig(limits: limits)
        _ = rig.supplier(slots: 8)
        let client = rig.client()
        for stream in UInt32(1)...3 {
            rig.submit(client, stream: stream) { $0.windowBytes = 65_536 }
        }
        let reserves = rig.hear(client).compactMap(\.queued).map(\.reserveBytes)
        #expect(reserves == [65_536, 4_096 + 70_000 - 61_440, 4_096])
    }

    @Test("[C8][C9] the supplier's limit: the client's, or sealed + r, in steps of r/2")
    func supplierLimit() throws {
        var rig = Rig()
        let supplier = rig.supplier()
        let client = rig.client()
        rig.submit(client, credit: 9_000) { $0.windowBytes = 8_192 }
        let assign = try #require(rig.hear(supplier).first?.assign)
        #expect(assign.creditLimitBytes == 8_192)
        // Grown by 512 only, and the client's limit is not reached: nothing is said.
        rig.tokens(supplier, [UInt8](repeating: 1, count: 500))
        #expect(rig.hear(supplier).compactMap(\.credit).isEmpty)
        // 924 sealed + r is beyond the client's limit: that one binds, and is told at once.
        rig.tokens(supplier, [UInt8](repeating: 1, count: 400))
        #expect(rig.hear(supplier).compactMap(\.credit) == [9_000])
        rig.credit(client, 100_000)
        _ = rig.hear(supplier)
        rig.tokens(supplier, [UInt8](repeating: 1, count: 5_000))
        #expect(rig.hear(supplier).compactMap(\.credit) == [924 + 5_012 + 8_192])
    }

    @Test("[C5] TOKENS beyond the limit that was sent")
    func creditExceeded() {
        var rig = Rig()
        let supplier = rig.supplier()
        let client = rig.client()
        rig.submit(client) { $0.windowBytes = 4_096 }
        _ = rig.hear(supplier)
        rig.tokens(supplier, [UInt8](repeating: 1, count: 4_085))
        #expect(rig.error(supplier) == .creditExceeded)
        #expect(!rig.hear(client).contains { $0.kind == .tokens })
    }

    @Test("no task is matched to a connection that is being closed")
    func closingSupplier() {
        var rig = Rig()
        let supplier = rig.supplier(slots: 1)
        let client = rig.client()
        for stream in UInt32(1)...3 { rig.submit(client, stream: stream) }
        _ = rig.hear(supplier)
        _ = rig.hear(client)
        // END frees the slot, then a fault in the same bytes. Nobody else is there yet.
        rig.say(supplier) {
            EndFrame(code: .completed).encode(stream: StreamID(1), into: &$0)
            $0 += [0, 0, 0, 0, 0x2F, 0, 0, 0, 1, 0, 0, 0]
        }
        let other = rig.supplier(slots: 4)
        rig.end(other, stream: 1)
        rig.end(other, stream: 2)
        let codes = rig.hear(client).compactMap(\.end).map(\.code)
        #expect(codes == [.completed, .completed, .completed])
        #expect(rig.ended.map(\.dispatches) == [1, 1, 1])
    }

    @Test("a NAME never takes the room of open tasks: it waits, and its tasks wait for it")
    func namesKeepRoom() {
        var rig = Rig(ringRecords: JournalReserve.slack + 8)
        let supplier = rig.supplier()
        for number in 2...50 {
            rig.say(supplier) {
                OfferFrame(offer: OfferID(UInt32(number)), model: Rig.name("m\(number)"))
                    .encode(into: &$0)
                GrantFrame(offer: OfferID(UInt32(number)), slots: 1).encode(into: &$0)
            }
        }
        #expect(rig.error(supplier) == nil)
        #expect(rig.broker.instance.freeRecords >= JournalReserve.slack)
        let client = rig.client()
        rig.submit(client, model: Rig.name("m50"))
        #expect(rig.hear(client).last?.end?.code == .journalFull)
        // The reader takes what is there; now there is room again.
        for stream in UInt32(2)...40 where rig.accepted.isEmpty {
            rig.broker.instance.release()
            rig.submit(client, stream: stream, model: Rig.name("m50"))
        }
        #expect(rig.accepted.count == 1)
        let records = rig.broker.instance.records
        let named = records.firstIndex { NameRecord($0)?.name == Rig.name("m50") }
        let accepted = records.firstIndex { AcceptedRecord($0) != nil }
        #expect((named ?? .max) < (accepted ?? 0))
    }
}

@Suite("Journal") struct JournalTests {
    @Test("ACCEPTED is published before QUEUED, ENDED before END; a slot is reused after that")
    func order() throws {
        var rig = Rig()
        let supplier = rig.supplier(slots: 8)
        let client = rig.client()
        for round in 1...3 {
            rig.submit(client)
            _ = rig.hear(supplier)
            #expect(rig.accepted.count == round)
            #expect(rig.broker.instance.takenSlots == 1)
            rig.end(supplier)
            _ = rig.hear(client)
            #expect(rig.ended.count == round)
            #expect(rig.broker.instance.takenSlots == 0)
        }
        #expect(rig.broker.instance.slots.count == 1)
        let records = rig.broker.instance.records
        #expect(records.map(\.sequence) == Array(1...UInt64(records.count)))
    }

    @Test("a death between any two writes: each accepted task has one ENDED after the closing")
    func death() throws {
        for writes in 0..<40 {
            var rig = Rig()
            let supplier = rig.supplier(slots: 8)
            let client = rig.client()
            rig.broker.instance.die(afterWrites: writes)
            for stream in UInt32(1)...3 {
                rig.submit(client, stream: stream)
                rig.tokens(supplier, stream: stream, [1, 2, 3], tokens: 2)
                if stream < 3 { rig.end(supplier, stream: stream) }
            }
            var dead = rig.broker.instance
            if !dead.isDead { dead.die(afterWrites: 0) }
            // The closer dies too, somewhere, before a second one finishes.
            var closer = InMemoryInstance(id: 6, capacity: 4_096)
            closer.die(afterWrites: writes % 9)
            closer.close(&dead, all: [], wallUs: 1)
            closer.die(afterWrites: 0)
            var last = InMemoryInstance(id: 7, capacity: 4_096)
            if dead.closedBy == 0 { last.close(&dead, all: [closer], wallUs: 2) }
            #expect(dead.closedBy != 0)
            let published =
                dead.records.prefix(dead.tail)
                + closer.records.prefix(closer.tail)
                + last.records.prefix(last.tail)
            let accepted = published.compactMap { AcceptedRecord($0) }.map(\.counter)
            let ended = published.compactMap { EndedRecord($0) }.map(\.task.counter)
            #expect(accepted.sorted() == ended.sorted(), "died after \(writes) writes")
        }
    }
}
