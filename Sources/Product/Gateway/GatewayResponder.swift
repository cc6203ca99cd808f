import EventLoopTasks
import Foundation
import HTTPTypes
import Hummingbird
import HummingbirdCore
import JSONScanning
import NIOCore
import SluiceClient
import SluiceWire
import Synchronization

/// What a request knows of its connection.
struct GatewayContext: InitializableFromSource {
    let channel: any Channel

    init(source: ApplicationRequestContextSource) {
        channel = source.channel
    }
}

/// Answers every request of the gateway: finds the route, reads the body, asks the broker, and
/// gives the answer the shape that the route promises.
struct GatewayResponder: HTTPResponder {
    typealias Context = GatewayContext

    let configuration: GatewayConfiguration
    let pool: ClientPool
    let bodies: BodyBudget
    let affinity: PrefixAffinity
    let metrics: GatewayMetrics
    /// By the identity of their loop.
    let executors: [ObjectIdentifier: EventLoopExecutor]
    /// Seconds since 1970, for `created`.
    let startedAt: Int64

    func respond(to request: Request, context: GatewayContext) async throws -> Response {
        let response: Response
        do throws(HTTPFault) {
            response = try await route(request, context)
        } catch {
            response = Response(
                status: error.status, headers: error.headers,
                body: ResponseBody(byteBuffer: ByteBuffer(bytes: error.body)))
        }
        metrics.answered(request.uri.path, status: response.status.code)
        return request.method == .head ? response.createHeadResponse() : response
    }

    private func route(
        _ request: Request, _ context: GatewayContext
    ) async throws(HTTPFault) -> Response {
        let path = request.uri.path
        if path == "/health" || path == "/v1/models" || path.hasPrefix("/v1/models/") {
            guard request.method == .get || request.method == .head else {
                throw Self.wrongMethod("GET")
            }
            if path == "/health" { return Self.json(["status": "ok"]) }
            return try models(request, path)
        }
        guard let route = TaskRoute(rawValue: path) else {
            throw HTTPFault(
                .notFound, "There is no \(request.method.rawValue) of this path here.",
                type: "invalid_request_error", code: "unknown_url")
        }
        guard request.method == .post else { throw Self.wrongMethod("POST") }
        return try await run(route, request, context)
    }

    // MARK: Models

    private func models(_ request: Request, _ path: String) throws(HTTPFault) -> Response {
        _ = try Self.key(of: request)
        let prefix = "/v1/models/"
        guard path.hasPrefix(prefix) else {
            let list = configuration.models.entries.map { model($0.name) }
            return Self.json(["object": "list", "data": .array(list)])
        }
        // Names may hold a slash, and clients write it as %2F.
        let name = String(path.dropFirst(prefix.count)).removingPercentEncoding ?? ""
        guard configuration.models.entry(name) != nil else {
            throw HTTPFault(.rejected(Rejection(code: .modelUnknown)))
        }
        return Self.json(model(name))
    }

    private func model(_ name: String) -> JSONValue {
        [
            "id": .string(name), "object": "model", "created": .number(startedAt),
            "owned_by": "sluice",
        ]
    }

    // MARK: Tasks

    private func run(
        _ route: TaskRoute, _ request: Request, _ context: GatewayContext
    ) async throws(HTTPFault) -> Response {
        let arrived = ContinuousClock.now
        let key = try Self.key(of: request)
        let held = try await bodies.read(request, limit: configuration.bodyBytesMax)
        metrics.read(held.bytes.count)
        var call = try TaskCall(route, body: held.bytes, headers: request.headers)
        guard
            let targets = configuration.models.targets(
                of: call.model, listed: call.options.models)
        else { throw HTTPFault(.rejected(Rejection(code: .modelUnknown))) }
        let peer = try await Self.peer(of: context.channel)
        // A stream is read from the broker and written to its client by one thread.
        let executor = executors[ObjectIdentifier(context.channel.eventLoop)]
        let lease = try await pool.lease(key, on: executor)
        let open = try await open(call, targets, lease, peer)
        // With the share goes what it was for.
        call.forgetBody()
        _ = consume held
        if call.isStreaming {
            return stream(call, open, peer, over: context.channel, since: arrived)
        }
        switch route {
        case .chat, .completions, .responses:
            defer { peer.whenGone(nil) }
            let response = try await join(call, open)
            metrics.began(after: .now - arrived)
            return response
        case .embeddings, .images:
            metrics.began(after: .now - arrived)
            return passOn(open, peer)
        }
    }

    /// Asks for one model after the other until one is taken: only refusals lead on, which cost
    /// nothing and come before the first token.
    private func open(
        _ call: TaskCall, _ targets: [String], _ lease: ClientLease, _ peer: PeerWatch
    ) async throws(HTTPFault) -> OpenAnswer {
        for (index, model) in targets.enumerated() {
            var options = call.options.submit
            options.affinityKeys = affinity.keys(
                scope: lease.hash, model: model, messages: call.messages)
            let request = TaskRequest(
                call.route.operation, model: model, payload: .openAI(call.payload),
                options: options)
            do throws(HTTPFault) {
                return try await OpenAnswer(
                    request, lease: lease, peer: peer, patience: configuration.patience,
                    mayWaitInStream: call.isStreaming)
            } catch {
                guard index + 1 < targets.count, error.allowsAnotherModel else { throw error }
            }
        }
        preconditionFailure("there is at least one target")
    }

    private func join(_ call: TaskCall, _ open: OpenAnswer) async throws(HTTPFault) -> Response {
        var open = open
        var byteCount = 0
        var joiner = AnswerJoiner(call, model: open.model, id: open.task, createdAt: Self.now)
        while let event = try await open.next() {
            byteCount += event.count
            guard byteCount <= configuration.answerBytesMax else {
                throw HTTPFault(
                    .badGateway, "The answer is larger than this gateway joins; ask for a stream.",
                    type: "api_error", code: "answer_too_large")
            }
            do throws(JSONFault) {
                try joiner.add(event)
            } catch {
                throw HTTPFault(.supplierFailed(.supplierFailed, Receipt(task: open.task)))
            }
        }
        let joined = joiner.joined()
        metrics.wrote(joined.count, events: 0)
        return Response(
            status: .ok, headers: Self.headers("application/json", open.task),
            body: ResponseBody(byteBuffer: ByteBuffer(bytes: joined)))
    }

    /// Sends an engine's JSON body on as it comes. An error in the middle breaks the connection:
    /// that is all HTTP can say then.
    private func passOn(_ open: OpenAnswer, _ peer: PeerWatch) -> Response {
        Response(
            status: .ok, headers: Self.headers("application/json", open.task),
            body: ResponseBody { writer in
                defer { peer.whenGone(nil) }
                var open = open
                while let bytes = try await open.next() {
                    try await writer.write(ByteBuffer(bytes: bytes))
                    metrics.wrote(bytes.count, events: 0)
                }
                try await writer.finish(nil)
            })
    }

    private func stream(
        _ call: TaskCall, _ open: OpenAnswer, _ peer: PeerWatch, over channel: any Channel,
        since arrived: ContinuousClock.Instant
    ) -> Response {
        var headers = Self.headers("text/event-stream", open.task)
        headers[.cacheControl] = "no-cache"
        let keepAlive = configuration.patience.keepAlive
        return Response(
            status: .ok, headers: headers,
            body: ResponseBody { writer in
                metrics.streams(1)
                defer {
                    metrics.streams(-1)
                    peer.whenGone(nil)
                }
                var stream = EventStream(
                    call, open, keepAlive: keepAlive, createdAt: Self.now)
                while let sign = await stream.nextSignOfLife() {
                    try await writer.write(ByteBuffer(bytes: sign))
                }
                try await StreamPump.run(
                    stream, over: channel, peer: peer, metrics: metrics, since: arrived)
                try await writer.finish(nil)
            })
    }

    // MARK: Requests and responses

    private static func key(of request: Request) throws(HTTPFault) -> String {
        let parts = (request.headers[.authorization] ?? "").split(separator: " ")
        guard parts.count == 2, parts[0].lowercased() == "bearer" else { throw .noKey }
        // What no broker could know is not asked.
        guard parts[1].utf8.count <= WireLimits.credentialBytesMax else {
            throw HTTPFault(.refused(.unauthenticated))
        }
        return String(parts[1])
    }

    private static func peer(of channel: any Channel) async throws(HTTPFault) -> PeerWatch {
        do {
            return try await channel.pipeline.handler(type: PeerWatch.self).get()
        } catch {
            // The connection was closed meanwhile: nobody reads this.
            throw HTTPFault(.cancelled(Receipt()))
        }
    }

    private static func headers(_ contentType: String, _ task: TaskID?) -> HTTPFields {
        var headers = HTTPFields()
        headers[.contentType] = contentType
        if let task { headers[.requestID] = task.description }
        return headers
    }

    private static func json(_ value: JSONValue) -> Response {
        Response(
            status: .ok, headers: headers("application/json", nil),
            body: ResponseBody(byteBuffer: ByteBuffer(bytes: value.encoded)))
    }

    private static func wrongMethod(_ method: String) -> HTTPFault {
        HTTPFault(
            .methodNotAllowed, "Only \(method) is allowed here.", type: "invalid_request_error",
            code: "method_not_allowed")
    }

    private static var now: Int64 { wallClockSeconds() }
}

extension HTTPFault {
    /// Whether the next model of a list may be asked.
    fileprivate var allowsAnotherModel: Bool {
        ["model_not_found", "no_supplier", "queue_full"].contains(code)
    }
}
