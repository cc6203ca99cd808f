import Glibc
import NIOCore
import NIOPosix
import NIOSSL

/// `nio-relay CERTIFICATE KEY`: a plain relay of the same frames on SwiftNIO and NIOSSL, with one
/// event loop. It is what the broker is measured beside: it routes, and does nothing else (no
/// authentication, credit of its own, scheduling, records or limits).
@main
struct NIORelay {
    static func main() throws {
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
                        RelayHandler(router: router.value))
                }
            }
            .bind(host: "127.0.0.1", port: 0).wait()
        let ready = "{\"event\":\"listening\",\"port\":\(listener.localAddress?.port ?? 0)}\n"
        write(STDOUT_FILENO, ready, ready.utf8.count)
        try listener.closeFuture.wait()
    }
}
