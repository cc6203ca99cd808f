import NIOCore
import NIOPosix
import NIOSSL
import NIOTLS
import SluiceWire
import Synchronization

/// Dials brokers over TCP and TLS 1.3.
package struct SecureConnector: Connector {
    /// TCP and TLS are done within this time.
    private static let dialTimeout = TimeAmount.seconds(10)

    private let context: NIOSSLContext
    private let serverName: String?

    /// Reads the trusted certificates, and the one that is shown to brokers who ask, once.
    package init(
        trust: BrokerTrust, certificate: ClientCertificate? = nil
    ) throws(TransportError) {
        let configuration = try Self.configuration(trust)
        let anonymous = try Self.context(configuration)
        context =
            try certificate.map { (certificate) throws(TransportError) in
                try Self.context(configuration, certificate)
            } ?? anonymous
        serverName = trust.serverName
    }

    /// What a handshake with a broker offers and asks. One that does not verify believes every
    /// certificate: only to see which one is shown, never to send something.
    static func context(
        _ trust: BrokerTrust, verifies: Bool = true
    ) throws(TransportError) -> NIOSSLContext {
        try context(try configuration(trust, verifies: verifies))
    }

    private static func context(
        _ configuration: TLSConfiguration
    ) throws(TransportError) -> NIOSSLContext {
        do {
            return try NIOSSLContext(configuration: configuration)
        } catch {
            throw .unreadableTrust
        }
    }

    private static func configuration(
        _ trust: BrokerTrust, verifies: Bool = true
    ) throws(TransportError) -> TLSConfiguration {
        var configuration = TLSConfiguration.makeClientConfiguration()
        configuration.minimumTLSVersion = .tlsv13
        configuration.applicationProtocols = [WireLimits.applicationProtocol]
        if !verifies { configuration.certificateVerification = .none }
        do {
            switch trust.roots {
            case .system: configuration.trustRoots = .default
            case .file(let path): configuration.trustRoots = .file(path)
            case .pem(let bytes):
                configuration.trustRoots = .certificates(
                    try NIOSSLCertificate.fromPEMBytes(bytes))
            }
            return configuration
        } catch {
            throw .unreadableTrust
        }
    }

    private static func context(
        _ configuration: TLSConfiguration, _ certificate: ClientCertificate
    ) throws(TransportError) -> NIOSSLContext {
        var configuration = configuration
        do {
            let chain =
                switch certificate.chain {
                case .file(let path): try NIOSSLCertificate.fromPEMFile(path)
                case .pem(let bytes): try NIOSSLCertificate.fromPEMBytes(bytes)
                }
            let key =
                switch certificate.privateKey {
                case .file(let path): try NIOSSLPrivateKey(file: path, format: .pem)
                case .pem(let bytes): try NIOSSLPrivateKey(bytes: bytes, format: .pem)
                }
            guard !chain.isEmpty else { throw TransportError.unreadableCertificate }
            configuration.certificateChain = chain.map { .certificate($0) }
            configuration.privateKey = .privateKey(key)
            return try NIOSSLContext(configuration: configuration)
        } catch {
            throw .unreadableCertificate
        }
    }

    package func dial(_ address: BrokerAddress) async throws(TransportError) -> any BytePipe {
        let inbound = InboundBytes()
        // A task that runs on a loop's thread gets its connection there.
        let loop =
            MultiThreadedEventLoopGroup.currentEventLoop
            ?? MultiThreadedEventLoopGroup.singleton.next()
        let ready = loop.makePromise(of: Void.self)
        let name = serverName ?? address.host
        let connecting = ClientBootstrap(group: loop)
            .connectTimeout(Self.dialTimeout)
            .channelOption(.tcpOption(.tcp_nodelay), value: 1)
            .channelInitializer { channel in
                channel.eventLoop.makeCompletedFuture {
                    let pipeline = channel.pipeline.syncOperations
                    try pipeline.addHandler(
                        NIOSSLClientHandler(
                            context: context,
                            serverHostname: Self.isAddress(name) ? nil : name))
                    try pipeline.addHandler(PipeHandler(inbound: inbound, ready: ready))
                }
            }
            .connect(host: address.host, port: address.port)
        connecting.whenFailure { _ in ready.fail(TransportError.unreachable) }
        let timeout = loop.scheduleTask(in: Self.dialTimeout) {
            ready.fail(TransportError.tlsFailed)
        }
        defer { timeout.cancel() }
        do {
            try await withTaskCancellationHandler {
                try await ready.futureResult.get()
            } onCancel: {
                ready.fail(TransportError.closed)
            }
            return SocketPipe(channel: try await connecting.get(), inbound: inbound)
        } catch {
            connecting.whenSuccess { $0.close(promise: nil) }
            throw error as? TransportError ?? .tlsFailed
        }
    }

    /// TLS names hosts, not addresses; an address is checked against the certificate's own list.
    static func isAddress(_ host: String) -> Bool {
        (try? SocketAddress(ipAddress: host, port: 0)) != nil
    }
}

/// A TLS connection as a pipe.
private struct SocketPipe: BytePipe {
    let channel: any Channel
    let inbound: InboundBytes

    func receive() async -> [UInt8]? {
        let (bytes, wasFull) = await inbound.take()
        if wasFull { channel.read() }
        return bytes
    }

    func send(_ bytes: [UInt8]) async throws(TransportError) {
        do {
            try await channel.writeAndFlush(ByteBuffer(bytes: bytes)).get()
        } catch {
            throw .closed
        }
    }

    func close() async {
        channel.close(promise: nil)
        inbound.finish()
    }
}

/// What has arrived and was not yet taken. Filled on the event loop, taken by one task.
private final class InboundBytes: Sendable {
    /// Reading from the socket pauses while this much waits.
    static let pauseBytes = 262_144

    private struct State {
        var bytes: [UInt8] = []
        var waiter: CheckedContinuation<([UInt8]?, wasFull: Bool), Never>?
        var isFinished = false
    }

    private let state = Mutex(State())

    var isFull: Bool { state.withLock { $0.bytes.count >= Self.pauseBytes } }

    func append(_ bytes: [UInt8]) {
        let waiter = state.withLock { state in
            guard let waiter = state.waiter else {
                if state.bytes.isEmpty { state.bytes = bytes } else { state.bytes += bytes }
                return nil as CheckedContinuation<([UInt8]?, wasFull: Bool), Never>?
            }
            state.waiter = nil
            return waiter
        }
        waiter?.resume(returning: (bytes, wasFull: false))
    }

    func finish() {
        let waiter = state.withLock { state in
            state.isFinished = true
            defer { state.waiter = nil }
            return state.waiter
        }
        waiter?.resume(returning: (nil, wasFull: false))
    }

    func take() async -> ([UInt8]?, wasFull: Bool) {
        await withCheckedContinuation { waiter in
            let ready = state.withLock { state -> ([UInt8]?, wasFull: Bool)? in
                if !state.bytes.isEmpty {
                    let bytes = state.bytes
                    state.bytes = []
                    return (bytes, bytes.count >= Self.pauseBytes)
                }
                guard !state.isFinished else { return (nil, false) }
                precondition(state.waiter == nil, "one reader a pipe")
                state.waiter = waiter
                return nil
            }
            if let ready { waiter.resume(returning: ready) }
        }
    }
}

/// The end of the channel's pipeline: checks the negotiated protocol, gathers what one turn of the
/// event loop reads, and holds reads back while nobody takes them.
private final class PipeHandler: ChannelDuplexHandler {
    typealias InboundIn = ByteBuffer
    typealias OutboundIn = ByteBuffer
    typealias OutboundOut = ByteBuffer

    private let inbound: InboundBytes
    private let ready: EventLoopPromise<Void>
    private var arrived: [UInt8] = []

    init(inbound: InboundBytes, ready: EventLoopPromise<Void>) {
        self.inbound = inbound
        self.ready = ready
    }

    func userInboundEventTriggered(context: ChannelHandlerContext, event: Any) {
        if case TLSUserEvent.handshakeCompleted(let negotiated)? = event as? TLSUserEvent {
            if negotiated == WireLimits.applicationProtocol {
                ready.succeed()
            } else {
                ready.fail(TransportError.protocolRefused)
            }
        }
        context.fireUserInboundEventTriggered(event)
    }

    func channelRead(context: ChannelHandlerContext, data: NIOAny) {
        arrived += unwrapInboundIn(data).readableBytesView
    }

    func channelReadComplete(context: ChannelHandlerContext) {
        if !arrived.isEmpty {
            inbound.append(arrived)
            arrived = []
        }
        context.fireChannelReadComplete()
    }

    func read(context: ChannelHandlerContext) {
        guard !inbound.isFull else { return }
        context.read()
    }

    func errorCaught(context: ChannelHandlerContext, error: any Error) {
        ready.fail(TransportError.tlsFailed)
        context.close(promise: nil)
    }

    func channelInactive(context: ChannelHandlerContext) {
        ready.fail(TransportError.tlsFailed)
        channelReadComplete(context: context)
        inbound.finish()
    }
}
