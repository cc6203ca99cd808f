package import AsyncHTTPClient
import Foundation
import NIOCore
import NIOHTTP1
package import Store

/// Sends ended tasks as spans to a collector that speaks OTLP over HTTP, at least once each.
///
/// A process of its own runs it: a collector that hangs must not keep records from the store. One
/// task at a time uses it.
package struct TraceExporter: Sendable {
    /// What became of a batch.
    package enum Outcome: Equatable, Sendable {
        case accepted
        /// The collector is away or overloaded: the same again, later.
        case tryAgain(reason: String)
        /// The collector will never take this batch, such as for a wrong path or credential.
        case refused(status: Int)
    }

    /// Tasks of one request: some 400 KiB of JSON.
    package static let tasksPerRequest = 256
    private static let timeout = TimeAmount.seconds(10)
    private static let answerBytesMax = 65_536

    private let client: HTTPClient
    private let url: String
    private let service: String
    private let headers: [(String, String)]

    /// - Parameters:
    ///   - url: The collector's whole address, usually ending in `/v1/traces`.
    ///   - headers: Added to each request, such as a credential; they are in no error.
    package init(
        client: HTTPClient, url: String, service: String, headers: [(String, String)] = []
    ) {
        self.client = client
        self.url = url
        self.service = service
        self.headers = headers
    }

    /// Sends the spans of these tasks in one request.
    package func send(_ tasks: [TracedTask]) async -> Outcome {
        var request = HTTPClientRequest(url: url)
        request.method = .POST
        request.headers.add(name: "Content-Type", value: "application/json")
        for (name, value) in headers { request.headers.add(name: name, value: value) }
        request.body = .bytes(
            ByteBuffer(bytes: TaskSpans.document(tasks, service: service)))
        do {
            let response = try await client.execute(request, timeout: Self.timeout)
            // Read to its end, so that the connection can be used again.
            _ = try? await response.body.collect(upTo: Self.answerBytesMax)
            return Self.outcome(ofStatus: Int(response.status.code))
        } catch is HTTPClientError {
            return .tryAgain(reason: "it does not answer")
        } catch {
            return .tryAgain(reason: "no connection")
        }
    }

    /// OTLP, “Failures”: 429, 502, 503 and 504 may be sent again, other refusals may not.
    package static func outcome(ofStatus status: Int) -> Outcome {
        switch status {
        case 200..<300: .accepted
        case 429, 502, 503, 504: .tryAgain(reason: "status \(status)")
        default: .refused(status: status)
        }
    }
}
