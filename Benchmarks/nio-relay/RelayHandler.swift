import NIOCore
import NIOSSL

/// The kinds that the relay knows.
enum FrameKind: UInt8 {
    case hello = 0x01
    case welcome = 0x02
    case submit = 0x20
    case queued = 0x22
    case assign = 0x23
    case tokens = 0x25
    case end = 0x26
    case cancel = 0x27
    case credit = 0x28
}

/// Walks the frames of one connection where they lie and appends each to the output of the
/// connection it goes to. Everything is written and flushed once at the end of a burst of reads.
final class RelayHandler: ChannelInboundHandler {
    typealias InboundIn = ByteBuffer

    private let router: Router
    private var peer: Peer?
    /// A frame whose end has not arrived.
    private var cut: ByteBuffer?

    init(router: Router) {
        self.router = router
    }

    func handlerAdded(context: ChannelHandlerContext) {
        peer = Peer(channel: context.channel)
    }

    func channelInactive(context: ChannelHandlerContext) {
        if let peer { router.remove(peer) }
        context.fireChannelInactive()
    }

    func errorCaught(context: ChannelHandlerContext, error: any Error) {
        context.close(promise: nil)
    }

    func channelRead(context: ChannelHandlerContext, data: NIOAny) {
        var arrived = unwrapInboundIn(data)
        if var kept = cut {
            cut = nil
            kept.writeBuffer(&arrived)
            arrived = kept
        }
        guard let peer else { return }
        let used = arrived.withUnsafeReadableBytes { relay($0, from: peer) }
        arrived.moveReaderIndex(forwardBy: used)
        if arrived.readableBytes > 0 { cut = arrived }
    }

    func channelReadComplete(context: ChannelHandlerContext) {
        router.flush()
    }

    /// Relays every whole frame; returns how many bytes they took.
    private func relay(_ bytes: UnsafeRawBufferPointer, from peer: Peer) -> Int {
        var offset = 0
        while bytes.count - offset >= 12 {
            let payloadBytes = bytes.word32(offset)
            precondition(payloadBytes <= 16_372, "frame too large")
            let end = offset + 12 + Int(payloadBytes)
            guard end <= bytes.count else { break }
            let stream = bytes.word32(offset + 8)
            let frame = UnsafeRawBufferPointer(rebasing: bytes[offset..<end])
            switch FrameKind(rawValue: bytes[offset + 4]) {
            case .tokens, .credit, .cancel:
                if let target = peer.targets[Int(stream)] { forward(frame, to: target) }
            case .end:
                guard let target = peer.targets[Int(stream)] else { break }
                forward(frame, to: target)
                router.release(peer, stream: stream, target)
            case .submit:
                router.submit(
                    peer, stream: stream, UnsafeRawBufferPointer(rebasing: frame[12...]))
            case .hello:
                router.welcome(peer, isSupplier: frame[12 + 4] == 2)
            case .welcome, .queued, .assign, nil:
                // OFFER, GRANT, STARTED and what version 1 adds: nothing to do here.
                break
            }
            offset = end
        }
        return offset
    }

    /// The frame as it came, under the stream's number at the target.
    private func forward(_ frame: UnsafeRawBufferPointer, to target: Peer.Target) {
        let peer = target.peer
        peer.output.writeBytes(UnsafeRawBufferPointer(rebasing: frame[..<8]))
        peer.output.writeInteger(target.stream, endianness: .little)
        peer.output.writeBytes(UnsafeRawBufferPointer(rebasing: frame[12...]))
        router.touch(peer)
    }
}
