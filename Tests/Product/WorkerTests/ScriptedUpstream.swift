import NIOCore
import NIOHTTP1
import NIOPosix
import Synchronization

/// A real HTTP server on loopback that answers as a test's script says.
final class ScriptedUpstream: Sendable {
    struct Request: Sendable {
        var method: String
        var path: String
        var authorisation: String?
        var body: [UInt8]
    }

    /// One response under way.
    struct Exchange: Sendable {
        fileprivate let channel: any Channel

        func head(_ status: Int = 200, type: String = "text/event-stream") async throws {
            let head = HTTPResponseHead(
                version: .http1_1, status: HTTPResponseStatus(statusCode: status),
                headers: ["Content-Type": type, "Transfer-Encoding": "chunked"])
            try await channel.writeAndFlush(HTTPServerResponsePart.head(head)).get()
        }

        func send(_ bytes: [UInt8]) async throws {
            let part = HTTPServerResponsePart.body(.byteBuffer(ByteBuffer(bytes: bytes)))
            try await channel.writeAndFlush(part).get()
        }

        func send(_ text: String) async throws {
            try await send(Array(text.utf8))
        }

        func end() async throws {
            try await channel.writeAndFlush(HTTPServerResponsePart.end(nil)).get()
        }

        /// Closes the connection in the middle of the response.
        func abort() async throws {
            try await channel.close().get()
        }

        /// Returns when the other side has closed the connection.
        func closed() async throws {
            try await channel.closeFuture.get()
        }
    }

    typealias Script = @Sendable (Request, Exchange) async throws -> Void

    let port: Int
    private let channel: any Channel
    private let connections: Connections

    /// Starts to listen; on `port` where one is given.
    init(port: Int = 0, _ script: @escaping Script) async throws {
        let connections = Connections()
        channel = try await ServerBootstrap(group: MultiThreadedEventLoopGroup.singleton)
            .serverChannelOption(.socketOption(.so_reuseaddr), value: 1)
            .childChannelInitializer { channel in
                connections.add(channel)
                return channel.eventLoop.makeCompletedFuture {
                    try channel.pipeline.syncOperations.configureHTTPServerPipeline()
                    try channel.pipeline.syncOperations.addHandler(RequestHandler(script: script))
                }
            }
            .bind(host: "127.0.0.1", port: port).get()
        self.connections = connections
        self.port = channel.localAddress?.port ?? 0
    }

    var url: String { "http://127.0.0.1:\(port)" }

    /// Stops listening and closes every connection.
    func stop() async {
        try? await channel.close().get()
        for connection in connections.all { try? await connection.close().get() }
    }

    private final class Connections: Sendable {
        private let open = Mutex<[any Channel]>([])

        func add(_ channel: any Channel) {
            open.withLock { $0.append(channel) }
        }

        var all: [any Channel] { open.withLock { $0 } }
    }

    private final class RequestHandler: ChannelInboundHandler {
        typealias InboundIn = HTTPServerRequestPart

        private let script: Script
        private var request: Request?

        init(script: @escaping Script) {
            self.script = script
        }

        func channelRead(context: ChannelHandlerContext, data: NIOAny) {
            switch unwrapInboundIn(data) {
            case .head(let head):
                request = Request(
                    method: head.method.rawValue, path: head.uri,
                    authorisation: head.headers.first(name: "Authorization"), body: [])
            case .body(let bytes): request?.body += Array(bytes.readableBytesView)
            case .end:
                guard let request else { return }
                let exchange = Exchange(channel: context.channel)
                let script = script
                Task { try? await script(request, exchange) }
            }
        }
    }
}
