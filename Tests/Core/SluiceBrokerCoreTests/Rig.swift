import SluiceBrokerCore
import SluiceInMemory
import SluiceRecordFormat
import SluiceSession
import SluiceWire

/// A broker in memory and peers that say exactly what a test tells them to.
struct Rig: ~Copyable {
    var broker: InMemoryBroker
    var nowMs: UInt64 = 1_000
    private var assemblers: [UInt32: FrameAssembler] = [:]
    private var nextSupplier = 0

    static let model = name("m")
    static let clientKey = Array("client".utf8)
    /// Of another account.
    static let otherKey = Array("other".utf8)
    static let wallUs: UInt64 = 1_790_000_000_000_000

    init(limits: BrokerLimits = BrokerLimits(), ringRecords: Int = 4_096) {
        var limits = limits
        limits.connections = 32
        limits.openTasks = min(limits.openTasks, 1_024)
        var credentials = [
            DirectoryCredential(
                digest: InMemoryBroker.digest(of: Self.clientKey), account: 7, role: .client),
            DirectoryCredential(
                digest: InMemoryBroker.digest(of: Self.otherKey), account: 8, role: .client),
        ]
        for number in 0..<8 {
            credentials.append(
                DirectoryCredential(
                    digest: InMemoryBroker.digest(of: Self.token(number)), account: 9,
                    role: .supplier, supplier: UInt64(number + 1)))
        }
        broker = InMemoryBroker(
            limits: limits, instance: InMemoryInstance(id: 5, capacity: ringRecords),
            credentials: credentials, seed: 1, nowUs: nowMs * 1_000, wallUs: Self.wallUs)
    }

    static func name(_ text: String) -> ModelName {
        guard let name = ModelName(text) else { preconditionFailure("a valid name") }
        return name
    }

    static func token(_ number: Int) -> [UInt8] { Array("token \(number)".utf8) }

    var nowUs: UInt64 { nowMs * 1_000 }

    // MARK: Time

    mutating func turn() {
        broker.turn(nowUs: nowUs, wallUs: Self.wallUs + nowUs)
    }

    /// Lets time pass in steps of at most 100 ms; timers fire at most 32 ms late. Kept alive, every
    /// peer sends a PING every 5 s.
    mutating func pass(ms: UInt64, keepsAlive: Bool = false) {
        let end = nowMs + ms
        while nowMs < end {
            nowMs = min(end, nowMs + 100)
            if keepsAlive, nowMs % 5_000 < 100 { pingAll() }
            turn()
        }
    }

    private mutating func pingAll() {
        var ping: [UInt8] = []
        PingFrame(value: 1).encode(as: .ping, into: &ping)
        for connection in assemblers.keys.sorted() where broker.isOpen(connection) {
            broker.receive(connection, ping, nowUs: nowUs)
        }
    }

    // MARK: Connections

    mutating func connect(certificate: Digest256? = nil) -> UInt32 {
        guard let connection = broker.connect(certificate: certificate, nowUs: nowUs) else {
            preconditionFailure("room for another connection")
        }
        assemblers[connection] = FrameAssembler()
        return connection
    }

    /// A client that has its WELCOME.
    mutating func client(key: [UInt8] = Rig.clientKey) -> UInt32 {
        let connection = connect()
        var hello: [UInt8] = []
        HelloFrame.encode(role: .client, kind: .apiKey, credential: key, into: &hello)
        say(connection, hello)
        _ = hear(connection)
        return connection
    }

    /// A supplier with one offer of model `m` (number 1) and this many slots. Each is another
    /// identity unless `identity` says.
    mutating func supplier(
        slots: UInt32 = 4, identity: Int? = nil, bodyCreditBytes: UInt64 = 1 << 20,
        edit: (inout OfferFrame) -> Void = { _ in }
    ) -> UInt32 {
        let connection = connect()
        var bytes: [UInt8] = []
        HelloFrame.encode(
            role: .supplier, kind: .supplierToken,
            credential: Self.token(identity ?? nextSupplier), bodyCreditBytes: bodyCreditBytes,
            into: &bytes)
        nextSupplier += identity == nil ? 1 : 0
        say(connection, bytes)
        bytes = []
        var offer = OfferFrame(offer: OfferID(1), model: Self.model)
        edit(&offer)
        offer.encode(into: &bytes)
        GrantFrame(offer: OfferID(1), slots: slots).encode(into: &bytes)
        say(connection, bytes)
        _ = hear(connection)
        return connection
    }

    mutating func hangUp(_ connection: UInt32) {
        broker.disconnected(connection, nowUs: nowUs)
        turn()
    }

    // MARK: Frames

    /// Bytes from the peer, then a turn.
    mutating func say(_ connection: UInt32, _ bytes: [UInt8]) {
        broker.receive(connection, bytes, nowUs: nowUs)
        turn()
    }

    mutating func say(_ connection: UInt32, _ encode: (inout [UInt8]) -> Void) {
        var bytes: [UInt8] = []
        encode(&bytes)
        say(connection, bytes)
    }

    /// Every frame that waits for the peer.
    mutating func hear(_ connection: UInt32) -> [ReceivedFrame] {
        var frames: [ReceivedFrame] = []
        while true {
            let bytes = broker.take(connection, atMost: 1 << 20)
            if bytes.isEmpty { return frames }
            assemblers[connection]?.append(bytes)
            while let frame = (try? assemblers[connection]?.next()) ?? nil { frames.append(frame) }
            turn()
        }
    }

    /// The code of the ERROR that waits, if that is the last frame.
    mutating func error(_ connection: UInt32) -> WireCode? { hear(connection).last?.error?.code }

    // MARK: Tasks

    mutating func submit(
        _ connection: UInt32, stream: UInt32 = 1, body: [UInt8] = [1, 2, 3],
        declared: Int? = nil, credit: UInt64 = 1 << 20, model: ModelName = Rig.model,
        extensions: ExtensionWriter = ExtensionWriter(),
        edit: (inout SubmitFrame) -> Void = { _ in }
    ) {
        var frame = SubmitFrame(
            terms: TaskTerms(
                operation: .chat, encoding: .text, bodyBytes: UInt32(declared ?? body.count)),
            model: model, creditLimitBytes: credit)
        edit(&frame)
        say(connection) {
            frame.encode(
                stream: StreamID(stream), extensions: extensions, inlineBodyBytes: body.count,
                into: &$0)
            $0 += body
        }
    }

    mutating func tokens(
        _ connection: UInt32, stream: UInt32 = 1, _ payload: [UInt8], tokens: UInt16 = 1,
        flags: FrameFlags = []
    ) {
        say(connection) {
            FrameHeader(
                kind: .tokens, stream: StreamID(stream), payloadBytes: payload.count,
                flags: flags, tokens: tokens
            ).encode(into: &$0)
            $0 += payload
        }
    }

    mutating func body(_ connection: UInt32, stream: UInt32 = 1, byteCount: Int) {
        say(connection) {
            FrameHeader(kind: .body, stream: StreamID(stream), payloadBytes: byteCount)
                .encode(into: &$0)
            $0 += [UInt8](repeating: 5, count: byteCount)
        }
    }

    mutating func end(
        _ connection: UInt32, stream: UInt32 = 1, _ code: WireCode = .completed,
        usage: Usage = Usage(inputTokens: 3, outputTokens: 100)
    ) {
        say(connection) {
            EndFrame(code: code, usage: usage).encode(stream: StreamID(stream), into: &$0)
        }
    }

    mutating func credit(_ connection: UInt32, stream: UInt32 = 1, _ limitBytes: UInt64) {
        say(connection) {
            CreditFrame(limitBytes: limitBytes).encode(stream: StreamID(stream), into: &$0)
        }
    }

    mutating func cancel(_ connection: UInt32, stream: UInt32 = 1) {
        say(connection) {
            CancelFrame(code: .cancelled).encode(stream: StreamID(stream), into: &$0)
        }
    }

    // MARK: Money

    /// The client's account prepays.
    mutating func prepay() {
        broker.directoryChanged(
            .account(DirectoryAccount(account: 7, isPrepaid: true)), wallUs: Self.wallUs + nowUs)
    }

    /// Its wallet gave so much in all.
    mutating func lease(_ granted: Int64, isDry: Bool = false) {
        broker.directoryChanged(
            .lease(
                DirectoryLease(
                    account: 7, instance: 5, granted: MicroUSD(granted),
                    expiresAtMs: Self.wallUs / 1_000 + nowMs + 3_600_000, isDry: isDry)),
            wallUs: Self.wallUs + nowUs)
    }

    // MARK: What is held

    var reservedBytes: Int { broker.dispatcher.reservedBytes }
    var openTasks: Int { broker.dispatcher.openTasks }
    var shardCounters: ShardCounters { broker.counters }
    var tokenGaps: [UInt64] { broker.tokenGaps }

    // MARK: Journal

    var ended: [EndedRecord] {
        broker.instance.records.prefix(broker.instance.tail).compactMap { EndedRecord($0) }
    }

    var accepted: [AcceptedRecord] {
        broker.instance.records.prefix(broker.instance.tail).compactMap { AcceptedRecord($0) }
    }

    var refused: [RefusedRecord] {
        broker.instance.records.prefix(broker.instance.tail).compactMap { RefusedRecord($0) }
    }
}

extension ReceivedFrame {
    var kind: FrameKind? { header.kind }
    var error: ErrorFrame? { kind == .error ? try? ErrorFrame(decoding: payload.span) : nil }
    var welcome: WelcomeFrame? {
        kind == .welcome ? try? WelcomeFrame(decoding: payload.span) : nil
    }
    var pong: UInt64? {
        kind == .pong ? try? PingFrame(decoding: payload.span).value : nil
    }
    var end: EndFrame? { kind == .end ? try? EndFrame(decoding: payload.span) : nil }
    var queued: QueuedFrame? { kind == .queued ? try? QueuedFrame(decoding: payload.span) : nil }
    var assign: AssignFrame? { kind == .assign ? try? AssignFrame(decoding: payload.span) : nil }
    var credit: UInt64? {
        kind == .credit ? try? CreditFrame(decoding: payload.span).limitBytes : nil
    }
    var cancel: WireCode? {
        kind == .cancel ? try? CancelFrame(decoding: payload.span).code : nil
    }
}
