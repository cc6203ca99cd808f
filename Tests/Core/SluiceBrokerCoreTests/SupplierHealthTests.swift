import SluiceBrokerCore
import SluiceRecordFormat
import SluiceWire
import Testing

@Suite("Supplier health") struct SupplierHealthTests {
    /// One after the other, each task of the supplier fails.
    private func fail(_ rig: inout DispatchRig, times: Int) {
        for _ in 0..<times {
            let stream = rig.submit()
            guard rig.run(stream) != nil else { return }
            rig.giveBack(stream)
        }
    }

    @Test("five failures open the breaker; one probe at a time after the back-off; success closes")
    func breaker() {
        var rig = DispatchRig()
        _ = rig.supplier(slots: 4)
        fail(&rig, times: 5)
        #expect(rig.dispatcher.counters.breakersOpened == 1)
        let first = rig.submit()
        let second = rig.submit()
        #expect(rig.running.isEmpty)
        rig.pass(ms: 900)
        #expect(rig.running.isEmpty)
        rig.pass(ms: 1_100)
        #expect(rig.running.map(\.stream) == [first])
        #expect(rig.assignments.last?.winReason == .probe)
        // It fails: twice the back-off, and no second probe before.
        rig.end(first, .supplierFailed, code: .supplierFailed)
        rig.pass(ms: 1_900)
        #expect(rig.running.isEmpty)
        rig.pass(ms: 2_000)
        #expect(rig.running.map(\.stream) == [second])
        let third = rig.submit()
        let fourth = rig.submit()
        #expect(rig.running.count == 1)
        rig.end(second)
        #expect(rig.running.map(\.stream) == [third, fourth])
    }

    @Test("a probe that says nothing is followed by another")
    func neutralProbe() {
        var rig = DispatchRig()
        _ = rig.supplier(slots: 4)
        fail(&rig, times: 5)
        let first = rig.submit()
        let second = rig.submit()
        rig.pass(ms: 2_000)
        rig.end(first, .cancelled, code: .cancelled)
        #expect(rig.running.map(\.stream) == [second])
        #expect(rig.assignments.last?.winReason == .probe)
    }

    @Test("the breaker belongs to the identity: a new connection does not close it")
    func reconnect() {
        var rig = DispatchRig()
        let first = rig.supplier(slots: 4, identity: 50)
        fail(&rig, times: 5)
        rig.hangUp(first)
        let again = rig.supplier(slots: 4, identity: 50)
        let stream = rig.submit()
        #expect(rig.running.isEmpty)
        let other = rig.supplier(identity: 51)
        #expect(rig.supplier(of: stream) == other)
        #expect(rig.lost(again, .breakerOpen) == 1)
    }

    @Test("what opens a breaker, and what does not")
    func causes() {
        func opens(_ end: (inout DispatchRig, UInt32) -> Void) -> Bool {
            var rig = DispatchRig()
            _ = rig.supplier(slots: 9)
            for _ in 0..<8 {
                let stream = rig.submit()
                guard rig.run(stream) != nil else { break }
                end(&rig, stream)
            }
            return rig.dispatcher.counters.breakersOpened > 0
        }
        #expect(opens { $0.end($1, .supplierFailed, code: .supplierFailed) })
        #expect(opens { $0.end($1, .cancelled, code: .cancelled) { $0.isUnanswered = true } })
        #expect(
            opens { rig, stream in
                rig.nowMs += 11_000
                rig.end(stream, .deadlineExceeded, code: .deadlineExceeded)
            })
        #expect(!opens { $0.end($1, .deadlineExceeded, code: .deadlineExceeded) })
        #expect(!opens { $0.end($1, .cancelled, code: .cancelled) })
        #expect(!opens { $0.end($1, .supplierFailed, code: .upstreamRefused) })
        #expect(!opens { $0.giveBack($1, isDeclined: true) })
        #expect(!opens { $0.end($1) })
    }

    @Test("the loss of one connection with many tasks counts once")
    func oneLoss() {
        var rig = DispatchRig()
        let first = rig.supplier(slots: 20, identity: 60)
        for _ in 0..<20 { rig.submit() }
        rig.hangUp(first)
        #expect(rig.dispatcher.counters.breakersOpened == 0)
        _ = rig.supplier(slots: 20, identity: 60)
        #expect(rig.supplier(of: rig.submit()) != nil)
    }

    @Test("losses one after the other open it")
    func manyLosses() {
        var rig = DispatchRig()
        for _ in 0..<5 {
            let supplier = rig.supplier(identity: 60)
            rig.submit()
            rig.nowMs += 1_000
            rig.hangUp(supplier)
        }
        #expect(rig.dispatcher.counters.breakersOpened == 1)
    }

    @Test("a slow supplier that is alive is chosen less, and tried again later")
    func slow() {
        var rig = DispatchRig()
        let slow = rig.supplier(slots: 8)
        let first = rig.submit()
        rig.nowMs += 9_000
        rig.end(first, ttftUs: 8_000_000)
        let good = rig.supplier(slots: 8)
        let streams = (0..<8).map { _ in rig.submit { terms, _ in terms.preference = .latency } }
        #expect(streams.allSatisfy { rig.supplier(of: $0) == good })
        for stream in streams { rig.end(stream, ttftUs: 300_000) }
        // What it showed fades while it is not asked.
        for _ in 0..<40 { rig.pass(ms: 31_000) }
        var asked = Set<Int>()
        for _ in 0..<8 {
            let stream = rig.submit { terms, _ in terms.preference = .latency }
            if let supplier = rig.supplier(of: stream) { asked.insert(supplier) }
        }
        #expect(asked.contains(slow))
    }

    @Test("the retry budget bounds further dispatches")
    func retryBudget() {
        var rig = DispatchRig {
            $0.retryFloor = 4
            $0.breakerBackoffMs = 1
        }
        for _ in 0..<6 { _ = rig.supplier(slots: 500) }
        for _ in 0..<200 {
            let stream = rig.submit()
            rig.nowMs += 1
            while rig.run(stream) != nil { rig.giveBack(stream) }
        }
        let counters = rig.dispatcher.counters
        // 20 % of at most 200 first dispatches.
        #expect(counters.dispatchedAgain <= 40)
        #expect(counters.dispatchedAgain >= 4)
        #expect(counters.retriesRefused > 0)
        #expect(rig.ended.count + rig.dispatcher.queuedTasks + rig.running.count == 200)
    }
}
