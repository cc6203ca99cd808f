import SluiceBrokerCore
import SluiceInMemory
import SluiceRecordFormat
import SluiceSession
import SluiceWire
import Testing

@Suite("The gate of prepaid tasks, and idempotency keys on the wire") struct GateTests {
    /// A broker whose client prepays, with this much in its lease; 1 µUSD a token.
    private func rig(lease: Int64) -> Rig {
        var rig = Rig()
        rig.prepay()
        rig.lease(lease)
        return rig
    }

    private func supplier(_ rig: inout Rig) -> UInt32 {
        rig.supplier { $0.prices.output = 1_000_000 }
    }

    @Test("[Q16] tokens go out while fewer went out than are held for, then the task ends")
    func exhausted() throws {
        var rig = rig(lease: 10)
        let supplier = supplier(&rig)
        let client = rig.client()
        rig.submit(client) { $0.terms.maxOutputTokens = 10 }
        #expect(rig.hear(supplier).count == 1)
        for number in 0..<4 {
            rig.tokens(supplier, [UInt8](repeating: UInt8(number), count: 8), tokens: 4)
        }
        // 4, 8 and, as 8 is below 10, 12; the fourth is beyond.
        #expect(rig.hear(client).map(\.kind) == [.queued, .tokens, .tokens, .tokens])
        #expect(rig.hear(supplier).map(\.cancel) == [.budgetExhausted])
        rig.end(supplier, .cancelled)
        let end = try #require(rig.hear(client).first?.end)
        #expect(end.code == .budgetExhausted)
        #expect(end.usage.outputTokens == 10)
        #expect(end.cost == 10)
        #expect(rig.ended.map(\.charge.consumerCost) == [10])
    }

    @Test("a frame without tokens passes when all is used: the answer ends as it should")
    func lastEvent() throws {
        var rig = rig(lease: 10)
        let supplier = supplier(&rig)
        let client = rig.client()
        rig.submit(client) { $0.terms.maxOutputTokens = 10 }
        rig.tokens(supplier, [UInt8](repeating: 1, count: 20), tokens: 10)
        rig.tokens(supplier, [2, 2], tokens: 0)
        rig.end(supplier, usage: Usage(inputTokens: 1, outputTokens: 10))
        let frames = rig.hear(client)
        #expect(frames.map(\.kind) == [.queued, .tokens, .tokens, .end])
        #expect(frames.last?.end?.code == .completed)
        #expect(frames.last?.end?.cost == 10)
    }

    @Test("beyond the gate frames wait for a larger lease, and go on in order")
    func waits() throws {
        var rig = rig(lease: 4_096)
        let supplier = supplier(&rig)
        let client = rig.client()
        rig.submit(client)
        rig.tokens(supplier, [1], tokens: 4_096)
        rig.tokens(supplier, [2], tokens: 4_200)
        rig.tokens(supplier, [3], tokens: 0)
        rig.tokens(supplier, [4], tokens: 4_000)
        #expect(rig.hear(client).map(\.payload).dropFirst() == [[1]])
        rig.end(supplier, usage: Usage(inputTokens: 1, outputTokens: 12_296))
        rig.lease(8_192)
        rig.turn()
        #expect(rig.hear(client).map(\.payload) == [[2], [3]])
        rig.lease(100_000)
        rig.turn()
        let last = rig.hear(client)
        #expect(last.first?.payload == [4])
        let end = try #require(last.last?.end)
        #expect(end.code == .completed)
        // At most one token for a byte of payload.
        #expect(end.usage.outputTokens == 4)
    }

    @Test("where there is no more, what is held for is delivered first")
    func dry() throws {
        var rig = rig(lease: 5_000)
        let supplier = supplier(&rig)
        let client = rig.client()
        rig.submit(client)
        let payload = [UInt8](repeating: 7, count: 1_000)
        for _ in 0..<6 { rig.tokens(supplier, payload, tokens: 1_000) }
        rig.lease(5_000, isDry: true)
        rig.turn()
        rig.turn()
        #expect(rig.hear(supplier).contains { $0.cancel == .budgetExhausted })
        rig.end(supplier, .cancelled, usage: Usage(inputTokens: 1, outputTokens: 6_000))
        let frames = rig.hear(client)
        #expect(frames.count { $0.kind == .tokens } == 5)
        #expect(frames.last?.end?.code == .budgetExhausted)
        #expect(frames.last?.end?.cost == 5_000)
    }

    @Test("the open-task slot never has more tokens than are held for")
    func slot() {
        var rig = rig(lease: 10)
        let supplier = supplier(&rig)
        let client = rig.client()
        rig.submit(client) { $0.terms.maxOutputTokens = 10 }
        rig.tokens(supplier, [UInt8](repeating: 1, count: 200), tokens: 60)
        #expect(rig.hear(client).count == 2)
        let slots = rig.broker.instance.slots.filter { $0.acceptSequence != 0 }
        #expect(slots.map(\.deliveredTokens) == [10])
        #expect(slots.map(\.maxInputTokens) == [1_027])
    }

    @Test("an account that does not prepay has no gate")
    func unbounded() {
        var rig = Rig()
        let supplier = supplier(&rig)
        let client = rig.client()
        rig.submit(client)
        for _ in 0..<3 { rig.tokens(supplier, [1], tokens: 60_000) }
        #expect(rig.hear(client).count { $0.kind == .tokens } == 3)
    }

    @Test("[Q15] a repeated key: QUEUED of the first task, then END duplicate")
    func duplicate() throws {
        var rig = Rig()
        let supplier = supplier(&rig)
        let client = rig.client()
        var key = ExtensionWriter()
        key.add(ExtensionType.idempotencyKey, Array("once".utf8))
        rig.submit(client, stream: 1, extensions: key)
        let queued = try #require(rig.hear(client).first?.queued)
        rig.submit(client, stream: 2, extensions: key)
        let frames = rig.hear(client)
        #expect(frames.map(\.kind) == [.queued, .end])
        #expect(frames[0].queued?.task == queued.task)
        #expect(frames[1].end?.code == .duplicate)
        // Its body is not whole: END comes without QUEUED.
        rig.submit(client, stream: 2, declared: 5_000, extensions: key)
        #expect(rig.hear(client).map { $0.end?.code } == [.duplicate])
        #expect(rig.hear(supplier).count == 1)
        #expect(rig.accepted.map { $0.idempotencyDigest != 0 } == [true])
    }

    @Test("[Q15] a body may go on while the key is looked up")
    func keyAndBody() throws {
        var rig = Rig()
        let supplier = supplier(&rig)
        let client = rig.client()
        var key = ExtensionWriter()
        key.add(ExtensionType.idempotencyKey, [1])
        var frame = SubmitFrame(
            terms: TaskTerms(operation: .chat, encoding: .text, bodyBytes: 1_030),
            model: Rig.model, creditLimitBytes: 1 << 20)
        frame.terms.priority = 3
        rig.say(client) {
            frame.encode(stream: StreamID(1), extensions: key, inlineBodyBytes: 0, into: &$0)
            FrameHeader(kind: .body, stream: StreamID(1), payloadBytes: 1_030).encode(into: &$0)
            $0 += [UInt8](repeating: 5, count: 1_030)
        }
        #expect(rig.hear(client).map(\.kind) == [.queued])
        #expect(rig.hear(supplier).first?.assign?.terms.bodyBytes == 1_030)
        // One that is cancelled before it was looked up leaves nothing.
        var again = ExtensionWriter()
        again.add(ExtensionType.idempotencyKey, [2])
        rig.say(client) {
            frame.encode(stream: StreamID(2), extensions: again, inlineBodyBytes: 0, into: &$0)
            CancelFrame(code: .cancelled).encode(stream: StreamID(2), into: &$0)
        }
        #expect(rig.hear(client).map { $0.end?.code } == [.cancelled])
        #expect(rig.openTasks == 1)
    }
}
