import SluiceSession
import SluiceWire
import Testing

@Suite("A supplier's session")
struct SupplierSessionTests {
    @Test("hands a task out once its whole body came, raising body credit as it comes")
    func bodyBeforeTask() {
        var session = SupplierSession.supplying(bodyCreditBytes: 8_192)
        let body = (0..<12_000).map { UInt8(truncatingIfNeeded: $0) }
        session.receive(
            assign(StreamID(3), bodyBytes: 12_000, inline: Array(body[..<2_000])), nowMs: 5)
        session.receive(SluiceSessionTests.body(StreamID(3), Array(body[2_000..<8_000])), nowMs: 5)
        #expect(session.assigned() == nil)
        #expect(session.sent().compactMap(\.credit) == [16_192])
        session.receive(SluiceSessionTests.body(StreamID(3), Array(body[8_000...])), nowMs: 5)
        let assigned = session.assigned()
        #expect(assigned?.task.body == body)
        #expect(assigned?.task.expiresMs == 600_005)
    }

    @Test("sends TOKENS within the limit only, in pieces that never split a code point")
    func tokensWithinCredit() throws {
        var session = SupplierSession.supplying()
        session.receive(assign(StreamID(1), bodyBytes: 0, inline: [], limit: 3_000), nowMs: 0)
        let handle = try session.assignedHandle()
        let text = String(repeating: "aé€😀", count: 1_000)
        #expect(session.write(Array(text.utf8), tokens: 9, flags: [], to: handle) == .wait)
        var sent = session.sent()
        var limit: UInt64 = 3_000
        var cost = sent.reduce(0) { $0 + $1.header.frameBytes }
        #expect(cost > 2_048 && cost <= 3_000)
        while limit < 20_000 {
            limit += 1_024
            session.receive(credit(StreamID(1), limit), nowMs: 0)
            let more = session.sent()
            cost += more.reduce(0) { $0 + $1.header.frameBytes }
            #expect(cost <= limit)
            sent += more
        }
        #expect(sent.flatMap(\.payload) == Array(text.utf8))
        for frame in sent { #expect(String(validating: frame.payload, as: UTF8.self) != nil) }
        #expect(sent.map(\.header.tokens) == sent.dropLast().map { _ in 0 } + [9])
        let writable = session.takeEvents().filter {
            if case .writable = $0 { true } else { false }
        }
        #expect(writable.count == 1)
    }

    @Test("spreads an increment above 65,535 and loses none of it")
    func largeIncrement() throws {
        var session = SupplierSession.supplying()
        session.receive(assign(StreamID(1), bodyBytes: 0, inline: []), nowMs: 0)
        let handle = try session.assignedHandle()
        #expect(session.write([1, 2], tokens: 150_000, flags: [], to: handle) == .proceed)
        let sent = session.sent()
        #expect(sent.map { Int($0.header.tokens) }.reduce(0, +) == 150_000)
        #expect(sent.flatMap(\.payload) == [1, 2])
    }

    @Test("joins small writes that wait together, but never over a change of flags")
    func coalesces() throws {
        var session = SupplierSession.supplying()
        session.receive(assign(StreamID(1), bodyBytes: 0, inline: []), nowMs: 0)
        let handle = try session.assignedHandle()
        for byte in UInt8(0)..<10 {
            let flags: FrameFlags = byte < 5 ? [.reasoning] : []
            #expect(session.write([byte], tokens: 1, flags: flags, to: handle) == .proceed)
        }
        let sent = session.sent()
        #expect(sent.map(\.header.tokens) == [5, 5])
        #expect(sent.map(\.header.flags) == [.reasoning, []])
        #expect(sent.flatMap(\.payload) == Array(0..<10))
    }

    @Test("answers share the connection in turn")
    func roundRobin() throws {
        var session = SupplierSession.supplying()
        var handles: [StreamHandle] = []
        for number in UInt32(1)...2 {
            session.receive(
                assign(StreamID(number), bodyBytes: 0, inline: [], limit: 1 << 20), nowMs: 0)
            handles.append(try session.assignedHandle())
        }
        for handle in handles {
            _ = session.write(
                Array(repeating: 1, count: 60_000), tokens: 1, flags: [], to: handle)
        }
        let order = session.sent().map(\.stream.rawValue)
        #expect(order == [1, 2, 1, 2, 1, 2, 1, 2])
    }

    @Test("END follows the last TOKENS, with a consistent claim")
    func endLast() throws {
        var session = SupplierSession.supplying()
        session.receive(assign(StreamID(1), bodyBytes: 0, inline: []), nowMs: 0)
        let handle = try session.assignedHandle()
        _ = session.started(handle, inputTokens: 4, cachedTokens: 9)
        _ = session.write([1], tokens: 1, flags: [], to: handle)
        session.end(handle, code: .completed, usage: Usage(inputTokens: 4, reasoningTokens: 5))
        #expect(session.write([2], tokens: 1, flags: [], to: handle) == .over)
        let sent = session.sent()
        #expect(sent.map(\.kind) == [.started, .tokens, .end])
        #expect(sent.last?.end?.usage.reasoningTokens == 0)
        #expect(session.openStreamCount == 0)
    }

    @Test("after CANCEL drops what waits, ends once, and in time even if the task does not stop")
    func cancelAnswered() throws {
        var session = SupplierSession.supplying()
        session.receive(assign(StreamID(1), bodyBytes: 0, inline: []), nowMs: 0)
        let handle = try session.assignedHandle()
        _ = session.write([1], tokens: 1, flags: [], to: handle)
        session.receive(cancel(StreamID(1), .deadlineExceeded), nowMs: 100)
        #expect(session.sent().isEmpty)
        #expect(
            session.write([1], tokens: 1, flags: [], to: handle) == .cancelled(.deadlineExceeded))
        session.tick(nowMs: 100 + SupplierSession.cancelPatienceMs)
        let sent = session.sent()
        #expect(sent.map(\.kind) == [.end])
        #expect(sent.first?.end?.code == .deadlineExceeded)
        #expect(sent.first?.end?.usage.outputTokens == 1)
        session.end(handle, code: .completed)
        #expect(session.sent().isEmpty)
    }

    @Test("stops a task by itself when its time is over")
    func deadline() throws {
        var session = SupplierSession.supplying()
        session.receive(assign(StreamID(1), bodyBytes: 0, inline: []), nowMs: 0)
        session.receive(assign(StreamID(2), bodyBytes: 9, inline: [1]), nowMs: 0)
        let handle = try session.assignedHandle()
        _ = session.write([1], tokens: 1, flags: [], to: handle)
        session.receive(
            encoded { PingFrame(value: 1).encode(as: .pong, into: &$0) }, nowMs: 599_999)
        session.tick(nowMs: 599_999)
        #expect(session.state(of: handle) == .running)
        session.tick(nowMs: 600_000)
        #expect(session.state(of: handle) == .cancelled(.deadlineExceeded))
        // The task whose body never became whole has nothing to stop.
        let sent = session.sent()
        #expect(sent.map { $0.end?.code } == [.deadlineExceeded])
        #expect(sent.map(\.stream) == [StreamID(2)])
        session.end(handle, code: .deadlineExceeded)
        #expect(session.sent().first?.end?.usage.outputTokens == 1)
    }

    @Test("a late write of one task never reaches the next task on its stream")
    func lateWrite() throws {
        var session = SupplierSession.supplying()
        session.receive(assign(StreamID(1), bodyBytes: 0, inline: []), nowMs: 0)
        let first = try session.assignedHandle()
        session.end(first, code: .completed)
        session.receive(assign(StreamID(1), counter: 2, bodyBytes: 0, inline: []), nowMs: 0)
        let second = try session.assignedHandle()
        _ = session.sent()
        #expect(session.write([1], tokens: 1, flags: [], to: first) == .over)
        session.end(first, code: .completed)
        #expect(session.sent().isEmpty)
        #expect(session.write([1], tokens: 1, flags: [], to: second) == .proceed)
    }

    @Test("declines a task that crossed WITHDRAW, and ignores what is late")
    func crossing() {
        var session = SupplierSession.supplying()
        session.drain()
        #expect(session.sent().map(\.kind) == [.withdraw])
        session.receive(assign(StreamID(1), bodyBytes: 5_000, inline: [1]), nowMs: 0)
        session.receive(body(StreamID(1), Array(repeating: 1, count: 4_999)), nowMs: 0)
        session.receive(cancel(StreamID(1)) + credit(StreamID(1), 9), nowMs: 0)
        let sent = session.sent()
        #expect(sent.map { $0.end?.code } == [.declined])
        #expect(!session.isOver)
    }

    @Test("ends the connection when the broker breaks a rule", arguments: Breach.allCases)
    func breach(_ breach: Breach) {
        var session = SupplierSession.supplying(slots: 2, bodyCreditBytes: 4_096)
        session.receive(breach.bytes, nowMs: 0)
        #expect(session.sent().last?.error?.code == breach.code)
        #expect(session.isOver)
    }

    enum Breach: CaseIterable {
        case unknownOffer, streamInUse, streamZero, tooManySlots, bodyTooLong, bodyBeyondCredit
        case emptyBody, bodyAfterWhole, tokens, end

        var code: WireCode {
            switch self {
            case .unknownOffer: .invalidOffer
            case .streamInUse: .streamInUse
            case .streamZero: .streamOutOfRange
            case .bodyBeyondCredit: .creditExceeded
            case .tokens, .end: .unexpectedFrame
            default: .protocolViolation
            }
        }

        var bytes: [UInt8] {
            let open = assign(StreamID(1), bodyBytes: 0, inline: [])
            return switch self {
            case .unknownOffer: assign(StreamID(1), offer: 2, bodyBytes: 0, inline: [])
            case .streamInUse: open + open
            case .streamZero: assign(.connection, bodyBytes: 0, inline: [])
            case .tooManySlots:
                open + assign(StreamID(2), bodyBytes: 0, inline: [])
                    + assign(StreamID(3), bodyBytes: 0, inline: [])
            case .bodyTooLong: assign(StreamID(1), bodyBytes: 1, inline: [1, 2])
            case .bodyBeyondCredit:
                assign(StreamID(1), bodyBytes: 9_000, inline: Array(repeating: 1, count: 4_097))
            case .emptyBody: assign(StreamID(1), bodyBytes: 1, inline: []) + body(StreamID(1), [])
            case .bodyAfterWhole: open + body(StreamID(1), [1])
            case .tokens: open + SluiceSessionTests.tokens(StreamID(1), [1])
            case .end: open + SluiceSessionTests.end(StreamID(1))
            }
        }
    }

    @Test("a writer that waits learns that its task is over")
    func waitingWriterIsWoken() throws {
        var session = SupplierSession.supplying()
        session.receive(assign(StreamID(1), bodyBytes: 0, inline: [], limit: 100), nowMs: 0)
        let handle = try session.assignedHandle()
        let bytes = Array(repeating: UInt8(1), count: 5_000)
        #expect(session.write(bytes, tokens: 1, flags: [], to: handle) == .wait)
        #expect(!session.canWrite(handle))
        session.transportClosed()
        #expect(session.canWrite(handle))
        #expect(session.write(bytes, tokens: 1, flags: [], to: handle) == .over)
    }
}

@Suite("A supplier's session asks")
struct SupplierReportTests {
    private func report(_ stream: UInt8 = 0, truncatedBy cut: Int = 0) -> [UInt8] {
        var bytes = encoded {
            var frame = ReportFrame(question: 4, rowsLeft: 0)
            frame.add(.dispatched, 9)
            frame.encode(into: &$0)
        }
        bytes[0] -= UInt8(cut)
        bytes[8] = stream
        return bytes.dropLast(cut)
    }

    @Test("[S14] the question may be skipped by who does not know it, and rows are handed on")
    func asks() {
        var session = SupplierSession.supplying()
        session.ask(question: 4)
        let sent = session.sent()
        #expect(sent.map(\.kind) == [.ask])
        #expect(sent.first?.header.flags == .ignorable)
        session.receive(report(), nowMs: 0)
        let rows = session.takeEvents().compactMap { event in
            if case .reported(let row) = event { row } else { nil as ReportFrame? }
        }
        #expect(rows.map(\.question) == [4])
        #expect(rows.first?.counts == [ReportFrame.Count(number: 8, value: 9)])
    }

    @Test("[F6] [F4] a REPORT on a stream or cut short ends the connection with its code")
    func wrong() {
        for (bytes, code) in [
            (report(1), WireCode.unexpectedFrame), (report(truncatedBy: 1), .malformedPayload),
        ] {
            var session = SupplierSession.supplying()
            session.receive(bytes, nowMs: 0)
            #expect(session.sent().last?.error?.code == code)
            #expect(session.isOver)
        }
    }
}

@Suite("Reconnecting")
struct ReconnectBackoffTests {
    @Test("doubles its ceiling up to the cap, draws all of it, and starts over on success")
    func ceilings() {
        var backoff = ReconnectBackoff(baseMs: 200, capMs: 30_000)
        var ceilings: [UInt64] = []
        for _ in 0..<10 {
            ceilings.append(backoff.ceilingMs)
            #expect(backoff.nextDelayMs(random: .max) <= backoff.ceilingMs)
        }
        #expect(
            ceilings == [
                200, 400, 800, 1_600, 3_200, 6_400, 12_800, 25_600, 30_000, 30_000,
            ])
        #expect(backoff.nextDelayMs(random: 30_000) == 30_000)
        for _ in 0..<100 { _ = backoff.nextDelayMs(random: 0) }
        #expect(backoff.ceilingMs == 30_000)
        backoff.succeeded()
        #expect(backoff.nextDelayMs(random: 200) == 200)
    }
}
