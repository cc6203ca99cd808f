import SluiceSession
import SluiceWire
import Testing

/// A frame that a session sent, taken apart.
struct SentFrame {
    let header: FrameHeader
    let payload: [UInt8]

    var kind: FrameKind? { header.kind }
    var stream: StreamID { header.stream }

    var credit: UInt64? {
        kind == .credit ? try? CreditFrame(decoding: payload.span).limitBytes : nil
    }

    var error: ErrorFrame? {
        kind == .error ? try? ErrorFrame(decoding: payload.span) : nil
    }

    var end: EndFrame? { kind == .end ? try? EndFrame(decoding: payload.span) : nil }

    var submit: SubmitFrame? {
        kind == .submit ? try? SubmitFrame(decoding: payload.span) : nil
    }

    /// Body bytes carried by SUBMIT or BODY.
    var bodyBytes: [UInt8] {
        if let submit { return Array(payload[submit.inlineBody]) }
        return kind == .body ? payload : []
    }
}

func frames(_ bytes: [UInt8]) -> [SentFrame] {
    var assembler = FrameAssembler()
    assembler.append(bytes)
    var found: [SentFrame] = []
    while let frame = try? assembler.next() {
        found.append(SentFrame(header: frame.header, payload: frame.payload))
    }
    return found
}

func encoded(_ write: (inout [UInt8]) -> Void) -> [UInt8] {
    var bytes: [UInt8] = []
    write(&bytes)
    return bytes
}

func welcome(
    maxStreams: UInt32 = 8, maxBodyBytes: UInt32 = 1 << 24, uploadLimitBytes: UInt64 = 1 << 20,
    keepAliveMs: UInt32 = 5_000
) -> [UInt8] {
    encoded {
        WelcomeFrame(
            maxStreams: maxStreams, maxBodyBytes: maxBodyBytes,
            uploadLimitBytes: uploadLimitBytes, instance: 7, keepAliveMs: keepAliveMs
        ).encode(into: &$0)
    }
}

func queued(_ stream: StreamID, counter: UInt64 = 1) -> [UInt8] {
    encoded {
        QueuedFrame(
            task: TaskID(instance: 7, counter: counter), reserveBytes: 16_384, position: 0
        ).encode(stream: stream, into: &$0)
    }
}

func tokens(
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

func body(_ stream: StreamID, _ payload: [UInt8]) -> [UInt8] {
    encoded {
        FrameHeader(kind: .body, stream: stream, payloadBytes: payload.count).encode(into: &$0)
        $0 += payload
    }
}

func end(_ stream: StreamID, _ code: WireCode = .completed, usage: Usage = Usage()) -> [UInt8] {
    encoded { EndFrame(code: code, usage: usage).encode(stream: stream, into: &$0) }
}

func credit(_ stream: StreamID, _ limit: UInt64) -> [UInt8] {
    encoded { CreditFrame(limitBytes: limit).encode(stream: stream, into: &$0) }
}

func cancel(_ stream: StreamID, _ code: WireCode = .cancelled) -> [UInt8] {
    encoded { CancelFrame(code: code).encode(stream: stream, into: &$0) }
}

func assign(
    _ stream: StreamID, offer: UInt32 = 1, counter: UInt64 = 1, bodyBytes: Int, inline: [UInt8],
    encoding: PayloadEncoding = .text, limit: UInt64 = 65_536
) -> [UInt8] {
    encoded {
        AssignFrame(
            task: TaskID(instance: 7, counter: counter), offer: OfferID(offer),
            terms: TaskTerms(
                operation: .chat, encoding: encoding, bodyBytes: UInt32(bodyBytes)),
            creditLimitBytes: limit
        ).encode(stream: stream, inlineBodyBytes: inline.count, into: &$0)
        $0 += inline
    }
}

func submission(_ body: [UInt8] = Array("hi".utf8), windowBytes: UInt64 = 65_536) -> Submission {
    guard let model = ModelName("m") else { preconditionFailure("m is a name") }
    return Submission(
        terms: TaskTerms(operation: .chat, encoding: .text, bodyBytes: 0), model: model,
        body: body, windowBytes: windowBytes)
}

extension ClientSession {
    /// A session that was welcomed; HELLO is sent.
    static func connected(_ welcome: [UInt8] = welcome()) -> ClientSession {
        var session = ClientSession(
            Handshake(
                role: .client, credentialKind: .apiKey, credential: [1, 2, 3], agent: "test"))
        session.start(nowMs: 0)
        session.receive(welcome, nowMs: 0)
        _ = session.takeEvents()
        _ = session.sent()
        return session
    }

    mutating func sent(targetBytes: Int = 1 << 30, nowMs: UInt64 = 0) -> [SentFrame] {
        frames(takeOutput(targetBytes: targetBytes, nowMs: nowMs))
    }
}

extension SupplierSession {
    /// A session that was welcomed and offers model `m` as offer 1.
    static func supplying(slots: UInt32 = 4, bodyCreditBytes: UInt64 = 65_536) -> SupplierSession {
        var session = SupplierSession(
            Handshake(
                role: .supplier, credentialKind: .supplierToken, credential: [1], agent: "test",
                bodyCreditBytes: bodyCreditBytes))
        session.start(nowMs: 0)
        session.receive(welcome(), nowMs: 0)
        guard let model = ModelName("m") else { preconditionFailure("m is a name") }
        session.offer(OfferFrame(offer: OfferID(1), model: model))
        session.grant(OfferID(1), slots: slots)
        _ = session.takeEvents()
        _ = session.sent()
        return session
    }

    mutating func sent(targetBytes: Int = 1 << 30) -> [SentFrame] {
        frames(takeOutput(targetBytes: targetBytes, nowMs: 0))
    }

    /// Takes the one task that was assigned since the last events.
    mutating func assigned() -> (handle: StreamHandle, task: Assignment)? {
        for case .assigned(let handle, let task) in takeEvents() { return (handle, task) }
        return nil
    }

    mutating func assignedHandle() throws -> StreamHandle {
        let found = assigned()
        return try #require(found).handle
    }
}

/// Deterministic random numbers (SplitMix64).
struct SeededRandom: RandomNumberGenerator {
    var state: UInt64

    mutating func next() -> UInt64 {
        state &+= 0x9E37_79B9_7F4A_7C15
        var z = state
        z = (z ^ (z >> 30)) &* 0xBF58_476D_1CE4_E5B9
        z = (z ^ (z >> 27)) &* 0x94D0_49BB_1331_11EB
        return z ^ (z >> 31)
    }

    /// Cuts bytes into chunks at random places.
    mutating func split(_ bytes: [UInt8]) -> [[UInt8]] {
        var chunks: [[UInt8]] = []
        var start = 0
        while start < bytes.count {
            let count = min(Int.random(in: 1...40, using: &self), bytes.count - start)
            chunks.append(Array(bytes[start..<start + count]))
            start += count
        }
        return chunks
    }
}
