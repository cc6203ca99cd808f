import SluiceBrokerCore
import SluiceRecordFormat
import SluiceWire
import Testing

@Suite("Fairness") struct FairnessTests {
    @Test("accounts share by tokens, whatever the size of their tasks and what they declare")
    func shares() {
        var rig = DispatchRig()
        _ = rig.supplier(slots: 4)
        // What a task of the account uses, and what it lets expect.
        let uses: [(account: UInt64, input: UInt32, output: UInt32, bodyBytes: UInt32)] = [
            (1, 20, 30, 80), (2, 200, 300, 80), (3, 2_000, 1_000, 40_000),
        ]
        func submit(_ index: Int) {
            rig.submit(account: uses[index].account, bodyBytes: uses[index].bodyBytes)
        }
        for index in 0..<3 { for _ in 0..<20 { submit(index) } }
        var used: [UInt64: UInt64] = [:]
        for round in 0..<20_000 {
            rig.nowMs += 5
            let one = rig.running[round % rig.running.count]
            guard let index = uses.firstIndex(where: { $0.account == one.account }) else { return }
            rig.end(
                one.stream, inputTokens: uses[index].input, outputTokens: uses[index].output)
            if round >= 2_000 {
                used[one.account, default: 0] += UInt64(uses[index].input + uses[index].output)
            }
            submit(index)
        }
        let total = used.values.reduce(0, +)
        for account in UInt64(1)...3 {
            let share = Double(used[account] ?? 0) / Double(total)
            #expect(abs(share - 1.0 / 3) < 0.2 / 3, "\(used)")
        }
    }

    @Test("an account that comes back neither has saved up turns nor waits for the others")
    func comingBack() {
        var rig = DispatchRig()
        _ = rig.supplier()
        for _ in 0..<400 { rig.submit(account: 1) }
        for _ in 0..<200 { rig.end(rig.running[0].stream, outputTokens: 100) }
        for _ in 0..<100 { rig.submit(account: 2) }
        var order: [UInt64] = []
        for _ in 0..<40 {
            rig.end(rig.running[0].stream, outputTokens: 100)
            order.append(rig.running[0].account)
        }
        let late = order.filter { $0 == 2 }.count
        #expect((18...22).contains(late), "\(order)")
    }

    @Test("a task that finds no slot for long gives newcomers no advantage over the others")
    func stuck() {
        var rig = DispatchRig()
        rig.supplier()
        rig.supplier(slots: 0) { $0.region = ShortText("far") }
        rig.submit(account: 1)
        rig.submit(account: 9) { _, filters in filters.region = ShortText("far") }
        for _ in 0..<400 { rig.submit(account: 1) }
        for _ in 0..<300 { rig.end(rig.running[0].stream, outputTokens: 100) }
        for _ in 0..<100 { rig.submit(account: 2) }
        var late = 0
        for _ in 0..<40 {
            rig.end(rig.running[0].stream, outputTokens: 100)
            late += rig.running[0].account == 2 ? 1 : 0
        }
        #expect((16...24).contains(late))
        #expect(rig.dispatcher.queuedTasks == 402 + 100 - 341)
    }

    @Test("what is served elsewhere, and however much of it, keeps no newcomer waiting for long")
    func disjoint() {
        var rig = DispatchRig()
        let near = rig.supplier { $0.region = ShortText("near") }
        let far = rig.supplier { $0.region = ShortText("far") }
        func submit(_ account: UInt64, _ region: String) {
            rig.submit(account: account) { _, filters in filters.region = ShortText(region) }
        }
        for _ in 0..<60 { submit(1, "near") }
        for _ in 0..<4 { submit(2, "far") }
        func end(_ supplier: Int) {
            guard let one = rig.running.first(where: { $0.supplier == supplier }) else { return }
            rig.end(one.stream, outputTokens: 400)
        }
        // The far one serves a hundred times as much.
        for round in 0..<2_000 {
            end(far)
            submit(2, "far")
            if round % 100 == 0 {
                end(near)
                submit(1, "near")
            }
        }
        submit(3, "near")
        var waited = 0
        while !rig.running.contains(where: { $0.account == 3 }), waited < 200 {
            end(near)
            waited += 1
        }
        #expect(waited <= 40, "\(waited)")
    }

    @Test("inside an account: priority, then deadline, then arrival")
    func order() {
        var rig = DispatchRig()
        _ = rig.supplier()
        let first = rig.submit()
        let usual = rig.submit { terms, _ in terms.deadlineMs = 50_000 }
        let same = rig.submit { terms, _ in terms.deadlineMs = 50_000 }
        let low = rig.submit { terms, _ in
            terms.priority = 1
            terms.deadlineMs = 10
        }
        let urgent = rig.submit { terms, _ in terms.deadlineMs = 40_000 }
        let high = rig.submit { terms, _ in terms.priority = 200 }
        var order: [UInt32] = []
        var stream = first
        for _ in 0..<5 {
            rig.end(stream, ttftUs: 1)
            stream = rig.running[0].stream
            order.append(stream)
        }
        #expect(order == [high, urgent, usual, same, low])
    }

    @Test("a task that comes back goes before those that never ran")
    func returned() {
        var rig = DispatchRig()
        let first = rig.supplier()
        let back = rig.submit(account: 1)
        let second = rig.supplier()
        let other = rig.submit(account: 2)
        for _ in 0..<3 { rig.submit(account: 3) { terms, _ in terms.priority = 255 } }
        rig.giveBack(back)
        #expect(rig.supplier(of: back) == nil)
        rig.end(other)
        #expect(rig.supplier(of: back) == second)
        _ = first
    }

    @Test("slots that models share go round among them")
    func sharedSlots() {
        var rig = DispatchRig()
        let supplier = rig.supplier(slots: 8)
        rig.offer(supplier, 2, model: Rig.name("n"), slots: 8)
        rig.grant(supplier, 0, slots: 1)
        var streams: [UInt32: UInt32] = [:]
        for _ in 0..<10 {
            streams[rig.submit()] = 1
            streams[rig.submit(model: Rig.name("n"))] = 2
        }
        var count: [UInt32: Int] = [:]
        for _ in 0..<10 {
            let stream = rig.running[0].stream
            let offer = streams[stream] ?? 0
            count[offer, default: 0] += 1
            rig.end(stream, offer: offer)
        }
        #expect(count == [1: 5, 2: 5])
    }

    @Test(
        "no free slot stays beside a task that fits; each task gets its slot",
        arguments: 0..<12)
    func noStarvation(seed: UInt64) {
        var random = SplitMix64(seed: seed &+ 77)
        var rig = DispatchRig()
        let regions: [ShortText?] = [nil, ShortText("eu"), ShortText("us")]
        var slots: [Int] = []
        var places: [(region: ShortText?, price: UInt64)] = []
        for _ in 0..<6 {
            let region = regions[Int(random.next(below: 3))]
            let price = random.next(below: 3) * 100
            slots.append(1 + Int(random.next(below: 3)))
            places.append((region, price))
            _ = rig.supplier(slots: UInt32(slots[slots.count - 1])) {
                $0.region = region
                $0.prices.output = MicroUSD(Int64(price))
            }
        }
        var waiting: [UInt32: OfferFilters] = [:]
        func fits(_ filters: OfferFilters, _ place: (region: ShortText?, price: UInt64)) -> Bool {
            (filters.region == nil || filters.region == place.region)
                && place.price <= filters.outputCeiling
        }
        var submitted = 0
        for step in 0..<1_500 {
            rig.nowMs += 1
            if step < 1_000, random.next(below: 2) == 0 || rig.running.isEmpty {
                var filters = OfferFilters()
                if random.next(below: 2) == 0 {
                    filters.region = regions[Int(random.next(below: 3))]
                }
                if random.next(below: 2) == 0 { filters.outputCeiling = random.next(below: 250) }
                guard places.contains(where: { fits(filters, $0) }) else { continue }
                let stream = rig.submit(account: 1 + random.next(below: 5)) { terms, chosen in
                    terms.priority = UInt8(random.next(below: 256))
                    chosen = filters
                }
                submitted += 1
                waiting[stream] = filters
            } else if !rig.running.isEmpty {
                let one = rig.running[Int(random.next(below: UInt64(rig.running.count)))]
                rig.end(one.stream, outputTokens: UInt32(1 + random.next(below: 2_000)))
            }
            for one in rig.running {
                if let filters = waiting.removeValue(forKey: one.stream) {
                    #expect(fits(filters, places[one.supplier]))
                }
            }
            for supplier in places.indices {
                let inUse = rig.running.count { $0.supplier == supplier }
                #expect(inUse <= slots[supplier])
                guard inUse < slots[supplier] else { continue }
                let left = waiting.values.count { fits($0, places[supplier]) }
                #expect(left == 0, "step \(step): \(left) tasks wait beside a free slot")
            }
        }
        while let one = rig.running.first { rig.end(one.stream) }
        #expect(waiting.allSatisfy { rig.run($0.key) == nil })
        #expect(rig.ended.count == submitted)
        #expect(rig.dispatcher.queuedTasks == 0)
        #expect(rig.dispatcher.reservedBytes == 0)
    }

    // MARK: Bounds

    @Test("queues are bounded by count and bytes, of the model and of the account")
    func bounds() {
        func refusal(
            _ edit: (inout BrokerLimits) -> Void, _ tasks: [(account: UInt64, bytes: UInt32)]
        ) -> [WireCode?] {
            var rig = DispatchRig(edit)
            _ = rig.supplier()
            rig.submit(account: 99)
            return tasks.map { task in
                let before = rig.refusals.count
                rig.submit(account: task.account, bodyBytes: task.bytes)
                return rig.refusals.count > before ? rig.refusals.last?.code : nil
            }
        }
        #expect(
            refusal({ $0.queuedTasksPerModel = 2 }, [(1, 1), (2, 1), (3, 1)])
                == [nil, nil, .queueFull])
        #expect(
            refusal({ $0.queuedBytesPerModel = 12_288 }, [(1, 5_000), (2, 5_000), (3, 1)])
                == [nil, .queueFull, nil])
        #expect(
            refusal({ $0.queuedTasksPerAccount = 1 }, [(1, 1), (1, 1), (2, 1)])
                == [nil, .rateLimited, nil])
        #expect(
            refusal({ $0.queuedBytesPerAccount = 8_192 }, [(1, 8_000), (1, 1), (2, 1)])
                == [nil, .rateLimited, nil])
    }

    @Test("no more tasks are open than the journal has places for, running or waiting")
    func openTasks() throws {
        var rig = DispatchRig { $0.openTasks = 3 }
        _ = rig.supplier(slots: 2)
        let first = rig.submit(account: 1)
        for account in 2...4 as ClosedRange<UInt64> { rig.submit(account: account) }
        #expect(rig.dispatcher.openTasks == 3 && rig.running.count == 2)
        #expect(rig.refusals.map(\.code) == [.queueFull])
        let retry = try #require(rig.codes.last)
        #expect(retry.code == .queueFull && retry.retryAfterMs > 0)
        // One place is free again, for one.
        rig.end(first)
        for account in 5...6 as ClosedRange<UInt64> { rig.submit(account: account) }
        #expect(rig.refusals.map(\.code) == [.queueFull, .queueFull])
        while let running = rig.running.first { rig.end(running.stream) }
        #expect(rig.dispatcher.openTasks == 0 && rig.ended.count == 4)
    }

    @Test("retry-after is what waits over what was served in the last 10 s")
    func retryAfter() throws {
        var rig = DispatchRig { $0.queuedTasksPerModel = 10 }
        _ = rig.supplier()
        for _ in 0..<11 { rig.submit { terms, _ in terms.maxOutputTokens = 99 } }
        // 1 + 99 tokens each are expected: 10 tasks of 100 wait. 100 tokens a second are served.
        func told() -> UInt32 {
            rig.submit { terms, _ in terms.maxOutputTokens = 99 }
            return rig.lastRefusal?.retryAfterMs ?? 0
        }
        func serve(tokens: UInt32, seconds: Int) {
            for _ in 0..<seconds {
                rig.nowMs += 1_000
                rig.end(rig.running[0].stream, inputTokens: 1, outputTokens: tokens - 1)
                rig.submit { terms, _ in terms.maxOutputTokens = 99 }
            }
        }
        #expect((5_000...7_500).contains(told()))
        serve(tokens: 100, seconds: 30)
        #expect((9_000...16_500).contains(told()))
        serve(tokens: 400, seconds: 30)
        #expect((2_200...4_200).contains(told()))
    }
}
