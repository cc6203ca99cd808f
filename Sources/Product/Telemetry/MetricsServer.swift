import NIOConcurrencyHelpers
import NIOCore
import NIOHTTP1
import NIOPosix

/// Serves `GET /metrics` over plain HTTP/1.1: for Prometheus on this machine or behind a proxy.
/// Everything else is answered with 404 or 405; a request's body is not read.
package struct MetricsServer: Sendable {
    /// Connections at once; more are closed at once.
    package static let connectionsMax = 64

    private let channel: any Channel

    /// The port that it listens on.
    package var port: Int { channel.localAddress?.port ?? 0 }

    /// Listens; port 0 takes a free one. `text` is called once a request, on a thread of the
    /// server, and gives nil when there is nothing to say (answered with 503). Throws what the
    /// system says of the address.
    package static func start(
        host: String, port: Int, text: @escaping @Sendable () -> String?
    ) async throws -> MetricsServer {
        let count = ConnectionCount()
        let bootstrap = ServerBootstrap(group: MultiThreadedEventLoopGroup.singleton)
            .serverChannelOption(.socketOption(.so_reuseaddr), value: 1)
            .childChannelInitializer { channel in
                channel.eventLoop.makeCompletedFuture {
                    let pipeline = channel.pipeline.syncOperations
                    try pipeline.configureHTTPServerPipeline(withErrorHandling: true)
                    try pipeline.addHandler(
                        IdleStateHandler(allTimeout: .seconds(75)))
                    try pipeline.addHandler(MetricsHandler(count: count, text: text))
                }
            }
        return MetricsServer(channel: try await bootstrap.bind(host: host, port: port).get())
    }

    /// Stops listening.
    package func stop() async throws {
        try await channel.close()
    }

    /// Until it was stopped.
    package func untilStopped() async throws {
        try await channel.closeFuture.get()
    }
}

/// How many connections are open.
private final class ConnectionCount: Sendable {
    private let count = NIOLockedValueBox(0)

    /// False if there are too many.
    func enter() -> Bool {
        count.withLockedValue { value in
            value += 1
            return value <= MetricsServer.connectionsMax
        }
    }

    func leave() { count.withLockedValue { $0 -= 1 } }
}

/// Answers the requests of one connection. Bound to its event loop.
private final class MetricsHandler: ChannelInboundHandler {
    typealias InboundIn = HTTPServerRequestPart
    typealias OutboundOut = HTTPServerResponsePart

    private let count: ConnectionCount
    private let text: @Sendable () -> String?
    private var head: HTTPRequestHead?

    init(count: ConnectionCount, text: @escaping @Sendable () -> String?) {
        self.count = count
        self.text = text
    }

    func channelActive(context: ChannelHandlerContext) {
        if !count.enter() { context.close(promise: nil) }
        context.fireChannelActive()
    }

    func channelInactive(context: ChannelHandlerContext) {
        count.leave()
        context.fireChannelInactive()
    }

    func userInboundEventTriggered(context: ChannelHandlerContext, event: Any) {
        if event is IdleStateHandler.IdleStateEvent { context.close(promise: nil) }
    }

    func channelRead(context: ChannelHandlerContext, data: NIOAny) {
        switch unwrapInboundIn(data) {
        case .head(let head): self.head = head
        case .body: break
        case .end:
            guard let head else { return }
            self.head = nil
            answer(head, context: context)
        }
    }

    func errorCaught(context: ChannelHandlerContext, error: any Error) {
        context.close(promise: nil)
    }

    private func answer(_ head: HTTPRequestHead, context: ChannelHandlerContext) {
        let path = head.uri.split(separator: "?", maxSplits: 1).first ?? ""
        var status = HTTPResponseStatus.ok
        var body = ""
        var headers = HTTPHeaders()
        if path != "/metrics" {
            status = .notFound
            body = "only /metrics is here\n"
        } else if head.method != .GET && head.method != .HEAD {
            status = .methodNotAllowed
            headers.add(name: "allow", value: "GET, HEAD")
            body = "only GET and HEAD\n"
        } else if let text = text() {
            body = text
        } else {
            status = .serviceUnavailable
            body = "the run directory cannot be read\n"
        }
        headers.add(
            name: "content-type",
            value: status == .ok ? PrometheusText.contentType : "text/plain; charset=utf-8")
        headers.add(name: "content-length", value: String(body.utf8.count))
        if !head.isKeepAlive { headers.add(name: "connection", value: "close") }
        let response = HTTPResponseHead(version: .http1_1, status: status, headers: headers)
        context.write(wrapOutboundOut(.head(response)), promise: nil)
        if head.method != .HEAD {
            let buffer = context.channel.allocator.buffer(string: body)
            context.write(wrapOutboundOut(.body(.byteBuffer(buffer))), promise: nil)
        }
        let isKeptAlive = head.isKeepAlive
        let loop = NIOLoopBound(context, eventLoop: context.eventLoop)
        context.writeAndFlush(wrapOutboundOut(.end(nil))).whenComplete { _ in
            if !isKeptAlive { loop.value.close(promise: nil) }
        }
    }
}
