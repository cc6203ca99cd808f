import Glibc
import NIOCore
import NIOPosix
import NIOSSL

/// `nio-relay CERTIFICATE KEY`: a plain relay of the frames of `sluice/1` on SwiftNIO and NIOSSL,
/// with one event loop. It routes and does nothing else: no authentication, credit of its own,
/// scheduling, records or limits.
@main
struct NIORelay {
    static func main() throws {
        // Whoever starts it may have SIGTERM blocked.
        var none = sigset_t()
        sigemptyset(&none)
        sigprocmask(SIG_SETMASK, &none, nil)
        let arguments = CommandLine.arguments
        guard arguments.count == 3 else { fatalError("usage: nio-relay CERTIFICATE KEY") }
        let chain = try NIOSSLCertificate.fromPEMFile(arguments[1])
        var configuration = TLSConfiguration.makeServerConfiguration(
            certificateChain: chain.map { .certificate($0) },
            privateKey: .privateKey(try NIOSSLPrivateKey(file: arguments[2], format: .pem)))
        configuration.minimumTLSVersion = .tlsv13
        configuration.applicationProtocols = ["sluice/1"]
        let context = try NIOSSLContext(configuration: configuration)
        let group = MultiThreadedEventLoopGroup(numberOfThreads: 1)
        let router = NIOLoopBoundBox.makeBoxSendingValue(Router(), eventLoop: group.next())
        let listener = try ServerBootstrap(group: group)
            .serverChannelOption(.backlog, value: 1_024)
            .childChannelOption(.socketOption(.tcp_nodelay), value: 1)
            .childChannelOption(.maxMessagesPerRead, value: 16)
            .childChannelInitializer { channel in
                channel.eventLoop.makeCompletedFuture {
                    try channel.pipeline.syncOperations.addHandlers(
                        NIOSSLServerHandler(context: context),
                        FrameHandler(router: router.value))
                }
            }
            .bind(host: "127.0.0.1", port: 0).wait()
        let ready = "{\"event\":\"listening\",\"port\":\(listener.localAddress?.port ?? 0)}\n"
        write(STDOUT_FILENO, ready, ready.utf8.count)
        try listener.closeFuture.wait()
    }
}

/// Walks the frames of one connection where they lie. Everything is written and flushed once at
/// the end of a burst of reads.
final class FrameHandler: ChannelInboundHandler {
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
        if let peer { router.suppliers.removeAll { $0 === peer } }
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
        let used = arrived.withUnsafeReadableBytes { router.relay($0, from: peer) }
        arrived.moveReaderIndex(forwardBy: used)
        if arrived.readableBytes > 0 { cut = arrived }
    }

    func channelReadComplete(context: ChannelHandlerContext) {
        router.flush()
    }
}
