import SluiceSession
import SluiceWire
import Testing

@Suite("A client's session")
struct ClientSessionTests {
    @Test("says HELLO and nothing else before WELCOME")
    func helloFirst() {
        var session = ClientSession(
            Handshake(role: .client, credentialKind: .apiKey, credential: [9], agent: "a"))
        session.start(nowMs: 0)
        let frames = session.sent()
        #expect(frames.map(\.kind) == [.hello])
        #expect(throws: ClientSession.SubmitRefusal.notOpen) { try session.submit(submission()) }
    }

    @Test("refuses any frame before WELCOME")
    func nothingBeforeWelcome() {
        var session = ClientSession(
            Handshake(role: .client, credentialKind: .apiKey, credential: [9], agent: "a"))
        session.start(nowMs: 0)
        _ = session.sent()
        session.receive(credit(.connection, 10), nowMs: 1)
        #expect(session.sent().last?.error?.code == .unexpectedFrame)
        #expect(session.isOver)
    }

    @Test("is lost when no WELCOME comes in time")
    func handshakeTimeout() {
        var session = ClientSession(
            Handshake(role: .client, credentialKind: .apiKey, credential: [9], agent: "a"))
        session.start(nowMs: 0)
        session.tick(nowMs: 9_999)
        #expect(!session.isOver)
        session.tick(nowMs: 10_000)
        #expect(session.isOver)
    }

    @Test("gives the same events however its bytes are split", arguments: 0..<30)
    func splitAnywhere(seed: Int) throws {
        var whole = ClientSession.connected()
        var split = ClientSession.connected()
        let stream = try whole.submit(submission()).stream
        _ = try split.submit(submission())
        _ = whole.sent()
        _ = split.sent()
        var bytes = queued(stream)
        for index in 0..<20 {
            bytes += tokens(stream, Array(repeating: UInt8(index), count: index * 7), tokens: 2)
        }
        bytes += encoded { PingFrame(value: 5).encode(as: .ping, into: &$0) }
        bytes += end(stream, usage: Usage(outputTokens: 40))
        whole.receive(bytes, nowMs: 1)
        var random = SeededRandom(state: UInt64(seed))
        for chunk in random.split(bytes) { split.receive(chunk, nowMs: 1) }
        #expect("\(whole.takeEvents())" == "\(split.takeEvents())")
        #expect(whole.sent().map(\.header) == split.sent().map(\.header))
    }

    @Test("sends at most the free body bytes until CREDIT comes, and then all of them in order")
    func bodyWaitsForCredit() throws {
        var session = ClientSession.connected()
        let body = (0..<40_000).map { UInt8(truncatingIfNeeded: $0) }
        let stream = try session.submit(submission(body)).stream
        var sent = session.sent().flatMap(\.bodyBytes)
        // The rest of the free bytes is below the smallest BODY frame and waits.
        #expect(sent.count > 15_000 && sent.count <= 16_384)
        session.receive(credit(stream, 30_000), nowMs: 1)
        sent += session.sent().flatMap(\.bodyBytes)
        #expect(sent.count == 30_000)
        session.receive(credit(stream, 20_000), nowMs: 1)
        #expect(session.sent().isEmpty)
        session.receive(credit(stream, 40_000), nowMs: 1)
        sent += session.sent().flatMap(\.bodyBytes)
        #expect(sent == body)
    }

    @Test("every BODY but the last carries at least 1 KiB")
    func bodyFrameSize() throws {
        var session = ClientSession.connected()
        let stream = try session.submit(submission(Array(repeating: 1, count: 20_000))).stream
        var bodies: [SentFrame] = []
        _ = session.sent()
        for limit in stride(from: UInt64(16_500), through: 20_000, by: 100) {
            session.receive(credit(stream, limit), nowMs: 1)
            bodies += session.sent()
        }
        #expect(bodies.allSatisfy { $0.kind == .body })
        #expect(bodies.dropLast().allSatisfy { $0.payload.count >= 1_024 })
    }

    @Test("never sends more free body bytes than the connection's upload limit")
    func uploadLimit() throws {
        var session = ClientSession.connected(welcome(uploadLimitBytes: 20_000))
        let body = Array(repeating: UInt8(1), count: 15_000)
        for _ in 0..<3 { _ = try session.submit(submission(body)) }
        var sent = session.sent().map(\.bodyBytes.count).reduce(0, +)
        #expect(sent == 20_000)
        session.receive(credit(.connection, 33_000), nowMs: 1)
        sent += session.sent().map(\.bodyBytes.count).reduce(0, +)
        #expect(sent == 33_000)
        session.receive(credit(.connection, 100_000), nowMs: 1)
        sent += session.sent().map(\.bodyBytes.count).reduce(0, +)
        #expect(sent == 45_000)
    }

    @Test("bodies share the connection in turn, and control frames pass them")
    func roundRobin() throws {
        var session = ClientSession.connected()
        let body = Array(repeating: UInt8(1), count: 200_000)
        let first = try session.submit(submission(body))
        let second = try session.submit(submission(body))
        _ = session.sent()
        session.receive(credit(first.stream, 200_000) + credit(second.stream, 200_000), nowMs: 1)
        var order: [StreamID] = []
        for _ in 0..<6 { order += session.sent(targetBytes: 1).map(\.stream) }
        let pair = [first.stream, second.stream]
        #expect(order == pair + pair + pair)
        session.cancel(first)
        #expect(session.sent(targetBytes: 1).first?.kind == .cancel)
        #expect(session.sent().allSatisfy { $0.stream == second.stream })
    }

    @Test("grants credit again once half a window was consumed, and never before")
    func regrant() throws {
        var session = ClientSession.connected()
        let handle = try session.submit(submission(windowBytes: 8_192))
        _ = session.sent()
        session.receive(queued(handle.stream), nowMs: 1)
        for _ in 0..<4 {
            session.receive(tokens(handle.stream, Array(repeating: 1, count: 2_036)), nowMs: 1)
        }
        session.consumed(2_048, of: handle)
        #expect(session.sent().isEmpty)
        session.consumed(2_048, of: handle)
        #expect(session.sent().compactMap(\.credit) == [8_192 + 4_096])
    }

    @Test("[C11] a read-up window leaves its sender 2,048 bytes, however small it is")
    func smallWindow() throws {
        var session = ClientSession.connected()
        let handle = try session.submit(submission(windowBytes: 2_100))
        _ = session.sent()
        session.receive(queued(handle.stream), nowMs: 1)
        session.receive(tokens(handle.stream, Array(repeating: 1, count: 88)), nowMs: 1)
        session.consumed(100, of: handle)
        #expect(session.sent().compactMap(\.credit) == [2_200])
    }

    @Test("ends the connection when the broker breaks a rule", arguments: Breach.allCases)
    func breach(_ breach: Breach) throws {
        var session = ClientSession.connected()
        let stream = try session.submit(submission(windowBytes: 4_096)).stream
        _ = session.sent()
        session.receive(breach.bytes(stream), nowMs: 1)
        #expect(session.sent().last?.error?.code == breach.code)
        #expect(session.isOver)
        var isAbandoned = false
        var isLost = false
        for event in session.takeEvents() {
            if case .abandoned = event { isAbandoned = true }
            if case .lost(.peerViolation(breach.code)) = event { isLost = true }
        }
        #expect(isLost)
        #expect(isAbandoned == (breach != .framesAfterEnd))
    }

    enum Breach: CaseIterable {
        case beyondCredit, tokensBeforeQueued, queuedTwice, completedBeforeQueued
        case framesAfterEnd, idleStream, rangeOfStreams, assign, cancel, unknownKind, oversize
        case secondWelcome, malformed

        var code: WireCode {
            switch self {
            case .beyondCredit: .creditExceeded
            case .rangeOfStreams: .streamOutOfRange
            case .unknownKind: .unknownKind
            case .oversize: .frameTooLarge
            case .malformed: .malformedPayload
            default: .unexpectedFrame
            }
        }

        func bytes(_ stream: StreamID) -> [UInt8] {
            switch self {
            case .beyondCredit:
                queued(stream) + tokens(stream, Array(repeating: 0, count: 4_085))
            case .tokensBeforeQueued: tokens(stream, [1])
            case .queuedTwice: queued(stream) + queued(stream)
            case .completedBeforeQueued: end(stream)
            case .framesAfterEnd: queued(stream) + end(stream) + tokens(stream, [1])
            case .idleStream: queued(StreamID(3))
            case .rangeOfStreams: queued(StreamID(9))
            case .assign: SluiceSessionTests.assign(stream, bodyBytes: 0, inline: [])
            case .cancel: SluiceSessionTests.cancel(stream)
            case .unknownKind: [0, 0, 0, 0, 0x70, 0, 0, 0, 0, 0, 0, 0]
            case .oversize: [0xF5, 0x3F, 0, 0, 0x25, 0, 0, 0, 1, 0, 0, 0]
            case .secondWelcome: welcome()
            case .malformed: [1, 0, 0, 0, 0x26, 0, 0, 0, 1, 0, 0, 0, 9]
            }
        }
    }

    @Test("skips an unknown kind with the ignorable flag, and late CREDIT")
    func ignored() {
        var session = ClientSession.connected()
        session.receive([1, 0, 0, 0, 0x70, 0x80, 0, 0, 4, 0, 0, 0, 9], nowMs: 1)
        session.receive(credit(StreamID(2), 10), nowMs: 1)
        #expect(!session.isOver)
        #expect(session.sent().isEmpty)
    }

    @Test("takes a stream again only after END, also after CANCEL")
    func slotsAreFreeAfterEnd() throws {
        var session = ClientSession.connected(welcome(maxStreams: 1))
        let first = try session.submit(submission())
        _ = session.sent()
        session.cancel(first)
        session.cancel(first)
        #expect(session.sent().map(\.kind) == [.cancel])
        #expect(throws: ClientSession.SubmitRefusal.noFreeStream) {
            try session.submit(submission())
        }
        session.receive(end(first.stream, .cancelled), nowMs: 1)
        let events = session.takeEvents()
        #expect(events.contains { if case .streamFree = $0 { true } else { false } })
        let second = try session.submit(submission())
        #expect(second.stream == first.stream)
        #expect(second != first)
    }

    @Test("a task cancelled before its SUBMIT left never reaches the broker")
    func cancelUnsent() throws {
        var session = ClientSession.connected()
        let handle = try session.submit(submission())
        session.cancel(handle)
        #expect(session.sent().isEmpty)
        #expect(session.openStreamCount == 0)
        guard case .ended(handle, nil, let end)? = session.takeEvents().first else {
            Issue.record("no END was reported")
            return
        }
        #expect(end.code == .cancelled)
    }

    @Test("answers PING, asks a silent broker, and gives up after two intervals")
    func keepAlive() {
        var session = ClientSession.connected(welcome(keepAliveMs: 1_000))
        session.receive(
            encoded { PingFrame(value: 77).encode(as: .ping, into: &$0) }, nowMs: 100)
        #expect(session.sent().map(\.kind) == [.pong])
        session.tick(nowMs: 1_099)
        #expect(session.sent().isEmpty)
        session.tick(nowMs: 1_100)
        session.tick(nowMs: 1_500)
        #expect(session.sent().map(\.kind) == [.ping])
        session.tick(nowMs: 2_099)
        #expect(!session.isOver)
        session.tick(nowMs: 2_100)
        #expect(session.isOver)
    }

    @Test("opens nothing new after GO-AWAY and lets what runs end")
    func goAway() throws {
        var session = ClientSession.connected()
        let handle = try session.submit(submission())
        _ = session.sent()
        session.receive(
            encoded { GoAwayFrame(code: .shuttingDown, graceMs: 5).encode(into: &$0) }, nowMs: 1)
        #expect(!session.takesTasks)
        session.receive(queued(handle.stream) + end(handle.stream), nowMs: 2)
        let ends = session.takeEvents().filter { if case .ended = $0 { true } else { false } }
        #expect(ends.count == 1)
    }

    @Test("[G2] a task that crossed GO-AWAY comes back whole, and one that was accepted does not")
    func crossesGoAway() throws {
        var session = ClientSession.connected()
        let crossing = try session.submit(submission(Array("again".utf8)))
        let accepted = try session.submit(submission())
        _ = session.sent()
        session.receive(queued(accepted.stream), nowMs: 1)
        session.receive(
            encoded { GoAwayFrame(code: .shuttingDown, graceMs: 5).encode(into: &$0) }, nowMs: 1)
        session.receive(
            end(crossing.stream, .draining) + end(accepted.stream, .drained), nowMs: 2)
        var back: [StreamHandle: [UInt8]] = [:]
        var ended: [StreamHandle] = []
        for event in session.takeEvents() {
            if case .abandoned(let handle, nil, _, let unsent?) = event {
                back[handle] = unsent.body
            }
            if case .ended(let handle, _, _) = event { ended.append(handle) }
        }
        #expect(back == [crossing: Array("again".utf8)])
        #expect(ended == [accepted])
        #expect(session.openStreamCount == 0)
    }

    @Test("a refusal as draining without GO-AWAY, or of a cancelled task, is an end like others")
    func drainingWithoutGoAway() throws {
        for isCancelled in [false, true] {
            var session = ClientSession.connected()
            let handle = try session.submit(submission())
            _ = session.sent()
            if isCancelled {
                session.cancel(handle)
                session.receive(
                    encoded { GoAwayFrame(code: .shuttingDown, graceMs: 5).encode(into: &$0) },
                    nowMs: 1)
            }
            session.receive(end(handle.stream, .draining), nowMs: 2)
            let ends = session.takeEvents().filter { if case .ended = $0 { true } else { false } }
            #expect(ends.count == 1)
        }
    }

    @Test("a lost connection tells which tasks the broker had heard of, and what had arrived")
    func abandoned() throws {
        var session = ClientSession.connected()
        let sent = try session.submit(submission())
        _ = session.sent()
        session.receive(queued(sent.stream) + tokens(sent.stream, [1], tokens: 3), nowMs: 1)
        _ = try session.submit(submission())
        _ = session.takeEvents()
        session.transportClosed()
        var found: [Bool: UInt32] = [:]
        for case .abandoned(_, _, let usage, let unsent) in session.takeEvents() {
            found[unsent == nil] = usage.outputTokens
        }
        #expect(found == [true: 3, false: 0])
    }
}
