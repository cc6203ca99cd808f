import AsyncHTTPClient
import Foundation
import NIOCore
import NIOHTTP1

/// Where an OpenAI-compatible server is reached.
package struct UpstreamAddress: Sendable {
    /// Everything before `/chat/completions`, without a slash at the end.
    package let base: String
    /// The server itself: `base` without `/v1` at its end.
    package var root: String { base.hasSuffix("/v1") ? String(base.dropLast(3)) : base }
    /// Bearer key; never printed.
    package let key: String?

    /// Reads a URL: with a path it is the base as it stands (`https://host/api/v1`), without one
    /// `/v1` is added. Nil for anything but http and https with a host and no query.
    package init?(_ url: String, key: String? = nil) {
        var base = url
        while base.hasSuffix("/") { base.removeLast() }
        guard let parsed = URL(string: base), let scheme = parsed.scheme?.lowercased(),
            scheme == "http" || scheme == "https", let host = parsed.host, !host.isEmpty,
            parsed.query == nil, parsed.fragment == nil, parsed.user == nil
        else { return nil }
        self.base = parsed.path.isEmpty ? base + "/v1" : base
        self.key = key
    }
}

/// The HTTP side of an upstream: one client for tasks and one for the model list, so that the
/// list has a connection of its own and neither waits for the other.
package struct UpstreamClient: Sendable {
    /// What the model list's request came to.
    package enum ListAnswer: Equatable {
        case models([ListedModel])
        /// The server is there but has no such list.
        case unsupported
        /// No answer in time, though the server may be busy with a task.
        case silent
        case unreachable
        /// Any other answer than a list.
        case refused(status: Int)
    }

    /// Longest model list in bytes.
    static let listBytesMax = 4 << 20
    /// Longest answer of another page in bytes.
    private static let pageBytesMax = 1 << 20
    /// Idle connections are closed before servers do it (uvicorn: 5 s), so that a task is not
    /// sent on a connection that is just being closed.
    private static let idleTimeout = TimeAmount.seconds(4)

    private let address: UpstreamAddress
    private let tasks: HTTPClient
    private let lists: HTTPClient

    /// Makes the clients; nothing is sent yet.
    ///
    /// - Parameters:
    ///   - tasksMax: Most tasks at once.
    package init(_ address: UpstreamAddress, tasksMax: Int) {
        self.address = address
        var configuration = HTTPClient.Configuration()
        // Only the upstream that was given is ever called.
        configuration.redirectConfiguration = .disallow
        configuration.httpVersion = .http1Only
        configuration.timeout.connect = .seconds(10)
        configuration.connectionPool.idleTimeout = Self.idleTimeout
        // As many again may still be read to their end behind an answer that is complete.
        configuration.connectionPool.concurrentHTTP1ConnectionsPerHostSoftLimit = 2 * tasksMax
        // A refused connection is an answer: the upstream is down, and another supplier may do.
        configuration.connectionPool.retryConnectionEstablishment = false
        tasks = HTTPClient(eventLoopGroupProvider: .singleton, configuration: configuration)
        configuration.connectionPool.concurrentHTTP1ConnectionsPerHostSoftLimit = 1
        lists = HTTPClient(eventLoopGroupProvider: .singleton, configuration: configuration)
    }

    /// Closes every connection.
    package func shutdown() async {
        try? await tasks.shutdown()
        try? await lists.shutdown()
    }

    /// Sends a request; returns when its response begins.
    func post(
        _ path: String, body: [UInt8], accept: String
    ) async throws -> HTTPClientResponse {
        var request = HTTPClientRequest(url: address.base + path)
        request.method = .POST
        request.headers.add(name: "Content-Type", value: "application/json")
        request.headers.add(name: "Accept", value: accept)
        authorise(&request)
        request.body = .bytes(ByteBuffer(bytes: body))
        // The task's own deadline cancels the Swift task; this one only has to be later.
        return try await tasks.execute(request, deadline: .distantFuture)
    }

    /// Asks for the model list.
    package func list(timeout: Duration) async -> ListAnswer {
        await withTaskGroup(of: ListAnswer?.self) { group in
            group.addTask {
                try? await Task.sleep(for: timeout)
                return .silent
            }
            group.addTask { await list() }
            let first = await group.next() ?? nil
            group.cancelAll()
            return first ?? .silent
        }
    }

    private func list() async -> ListAnswer {
        var request = HTTPClientRequest(url: address.base + "/models")
        request.headers.add(name: "Accept", value: "application/json")
        authorise(&request)
        do {
            let response = try await lists.execute(request, deadline: .distantFuture)
            switch response.status.code {
            case 200:
                let body = try await response.body.collect(upTo: Self.listBytesMax)
                guard let models = try? ListedModel.read(Array(body.readableBytesView)) else {
                    return .unsupported
                }
                return .models(models)
            case 404, 405, 501: return .unsupported
            default: return .refused(status: Int(response.status.code))
            }
        } catch {
            return .unreachable
        }
    }

    /// What a page of the server itself, beside the OpenAI API, answered.
    struct Answer {
        var status: Int
        var body: [UInt8]
    }

    /// Asks a page of the server itself: by GET, or by POST with a JSON body. Nil when there was no
    /// answer in time. A long one has a connection like a task's, so that nothing waits behind it.
    func ask(
        _ path: String, body: [UInt8]? = nil, timeout: Duration, isLong: Bool = false
    ) async -> Answer? {
        var request = HTTPClientRequest(url: address.root + path)
        request.headers.add(name: "Accept", value: "application/json")
        authorise(&request)
        if let body {
            request.method = .POST
            request.headers.add(name: "Content-Type", value: "application/json")
            request.body = .bytes(ByteBuffer(bytes: body))
        }
        let seconds = timeout.components.seconds
        let milliseconds = timeout.components.attoseconds / 1_000_000_000_000_000
        do {
            let response = try await (isLong ? tasks : lists).execute(
                request, timeout: .milliseconds(seconds * 1_000 + milliseconds))
            let bytes = try await response.body.collect(upTo: Self.pageBytesMax)
            return Answer(
                status: Int(response.status.code), body: Array(bytes.readableBytesView))
        } catch {
            return nil
        }
    }

    private func authorise(_ request: inout HTTPClientRequest) {
        guard let key = address.key else { return }
        request.headers.add(name: "Authorization", value: "Bearer \(key)")
    }
}
