import SluiceBrokerCore
import SluiceLedgerCore
import SluiceRecordFormat
import SluiceWire
import Testing

/// `Protocol/Money.md`, Holds, At dispatch.
@Suite("Money that a queued task waits for") struct QueuedMoneyTests {
    /// Account 7 prepays and has 100 µUSD here. Supplier 0 asks 1 µUSD a token and has no slot: a
    /// task of 100 tokens is queued, and all of the lease is held for it.
    private func rig(slots: UInt32 = 0) -> DispatchRig {
        var rig = DispatchRig()
        rig.account(7)
        rig.supplier(slots: slots) { $0.prices.output = 1_000_000 }
        rig.lease(7, granted: 100)
        return rig
    }

    private func submit(_ rig: inout DispatchRig, tokens: UInt32 = 100) -> UInt32 {
        rig.submit { terms, _ in terms.maxOutputTokens = tokens }
    }

    /// A supplier that asks 200 µUSD a token.
    @discardableResult
    private func dear(_ rig: inout DispatchRig, slots: UInt32 = 1) -> Int {
        rig.supplier(slots: slots) { $0.prices.output = 200_000_000 }
    }

    private func held(_ rig: borrowing DispatchRig) -> MicroUSD? {
        rig.dispatcher.lease(ofAccount: 7)?.held
    }

    @Test("an offer dearer than what is held for is waited for until its money comes")
    func waits() {
        var rig = rig()
        let stream = submit(&rig)
        let supplier = dear(&rig)
        #expect(rig.run(stream) == nil && rig.ended.isEmpty)
        #expect(rig.leases.map(\.wanted) == [20_000])
        // Longer than an admission would, and with one LEASE for all that time.
        rig.passAwaiting(ms: 5_000)
        #expect(rig.isLeaseAwaited == true)
        #expect(rig.leases.count == 1 && rig.ended.isEmpty)
        rig.lease(7, granted: 19_999)
        #expect(rig.run(stream) == nil)
        rig.lease(7, granted: 20_000)
        #expect(rig.supplier(of: stream) == supplier)
        #expect(rig.held[stream] == HeldTokens(count: 100, isLast: true))
        rig.passAwaiting(ms: 10)
        #expect(rig.isLeaseAwaited == false)
        rig.end(stream, outputTokens: 40)
        #expect(rig.ended.map(\.charge.consumerCost) == [8_000])
        #expect(held(rig) == 0)
        #expect(rig.counters.queuedLeaseWaits == 1 && rig.counters.queuedLeaseGrants == 1)
    }

    @Test("an empty wallet ends it, and not before what is left of it is used up")
    func dry() {
        var rig = rig()
        let first = submit(&rig)
        dear(&rig)
        rig.lease(7, granted: 100, isDry: true)
        #expect(rig.ended.map(\.status) == [.budgetExhausted])
        #expect(rig.ends[first]?.cost == 0)
        #expect(rig.openTasks == 0 && rig.reservedBytes == 0 && held(rig) == 0)
        // Known to be empty: the next one is told at once.
        var known = self.rig()
        _ = submit(&known)
        known.submit()
        known.lease(7, granted: 100, isDry: true)
        dear(&known)
        #expect(known.ended.map(\.status) == [.budgetExhausted])
        #expect(known.counters.queuedLeaseWaits == 0)
        var rest = self.rig()
        let stream = submit(&rest)
        dear(&rest)
        rest.lease(7, granted: 700, isDry: true)
        #expect(rest.held[stream] == HeldTokens(count: 3, isLast: false))
        #expect(rest.run(stream) != nil)
    }

    @Test("a budget that the offer is above ends it at once: no lease helps")
    func budget() {
        var rig = rig()
        rig.submit { terms, _ in
            terms.maxOutputTokens = 100
        } alter: {
            $0.budget = 150
        }
        dear(&rig)
        #expect(rig.ended.map(\.status) == [.budgetExhausted])
        #expect(rig.counters.leaseWaits == 0)
    }

    @Test("who can pay goes first to the offer, of the same account or another's")
    func othersPass() {
        for isSame in [false, true] {
            var rig = rig()
            let poor = submit(&rig)
            var other = poor
            if isSame {
                // 4,096 are held for it: enough for 20 tokens of the dear offer.
                rig.lease(7, granted: 4_196)
                other = rig.submit()
            } else {
                other = rig.submit(account: 8)
            }
            dear(&rig, slots: 1)
            #expect(rig.run(poor) == nil && rig.run(other) != nil)
            // Slots come and go: it is not tried again.
            for slots in UInt32(2)...9 { rig.grant(1, slots: slots) }
            rig.passAwaiting(ms: 1_000)
            #expect(rig.run(poor) == nil && rig.ended.isEmpty)
            #expect(rig.counters.queuedLeaseWaits == 1)
            rig.lease(7, granted: 40_000)
            #expect(rig.run(poor) != nil)
        }
    }

    @Test("a cheaper offer takes it meanwhile, and what comes later is free")
    func cheaperMeanwhile() {
        var rig = rig()
        let stream = submit(&rig)
        dear(&rig)
        rig.grant(0, slots: 1)
        #expect(rig.supplier(of: stream) == 0)
        #expect(rig.held[stream] == HeldTokens(count: 100, isLast: true))
        rig.lease(7, granted: 20_000)
        #expect(rig.running.count == 1 && held(rig) == 100)
        rig.passAwaiting(ms: 5)
        #expect(rig.isLeaseAwaited == false)
        rig.end(stream, outputTokens: 100)
        #expect(rig.ended.map(\.charge.consumerCost) == [100])
        #expect(held(rig) == 0)
    }

    @Test("the money comes when the offer is gone: it is held, and given back by a cheaper one")
    func offerGone() {
        var rig = rig()
        let stream = submit(&rig)
        let supplier = dear(&rig)
        rig.hangUp(supplier)
        rig.lease(7, granted: 20_000)
        #expect(rig.run(stream) == nil && rig.ended.isEmpty)
        #expect(held(rig) == 20_000)
        rig.grant(0, slots: 1)
        #expect(rig.supplier(of: stream) == 0 && held(rig) == 100)
    }

    @Test("dearer and dearer: each time it waits for what is missing then")
    func dearerAgain() {
        var rig = rig()
        let stream = submit(&rig)
        let supplier = dear(&rig)
        rig.grant(supplier, slots: 0)
        rig.lease(7, granted: 20_000)
        #expect(held(rig) == 20_000 && rig.run(stream) == nil)
        // 1,028 tokens of input at 4,000 µUSD, and the same output.
        let dearest = rig.supplier {
            $0.prices.input = 4_000_000_000
            $0.prices.output = 200_000_000
        }
        #expect(rig.run(stream) == nil && rig.counters.queuedLeaseWaits == 2)
        rig.passAwaiting(ms: 5)
        #expect(rig.leases.last?.wanted == 4_132_000)
        rig.lease(7, granted: 4_132_000)
        #expect(rig.supplier(of: stream) == dearest && held(rig) == 4_132_000)
    }

    @Test("what its supplier gave back waits as well, and goes before those that never ran")
    func returned() {
        var rig = rig(slots: 1)
        let stream = submit(&rig)
        #expect(rig.supplier(of: stream) == 0)
        let supplier = dear(&rig)
        rig.giveBack(stream)
        #expect(rig.run(stream) == nil && rig.ended.isEmpty)
        rig.lease(7, granted: 20_000)
        #expect(rig.supplier(of: stream) == supplier)
        rig.end(stream, outputTokens: 1)
        #expect(rig.ended.map(\.dispatches) == [2])
    }

    @Test("admissions of its account stand behind it and keep their own patience")
    func order() {
        var rig = rig()
        let stream = submit(&rig)
        dear(&rig, slots: 9)
        let later = submit(&rig, tokens: 10)
        // Enough for the second, 2,000, but not for the first.
        rig.lease(7, granted: 2_200)
        #expect(rig.run(stream) == nil && rig.run(later) == nil)
        rig.passAwaiting(ms: 205)
        #expect(rig.lastRefusal?.code == .rateLimited)
        #expect(rig.ended.isEmpty && rig.openTasks == 1)
        rig.lease(7, granted: 20_000)
        #expect(rig.run(stream) != nil)
    }

    @Test(
        "however it ends while it waits: one record, no cost, everything given back",
        arguments: [
            (TaskStatus.cancelled, WireCode.cancelled), (.clientLost, .cancelled),
            (.deadlineExceeded, .deadlineExceeded), (.drained, .drained),
        ])
    func ends(_ status: TaskStatus, _ code: WireCode) {
        var rig = rig()
        let stream = submit(&rig)
        dear(&rig)
        #expect(rig.isLeaseAwaited == true)
        rig.send(
            .finished(
                StreamRef(shard: 0, index: stream, generation: 1),
                TaskReport(task: 0, status: status, code: code)))
        #expect(rig.ended.map(\.status) == [status])
        #expect(rig.ended.map(\.charge) == [.none])
        #expect(rig.openTasks == 0 && rig.reservedBytes == 0 && held(rig) == 0)
        rig.lease(7, granted: 20_000)
        rig.passAwaiting(ms: 5)
        #expect(rig.isLeaseAwaited == false)
        #expect(rig.running.isEmpty && rig.ended.count == 1)
        // What it would have cost goes to who comes next.
        let next = submit(&rig)
        #expect(rig.run(next) != nil)
    }

    @Test("a lease that has expired is asked for once a second, not all the time")
    func expired() {
        var rig = rig()
        let stream = submit(&rig)
        rig.lease(7, granted: 20_000, lifetimeMs: 1_000)
        rig.passAwaiting(ms: 5)
        rig.nowMs += 1_000
        dear(&rig)
        rig.passAwaiting(ms: 10_000)
        #expect(rig.run(stream) == nil && rig.ended.isEmpty)
        #expect(5...12 ~= rig.leases.count, "\(rig.leases.count)")
        rig.lease(7, granted: 20_000)
        #expect(rig.run(stream) != nil)
    }
}
