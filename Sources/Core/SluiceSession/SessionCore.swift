package import SluiceWire

/// Who a dialling peer says it is, and the times its session keeps.
package struct Handshake: Sendable {
    package var role: PeerRole
    package var credentialKind: CredentialKind
    /// The secret; empty for a client certificate.
    package var credential: [UInt8]
    /// Name and version of the software, at most 64 bytes.
    package var agent: String
    /// Body bytes that each ASSIGN's stream may carry before a CREDIT; 0 for a client.
    package var bodyCreditBytes: UInt64
    /// WELCOME comes within this time after HELLO.
    package var timeoutMs: UInt64

    package init(
        role: PeerRole, credentialKind: CredentialKind, credential: [UInt8], agent: String,
        bodyCreditBytes: UInt64 = 0, timeoutMs: UInt64 = 10_000
    ) {
        self.role = role
        self.credentialKind = credentialKind
        self.credential = credential
        self.agent = agent
        self.bodyCreditBytes = bodyCreditBytes
        self.timeoutMs = timeoutMs
    }
}

/// What client and supplier sessions share: frames in, control bytes out, the handshake, the
/// keep-alive and the end of the connection.
struct SessionCore: Sendable {
    enum Phase {
        /// Nothing was sent yet.
        case initial
        /// HELLO is sent; WELCOME comes before `deadlineMs`.
        case greeting(deadlineMs: UInt64)
        /// WELCOME came.
        case open
        /// Nothing more is read; what is left of `control` may still be sent.
        case over
    }

    /// Most bytes of control frames that wait for the transport. Only a peer that asks without
    /// reading can fill it.
    static let controlBytesMax = 262_144

    private(set) var phase = Phase.initial
    /// Control frames to send, in order, before any data.
    var control: [UInt8] = []
    private(set) var welcome = WelcomeFrame(
        maxStreams: 1, maxBodyBytes: 0, uploadLimitBytes: 0, instance: 0, keepAliveMs: 0)
    /// A GO-AWAY came: nothing new is opened.
    private(set) var isDraining = false
    private var assembler = FrameAssembler()
    private var lastReceivedMs: UInt64 = 0
    private var pingValue: UInt64 = 0
    private var isPingPending = false

    var isOpen: Bool {
        if case .open = phase { true } else { false }
    }

    var isOver: Bool {
        if case .over = phase { true } else { false }
    }

    mutating func start(_ handshake: Handshake, nowMs: UInt64) {
        // Its owner may close a session before it starts.
        guard !isOver else { return }
        guard case .initial = phase else { preconditionFailure("a session starts once") }
        HelloFrame.encode(
            role: handshake.role, kind: handshake.credentialKind,
            credential: handshake.credential, bodyCreditBytes: handshake.bodyCreditBytes,
            agent: handshake.agent, into: &control)
        phase = .greeting(deadlineMs: nowMs + handshake.timeoutMs)
        lastReceivedMs = nowMs
    }

    mutating func append(_ bytes: [UInt8], nowMs: UInt64) {
        lastReceivedMs = nowMs
        isPingPending = false
        assembler.append(bytes)
    }

    mutating func nextFrame() throws(Violation) -> ReceivedFrame? {
        do {
            return try assembler.next()
        } catch {
            throw Violation(error.code)
        }
    }

    /// What a frame of stream 0 that both roles know asks of the session.
    enum ConnectionAction {
        /// WELCOME came: the session is open.
        case opened
        /// GO-AWAY came.
        case draining(GoAwayFrame)
        /// ERROR came; the session is over.
        case lost(ConnectionLoss)
        /// Done here.
        case none
        /// A frame that the role's own session must judge.
        case notMine
    }

    /// Handles handshake, keep-alive, GO-AWAY and ERROR; also frames of kinds unknown here.
    mutating func receiveConnectionFrame(
        _ frame: ReceivedFrame
    ) throws(Violation) -> ConnectionAction {
        let header = frame.header
        guard let kind = header.kind, kind != .resume else {
            guard header.flags.contains(.ignorable) else { throw Violation(.unknownKind, header) }
            return .none
        }
        switch kind {
        case .hello, .welcome, .ping, .pong, .goAway, .error:
            guard header.stream == .connection else {
                throw Violation(.unexpectedFrame, header)
            }
        default:
            guard isOpen else { throw Violation(.unexpectedFrame, header) }
            return .notMine
        }
        switch (kind, phase) {
        case (.welcome, .greeting):
            let welcome = try frame.decode { bytes throws(WireError) in
                try WelcomeFrame(decoding: bytes.span)
            }
            guard welcome.version == WireLimits.version else {
                throw Violation(.versionMismatch, header)
            }
            self.welcome = welcome
            phase = .open
            return .opened
        case (.error, _):
            let error = try frame.decode { bytes throws(WireError) in
                try ErrorFrame(decoding: bytes.span)
            }
            finish()
            return .lost(.peerError(error.code))
        case (.ping, .open):
            let ping = try frame.decode { bytes throws(WireError) in
                try PingFrame(decoding: bytes.span)
            }
            ping.encode(as: .pong, into: &control)
            guard control.count <= Self.controlBytesMax else { throw Violation(.flood, header) }
            return .none
        case (.pong, .open):
            _ = try frame.decode { bytes throws(WireError) in
                try PingFrame(decoding: bytes.span)
            }
            return .none
        case (.goAway, .open):
            isDraining = true
            return .draining(
                try frame.decode { bytes throws(WireError) in
                    try GoAwayFrame(decoding: bytes.span)
                })
        default:
            throw Violation(.unexpectedFrame, header)
        }
    }

    /// Sends a PING to a silent peer. Returns why the connection is lost, if it is.
    mutating func tick(nowMs: UInt64) -> ConnectionLoss? {
        switch phase {
        case .initial, .over:
            return nil
        case .greeting(let deadlineMs):
            guard nowMs >= deadlineMs else { return nil }
            refuse(Violation(.handshakeTimeout))
            return .handshakeTimeout
        case .open:
            let intervalMs = UInt64(welcome.keepAliveMs)
            let silentMs = nowMs > lastReceivedMs ? nowMs - lastReceivedMs : 0
            guard intervalMs > 0, silentMs >= intervalMs else { return nil }
            guard silentMs < 2 * intervalMs else {
                refuse(Violation(.keepAliveTimeout))
                return .keepAliveTimeout
            }
            if !isPingPending {
                isPingPending = true
                pingValue += 1
                PingFrame(value: pingValue).encode(as: .ping, into: &control)
            }
            return nil
        }
    }

    /// Queues our ERROR as the last frame and ends the session.
    mutating func refuse(_ violation: Violation) {
        ErrorFrame(
            code: violation.code, kindAtFault: violation.rawKind,
            streamAtFault: violation.stream
        ).encode(into: &control)
        phase = .over
    }

    /// Ends the session from our side; the control frames that wait are still sent.
    mutating func stop() {
        phase = .over
    }

    /// Ends the session without a word; what waits to be sent is dropped.
    mutating func finish() {
        control = []
        phase = .over
    }
}
