import SluiceWire
import Testing
import Worker

@Suite("Slots follow the engine") struct SlotTests {
    private func limit(_ slots: Int, rate: Double = 40) -> SlotLimit {
        let single = SlotProbe.Speed(
            firstToken: .milliseconds(100), tokensPerSecond: rate, concurrency: 1)
        return SlotLimit(SlotProbe.Result(single: single, slots: slots))
    }

    @Test("answers at full load that fall below half of the speed alone take a slot, one by one")
    func shrinks() {
        var limit = limit(4)
        var counts: [Int] = []
        for _ in 0..<64 where limit.saw(tokensPerSecond: 10, running: 4) {
            counts.append(limit.slots)
        }
        #expect(counts == [3, 2, 1])
    }

    @Test("one slow answer takes nothing, and neither do answers of an engine with free slots")
    func steady() {
        var limit = limit(4)
        var changes = 0
        for _ in 0..<200 where limit.saw(tokensPerSecond: 1, running: 3) { changes += 1 }
        if limit.saw(tokensPerSecond: 1, running: 4) { changes += 1 }
        for _ in 0..<20 where limit.saw(tokensPerSecond: 22, running: 4) { changes += 1 }
        // The one slow answer has faded, so that the average is above the floor again.
        #expect(changes == 0)
        #expect(limit.slots == 4)
    }

    @Test("fast answers at full load give slots, at most twice what was measured")
    func grows() {
        var limit = limit(3)
        for _ in 0..<1_000 { _ = limit.saw(tokensPerSecond: 39, running: limit.slots) }
        #expect(limit.slots == 6)
    }

    @Test("an engine that showed nothing keeps its one slot")
    func unknown() {
        var limit = SlotLimit(SlotProbe.Result(single: nil, slots: 1))
        for _ in 0..<100 { _ = limit.saw(tokensPerSecond: 1_000, running: 1) }
        #expect(limit.slots == 1)
    }

    @Test("an answer keeps the floor by speed and by its first token")
    func floor() {
        let alone = SlotProbe.Speed(
            firstToken: .milliseconds(200), tokensPerSecond: 40, concurrency: 1)
        func keeps(_ rate: Double, _ firstMs: Int) -> Bool {
            SlotProbe.keepsFloor(
                SlotProbe.Speed(
                    firstToken: .milliseconds(firstMs), tokensPerSecond: rate, concurrency: 8),
                single: alone)
        }
        #expect(keeps(20, 200))
        #expect(!keeps(19, 200))
        #expect(keeps(40, 1_800))
        #expect(!keeps(40, 1_801))
    }

    @Test("a paced engine of its own carries as many as are tried, and is as fast as its pace")
    func builtIn() async {
        let result = await SlotProbe(BuiltInEngine(.demo, tokensPerSecond: 200), model: "demo")
            .run(upTo: 4)
        #expect(result.slots >= 1)
        #expect((result.single?.tokensPerSecond ?? 0) < 400)
    }

    /// Answers nothing.
    private struct SilentEngine: Engine {
        func answer(
            _ assignment: Assignment, to sink: some AnswerSink
        ) async throws(EngineFailure) -> Usage {
            throw EngineFailure(code: .upstreamUnavailable)
        }
    }

    @Test("an engine that answers nothing gets one slot and shows no speed")
    func silent() async {
        let result = await SlotProbe(SilentEngine(), model: "m").run()
        #expect(result == SlotProbe.Result(single: nil, slots: 1))
    }
}
