import NIOCore

/// The kinds that the relay knows.
enum FrameKind: UInt8 {
    case hello = 0x01
    case welcome = 0x02
    case submit = 0x20
    case body = 0x21
    case queued = 0x22
    case assign = 0x23
    case tokens = 0x25
    case end = 0x26
    case cancel = 0x27
    case credit = 0x28
}

/// One connection: its undelivered output and where each of its streams leads.
final class Peer {
    let channel: any Channel
    /// Frames for this connection since its last flush.
    var output: ByteBuffer
    var isTouched = false
    /// By stream number.
    var targets = [(peer: Peer, stream: UInt32)?](repeating: nil, count: 1_025)
    /// Supplier: stream numbers that are free.
    var idle = Array(UInt32(1)...1_024)

    init(channel: any Channel) {
        self.channel = channel
        output = channel.allocator.buffer(capacity: 65_536)
    }
}

/// What the connections share. One event loop owns it.
final class Router {
    var suppliers: [Peer] = []
    private var turn = 0
    private var touched: [Peer] = []
    private var tasks: UInt64 = 0

    private func touch(_ peer: Peer) {
        guard !peer.isTouched else { return }
        peer.isTouched = true
        touched.append(peer)
    }

    /// One write and one flush for every connection that got frames in this burst of reads.
    func flush() {
        for peer in touched {
            peer.isTouched = false
            peer.channel.writeAndFlush(peer.output, promise: nil)
            peer.output.clear(minimumCapacity: 65_536)
        }
        touched.removeAll(keepingCapacity: true)
    }

    /// Relays every whole frame; how many bytes they took.
    func relay(_ bytes: UnsafeRawBufferPointer, from peer: Peer) -> Int {
        var offset = 0
        while bytes.count - offset >= 12 {
            let payloadBytes = bytes.word32(offset)
            precondition(payloadBytes <= 16_372, "frame too large")
            let end = offset + 12 + Int(payloadBytes)
            guard end <= bytes.count else { break }
            take(UnsafeRawBufferPointer(rebasing: bytes[offset..<end]), from: peer)
            offset = end
        }
        return offset
    }

    private func take(_ frame: UnsafeRawBufferPointer, from peer: Peer) {
        let stream = frame.word32(8)
        switch FrameKind(rawValue: frame[4]) {
        case .tokens, .credit, .cancel, .body:
            if let target = peer.targets[Int(stream)] { forward(frame, to: target) }
        case .end:
            guard let target = peer.targets[Int(stream)] else { return }
            forward(frame, to: target)
            peer.targets[Int(stream)] = nil
            peer.idle.append(stream)
            target.peer.targets[Int(target.stream)] = nil
        case .submit:
            submit(peer, stream: stream, UnsafeRawBufferPointer(rebasing: frame[12...]))
        case .hello:
            if frame[16] == 2 { suppliers.append(peer) }
            welcome(peer)
        case .welcome, .queued, .assign, nil:
            // OFFER, GRANT, STARTED: nothing to do here.
            return
        }
    }

    /// The frame as it came, under the stream's number at the target.
    private func forward(
        _ frame: UnsafeRawBufferPointer, to target: (peer: Peer, stream: UInt32)
    ) {
        let peer = target.peer
        peer.output.writeBytes(UnsafeRawBufferPointer(rebasing: frame[..<8]))
        peer.output.writeInteger(target.stream, endianness: .little)
        peer.output.writeBytes(UnsafeRawBufferPointer(rebasing: frame[12...]))
        touch(peer)
    }

    private func welcome(_ peer: Peer) {
        peer.output.writeHeader(payloadBytes: 40, .welcome, stream: 0)
        // Version, shard, shards; streams and body bytes at most.
        peer.output.write(1, 0, 1, 0, as: UInt16.self)
        peer.output.write(1_024, 16_777_216, as: UInt32.self)
        // Upload limit, instance; deadline and keep-alive, milliseconds.
        peer.output.write(1 << 62, 1, as: UInt64.self)
        peer.output.write(600_000, 15_000, as: UInt32.self)
        touch(peer)
    }

    /// SUBMIT becomes ASSIGN at the next supplier with a free stream, and QUEUED at the client,
    /// with credit for all of a long body.
    private func submit(_ client: Peer, stream: UInt32, _ payload: UnsafeRawBufferPointer) {
        guard let supplier = nextSupplier(), let number = supplier.idle.popLast() else {
            fatalError("no supplier has a free stream")
        }
        supplier.targets[Int(number)] = (client, stream)
        client.targets[Int(stream)] = (supplier, number)
        tasks += 1
        let textBytes = Int(payload.word16(28)) + Int(payload.word16(30))
        let body = UnsafeRawBufferPointer(rebasing: payload[(48 + textBytes)...])
        client.output.writeHeader(payloadBytes: 24, .queued, stream: stream)
        client.output.write(1, tasks, as: UInt64.self)
        client.output.write(65_536, 0, as: UInt32.self)
        if body.count < Int(payload.word32(4)) {
            client.output.writeHeader(payloadBytes: 8, .credit, stream: stream)
            client.output.write(UInt64(payload.word32(4)), as: UInt64.self)
        }
        touch(client)

        supplier.output.writeHeader(
            payloadBytes: UInt32(56 + body.count), .assign, stream: number)
        supplier.output.write(1, tasks, as: UInt64.self)
        // Operation, encoding, priority; the offer; body bytes, deadline, the token limits.
        supplier.output.write(payload.word32(0) & 0x00FF_FFFF, 1, as: UInt32.self)
        supplier.output.writeBytes(payload[4..<24])
        supplier.output.write(0, as: UInt32.self)
        supplier.output.writeBytes(payload[32..<40])
        supplier.output.writeBytes(body)
        touch(supplier)
    }

    private func nextSupplier() -> Peer? {
        for _ in suppliers.indices {
            turn = (turn + 1) % suppliers.count
            if !suppliers[turn].idle.isEmpty { return suppliers[turn] }
        }
        return nil
    }
}

extension ByteBuffer {
    mutating func writeHeader(payloadBytes: UInt32, _ kind: FrameKind, stream: UInt32) {
        writeInteger(UInt64(payloadBytes) | UInt64(kind.rawValue) << 32, endianness: .little)
        writeInteger(stream, endianness: .little)
    }

    mutating func write<Word: FixedWidthInteger>(_ words: Word..., as _: Word.Type) {
        for word in words { writeInteger(word, endianness: .little) }
    }
}

extension UnsafeRawBufferPointer {
    func word16(_ offset: Int) -> UInt16 {
        UInt16(littleEndian: loadUnaligned(fromByteOffset: offset, as: UInt16.self))
    }

    func word32(_ offset: Int) -> UInt32 {
        UInt32(littleEndian: loadUnaligned(fromByteOffset: offset, as: UInt32.self))
    }
}
