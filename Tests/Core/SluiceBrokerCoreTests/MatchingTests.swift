import SluiceBrokerCore
import SluiceRecordFormat
import SluiceWire
import Testing

@Suite("Matching") struct MatchingTests {
    @Test("the preference decides: cheapest, earliest, fastest")
    func preferences() {
        func winner(_ preference: Preference) -> Int? {
            var rig = DispatchRig()
            let cheap = rig.supplier { $0.prices.output = 100_000 }
            let early = rig.supplier { $0.prices.output = 2_000_000 }
            let fast = rig.supplier { $0.prices.output = 1_500_000 }
            // Each shows how fast it is: first token, then the rest.
            for (supplier, ttftUs, answerMs) in [
                (cheap, UInt64(900_000), UInt64(3_000)), (early, 20_000, 4_000),
                (fast, 800_000, 1_000),
            ] {
                for other in [cheap, early, fast] where other != supplier {
                    rig.grant(other, slots: 0)
                }
                let stream = rig.submit()
                rig.nowMs += answerMs
                rig.end(stream, outputTokens: 100, ttftUs: ttftUs)
                for other in [cheap, early, fast] { rig.grant(other, slots: 1) }
            }
            let stream = rig.submit { terms, _ in terms.preference = preference }
            return rig.supplier(of: stream)
        }
        #expect(winner(.price) == 0)
        #expect(winner(.latency) == 1)
        #expect(winner(.throughput) == 2)
    }

    @Test("what is on offer: a supplier's slots are those of its offers, its connection's at most")
    func supply() {
        var rig = DispatchRig()
        #expect(rig.dispatcher.supply.suppliers == 0)
        let one = rig.supplier(slots: 2)
        rig.offer(one, 2, slots: 3)
        let other = rig.supplier(slots: 1)
        func count() -> [UInt64] {
            let now = rig.dispatcher.supply
            return [now.suppliers, now.offers, now.slotsGranted, now.slotsInUse]
        }
        rig.grant(one, 0, slots: 16)
        rig.grant(other, 0, slots: 16)
        #expect(count() == [2, 3, 6, 0])
        rig.grant(one, 0, slots: 4)
        #expect(count() == [2, 3, 5, 0])
        let stream = rig.submit()
        #expect(count() == [2, 3, 5, 1])
        rig.end(stream)
        rig.hangUp(other)
        #expect(count() == [1, 2, 4, 0])
    }

    @Test("balanced: a little slower for much less money, much faster for a little more")
    func balanced() {
        func winner(firstUs: UInt64, firstPrice: Int64, secondUs: UInt64, secondPrice: Int64)
            -> Int?
        {
            var rig = DispatchRig()
            for (ttftUs, price) in [(firstUs, firstPrice), (secondUs, secondPrice)] {
                let supplier = rig.supplier { $0.prices.output = MicroUSD(price * 4) }
                rig.end(rig.submit(), ttftUs: ttftUs)
                rig.grant(supplier, slots: 0)
            }
            rig.grant(0, slots: 1)
            rig.grant(1, slots: 1)
            return rig.supplier(of: rig.submit())
        }
        #expect(
            winner(firstUs: 300_000, firstPrice: 1_000_000, secondUs: 400_000, secondPrice: 400_000)
                == 1)
        #expect(
            winner(firstUs: 300_000, firstPrice: 600_000, secondUs: 2_000_000, secondPrice: 400_000)
                == 0)
    }

    @Test("equal offers: on the client's own shard first; else drawn, so that all get some")
    func ties() {
        var rig = DispatchRig()
        for shard in [UInt16(0), 1, 0, 1] { _ = rig.supplier(slots: 1_000, shard: shard) }
        for _ in 0..<40 {
            let near = rig.submit(shard: 1)
            #expect([1, 3].contains(rig.supplier(of: near)))
            rig.end(near)
        }
        #expect(rig.assignments.allSatisfy { $0.winReason == .ownShard })
        var equal = DispatchRig()
        for _ in 0..<4 { equal.supplier(slots: 1_000) }
        var count = [0, 0, 0, 0]
        for _ in 0..<400 {
            let stream = equal.submit()
            count[equal.supplier(of: stream) ?? 0] += 1
        }
        #expect(count.allSatisfy { $0 >= 60 }, "\(count)")
        #expect(equal.assignments.filter { $0.winReason == .drawn }.count >= 300)
    }

    @Test(
        "the choice is exact under any filters",
        arguments: 0..<20)
    func exactChoice(seed: UInt64) {
        var random = SplitMix64(seed: seed)
        var rig = DispatchRig()
        let regions: [ShortText?] = [nil, ShortText("eu"), ShortText("us"), ShortText("asia")]
        struct Known {
            var frame: OfferFrame
            var isFree = true
            var isGone = false
        }
        var known: [Known] = []
        func offer(_ number: Int) -> OfferFrame {
            var frame = OfferFrame(offer: OfferID(1), model: Rig.model)
            // Different prices, so that the cheapest is one.
            frame.prices.input = MicroUSD(Int64(number * 7 + Int(random.next(below: 7))))
            frame.prices.output = MicroUSD(Int64(random.next(below: 2_000)))
            frame.contextTokens = [0, 1_000, 8_000][Int(random.next(below: 3))]
            frame.region = regions[Int(random.next(below: 4))]
            frame.dataPolicy = DataPolicy(rawValue: UInt8(random.next(below: 3))) ?? .unstated
            frame.supplyType = SupplyType.allCases[Int(random.next(below: 5))]
            return frame
        }
        for number in 0..<150 {
            known.append(Known(frame: offer(number)))
            rig.supplier { $0 = known[number].frame }
        }
        func blended(_ frame: OfferFrame) -> Int64 {
            (3 * frame.prices.input.rawValue + frame.prices.output.rawValue) / 4
        }
        for _ in 0..<400 {
            var filters = OfferFilters()
            if random.next(below: 2) == 0 { filters.region = regions[Int(random.next(below: 4))] }
            if random.next(below: 3) == 0 { filters.dataPolicy = .noTraining }
            if random.next(below: 3) == 0 { filters.inputCeiling = random.next(below: 1_000) }
            if random.next(below: 3) == 0 { filters.outputCeiling = random.next(below: 2_000) }
            if random.next(below: 3) == 0 {
                filters.supplyTypes = SupplyTypeSet(
                    rawValue: UInt8(1 + random.next(below: 31)))
            }
            let input = UInt32(random.next(below: 2) * random.next(below: 9_000))
            let fits = known.indices.filter { index in
                let frame = known[index].frame
                return known[index].isFree
                    && (filters.region == nil || filters.region == frame.region)
                    && frame.dataPolicy.rawValue >= filters.dataPolicy.rawValue
                    && UInt64(frame.prices.input.rawValue) <= filters.inputCeiling
                    && UInt64(frame.prices.output.rawValue) <= filters.outputCeiling
                    && filters.supplyTypes.contains(SupplyTypeSet(frame.supplyType))
                    && (frame.contextTokens == 0 || input <= frame.contextTokens)
            }
            let stream = rig.submit { terms, chosen in
                terms.preference = .price
                terms.maxInputTokens = input
                chosen = filters
            }
            let won = rig.supplier(of: stream)
            #expect((won == nil) == fits.isEmpty)
            if let won {
                #expect(fits.contains(won))
                let least = fits.map { blended(known[$0].frame) }.min()
                #expect(blended(known[won].frame) == least)
                known[won].isFree = false
            }
            // Idle suppliers leave and others come, so that leaves move.
            if random.next(below: 4) == 0 {
                let leaver = Int(random.next(below: UInt64(known.count)))
                if !known[leaver].isGone, !rig.running.contains(where: { $0.supplier == leaver }) {
                    rig.hangUp(leaver)
                    known[leaver].isFree = false
                    known[leaver].isGone = true
                    known.append(Known(frame: offer(known.count)))
                    let new = rig.supplier { $0 = known[known.count - 1].frame }
                    known[new].isFree = !rig.running.contains { $0.supplier == new }
                }
            }
            if random.next(below: 3) == 0, let one = rig.running.first {
                known[one.supplier].isFree = true
                rig.end(one.stream)
                // A waiting task may have taken the slot.
                if rig.running.contains(where: { $0.supplier == one.supplier }) {
                    known[one.supplier].isFree = false
                }
            }
        }
    }

    @Test("a deadline that an offer cannot reach keeps it out; it waits for one that can")
    func deadline() {
        var rig = DispatchRig()
        let slow = rig.supplier(slots: 2)
        rig.nowMs += 5_000
        let first = rig.submit()
        rig.nowMs += 5_000
        rig.end(first, ttftUs: 4_000_000)
        let urgent = rig.submit { terms, _ in terms.deadlineMs = 1_000 }
        #expect(rig.supplier(of: urgent) == nil)
        // Those behind it are not held up.
        let patient = rig.submit { terms, _ in terms.deadlineMs = 60_000 }
        #expect(rig.supplier(of: patient) == slow)
        let quick = rig.supplier()
        #expect(rig.supplier(of: urgent) == quick)
    }

    @Test("an offer of which nothing is known is not ruled out by a deadline")
    func unknownSpeed() {
        var rig = DispatchRig()
        _ = rig.supplier()
        let stream = rig.submit { terms, _ in terms.deadlineMs = 1 }
        #expect(rig.supplier(of: stream) == 0)
    }

    // MARK: Affinity

    @Test("a prefix goes where it was read, and spills at once when that has no slot")
    func affinity() {
        var rig = DispatchRig()
        let home = rig.supplier(slots: 2) { $0.prices.output = 900_000 }
        let first = rig.submit(keys: [11, 12])
        let cheaper = rig.supplier(slots: 4) { $0.prices.output = 1 }
        let second = rig.submit(keys: [99, 12]) { terms, _ in terms.preference = .price }
        #expect(rig.supplier(of: second) == home)
        #expect(rig.assignments.last?.winReason == .affinity)
        #expect(rig.lost(cheaper, .affinityElsewhere) == 1)
        let spilled = rig.submit(keys: [99, 12])
        #expect(rig.supplier(of: spilled) == cheaper)
        rig.end(first)
        rig.end(second)
        // The longest prefix was read last at the cheaper one.
        #expect(rig.supplier(of: rig.submit(keys: [99, 12])) == cheaper)
        #expect(rig.supplier(of: rig.submit(keys: [98, 11])) == home)
    }

    @Test("[Y7] a key is worth nothing to another account")
    func affinityScope() {
        var rig = DispatchRig()
        let home = rig.supplier(slots: 4) { $0.prices.output = 900_000 }
        rig.submit(account: 1, keys: [5])
        let cheaper = rig.supplier(slots: 4) { $0.prices.output = 1 }
        let other = rig.submit(account: 2, keys: [5]) { terms, _ in terms.preference = .price }
        #expect(rig.supplier(of: other) == cheaper)
        let own = rig.submit(account: 1, keys: [5]) { terms, _ in terms.preference = .price }
        #expect(rig.supplier(of: own) == home)
    }

    @Test("affinity survives a reconnect and obeys filters")
    func affinityReconnect() {
        var rig = DispatchRig()
        let first = rig.supplier(slots: 4, identity: 40) { $0.prices.output = 900_000 }
        rig.end(rig.submit(keys: [5]))
        rig.hangUp(first)
        let cheaper = rig.supplier(slots: 4) { $0.prices.output = 1 }
        let again = rig.supplier(slots: 4, identity: 40) { $0.prices.output = 900_000 }
        #expect(rig.supplier(of: rig.submit(keys: [5])) == again)
        let capped = rig.submit(keys: [5]) { _, filters in filters.outputCeiling = 1_000 }
        #expect(rig.supplier(of: capped) == cheaper)
    }

    @Test("the table of prefixes is bounded: the one used longest ago makes room")
    func affinityBound() {
        var rig = DispatchRig { $0.affinityEntries = 4 }
        let home = rig.supplier(slots: 64) { $0.prices.output = 900_000 }
        for key in UInt64(1)...4 { rig.submit(keys: [key]) }
        rig.submit(keys: [1])
        rig.submit(keys: [5])
        rig.supplier(slots: 64) { $0.prices.output = 1 }
        func isHome(_ key: UInt64) -> Bool {
            // A look at a key uses it and notes where it went, so each world is asked once.
            rig.supplier(of: rig.submit(keys: [key]) { terms, _ in terms.preference = .price })
                == home
        }
        #expect(isHome(1))
        #expect(isHome(5))
        #expect(!isHome(2))
    }

    // MARK: Reasons

    @Test("every loser of a match is counted with its reason")
    func lostMatches() {
        func reason(
            _ loser: (inout OfferFrame) -> Void,
            _ edit: (inout TaskTerms, inout OfferFilters) -> Void
        ) -> [LossReason] {
            var rig = DispatchRig()
            let winner = rig.supplier(slots: 2) {
                $0.region = ShortText("eu")
                $0.dataPolicy = .noRetention
                $0.supplyType = .platform
            }
            let other = rig.supplier(edit: loser)
            let stream = rig.submit(edit: edit)
            #expect(rig.supplier(of: stream) == winner)
            return LossReason.allCases.filter { rig.lost(other, $0) == 1 }
        }
        #expect(reason({ $0.operations = OperationSet(.completion) }) { _, _ in } == [.capability])
        #expect(
            reason({ _ in }) { _, filters in filters.dataPolicy = .noTraining } == [.dataPolicy])
        #expect(
            reason({ _ in }) { _, filters in filters.region = ShortText("eu") } == [.region])
        #expect(
            reason({ _ in }) { _, filters in filters.supplyTypes = SupplyTypeSet(.platform) }
                == [.supplyType])
        #expect(
            reason({ $0.prices.output = 9 }) { _, filters in filters.outputCeiling = 8 }
                == [.priceCeiling])
        #expect(
            reason({ $0.contextTokens = 10 }) { terms, _ in terms.maxInputTokens = 11 }
                == [.context])
        #expect(
            reason({ $0.prices.output = 9 }) { terms, _ in terms.preference = .price }
                == [.slowerOrDearer])
    }

    @Test("no free slot, excluded: counted too; and with many offers the sum is about right")
    func lostMatchesMore() {
        var rig = DispatchRig()
        let first = rig.supplier()
        let stream = rig.submit()
        let second = rig.supplier(slots: 2)
        rig.submit()
        #expect(rig.lost(first, .noFreeSlot) == 1)
        rig.giveBack(stream)
        #expect(rig.supplier(of: stream) == second)
        #expect(rig.lost(first, .excluded) == 1)

        var many = DispatchRig()
        for number in 0..<20 {
            _ = many.supplier(slots: 100) { $0.prices.output = MicroUSD(Int64(number)) }
        }
        for _ in 0..<800 {
            many.end(many.submit { terms, _ in terms.preference = .price })
        }
        let total = many.dispatcher.lostMatches.reduce(0, +)
        #expect(total == 800 * 19)
        #expect(many.lost(0, .slowerOrDearer) == 0)
        #expect((1..<20).allSatisfy { many.lost($0, .slowerOrDearer) > 200 })
    }

    @Test("every win has its reason")
    func winReasons() {
        var rig = DispatchRig()
        _ = rig.supplier(slots: 1)
        let first = rig.submit()
        #expect(rig.assignments.last?.winReason == .onlyFree)
        let second = rig.submit()
        rig.nowMs += 40
        rig.end(first)
        #expect(rig.supplier(of: second) == 0)
        #expect(rig.assignments.last?.winReason == .waited)
        #expect(rig.assignments.last?.queueUs == 40_000)
        #expect(rig.dispatcher.counters.matchedAtOnce == 1)
        #expect(rig.dispatcher.counters.queueUs == 40_000)
        #expect(rig.dispatcher.queueHistogram[HistogramBucket.index(of: 40_000)] == 1)
        #expect(rig.dispatcher.queueHistogram[0] == 1)
        _ = rig.supplier(slots: 4) { $0.prices.output = 5 }
        _ = rig.supplier(slots: 4) { $0.prices.output = 700_000 }
        for (preference, reason) in [
            (Preference.price, WinReason.cheapest), (.balanced, .balanced),
        ] {
            rig.submit { terms, _ in terms.preference = preference }
            #expect(rig.assignments.last?.winReason == reason)
        }
    }

    @Test("what a shard refuses by itself is written down, with the account")
    func refusedAtShard() {
        var rig = DispatchRig()
        let number = rig.supplier()
        _ = number
        rig.submit(account: 3)
        rig.send(.refusedAtShard(ConnectionRef(shard: 0, index: 0, generation: 2), .draining))
        #expect(rig.refusals.map(\.account) == [3])
        #expect(rig.refusals.map(\.code) == [.draining])
        #expect(rig.refusals.map(\.model) == [0])
    }

    @Test("one budget of content memory holds for all shards, and comes back with every end")
    func arenas() {
        var rig = DispatchRig {
            $0.bodyArenaBytes = 8_192
            $0.answerArenaBytes = 1 << 20
        }
        _ = rig.supplier(slots: 9)
        rig.submit(shard: 1, bodyBytes: 8_192)
        #expect(rig.dispatcher.reservedBytes == 8_192 + 8_192)
        #expect(rig.dispatcher.reservedBodyBytes == 8_192)
        #expect(rig.dispatcher.reservedAnswerBytes == 8_192)
        rig.submit(shard: 1, bodyBytes: 1)
        #expect(rig.lastRefusal?.code == .bodyArenaFull)
        rig.submit(shard: 3, bodyBytes: 1)
        #expect(rig.lastRefusal?.code == .bodyArenaFull)
        for one in rig.running { rig.end(one.stream) }
        #expect(rig.dispatcher.reservedBytes == 0)
        let other = rig.submit(shard: 3, bodyBytes: 8_192)
        #expect(rig.supplier(of: other) == 0)
    }

    @Test("[U10] bodies that need credit leave the last sixteenth to those that do not")
    func smallBodiesHaveRoomBesideLargeOnes() {
        var rig = DispatchRig { $0.bodyArenaBytes = 1 << 20 }
        _ = rig.supplier(slots: 99)
        for _ in 0..<15 { rig.submit(bodyBytes: 65_536) }
        #expect(rig.running.count == 15)
        rig.submit(bodyBytes: 65_536)
        #expect(rig.lastRefusal?.code == .bodyArenaFull)
        rig.submit(bodyBytes: WireLimits.freeBodyBytesMax + 1)
        #expect(rig.lastRefusal?.code == .bodyArenaFull)
        for _ in 0..<4 { rig.submit(bodyBytes: WireLimits.freeBodyBytesMax) }
        #expect(rig.running.count == 19)
        rig.submit(bodyBytes: 1)
        #expect(rig.lastRefusal?.code == .bodyArenaFull)
    }
}
