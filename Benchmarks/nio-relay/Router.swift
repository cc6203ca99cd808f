import NIOCore
import NIOSSL

/// One connection of the relay: its undelivered output and where each of its streams leads.
final class Peer {
    struct Target {
        var peer: Peer
        var stream: UInt32
    }

    let channel: any Channel
    var isSupplier = false
    /// Frames for this connection since its last flush.
    var output: ByteBuffer
    var isTouched = false
    /// By stream number.
    var targets: [Target?] = [Target?](repeating: nil, count: 1_025)
    /// Supplier: stream numbers that are free.
    var idleStreams = Array(UInt32(1)...1_024)

    init(channel: any Channel) {
        self.channel = channel
        output = channel.allocator.buffer(capacity: 65_536)
    }
}

/// What the connections share. One event loop owns it.
final class Router {
    private var suppliers: [Peer] = []
    private var turn = 0
    private var touched: [Peer] = []
    private var tasks: UInt64 = 0

    func touch(_ peer: Peer) {
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

    func remove(_ peer: Peer) {
        suppliers.removeAll { $0 === peer }
    }

    // MARK: Control frames

    func welcome(_ peer: Peer, isSupplier: Bool) {
        peer.isSupplier = isSupplier
        if isSupplier { suppliers.append(peer) }
        peer.output.writeHeader(payloadBytes: 40, kind: .welcome, stream: 0)
        for field: UInt16 in [1, 0, 1, 0] {
            peer.output.writeInteger(field, endianness: .little)
        }
        peer.output.writeInteger(UInt32(1_024), endianness: .little)
        peer.output.writeInteger(UInt32(16_777_216), endianness: .little)
        peer.output.writeInteger(UInt64(1) << 62, endianness: .little)
        peer.output.writeInteger(UInt64(1), endianness: .little)
        peer.output.writeInteger(UInt32(600_000), endianness: .little)
        peer.output.writeInteger(UInt32(15_000), endianness: .little)
        touch(peer)
    }

    /// SUBMIT becomes ASSIGN at the next supplier with a free stream, and QUEUED at the client.
    func submit(_ client: Peer, stream: UInt32, _ payload: UnsafeRawBufferPointer) {
        guard let supplier = nextSupplier(), let number = supplier.idleStreams.popLast() else {
            fatalError("no supplier has a free stream")
        }
        supplier.targets[Int(number)] = Peer.Target(peer: client, stream: stream)
        client.targets[Int(stream)] = Peer.Target(peer: supplier, stream: number)
        tasks += 1
        client.output.writeHeader(payloadBytes: 24, kind: .queued, stream: stream)
        client.output.writeInteger(UInt64(1), endianness: .little)
        client.output.writeInteger(tasks, endianness: .little)
        client.output.writeInteger(UInt32(65_536), endianness: .little)
        client.output.writeInteger(UInt32(0), endianness: .little)
        touch(client)

        let textBytes = Int(payload.word16(28)) + Int(payload.word16(30))
        let body = UnsafeRawBufferPointer(rebasing: payload[(48 + textBytes)...])
        supplier.output.writeHeader(
            payloadBytes: UInt32(56 + body.count), kind: .assign, stream: number)
        supplier.output.writeInteger(UInt64(1), endianness: .little)
        supplier.output.writeInteger(tasks, endianness: .little)
        // Operation, encoding, priority.
        supplier.output.writeInteger(payload.word32(0) & 0x00FF_FFFF, endianness: .little)
        supplier.output.writeInteger(UInt32(1), endianness: .little)
        // Body bytes, deadline, the three token limits.
        supplier.output.writeBytes(UnsafeRawBufferPointer(rebasing: payload[4..<24]))
        supplier.output.writeInteger(UInt32(0), endianness: .little)
        supplier.output.writeBytes(UnsafeRawBufferPointer(rebasing: payload[32..<40]))
        supplier.output.writeBytes(body)
        touch(supplier)
    }

    private func nextSupplier() -> Peer? {
        for _ in suppliers.indices {
            turn = (turn + 1) % suppliers.count
            if !suppliers[turn].idleStreams.isEmpty { return suppliers[turn] }
        }
        return nil
    }

    /// END frees the streams on both sides.
    func release(_ supplier: Peer, stream: UInt32, _ target: Peer.Target) {
        supplier.targets[Int(stream)] = nil
        supplier.idleStreams.append(stream)
        target.peer.targets[Int(target.stream)] = nil
    }
}

extension ByteBuffer {
    mutating func writeHeader(payloadBytes: UInt32, kind: FrameKind, stream: UInt32) {
        writeInteger(
            UInt64(payloadBytes) | UInt64(kind.rawValue) << 32, endianness: .little)
        writeInteger(stream, endianness: .little)
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
