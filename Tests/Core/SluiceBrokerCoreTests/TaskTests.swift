import SluiceBrokerCore
import SluiceInMemory
import SluiceRecordFormat
import SluiceSession
import SluiceWire
import Testing

@Suite("Life of a task") struct TaskTests {
    @Test("[Q3][K8][E1] QUEUED, TOKENS as they came, END: the whole exchange")
    func exchange() throws {
        var rig = Rig()
        let supplier = rig.supplier()
        let client = rig.client()
        rig.submit(client, body: [1, 2, 3])
        let assign = try #require(rig.hear(supplier).first?.assign)
        #expect(assign.terms.bodyBytes == 3)
        rig.tokens(supplier, [10, 11], tokens: 2, flags: FrameFlags(rawValue: 0xFD))
        rig.tokens(supplier, [12], tokens: 1)
        rig.end(supplier, usage: Usage(inputTokens: 3, outputTokens: 3))
        let frames = rig.hear(client)
        #expect(frames.map(\.kind) == [.queued, .tokens, .tokens, .end])
        #expect(frames[0].queued?.task == assign.task)
        #expect(frames[1].payload == [10, 11])
        #expect(frames[1].header.flags == .reasoning)
        #expect(frames[2].payload == [12])
        let end = try #require(frames[3].end)
        #expect(end.code == .completed)
        #expect(
            end.usage
                == Usage(inputTokens: 3, outputTokens: 3, cachedTokens: 0, reasoningTokens: 2))
        #expect(rig.accepted.count == 1)
        #expect(rig.ended.map(\.task) == [assign.task])
    }

    @Test("[E2] a slot is idle again once END was sent")
    func slotIsReused() {
        var rig = Rig()
        let supplier = rig.supplier()
        let client = rig.client()
        for _ in 0..<3 {
            rig.submit(client)
            #expect(rig.hear(supplier).first?.header.stream == StreamID(1))
            rig.end(supplier)
            #expect(rig.hear(client).map(\.kind) == [.queued, .end])
        }
        rig.submit(client)
        rig.submit(client)
        #expect(rig.error(client) == .streamInUse)
    }

    @Test("[Q7][Q8] fields out of range or of later versions refuse the task")
    func refusals() {
        var rig = Rig()
        _ = rig.supplier()
        let client = rig.client()
        func code(_ edit: (inout SubmitFrame) -> Void, _ rig: inout Rig) -> WireCode? {
            rig.submit(client, body: [], edit: edit)
            return rig.hear(client).first?.end?.code
        }
        #expect(code({ $0.terms.deadlineMs = 600_001 }, &rig) == .invalidRequest)
        #expect(code({ $0.windowBytes = 4_095 }, &rig) == .invalidRequest)
        #expect(code({ $0.windowBytes = 65_537 }, &rig) == .invalidRequest)
        #expect(code({ $0.terms.bodyBytes = 20_000_000 }, &rig) == .bodyTooLarge)
        #expect(code({ $0.budget = 1 }, &rig) == .unsupported)
        #expect(code({ $0.model = Rig.name("other") }, &rig) == .modelUnknown)
        #expect(rig.accepted.isEmpty)
    }

    @Test("[Q2][U5] body bytes beyond the declared size, short BODY")
    func bodyMismatch() {
        var rig = Rig()
        _ = rig.supplier()
        let client = rig.client()
        rig.submit(client, body: [1, 2], declared: 1)
        #expect(rig.hear(client).first?.end?.code == .bodyMismatch)
        rig.submit(client, body: [], declared: 5_000)
        rig.body(client, byteCount: 1_023)
        #expect(rig.hear(client).first?.end?.code == .bodyMismatch)
        rig.submit(client, body: [], declared: 1_500)
        rig.body(client, byteCount: 1_501)
        #expect(rig.hear(client).first?.end?.code == .bodyMismatch)
        rig.submit(client, body: [], declared: 1_500)
        rig.body(client, byteCount: 1_024)
        rig.body(client, byteCount: 476)
        #expect(rig.hear(client).map(\.kind) == [.queued])
    }

    @Test("[U4][U6] body credit follows admission; beyond it the connection ends")
    func bodyCredit() {
        var rig = Rig()
        _ = rig.supplier()
        let client = rig.client()
        rig.submit(client, body: [], declared: 100_000)
        #expect(rig.hear(client).compactMap(\.credit) == [100_000])
        for _ in 0..<6 { rig.body(client, byteCount: 16_000) }
        rig.body(client, byteCount: 4_000)
        #expect(rig.hear(client).map(\.kind) == [.queued])
    }

    @Test("[U2][U3][U6] free bytes draw on uploadLimit, which comes back in steps")
    func uploadLimit() throws {
        var limits = BrokerLimits()
        limits.uploadAllowanceBytes = 32_768
        var rig = Rig(limits: limits)
        let supplier = rig.supplier(slots: 64)
        let client = rig.client()
        rig.submit(client, stream: 1, body: [UInt8](repeating: 1, count: 8_000))
        #expect(rig.hear(client).compactMap(\.credit).isEmpty)
        rig.submit(client, stream: 2, body: [UInt8](repeating: 1, count: 8_000))
        let raised = rig.hear(client).filter { $0.header.stream == .connection }
        #expect(raised.compactMap(\.credit) == [32_768 + 16_000])
        // 4 frames in one chunk: 24,000 bytes of bodies that nobody allowed yet.
        var bytes: [UInt8] = []
        for stream in UInt32(3)...7 {
            let frame = SubmitFrame(
                terms: TaskTerms(operation: .chat, encoding: .text, bodyBytes: 7_000),
                model: Rig.model, creditLimitBytes: 5_000)
            frame.encode(stream: StreamID(stream), inlineBodyBytes: 7_000, into: &bytes)
            bytes += [UInt8](repeating: 2, count: 7_000)
        }
        rig.say(client, bytes)
        #expect(rig.hear(client).last?.kind != .error)
        _ = rig.hear(supplier)
    }

    @Test("[U7] late body bytes of the free part return to uploadLimit, and only those")
    func lateBody() {
        var limits = BrokerLimits()
        limits.uploadAllowanceBytes = 16_384
        var rig = Rig(limits: limits)
        let client = rig.client()
        // Refused: no supplier offers the model. Its 10,000 bytes are still on their way.
        rig.submit(client, body: [], declared: 10_000)
        #expect(rig.hear(client).first?.end?.code == .modelUnknown)
        rig.body(client, byteCount: 8_000)
        rig.body(client, byteCount: 2_000)
        #expect(rig.hear(client).compactMap(\.credit) == [16_384 + 8_000])
        // Nothing of this was ever free.
        for _ in 0..<20 { rig.body(client, byteCount: 16_000) }
        #expect(rig.hear(client).isEmpty)
    }

    @Test("[U9] a body that stays out for 30 s")
    func uploadTimeout() {
        var rig = Rig()
        _ = rig.supplier()
        let client = rig.client()
        rig.submit(client, body: [], declared: 5_000)
        rig.pass(ms: 20_000, keepsAlive: true)
        rig.body(client, byteCount: 1_024)
        rig.pass(ms: 29_900, keepsAlive: true)
        #expect(rig.hear(client).compactMap(\.end).isEmpty)
        rig.pass(ms: 200)
        #expect(rig.hear(client).compactMap(\.end).first?.code == .uploadTimeout)
        #expect(rig.refused.map(\.code) == [.uploadTimeout])
        #expect(rig.reservedBytes == 0)
    }

    @Test("[U10] an arena without room for the body")
    func bodyArena() {
        var limits = BrokerLimits()
        limits.bodyArenaBytes = 40_000
        var rig = Rig(limits: limits)
        _ = rig.supplier()
        let client = rig.client()
        rig.submit(client, stream: 1, body: [], declared: 30_000)
        rig.submit(client, stream: 2, body: [], declared: 30_000)
        let ends = rig.hear(client).compactMap(\.end)
        #expect(ends.map(\.code) == [.bodyArenaFull])
        #expect(ends[0].retryAfterMs > 0)
    }

    @Test("[E14] CANCEL before the body is complete: no acceptance, nothing reserved")
    func cancelUpload() {
        var rig = Rig()
        _ = rig.supplier()
        let client = rig.client()
        rig.submit(client, body: [], declared: 5_000)
        rig.cancel(client)
        #expect(rig.hear(client).map(\.end?.code) == [.cancelled])
        #expect(rig.accepted.isEmpty)
        #expect(rig.reservedBytes == 0)
    }

    @Test("[E7][E9] CANCEL reaches the supplier; END waits for its END and claims")
    func cancel() throws {
        var rig = Rig()
        let supplier = rig.supplier()
        let client = rig.client()
        rig.submit(client)
        _ = rig.hear(supplier)
        rig.tokens(supplier, [1, 2, 3], tokens: 3)
        _ = rig.hear(client)
        rig.cancel(client)
        #expect(rig.hear(supplier).map(\.cancel) == [.cancelled])
        #expect(rig.hear(client).isEmpty)
        rig.tokens(supplier, [4], tokens: 1)
        rig.end(supplier, .cancelled, usage: Usage(inputTokens: 5, outputTokens: 2))
        let end = try #require(rig.hear(client).first?.end)
        #expect(end.code == .cancelled)
        #expect(end.usage.outputTokens == 2)
        #expect(end.usage.inputTokens == 5)
        #expect(rig.ended.map(\.status) == [.cancelled])
        #expect(rig.shardCounters.discardedTokenFrames == 1)
        #expect(rig.shardCounters.cancelsSent == 1)
        #expect(rig.broker.dispatcher.counters.deadlinesPassed == 0)
    }

    @Test("[E8][S7] a slot that does not answer CANCEL is quarantined until its END")
    func quarantine() {
        var rig = Rig()
        let supplier = rig.supplier(slots: 1)
        let client = rig.client()
        rig.submit(client)
        _ = rig.hear(supplier)
        rig.cancel(client)
        _ = rig.hear(supplier)
        rig.pass(ms: 1_900)
        #expect(rig.hear(client).compactMap(\.end).isEmpty)
        rig.pass(ms: 200)
        #expect(rig.hear(client).compactMap(\.end).map(\.code) == [.cancelled])
        rig.submit(client)
        #expect(rig.hear(supplier).isEmpty)
        rig.end(supplier, .cancelled)
        #expect(rig.hear(supplier).compactMap(\.assign).count == 1)
    }

    @Test("[E12] the deadline counts from SUBMIT and reaches the supplier")
    func deadline() {
        var rig = Rig()
        let supplier = rig.supplier()
        let client = rig.client()
        rig.submit(client) { $0.terms.deadlineMs = 3_000 }
        #expect(rig.hear(supplier).first?.assign?.terms.deadlineMs == 3_000)
        rig.pass(ms: 2_900)
        #expect(rig.hear(supplier).isEmpty)
        rig.pass(ms: 200)
        #expect(rig.hear(supplier).map(\.cancel) == [.deadlineExceeded])
        rig.end(supplier, .deadlineExceeded)
        #expect(rig.hear(client).compactMap(\.end).map(\.code) == [.deadlineExceeded])
        #expect(rig.ended.map(\.status) == [.deadlineExceeded])
        #expect(rig.shardCounters.cancelsSent == 1)
        #expect(rig.broker.dispatcher.counters.deadlinesPassed == 1)
    }

    @Test("[L7] the loss of a client cancels its tasks")
    func clientLost() {
        var rig = Rig()
        let supplier = rig.supplier()
        let client = rig.client()
        rig.submit(client)
        _ = rig.hear(supplier)
        rig.hangUp(client)
        #expect(rig.hear(supplier).map(\.cancel) == [.cancelled])
        rig.end(supplier, .cancelled)
        #expect(rig.ended.map(\.status) == [.clientLost])
        #expect(rig.openTasks == 0)
    }

    @Test("[E13] a running task without 2,048 bytes of credit for 30 s")
    func starved() {
        var rig = Rig()
        let supplier = rig.supplier()
        let client = rig.client()
        rig.submit(client, credit: 2_047)
        _ = rig.hear(supplier)
        rig.pass(ms: 29_000, keepsAlive: true)
        #expect(rig.hear(client).compactMap(\.end).isEmpty)
        rig.pass(ms: 1_200)
        #expect(rig.hear(supplier).compactMap(\.cancel) == [.stalled])
        rig.end(supplier, .cancelled)
        #expect(rig.hear(client).compactMap(\.end).map(\.code) == [.stalled])
    }

    @Test("the gap between two deliveries is counted, the wait for the first token is not one")
    func tokenGaps() {
        var rig = Rig()
        let supplier = rig.supplier()
        let client = rig.client()
        rig.submit(client)
        rig.pass(ms: 500)
        for _ in 0..<3 {
            rig.tokens(supplier, [1])
            #expect(rig.hear(client).contains { $0.kind == .tokens })
            rig.pass(ms: 40)
        }
        rig.end(supplier)
        let bucket = HistogramBucket.index(of: 40_000)
        #expect(rig.tokenGaps[bucket] == 2)
        #expect(rig.tokenGaps.reduce(0, +) == 2)
        // The stream's place is used again: its first token has no gap to those of the last task.
        rig.submit(client)
        rig.tokens(supplier, [1])
        _ = rig.hear(client)
        #expect(rig.tokenGaps.reduce(0, +) == 2)
    }

    @Test("an answer that waits for credit is counted once until it has some")
    func creditStalls() {
        var rig = Rig()
        let supplier = rig.supplier()
        let client = rig.client()
        rig.submit(client, credit: 4_096)
        _ = rig.hear(supplier)
        #expect(rig.shardCounters.creditStalls == 0)
        rig.tokens(supplier, [UInt8](repeating: 1, count: 2_500))
        rig.pass(ms: 200)
        #expect(rig.shardCounters.creditStalls == 1)
        rig.credit(client, 12_000)
        rig.pass(ms: 200)
        #expect(rig.shardCounters.creditStalls == 1)
        rig.tokens(supplier, [UInt8](repeating: 1, count: 8_000))
        rig.pass(ms: 200)
        #expect(rig.shardCounters.creditStalls == 2)
    }

    @Test("[E4] an increment without a byte is no output, and input is not billed for it")
    func emptyOutput() throws {
        var rig = Rig()
        let supplier = rig.supplier()
        let client = rig.client()
        rig.submit(client)
        rig.tokens(supplier, [], tokens: 1)
        rig.end(supplier, .supplierFailed, usage: Usage(inputTokens: 100, outputTokens: 1))
        _ = rig.hear(client)
        let ended = try #require(rig.ended.first)
        #expect(ended.status == .supplierFailed)
        #expect(ended.usage == Usage())
    }

    @Test("[E4] output is the least of claim, increments and bytes; input within its limit")
    func billing() throws {
        var rig = Rig()
        let supplier = rig.supplier()
        let client = rig.client()
        rig.submit(client) { $0.terms.maxInputTokens = 4 }
        _ = rig.hear(supplier)
        rig.tokens(supplier, [1, 2], tokens: 900)
        rig.end(supplier, usage: Usage(inputTokens: 50, outputTokens: 800))
        let end = try #require(rig.hear(client).last?.end)
        #expect(end.usage.outputTokens == 2)
        #expect(end.usage.inputTokens == 4)
    }

    @Test("input is a token a byte and the template's at most, whatever is claimed")
    func boundedInput() throws {
        var rig = Rig()
        let supplier = rig.supplier()
        let client = rig.client()
        rig.submit(client)
        _ = rig.hear(supplier)
        rig.tokens(supplier, [1, 2], tokens: 2)
        rig.end(supplier, usage: Usage(inputTokens: .max, outputTokens: 2, cachedTokens: .max))
        let end = try #require(rig.hear(client).last?.end)
        let bound = try #require(rig.accepted.first).bodyBytes + 1_024
        #expect(end.usage.inputTokens == bound && end.usage.cachedTokens == bound)
    }

    @Test("[K6] an error body carries no tokens")
    func errorBody() throws {
        var rig = Rig()
        let supplier = rig.supplier()
        let client = rig.client()
        rig.submit(client)
        _ = rig.hear(supplier)
        rig.tokens(supplier, [1, 2, 3], tokens: 9, flags: .error)
        rig.end(supplier, .upstreamRefused)
        let frames = rig.hear(client)
        #expect(frames.map(\.kind) == [.queued, .tokens, .end])
        #expect(frames[1].header.tokens == 0)
        #expect(frames[2].end?.code == .upstreamRefused)
        #expect(frames[2].end?.usage.outputTokens == 0)
    }

    @Test("[E10] STARTED, TOKENS and END on an idle slot", arguments: [0x24, 0x25, 0x26])
    func afterEnd(_ kind: Int) {
        var rig = Rig()
        let supplier = rig.supplier()
        switch kind {
        case 0x24:
            rig.say(supplier, started(inputTokens: 1))
        case 0x25: rig.tokens(supplier, [1])
        default: rig.end(supplier)
        }
        #expect(rig.error(supplier) == .unexpectedFrame)
    }

    @Test("[D3] a second STARTED")
    func startedTwice() {
        var rig = Rig()
        let supplier = rig.supplier()
        let client = rig.client()
        rig.submit(client)
        _ = rig.hear(supplier)
        for _ in 0..<2 {
            rig.say(supplier, started(inputTokens: 1))
        }
        #expect(rig.error(supplier) == .unexpectedFrame)
    }

    @Test("[G2][G3] drain: no new tasks, what runs has 30 s, queued ones are matched")
    func drain() {
        var rig = Rig()
        let supplier = rig.supplier(slots: 1)
        let client = rig.client()
        rig.submit(client, stream: 1)
        rig.submit(client, stream: 2)
        #expect(rig.hear(supplier).compactMap(\.assign).count == 1)
        _ = rig.hear(client)
        rig.broker.drain(nowUs: rig.nowUs)
        rig.turn()
        #expect(rig.hear(client).map(\.kind) == [.goAway])
        rig.submit(client, stream: 3)
        #expect(rig.hear(client).map(\.end?.code) == [.draining])
        rig.end(supplier)
        #expect(rig.hear(supplier).compactMap(\.assign).count == 1)
        rig.pass(ms: 30_100, keepsAlive: true)
        #expect(rig.hear(supplier).compactMap(\.cancel) == [.drained])
        rig.end(supplier, .cancelled)
        #expect(rig.hear(client).compactMap(\.end).map(\.code) == [.completed, .drained])
    }

    @Test("a burst of tasks may fill the journal but for the ends of those that are open")
    func wholeJournalTakesTasks() {
        var rig = Rig(ringRecords: JournalReserve.slack + 100)
        let supplier = rig.supplier()
        let client = rig.client()
        for _ in 0..<60 {
            rig.submit(client)
            guard rig.hear(supplier).contains(where: { $0.kind == .assign }) else { break }
            rig.end(supplier)
            _ = rig.hear(client)
        }
        #expect(rig.hear(client).compactMap(\.end).map(\.code) == [.journalFull])
        // Each wrote ACCEPTED and ENDED; a few more records are the start and names.
        #expect((46...50).contains(rig.ended.count))
    }

    @Test("[L10] journal without room refuses; open tasks keep theirs")
    func journalFull() {
        var rig = Rig(ringRecords: JournalReserve.slack + 6)
        let supplier = rig.supplier(slots: 8)
        let client = rig.client()
        var codes: [WireCode] = []
        for _ in 0..<4 {
            rig.submit(client)
            if rig.hear(supplier).contains(where: { $0.kind == .assign }) { rig.end(supplier) }
            codes += rig.hear(client).compactMap(\.end).map(\.code)
            if codes.last == .journalFull { break }
        }
        #expect(codes.last == .journalFull)
        rig.broker.instance.release()
        rig.submit(client)
        _ = rig.hear(supplier)
        rig.end(supplier)
        #expect(rig.hear(client).compactMap(\.end).map(\.code) == [.completed])
    }
}

/// STARTED on stream 1.
func started(inputTokens: UInt32) -> [UInt8] {
    var bytes: [UInt8] = []
    FrameHeader(kind: .started, stream: StreamID(1), payloadBytes: 8).encode(into: &bytes)
    bytes.appendLittleEndian(inputTokens)
    bytes.appendLittleEndian(UInt32(0))
    return bytes
}
