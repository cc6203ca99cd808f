import SluiceBrokerCore
import SluiceRecordFormat
import SluiceWire
import Testing

@Suite("Accounts, prices, limits and keys") struct AccountTests {
    // MARK: Limits

    @Test("concurrent tasks of an account are exact, over all its connections")
    func concurrent() {
        var rig = DispatchRig()
        rig.supplier(slots: 100)
        rig.account(7, isPrepaid: false) { $0.concurrentTasksMax = 3 }
        for number in 0..<1_000 { rig.submit(shard: UInt16(number % 50)) }
        #expect(rig.running.count == 3)
        #expect(rig.lastRefusal?.code == .rateLimited)
        #expect(rig.lastRefusal.map { $0.retryAfterMs > 0 } == true)
        rig.end(rig.running[0].stream)
        for _ in 0..<10 { rig.submit() }
        #expect(rig.running.count == 3)
        // Another account has its own.
        rig.submit(account: 8)
        #expect(rig.running.count == 4)
    }

    @Test("requests a minute come back evenly, and retry-after is when the next one fits")
    func requests() {
        var rig = DispatchRig()
        rig.supplier(slots: 100)
        rig.credentialEdit = { $0.requestsPerMinuteMax = 60 }
        for _ in 0..<100 {
            let stream = rig.submit()
            if rig.run(stream) != nil { rig.end(stream) }
        }
        #expect(rig.ended.count == 60)
        #expect(rig.lastRefusal?.code == .rateLimited)
        #expect(rig.lastRefusal?.retryAfterMs == 1_000)
        rig.nowMs += 999
        rig.submit()
        #expect(rig.running.isEmpty)
        rig.nowMs += 1
        let stream = rig.submit()
        #expect(rig.run(stream) != nil)
    }

    @Test("tokens a minute are taken as estimated and corrected at the end")
    func tokens() {
        var rig = DispatchRig()
        rig.supplier(slots: 100)
        rig.account(7, isPrepaid: false) { $0.tokensPerMinuteMax = 1_000 }
        func submit(_ rig: inout DispatchRig, _ tokens: UInt32) -> UInt32 {
            rig.submit { terms, _ in
                terms.maxInputTokens = 1
                terms.maxOutputTokens = tokens
            }
        }
        let first = submit(&rig, 99)
        #expect(rig.run(first) != nil)
        // It used ten times what was estimated: 900 less are left.
        rig.end(first, inputTokens: 1, outputTokens: 999)
        #expect(rig.run(submit(&rig, 99)) == nil)
        #expect(rig.lastRefusal?.code == .rateLimited)
        rig.nowMs += 6_000
        let next = submit(&rig, 99)
        #expect(rig.run(next) != nil)
        // It used nothing: all of it comes back.
        rig.end(next, .clientLost, code: .cancelled)
        #expect(rig.run(submit(&rig, 99)) != nil)
    }

    @Test("the largest limits that an entry can hold limit nothing, also after a long pause")
    func largestLimits() {
        var rig = DispatchRig()
        rig.supplier(slots: 100)
        rig.credentialEdit = {
            $0.requestsPerMinuteMax = .max
            $0.tokensPerMinuteMax = .max
        }
        rig.account(7, isPrepaid: false) { $0.tokensPerMinuteMax = .max }
        #expect(rig.run(rig.submit()) != nil)
        rig.nowMs += 600_000
        #expect(rig.run(rig.submit()) != nil)
    }

    @Test("a broker with a part of the lease has that part of the limits")
    func share() {
        var rig = DispatchRig()
        rig.supplier(slots: 100)
        rig.account(7, isPrepaid: false) { $0.concurrentTasksMax = 10 }
        rig.directory(
            .lease(
                DirectoryLease(
                    account: 7, instance: 5, granted: 0, expiresAtMs: 1 << 40, share: 32_768)))
        for _ in 0..<20 { rig.submit() }
        #expect(rig.running.count == 5)
    }

    // MARK: Accounts

    @Test("a suspended account loses its connections and gets no new ones")
    func suspended() {
        var rig = DispatchRig()
        rig.supplier()
        rig.submit()
        #expect(rig.refusedConnections.isEmpty)
        rig.account(7, isPrepaid: false) { $0.isSuspended = true }
        #expect(rig.refusedConnections.count == 1)
        rig.connect(account: 7, shard: 3)
        #expect(rig.refusedConnections.count == 2)
        rig.account(7, isPrepaid: false)
        rig.connect(account: 7, shard: 4)
        #expect(rig.refusedConnections.count == 2)
    }

    @Test("a credential that needs its account is refused until that is known")
    func needsAccount() {
        var rig = DispatchRig()
        rig.credentialEdit = { $0.needsAccount = true }
        rig.connect(account: 7)
        #expect(rig.refusedConnections.count == 1)
        rig.account(7)
        rig.connect(account: 7, shard: 1)
        #expect(rig.refusedConnections.count == 1)
    }

    @Test("a credential for some operations is not permitted others")
    func operations() {
        var rig = DispatchRig()
        rig.supplier()
        rig.credentialEdit = { $0.operations = OperationSet(.completion) }
        rig.submit()
        #expect(rig.lastRefusal?.code == .notPermitted)
        let stream = rig.submit { terms, _ in terms.operation = .completion }
        #expect(rig.run(stream) != nil)
    }

    // MARK: Prices

    @Test("an offer above the operator's price gets nothing, from the time on that it holds")
    func fixedPrice() {
        var rig = DispatchRig()
        rig.nowMs = 10_000
        let cheap = rig.supplier { $0.prices.output = 100 }
        let dear = rig.supplier(slots: 9) { $0.prices.output = 300 }
        rig.directory(
            .price(
                DirectoryPrice(
                    model: Rig.model,
                    prices: PriceList(input: 50, cached: 50, output: 200, reasoning: 200),
                    effectiveFromMs: 15_000)))
        #expect(rig.supplier(of: rig.submit { terms, _ in terms.preference = .price }) == cheap)
        #expect(rig.supplier(of: rig.submit()) == dear)
        rig.nowMs = 15_000
        let waiting = rig.submit()
        #expect(rig.run(waiting) == nil)
        #expect(rig.assignments.last?.prices.consumer.output == 300)
        rig.end(rig.running[0].stream)
        #expect(rig.supplier(of: waiting) == cheap)
        #expect(rig.assignments.last?.prices.ask.output == 100)
        #expect(rig.assignments.last?.prices.consumer.output == 200)
        #expect(rig.lost(dear, .price) > 0)
        // Only the dear one stands: nobody serves the model at that price.
        rig.hangUp(cheap)
        rig.submit()
        #expect(rig.lastRefusal?.code == .noSupplier)
        rig.directory(
            .price(
                DirectoryPrice(
                    model: Rig.model, prices: .free, effectiveFromMs: 15_000, isRemoved: true)))
        #expect(rig.supplier(of: rig.submit()) == dear)
    }

    @Test("a fee that holds from a time beyond all counting never comes")
    func farFee() {
        var rig = DispatchRig()
        let supplier = rig.supplier()
        rig.directory(.fee(DirectoryFee(basisPoints: 2_500, effectiveFromMs: .max)))
        #expect(rig.supplier(of: rig.submit()) == supplier)
    }

    @Test("a fee that falls serves the task that waited for something cheaper")
    func fallingFee() {
        var rig = DispatchRig()
        let cheap = rig.supplier(slots: 1) { $0.prices.output = 100 }
        let dear = rig.supplier(slots: 1) { $0.prices.output = 200 }
        rig.directory(.fee(DirectoryFee(basisPoints: 10_000, effectiveFromMs: 0)))
        let first = rig.submit { _, filters in filters.outputCeiling = 300 }
        #expect(rig.supplier(of: first) == cheap)
        let waiting = rig.submit { _, filters in filters.outputCeiling = 300 }
        #expect(rig.run(waiting) == nil)
        rig.directory(.fee(DirectoryFee(basisPoints: 0, effectiveFromMs: 1)))
        #expect(rig.supplier(of: waiting) == dear)
    }

    @Test("ceilings are on what the client pays; the fee is frozen with the ask at dispatch")
    func fee() {
        var rig = DispatchRig()
        rig.supplier(slots: 9) { $0.prices.output = 1_000 }
        rig.directory(.fee(DirectoryFee(basisPoints: 2_500, effectiveFromMs: 0)))
        rig.submit { _, filters in filters.outputCeiling = 1_249 }
        #expect(rig.lastRefusal?.code == .noSupplier)
        let stream = rig.submit { _, filters in filters.outputCeiling = 1_250 }
        #expect(rig.assignments.last?.prices.consumer.output == 1_250)
        rig.directory(.fee(DirectoryFee(basisPoints: 0, effectiveFromMs: 1)))
        rig.end(stream, outputTokens: 1_000_000)
        #expect(rig.ended.last?.charge.consumerCost == 1_250)
        #expect(rig.ended.last?.charge.platformFee == 250)
    }

    // MARK: Idempotency keys

    @Test("[Q15] a repeated key names the first task, with its usage and cost once it has ended")
    func duplicate() throws {
        var rig = DispatchRig()
        rig.supplier(slots: 9) { $0.prices.output = 1_000_000 }
        let first = rig.submit(alter: { $0.keyDigest = 42 })
        rig.submit(shard: 3, alter: { $0.keyDigest = 42 })
        let open = try #require(rig.duplicates.last)
        #expect(open.end.code == .duplicate && open.end.cost == 0)
        rig.end(first, outputTokens: 12)
        #expect(rig.ended.map(\.task) == [open.task])
        rig.submit(alter: { $0.keyDigest = 42 })
        let ended = try #require(rig.duplicates.last)
        #expect(ended.task == open.task)
        #expect(ended.end.usage.outputTokens == 12 && ended.end.cost == 12)
        // Another account may use the same key.
        #expect(rig.run(rig.submit(account: 8, alter: { $0.keyDigest = 42 })) != nil)
        rig.pass(ms: 599_000)
        rig.submit(alter: { $0.keyDigest = 42 })
        #expect(rig.duplicates.count == 3)
        rig.pass(ms: 2_000)
        #expect(rig.run(rig.submit(alter: { $0.keyDigest = 42 })) != nil)
        #expect(rig.refusals.count { $0.code == .duplicate } == 3)
    }

    @Test("[Q15] a refused task leaves no key behind; one that is not accepted yet keeps it")
    func refusedKey() {
        var rig = DispatchRig()
        rig.supplier(slots: 9) { $0.prices.output = 1_000_000 }
        rig.account(7)
        rig.submit(alter: { $0.keyDigest = 42 })
        rig.submit(alter: { $0.keyDigest = 42 })
        #expect(rig.lastRefusal?.code == .rateLimited)
        rig.passAwaiting(ms: 300)
        rig.account(7, isPrepaid: false)
        #expect(rig.run(rig.submit(alter: { $0.keyDigest = 42 })) != nil)
    }

    @Test("keys of an account are bounded: the one that ended first makes room, open ones do not")
    func boundedKeys() {
        var rig = DispatchRig { $0.idempotencyKeysPerAccount = 2 }
        rig.supplier(slots: 9)
        let first = rig.submit(alter: { $0.keyDigest = 1 })
        rig.submit(alter: { $0.keyDigest = 2 })
        rig.submit(alter: { $0.keyDigest = 3 })
        #expect(rig.lastRefusal?.code == .rateLimited)
        rig.end(first)
        #expect(rig.run(rig.submit(alter: { $0.keyDigest = 3 })) != nil)
        rig.submit(alter: { $0.keyDigest = 2 })
        #expect(rig.duplicates.count == 1)
    }
}
