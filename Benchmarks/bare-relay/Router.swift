import ContentArena
import Glibc
import SecureTransport
import SluiceWire

/// Frames for one connection that are not sealed.
struct RelayOutput {
    private(set) var base = UnsafeMutableRawPointer.allocate(byteCount: 4_096, alignment: 16)
    private var capacity = 4_096
    private var start = 0
    private var end = 0

    var waitingBytes: Int { end - start }
    var recordBytes: Int { min(waitingBytes, 16_384) }

    /// What goes into the next record.
    var record: Span<UInt8> {
        @_lifetime(borrow self)
        get {
            let bytes = UnsafeBufferPointer(
                start: (base + start).assumingMemoryBound(to: UInt8.self), count: recordBytes)
            return _overrideLifetime(Span(_unsafeElements: bytes), borrowing: self)
        }
    }

    mutating func sealedRecord() {
        start += recordBytes
        if start == end { (start, end) = (0, 0) }
    }

    /// Room for `count` bytes behind what waits.
    @inline(__always)
    mutating func reserve(_ count: Int) -> UnsafeMutableRawPointer {
        if end + count > capacity { makeRoom(count) }
        defer { end += count }
        return base + end
    }

    private mutating func makeRoom(_ count: Int) {
        if waitingBytes + count > capacity / 2 {
            capacity = max(2 * capacity, 2 * (waitingBytes + count))
            let grown = UnsafeMutableRawPointer.allocate(byteCount: capacity, alignment: 16)
            grown.copyMemory(from: base + start, byteCount: waitingBytes)
            base.deallocate()
            base = grown
        } else {
            memmove(base, base + start, waitingBytes)
        }
        (start, end) = (0, waitingBytes)
    }

    mutating func append(_ bytes: [UInt8]) {
        bytes.withUnsafeBytes {
            if let source = $0.baseAddress {
                reserve(bytes.count).copyMemory(from: source, byteCount: bytes.count)
            }
        }
    }

    func free() { base.deallocate() }
}

/// One connection: where each of its streams leads, and what it is to be sent.
struct Peer {
    struct Target {
        var peer: Int32 = -1
        var stream: UInt32 = 0
    }

    var channel: ChannelID?
    var isTouched = false
    var output = RelayOutput()
    var carry: [UInt8] = []
    /// By stream number.
    var targets = [Target](repeating: Target(), count: Int(WireLimits.streamsMax) + 1)
    /// Supplier: stream numbers that are free.
    var idle: [UInt32] = []
}

/// Connections by channel index, and the suppliers among them in turn.
struct Router {
    let peers: UnsafeMutablePointer<Peer>
    var touched: [Int] = []
    private var suppliers: [Int] = []
    private var turn = 0
    private var tasks: UInt64 = 0
    private let welcome: [UInt8]

    init(channelsMax: Int) {
        peers = .allocate(capacity: channelsMax)
        for index in 0..<channelsMax {
            (peers + index).initialize(to: Peer(output: RelayOutput(), targets: []))
        }
        var welcome: [UInt8] = []
        WelcomeFrame(
            maxStreams: WireLimits.streamsMax, maxBodyBytes: WireLimits.bodyBytesMaxDefault,
            uploadLimitBytes: WireLimits.creditLimitMax, instance: 1, keepAliveMs: 600_000
        ).encode(into: &welcome)
        self.welcome = welcome
    }

    func opened(_ channel: ChannelID) {
        let peer = peers + Int(channel.index)
        peer.pointee.output.free()
        peer.pointee = Peer()
        peer.pointee.channel = channel
    }

    mutating func closed(_ index: Int) {
        peers[index].channel = nil
        suppliers.removeAll { $0 == index }
    }

    @inline(__always)
    mutating func touch(_ index: Int) {
        guard !peers[index].isTouched else { return }
        peers[index].isTouched = true
        touched.append(index)
    }

    /// Puts the beginning of a frame back in front of what arrives next.
    func restore(_ index: Int, into incoming: inout ContentRegion) -> Int {
        incoming.copy(from: peers[index].carry.span, at: 0)
        defer { peers[index].carry.removeAll(keepingCapacity: true) }
        return peers[index].carry.count
    }

    /// Relays every whole frame where it lies; keeps the rest.
    mutating func route(_ bytes: UnsafeRawBufferPointer, from index: Int) {
        guard let base = bytes.baseAddress else { return }
        var offset = 0
        while bytes.count - offset >= 12 {
            let frame = base + offset
            let payloadBytes = Int(frame.loadUnaligned(as: UInt32.self))
            precondition(payloadBytes <= WireLimits.payloadBytesMax, "frame too large")
            let frameBytes = 12 + payloadBytes
            guard bytes.count - offset >= frameBytes else { break }
            take(frame, frameBytes, from: index)
            offset += frameBytes
        }
        peers[index].carry.append(contentsOf: bytes[offset...])
    }

    @inline(__always)
    private mutating func take(_ frame: UnsafeRawPointer, _ frameBytes: Int, from index: Int) {
        let stream = Int(frame.loadUnaligned(fromByteOffset: 8, as: UInt32.self))
        switch FrameKind(rawValue: frame.load(fromByteOffset: 4, as: UInt8.self)) {
        case .tokens, .credit, .cancel, .body:
            forward(frame, frameBytes, peers[index].targets[stream])
        case .end:
            let target = peers[index].targets[stream]
            forward(frame, frameBytes, target)
            guard target.peer >= 0 else { return }
            peers[index].targets[stream].peer = -1
            peers[index].idle.append(UInt32(stream))
            peers[Int(target.peer)].targets[Int(target.stream)].peer = -1
        case .submit:
            submit(index, stream, frame + 12, frameBytes - 12)
        case .hello:
            hello(index, isSupplier: frame.load(fromByteOffset: 16, as: UInt8.self) == 2)
        default:
            // OFFER, GRANT, STARTED, PONG: nothing to do here.
            break
        }
    }

    /// The frame as it came, under the stream's number at the target.
    @inline(__always)
    private mutating func forward(
        _ frame: UnsafeRawPointer, _ frameBytes: Int, _ target: Peer.Target
    ) {
        guard target.peer >= 0 else { return }
        let place = peers[Int(target.peer)].output.reserve(frameBytes)
        place.copyMemory(from: frame, byteCount: frameBytes)
        place.storeBytes(of: target.stream, toByteOffset: 8, as: UInt32.self)
        touch(Int(target.peer))
    }

    private mutating func hello(_ index: Int, isSupplier: Bool) {
        if isSupplier {
            suppliers.append(index)
            peers[index].idle = Array(1...WireLimits.streamsMax)
        }
        peers[index].output.append(welcome)
        touch(index)
    }

    /// SUBMIT becomes ASSIGN at the next supplier with a free stream, and QUEUED at the client,
    /// with credit for all of a long body.
    private mutating func submit(
        _ client: Int, _ stream: Int, _ payload: UnsafeRawPointer, _ payloadBytes: Int
    ) {
        guard let supplier = nextSupplier(), let number = peers[supplier].idle.popLast() else {
            fatalError("no supplier has a free stream")
        }
        peers[supplier].targets[Int(number)] = Peer.Target(
            peer: Int32(client), stream: UInt32(stream))
        peers[client].targets[stream] = Peer.Target(peer: Int32(supplier), stream: number)
        tasks += 1

        let queued = peers[client].output.reserve(36)
        header(queued, payloadBytes: 24, .queued, UInt32(stream))
        queued.storeBytes(of: 1, toByteOffset: 12, as: UInt64.self)
        queued.storeBytes(of: tasks, toByteOffset: 20, as: UInt64.self)
        queued.storeBytes(of: 65_536, toByteOffset: 28, as: UInt64.self)
        let bodyBytes = payload.loadUnaligned(fromByteOffset: 4, as: UInt32.self)
        let textBytes =
            Int(payload.loadUnaligned(fromByteOffset: 28, as: UInt16.self))
            + Int(payload.loadUnaligned(fromByteOffset: 30, as: UInt16.self))
        let inlineBytes = payloadBytes - 48 - textBytes
        if inlineBytes < Int(bodyBytes) {
            let credit = peers[client].output.reserve(20)
            header(credit, payloadBytes: 8, .credit, UInt32(stream))
            credit.storeBytes(of: UInt64(bodyBytes), toByteOffset: 12, as: UInt64.self)
        }
        touch(client)

        let assign = peers[supplier].output.reserve(68 + inlineBytes)
        header(assign, payloadBytes: UInt32(56 + inlineBytes), .assign, number)
        assign.storeBytes(of: 1, toByteOffset: 12, as: UInt64.self)
        assign.storeBytes(of: tasks, toByteOffset: 20, as: UInt64.self)
        // Operation, encoding, priority; the offer; body bytes, deadline and the token limits.
        assign.storeBytes(
            of: payload.loadUnaligned(as: UInt32.self) & 0xFF_FFFF, toByteOffset: 28,
            as: UInt32.self)
        assign.storeBytes(of: 1, toByteOffset: 32, as: UInt32.self)
        (assign + 36).copyMemory(from: payload + 4, byteCount: 20)
        assign.storeBytes(of: 0, toByteOffset: 56, as: UInt32.self)
        (assign + 60).copyMemory(from: payload + 32, byteCount: 8)
        (assign + 68).copyMemory(from: payload + 48 + textBytes, byteCount: inlineBytes)
        touch(supplier)
    }

    private func header(
        _ place: UnsafeMutableRawPointer, payloadBytes: UInt32, _ kind: FrameKind, _ stream: UInt32
    ) {
        place.storeBytes(
            of: UInt64(payloadBytes) | UInt64(kind.rawValue) << 32, toByteOffset: 0,
            as: UInt64.self)
        place.storeBytes(of: stream, toByteOffset: 8, as: UInt32.self)
    }

    private mutating func nextSupplier() -> Int? {
        for _ in suppliers.indices {
            turn = (turn + 1) % suppliers.count
            if !peers[suppliers[turn]].idle.isEmpty { return suppliers[turn] }
        }
        return nil
    }
}
