import NIOCore
import NIOPosix
import NIOSSL
import NIOTLS
import SluiceWire

/// The way to a broker, looked at step by step, for those who ask why a connection does not come
/// about. Sends no frame.
package struct BrokerProbe: Sendable {
    /// A certificate as its holder shows it.
    package struct Certificate: Equatable, Sendable {
        /// Seconds since 1970.
        package var notBefore: Int64
        package var notAfter: Int64

        package init(notBefore: Int64, notAfter: Int64) {
            self.notBefore = notBefore
            self.notAfter = notAfter
        }
    }

    /// How far it went. Each case is the first step that failed, or that all went well.
    package enum Outcome: Equatable, Sendable {
        /// The file of authorities cannot be read.
        case unreadableTrust
        /// No address for the name.
        case unresolved
        /// Nothing takes a TCP connection.
        case unreachable(address: String)
        /// TLS failed. `shown` is the certificate that a second look, which believes everything,
        /// was shown; nil where that failed as well: the port speaks no TLS 1.3.
        case untrusted(address: String, shown: Certificate?)
        /// TLS stands, but the peer does not speak `sluice/1`.
        case otherProtocol(address: String)
        /// The certificate is trusted, names the host, and the protocol is agreed.
        case secure(address: String, Certificate?)
    }

    private static let stepTimeout = TimeAmount.seconds(10)

    private let trust: BrokerTrust

    /// Makes a probe that trusts as connections do.
    package init(trust: BrokerTrust) {
        self.trust = trust
    }

    /// Looks at one broker.
    package func look(at address: BrokerAddress) async -> Outcome {
        let context: NIOSSLContext
        let believing: NIOSSLContext
        do throws(TransportError) {
            context = try SecureConnector.context(trust)
            believing = try SecureConnector.context(trust, verifies: false)
        } catch {
            return .unreadableTrust
        }
        guard let resolved = await Self.resolve(address) else { return .unresolved }
        let (handshake, place) = await handshake(address, context)
        let text = Self.text(of: place ?? resolved)
        switch handshake {
        case .refused: return .unreachable(address: text)
        case .failed:
            guard case (.agreed(let shown, _), _) = await self.handshake(address, believing)
            else { return .untrusted(address: text, shown: nil) }
            return .untrusted(address: text, shown: shown)
        case .agreed(let certificate, let isOurs):
            return isOurs
                ? .secure(address: text, certificate) : .otherProtocol(address: text)
        }
    }

    private static func resolve(_ address: BrokerAddress) async -> SocketAddress? {
        // getaddrinfo blocks: not on a thread of Swift's pool.
        try? await NIOThreadPool.singleton.runIfActive {
            try SocketAddress.makeAddressResolvingHost(address.host, port: address.port)
        }
    }

    private static func text(of address: SocketAddress) -> String {
        let host = address.ipAddress ?? "?"
        return host.contains(":")
            ? "[\(host)]:\(address.port ?? 0)" : "\(host):\(address.port ?? 0)"
    }

    private enum Handshake {
        /// No TCP connection.
        case refused
        /// TCP, but no TLS.
        case failed
        case agreed(Certificate?, isOurs: Bool)
    }

    /// Tries each address of the name, as connections do; answers also which one took it.
    private func handshake(
        _ address: BrokerAddress, _ context: NIOSSLContext
    ) async -> (Handshake, SocketAddress?) {
        let loop = MultiThreadedEventLoopGroup.singleton.next()
        let agreed = loop.makePromise(of: Handshake.self)
        let name = trust.serverName ?? address.host
        let connecting = ClientBootstrap(group: loop)
            .connectTimeout(Self.stepTimeout)
            .channelInitializer { channel in
                channel.eventLoop.makeCompletedFuture {
                    let pipeline = channel.pipeline.syncOperations
                    try pipeline.addHandler(
                        NIOSSLClientHandler(
                            context: context,
                            serverHostname: SecureConnector.isAddress(name) ? nil : name))
                    try pipeline.addHandler(HandshakeHandler(agreed: agreed))
                }
            }
            .connect(host: address.host, port: address.port)
        connecting.whenFailure { _ in agreed.succeed(.refused) }
        let timeout = loop.scheduleTask(in: Self.stepTimeout) { agreed.succeed(.failed) }
        defer { timeout.cancel() }
        let result = (try? await agreed.futureResult.get()) ?? .failed
        let channel = try? await connecting.get()
        let place = channel?.remoteAddress
        channel?.close(promise: nil)
        return (result, place)
    }

    /// Tells how the handshake went; nothing is read after it.
    private final class HandshakeHandler: ChannelInboundHandler {
        typealias InboundIn = ByteBuffer

        private let agreed: EventLoopPromise<Handshake>

        init(agreed: EventLoopPromise<Handshake>) {
            self.agreed = agreed
        }

        func userInboundEventTriggered(context: ChannelHandlerContext, event: Any) {
            guard case TLSUserEvent.handshakeCompleted(let negotiated)? = event as? TLSUserEvent
            else { return }
            let shown = try? context.channel.pipeline.syncOperations.nioSSL_peerCertificate()
            agreed.succeed(
                .agreed(
                    shown.map {
                        Certificate(
                            notBefore: Int64($0.notValidBefore), notAfter: Int64($0.notValidAfter))
                    }, isOurs: negotiated == WireLimits.applicationProtocol))
        }

        func errorCaught(context: ChannelHandlerContext, error: any Error) {
            agreed.succeed(.failed)
            context.close(promise: nil)
        }

        func channelInactive(context: ChannelHandlerContext) {
            agreed.succeed(.failed)
        }
    }
}
