import Glibc
import SluiceWire

/// One supplier connection: answers every task with its tokens, all streams in turn, and packs
/// them into full records.
struct MockSupplier {
    /// Bytes it makes before it looks at the sockets again.
    private static let turnBytes = 4 * Endpoint.recordBytes

    private struct Stream {
        var isOpen = false
        /// Stands in the ring of streams that can send.
        var isListed = false
        var tokensLeft: UInt32 = 0
        var tokensSent: UInt32 = 0
        var sentBytes: UInt64 = 0
        var limitBytes: UInt64 = 0
    }

    var endpoint: Endpoint
    private let load: Load
    private let frameBytes: Int
    private let templates: FrameTemplates
    private let counters: UnsafeMutablePointer<Counters>
    private let streams: UnsafeMutablePointer<Stream>
    /// Streams with tokens and credit, in turn; a paced run: streams by when they are due.
    private var ring = StreamRing()
    private var random: UInt64
    /// First tasks get a random length, so that tasks do not end together.
    private var shortTasks: Int

    init(
        _ endpoint: Endpoint, load: Load, token: String,
        counters: UnsafeMutablePointer<Counters>
    ) {
        self.endpoint = endpoint
        self.load = load
        self.counters = counters
        frameBytes = 12 + load.tokenBytes
        templates = FrameTemplates(load, windowBytes: 0)
        streams = .allocate(capacity: 1_025)
        streams.initialize(repeating: Stream(), count: 1_025)
        random = UInt64(endpoint.descriptor) &* 0x9E37_79B9_7F4A_7C15
        shortTasks = load.connections * load.streams / load.suppliers
        var hello: [UInt8] = []
        HelloFrame.encode(
            role: .supplier, kind: .supplierToken, credential: Array(token.utf8),
            bodyCreditBytes: 16_777_216, into: &hello)
        self.endpoint.append(hello)
        self.endpoint.flush()
        while !readWelcome() { usleep(1_000) }
        guard let model = ModelName(Load.model) else { fatalError("not a model name") }
        var offer: [UInt8] = []
        OfferFrame(offer: OfferID(1), model: model).encode(into: &offer)
        GrantFrame(offer: OfferID(1), slots: 1_024).encode(into: &offer)
        self.endpoint.append(offer)
        self.endpoint.flush()
    }

    private mutating func readWelcome() -> Bool {
        guard endpoint.fill() else {
            if endpoint.isClosed { fatalError("the supplier was refused") }
            return false
        }
        let (bytes, count) = endpoint.readable
        guard count >= 12, Head(bytes).kind == FrameKind.welcome.rawValue else {
            fatalError("the supplier was refused")
        }
        endpoint.use(12 + Head(bytes).payloadBytes)
        return true
    }

    // MARK: Receiving

    mutating func receive() {
        while endpoint.fill() {
            let (bytes, count) = endpoint.readable
            var offset = 0
            while count - offset >= 12 {
                let head = Head(bytes + offset)
                let end = offset + 12 + head.payloadBytes
                guard end <= count else { break }
                take(head, bytes + (offset + 12))
                offset = end
            }
            endpoint.use(offset)
        }
        if endpoint.isClosed { counters.pointee.errors += 1 }
    }

    private mutating func take(_ head: Head, _ payload: UnsafeRawPointer) {
        switch FrameKind(rawValue: head.kind) {
        case .assign:
            assigned(
                head.stream, payload.loadUnaligned(fromByteOffset: 48, as: UInt64.self))
        case .credit:
            let limitBytes = payload.loadUnaligned(as: UInt64.self)
            streams[head.stream].limitBytes = max(streams[head.stream].limitBytes, limitBytes)
            if !load.isPaced { list(head.stream) }
        case .ping:
            answerPing(&endpoint, payload)
        case .body, .pong:
            break
        default:
            counters.pointee.errors += 1
        }
    }

    private mutating func assigned(_ stream: Int, _ limitBytes: UInt64) {
        if streams[stream].isOpen { counters.pointee.errors += 1 }
        var tokens = load.tokensPerTask
        if shortTasks > 0 {
            shortTasks -= 1
            random = random &* 6_364_136_223_846_793_005 &+ 1_442_695_040_888_963_407
            tokens = Int((random >> 33) % UInt64(tokens)) + 1
        }
        streams[stream] = Stream(
            isOpen: true, tokensLeft: UInt32(tokens), limitBytes: limitBytes)
        endpoint.append(templates.started, stream: stream)
        if load.isPaced {
            ring.push(stream, dueNs: monotonicNs() + load.periodNs)
        } else {
            list(stream)
        }
    }

    // MARK: Sending

    /// There is something to send and the socket takes it.
    var canSend: Bool {
        !endpoint.isBlocked && (endpoint.waitingBytes > 0 || (!load.isPaced && !ring.isEmpty))
    }

    mutating func send() {
        if !load.isPaced { produce() }
        if !endpoint.isBlocked { endpoint.flush() }
    }

    /// Tokens of all streams in turn, up to a turn's bytes.
    private mutating func produce() {
        guard !endpoint.isBlocked else { return }
        while endpoint.waitingBytes < Self.turnBytes, let stream = ring.pop() {
            streams[stream].isListed = false
            for _ in 0..<load.burst where canEmit(stream) { emit(stream) }
            list(stream)
        }
    }

    /// A paced run: sends what is due; returns when the next token is due.
    mutating func emitDue(_ nowNs: UInt64) -> UInt64 {
        while let due = ring.firstDueNs, due <= nowNs, let stream = ring.pop() {
            // Short of credit it is late by whole periods, never lost.
            if canEmit(stream) { emit(stream, atNs: monotonicNs()) }
            if streams[stream].isOpen { ring.push(stream, dueNs: due + load.periodNs) }
        }
        return ring.firstDueNs ?? .max
    }

    @inline(__always)
    private func canEmit(_ stream: Int) -> Bool {
        let state = streams + stream
        return state.pointee.isOpen
            && state.pointee.sentBytes + UInt64(frameBytes) <= state.pointee.limitBytes
    }

    private mutating func list(_ stream: Int) {
        guard !streams[stream].isListed, canEmit(stream) else { return }
        streams[stream].isListed = true
        ring.push(stream)
    }

    /// One token, and END behind the last.
    @inline(__always)
    private mutating func emit(_ stream: Int, atNs: UInt64 = 0) {
        let state = streams + stream
        let place = endpoint.append(templates.tokens, stream: stream)
        place.storeBytes(of: state.pointee.tokensSent, toByteOffset: 12, as: UInt32.self)
        if load.isPaced { place.storeBytes(of: atNs, toByteOffset: 20, as: UInt64.self) }
        state.pointee.tokensSent += 1
        state.pointee.tokensLeft -= 1
        state.pointee.sentBytes += UInt64(frameBytes)
        counters.pointee.tokensSent += 1
        guard state.pointee.tokensLeft == 0 else { return }
        let end = endpoint.append(templates.end, stream: stream)
        end.storeBytes(of: state.pointee.tokensSent, toByteOffset: 24, as: UInt32.self)
        state.pointee.isOpen = false
    }
}

/// A queue of streams, each at most once, with when each is due.
private struct StreamRing {
    private static let mask = 2_047
    private let streams = UnsafeMutablePointer<Int>.allocate(capacity: 2_048)
    private let dueNs = UnsafeMutablePointer<UInt64>.allocate(capacity: 2_048)
    private var head = 0
    private var tail = 0

    var isEmpty: Bool { head == tail }
    var firstDueNs: UInt64? { isEmpty ? nil : dueNs[head & Self.mask] }

    mutating func push(_ stream: Int, dueNs due: UInt64 = 0) {
        streams[tail & Self.mask] = stream
        dueNs[tail & Self.mask] = due
        tail += 1
    }

    mutating func pop() -> Int? {
        guard !isEmpty else { return nil }
        defer { head += 1 }
        return streams[head & Self.mask]
    }
}
