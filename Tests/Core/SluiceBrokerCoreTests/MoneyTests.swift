import SluiceBrokerCore
import SluiceLedgerCore
import SluiceRecordFormat
import SluiceWire
import Testing

@Suite("Money of prepaid accounts") struct MoneyTests {
    /// A broker with account 7, which prepays, and a supplier that asks 1 µUSD a token of answer.
    private func rig(slots: UInt32 = 8) -> DispatchRig {
        var rig = DispatchRig()
        rig.account(7)
        rig.supplier(slots: slots) { $0.prices.output = 1_000_000 }
        return rig
    }

    @Test("an admission without room asks for a lease, waits, and goes on when it comes")
    func waits() {
        var rig = rig()
        let stream = rig.submit { terms, _ in terms.maxOutputTokens = 100 }
        #expect(rig.leases.map(\.wanted) == [BrokerLease.askMin])
        #expect(rig.run(stream) == nil)
        #expect(rig.isLeaseAwaited == true)
        rig.lease(7, granted: 10_000)
        #expect(rig.run(stream) != nil)
        #expect(rig.held[stream] == HeldTokens(count: 100, isLast: true))
        rig.passAwaiting(ms: 10)
        #expect(rig.isLeaseAwaited == false)
        #expect(rig.counters.leaseWaits == 1)
    }

    @Test("after 200 ms it may come again in a second; where the wallet is dry it may not")
    func refusals() {
        var rig = rig()
        rig.submit()
        rig.passAwaiting(ms: 205)
        #expect(rig.lastRefusal?.code == .rateLimited)
        #expect(1_000...1_500 ~= rig.lastRefusal?.retryAfterMs ?? 0)
        rig.submit()
        rig.lease(7, granted: 0, isDry: true)
        #expect(rig.lastRefusal?.code == .insufficientFunds)
        // It is known now: nobody waits for it.
        rig.submit()
        #expect(rig.lastRefusal?.code == .insufficientFunds)
        #expect(rig.counters.leaseWaits == 2)
        #expect(rig.openTasks == 0)
        #expect(rig.reservedBytes == 0)
        #expect(rig.refusals.map(\.code) == [.rateLimited, .insufficientFunds, .insufficientFunds])
    }

    @Test("those that wait for a lease are served in order, and none passes them")
    func order() {
        var rig = rig()
        rig.lease(7, granted: 50)
        let first = rig.submit { terms, _ in terms.maxOutputTokens = 100 }
        let second = rig.submit { terms, _ in terms.maxOutputTokens = 10 }
        #expect(rig.run(second) == nil)
        rig.lease(7, granted: 105)
        #expect(rig.run(first) != nil)
        #expect(rig.run(second) == nil)
        rig.lease(7, granted: 110)
        #expect(rig.run(second) != nil)
    }

    @Test("what a task cost is spent, the rest of its hold is free; the record has the same cost")
    func capture() throws {
        var rig = rig()
        rig.directory(.fee(DirectoryFee(basisPoints: 1_000, effectiveFromMs: 0)))
        rig.lease(7, granted: 110)
        let stream = rig.submit { terms, _ in terms.maxOutputTokens = 100 }
        rig.end(stream, inputTokens: 5, outputTokens: 30)
        let record = try #require(rig.ended.last)
        #expect(record.charge.consumerCost == 33)
        #expect(record.charge.supplierEarning == 30)
        #expect(record.charge.platformFee == 3)
        #expect(rig.ends[stream]?.cost == 33)
        // 77 are left: enough for 70 tokens, not for 71.
        rig.submit { terms, _ in terms.maxOutputTokens = 71 }
        #expect(rig.running.isEmpty)
        rig.passAwaiting(ms: 100)
        let fits = rig.submit { terms, _ in terms.maxOutputTokens = 70 }
        rig.passAwaiting(ms: 105)
        #expect(rig.run(fits) != nil)
    }

    @Test("what is billed is never above what is held for, whatever was delivered and claimed")
    func neverAboveTheHold() throws {
        var rig = rig()
        rig.lease(7, granted: 1_000)
        let stream = rig.submit { terms, _ in
            terms.maxOutputTokens = 100
            terms.maxInputTokens = 3
        }
        rig.end(stream, inputTokens: 1_000_000, outputTokens: 160)
        let record = try #require(rig.ended.last)
        #expect(record.usage.outputTokens == 100)
        #expect(record.usage.inputTokens == 3)
        #expect(record.charge.consumerCost == 100)
    }

    @Test("without limits of its own a task is held for its body, 1,024 more, and 4,096 tokens")
    func usualHold() {
        var rig = DispatchRig()
        rig.account(7)
        rig.supplier {
            $0.prices.input = 1_000_000
            $0.prices.output = 2_000_000
        }
        let needed = Int64(4 + 1_024 + 2 * 4_096)
        rig.lease(7, granted: needed - 1)
        let stream = rig.submit()
        #expect(rig.run(stream) == nil)
        rig.lease(7, granted: needed)
        #expect(rig.run(stream) != nil)
        #expect(rig.held[stream] == HeldTokens(count: 4_096, isLast: false))
    }

    @Test("an answer is held for in steps; a full lease is waited for, an empty wallet ends it")
    func steps() {
        var rig = rig()
        rig.lease(7, granted: 9_000)
        let stream = rig.submit()
        rig.holdLow(stream)
        #expect(rig.held[stream] == HeldTokens(count: 8_192, isLast: false))
        rig.holdLow(stream)
        #expect(rig.held[stream]?.count == 8_192)
        #expect(rig.isLeaseAwaited == true)
        // Longer than an admission would wait.
        rig.passAwaiting(ms: 1_000)
        rig.lease(7, granted: 20_000)
        #expect(rig.held[stream] == HeldTokens(count: 12_288, isLast: false))
        rig.holdLow(stream)
        #expect(rig.held[stream]?.count == 16_384)
        rig.holdLow(stream)
        rig.lease(7, granted: 20_000, isDry: true)
        // What is left is used up first.
        #expect(rig.held[stream] == HeldTokens(count: 20_000, isLast: false))
        rig.holdLow(stream)
        #expect(rig.held[stream] == HeldTokens(count: 20_000, isLast: true))
        rig.end(stream, .budgetExhausted, code: .budgetExhausted) {
            $0.deliveredTokens = 20_001
            $0.deliveredPayloadBytes = 80_000
        }
        #expect(rig.ended.last?.charge.consumerCost == 20_000)
    }

    @Test("[Q16] a budget bounds the hold, ends the answer, and refuses what it cannot begin")
    func budget() {
        var rig = rig()
        rig.lease(7, granted: 100_000)
        let stream = rig.submit(alter: { $0.budget = 5_000 })
        #expect(rig.held[stream] == HeldTokens(count: 4_096, isLast: false))
        rig.holdLow(stream)
        #expect(rig.held[stream] == HeldTokens(count: 5_000, isLast: true))
        rig.submit(alter: { $0.budget = 1 })
        #expect(rig.running.count == 2)
        var dear = DispatchRig()
        dear.account(7)
        dear.supplier { $0.prices.output = 3_000_000 }
        dear.lease(7, granted: 100_000)
        dear.submit(alter: { $0.budget = 2 })
        #expect(dear.lastRefusal?.code == .insufficientFunds)
    }

    @Test("[Q8] a budget of an account that does not prepay is unsupported")
    func budgetWithoutMoney() {
        var rig = DispatchRig()
        rig.supplier()
        rig.submit(alter: { $0.budget = 5 })
        #expect(rig.lastRefusal?.code == .unsupported)
    }

    @Test("the hold is that of the dearest offer or the ceiling, and the chosen one's from then on")
    func pricesOfTheHold() throws {
        var rig = rig()
        let dear = rig.supplier { $0.prices.output = 5_000_000 }
        rig.lease(7, granted: 499)
        let waiting = rig.submit { terms, _ in terms.maxOutputTokens = 100 }
        #expect(rig.run(waiting) == nil)
        // In line behind it, though a ceiling makes it cheaper.
        let capped = rig.submit { terms, filters in
            terms.maxOutputTokens = 100
            filters.outputCeiling = 2_000_000
        }
        rig.lease(7, granted: 600)
        #expect(rig.run(waiting) != nil)
        // The first took the cheap one and needs 100 since: 500 are left for the second.
        #expect(rig.run(capped) != nil)
        rig.hangUp(dear)
        rig.end(capped, outputTokens: 10)
        #expect(rig.ended.last?.charge.consumerCost == 10)
    }

    @Test("what is recalled goes back as soon as it is free")
    func recall() {
        var rig = rig()
        rig.lease(7, granted: 1_000)
        let stream = rig.submit { terms, _ in terms.maxOutputTokens = 100 }
        rig.lease(7, granted: 1_000, recalled: 1_000)
        #expect(rig.leases.last?.returned == 900)
        rig.end(stream, outputTokens: 40)
        #expect(rig.leases.last?.returned == 960)
        #expect(rig.leases.last?.spent == 40)
    }

    @Test("what nobody needed for a minute goes back; what is asked in vain is withdrawn")
    func idle() {
        var rig = rig()
        rig.lease(7, granted: 1_000)
        rig.pass(ms: 121_000)
        #expect(rig.leases.last?.returned == 1_000)
        rig.submit()
        rig.passAwaiting(ms: 205)
        #expect(rig.leases.last.map { $0.wanted > 1_000 } == true)
        rig.pass(ms: 2_000)
        #expect(rig.leases.last?.wanted == 1_000)
    }

    @Test("an account in use asks ahead and keeps it for as long as it is used")
    func reserve() {
        var rig = rig()
        rig.lease(7, granted: 10_000)
        func use(_ rig: inout DispatchRig, seconds: Int) {
            for _ in 0..<seconds {
                let stream = rig.submit { terms, _ in terms.maxOutputTokens = 100 }
                rig.end(stream, outputTokens: 100)
                rig.pass(ms: 1_000)
            }
        }
        use(&rig, seconds: 20)
        // 100 a second: nobody waits, and yet it asks for the 30,000 of five minutes.
        let ask = rig.leases.last
        #expect(rig.counters.leaseWaits == 0)
        #expect(ask?.wanted == 0)
        #expect(ask.map { 25_000...33_000 ~= $0.reserve.rawValue - $0.spent.rawValue } == true)
        let asks = rig.counters.leaseAsks
        rig.lease(7, granted: 40_000)
        // It is enough: no more asks, and though nobody needs all of it nothing goes back.
        use(&rig, seconds: 60)
        #expect(rig.counters.leaseAsks == asks)
        #expect(rig.leases.allSatisfy { $0.returned == 0 })
        // The store is away: four minutes more are admitted from what is there.
        use(&rig, seconds: 240)
        #expect(rig.refusals.isEmpty)
        #expect(rig.ended.count == 320)
        // Nobody uses it any more: all of it goes back.
        rig.pass(ms: 200_000)
        #expect(rig.leases.last.map { $0.returned.rawValue + $0.spent.rawValue } == 40_000)
        #expect(rig.leases.last?.reserve == 0)
    }

    @Test("a lease is renewed at half of its life; after its end nothing is admitted on it")
    func expiry() {
        var rig = rig()
        rig.lease(7, granted: 10_000)
        let stream = rig.submit()
        rig.pass(ms: 1_700_000)
        #expect(rig.leases.isEmpty || rig.leases.allSatisfy { $0.wanted <= 10_000 })
        let before = rig.leases.count
        rig.pass(ms: 110_000)
        #expect(rig.leases.count > before)
        rig.lease(7, granted: 10_000, lifetimeMs: 1_000)
        rig.pass(ms: 1_000)
        rig.submit { terms, _ in terms.maxOutputTokens = 1 }
        rig.passAwaiting(ms: 205)
        #expect(rig.lastRefusal?.code == .rateLimited)
        // What was held stays held, and is spent at the end.
        rig.end(stream, outputTokens: 7)
        #expect(rig.ended.last?.charge.consumerCost == 7)
    }

    @Test("what an account costs may pass all counting, and its rate of it is still known")
    func hugeCosts() {
        var rig = DispatchRig()
        rig.account(7)
        rig.supplier {
            $0.operations = OperationSet(.image)
            $0.prices.output = 4_000_000_000
        }
        rig.lease(7, granted: .max)
        let stream = rig.submit { terms, _ in
            terms.operation = .image
            terms.maxOutputTokens = 1_000_000_000
        }
        rig.end(stream, outputTokens: 1_000_000_000)
        #expect(rig.ended.last?.charge.consumerCost == 4_000_000_000_000_000_000)
        // It is looked at every second, until it lies in the window before.
        rig.pass(ms: 15_000)
        #expect(rig.leases.last.map { $0.reserve > 0 } == true)
    }

    @Test("one wallet for k tasks, two brokers, thousands of submissions: exactly k are admitted")
    func race() {
        let credit = 37
        var wallet = Wallet(balance: MicroUSD(Int64(credit * 100)))
        var first = DispatchRig(instance: 5)
        var second = DispatchRig(instance: 6)
        var seen = [0, 0]
        func settle(_ first: inout DispatchRig, _ second: inout DispatchRig) {
            for record in first.leases[seen[0]...] {
                wallet.apply(record, instance: 5, nowMs: first.nowMs)
            }
            seen[0] = first.leases.count
            for record in second.leases[seen[1]...] {
                wallet.apply(record, instance: 6, nowMs: second.nowMs)
            }
            seen[1] = second.leases.count
            for lease in wallet.leases {
                let entry = DirectoryLease(
                    account: 7, instance: lease.instance, granted: lease.granted,
                    recalled: lease.recalled, expiresAtMs: lease.expiresAtMs, isDry: lease.isDry)
                first.directory(.lease(entry))
                second.directory(.lease(entry))
            }
            #expect(wallet.available >= 0)
        }
        first.account(7)
        second.account(7)
        first.supplier(slots: 2_000) { $0.prices.output = 1_000_000 }
        second.supplier(slots: 2_000) { $0.prices.output = 1_000_000 }
        for number in 0..<4_000 {
            let shard = UInt16(number / 2 % 64)
            if number % 2 == 0 {
                first.submit(shard: shard) { terms, _ in terms.maxOutputTokens = 100 }
            } else {
                second.submit(shard: shard) { terms, _ in terms.maxOutputTokens = 100 }
            }
            if number % 3 == 0 { settle(&first, &second) }
            if number % 50 == 0 {
                first.passAwaiting(ms: 5)
                second.passAwaiting(ms: 5)
            }
        }
        for _ in 0..<60 {
            settle(&first, &second)
            first.passAwaiting(ms: 5)
            second.passAwaiting(ms: 5)
        }
        #expect(first.running.count + second.running.count == credit)
        #expect(first.running.count > 0 && second.running.count > 0)
        #expect(first.openTasks + second.openTasks == credit)
        while let one = first.running.first { first.end(one.stream, outputTokens: 100) }
        while let one = second.running.first { second.end(one.stream, outputTokens: 60) }
        for record in first.ended {
            #expect(wallet.spend(record.charge.consumerCost, instance: 5).byPlatform == 0)
        }
        for record in second.ended {
            #expect(wallet.spend(record.charge.consumerCost, instance: 6).byPlatform == 0)
        }
        #expect(wallet.balance >= 0)
    }
}
