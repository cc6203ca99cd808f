import SluiceSession
import SluiceTesting
import SluiceTransport
import SluiceWire
import Synchronization
import Testing

/// A broker that does what a test says, over pipes in memory.
final class ScriptedBroker: Connector {
    private let connections: AsyncStream<BrokerConnection>
    private let arrivals: AsyncStream<BrokerConnection>.Continuation
    private let iterator = Mutex<Int>(0)
    /// Dials that fail before one succeeds.
    let refusedDials: Mutex<Int>

    init(refusedDials: Int = 0) {
        (connections, arrivals) = AsyncStream.makeStream()
        self.refusedDials = Mutex(refusedDials)
    }

    var dialCount: Int { iterator.withLock { $0 } }

    func dial(_ address: BrokerAddress) async throws(TransportError) -> any BytePipe {
        iterator.withLock { $0 += 1 }
        let isRefused = refusedDials.withLock { left in
            defer { left = max(0, left - 1) }
            return left > 0
        }
        if isRefused { throw .unreachable }
        let (client, broker) = MemoryPipe.pair()
        arrivals.yield(BrokerConnection(broker))
        return client
    }

    /// The next connection that was dialled.
    func accept() async throws -> BrokerConnection {
        for await connection in connections { return connection }
        throw TransportError.closed
    }

    /// The next connection, welcomed.
    func welcome(_ bytes: [UInt8] = welcomeBytes()) async throws -> BrokerConnection {
        let connection = try await accept()
        _ = try await connection.next(.hello)
        try await connection.send(bytes)
        return connection
    }

    /// The next connection of a supplier, welcomed, once it may be assigned tasks: an ASSIGN that
    /// came together with WELCOME would name an offer that was not made yet [S7].
    func serve() async throws -> BrokerConnection {
        let connection = try await welcome()
        _ = try await connection.skip(to: .grant)
        return connection
    }

    func environment(clock: any SessionClock = SystemClock()) -> SessionEnvironment {
        SessionEnvironment(connector: self, clock: clock, random: { 0 })
    }
}

/// The broker's end of one connection. One task at a time.
final class BrokerConnection: Sendable {
    private let pipe: any BytePipe
    private let assembler = Mutex(FrameAssembler())

    init(_ pipe: any BytePipe) {
        self.pipe = pipe
    }

    /// The next frame; PINGs are left out.
    func next() async throws -> ReceivedFrame {
        while true {
            if let frame = try assembler.withLock({ try $0.next() }) {
                if frame.header.kind == .ping { continue }
                return frame
            }
            guard let bytes = await pipe.receive() else { throw TransportError.closed }
            assembler.withLock { $0.append(bytes) }
        }
    }

    /// The next frame, which must be of this kind.
    func next(_ kind: FrameKind) async throws -> ReceivedFrame {
        let frame = try await next()
        try #require(frame.header.kind == kind)
        return frame
    }

    /// Skips to the next frame of this kind.
    func skip(to kind: FrameKind) async throws -> ReceivedFrame {
        while true {
            let frame = try await next()
            if frame.header.kind == kind { return frame }
        }
    }

    func send(_ bytes: [UInt8]) async throws {
        try await pipe.send(bytes)
    }

    func close() async {
        await pipe.close()
    }

    /// Takes a task whose body fits its SUBMIT and accepts it.
    func acceptTask() async throws -> (stream: StreamID, submit: SubmitFrame, body: [UInt8]) {
        let frame = try await next(.submit)
        let submit = try frame.submit
        let body = Array(frame.payload[submit.inlineBody])
        try #require(body.count == Int(submit.terms.bodyBytes))
        try await send(queuedBytes(frame.header.stream))
        return (frame.header.stream, submit, body)
    }
}

func encoded(_ write: (inout [UInt8]) -> Void) -> [UInt8] {
    var bytes: [UInt8] = []
    write(&bytes)
    return bytes
}

func welcomeBytes(
    maxStreams: UInt32 = 16, maxBodyBytes: UInt32 = 1 << 20, keepAliveMs: UInt32 = 60_000
) -> [UInt8] {
    encoded {
        WelcomeFrame(
            maxStreams: maxStreams, maxBodyBytes: maxBodyBytes, uploadLimitBytes: 1 << 20,
            instance: 7, keepAliveMs: keepAliveMs
        ).encode(into: &$0)
    }
}

let taskID = TaskID(instance: 7, counter: 9)

func queuedBytes(_ stream: StreamID) -> [UInt8] {
    encoded {
        QueuedFrame(task: taskID, reserveBytes: 16_384, position: 0)
            .encode(stream: stream, into: &$0)
    }
}

func tokenBytes(
    _ stream: StreamID, _ payload: [UInt8], tokens: UInt16 = 1, flags: FrameFlags = []
) -> [UInt8] {
    encoded {
        FrameHeader(
            kind: .tokens, stream: stream, payloadBytes: payload.count, flags: flags,
            tokens: tokens
        ).encode(into: &$0)
        $0 += payload
    }
}

func endBytes(
    _ stream: StreamID, _ code: WireCode = .completed, usage: Usage = Usage(),
    retryAfterMs: UInt32 = 0, cost: MicroUSD = 0
) -> [UInt8] {
    encoded {
        EndFrame(code: code, usage: usage, retryAfterMs: retryAfterMs, cost: cost)
            .encode(stream: stream, into: &$0)
    }
}

func creditBytes(_ stream: StreamID, _ limit: UInt64) -> [UInt8] {
    encoded { CreditFrame(limitBytes: limit).encode(stream: stream, into: &$0) }
}

func cancelBytes(_ stream: StreamID, _ code: WireCode = .cancelled) -> [UInt8] {
    encoded { CancelFrame(code: code).encode(stream: stream, into: &$0) }
}

func assignBytes(
    _ stream: StreamID, offer: UInt32 = 1, body: [UInt8] = [], encoding: PayloadEncoding = .text,
    limit: UInt64 = 65_536
) -> [UInt8] {
    encoded {
        AssignFrame(
            task: taskID, offer: OfferID(offer),
            terms: TaskTerms(
                operation: .chat, encoding: encoding, bodyBytes: UInt32(body.count)),
            creditLimitBytes: limit
        ).encode(stream: stream, inlineBodyBytes: body.count, into: &$0)
        $0 += body
    }
}

/// An OpenAI event as it travels.
func event(_ text: String) -> [UInt8] {
    encoded {
        $0.appendLittleEndian(UInt32(text.utf8.count))
        $0 += text.utf8
    }
}

/// Time that moves when a test says so.
final class ManualClock: SessionClock {
    private struct State {
        var nowMs: UInt64 = 0
        var sleepers: [(untilMs: UInt64, waiter: CheckedContinuation<Void, Never>)] = []
    }

    private let state = Mutex(State())

    var nowMs: UInt64 { state.withLock { $0.nowMs } }

    func sleep(_ durationMs: UInt64) async {
        guard durationMs > 0 else { return }
        await withCheckedContinuation { waiter in
            state.withLock { $0.sleepers.append(($0.nowMs + durationMs, waiter)) }
        }
    }

    func advance(_ durationMs: UInt64) {
        let woken = state.withLock { state in
            state.nowMs += durationMs
            let nowMs = state.nowMs
            let woken = state.sleepers.filter { $0.untilMs <= nowMs }
            state.sleepers.removeAll { $0.untilMs <= nowMs }
            return woken
        }
        for sleeper in woken { sleeper.waiter.resume() }
    }
}

/// The error that `body` throws.
func thrown(_ body: () async throws -> Void) async -> (any Error)? {
    do {
        try await body()
        return nil
    } catch {
        return error
    }
}

extension ReceivedFrame {
    var offer: OfferFrame { get throws { try OfferFrame(decoding: payload.span) } }
    var grant: GrantFrame { get throws { try GrantFrame(decoding: payload.span) } }
    var end: EndFrame { get throws { try EndFrame(decoding: payload.span) } }
    var started: StartedFrame { get throws { try StartedFrame(decoding: payload.span) } }
    var withdraw: WithdrawFrame { get throws { try WithdrawFrame(decoding: payload.span) } }
    var credit: CreditFrame { get throws { try CreditFrame(decoding: payload.span) } }
    var submit: SubmitFrame { get throws { try SubmitFrame(decoding: payload.span) } }
}
