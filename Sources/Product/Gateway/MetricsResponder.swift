import HTTPTypes
import Hummingbird
import NIOCore

/// Answers Prometheus on a port of its own: `GET /metrics`, and nothing else. Plain HTTP, for this
/// machine or behind a proxy.
struct MetricsResponder: HTTPResponder {
    typealias Context = GatewayContext

    let metrics: GatewayMetrics

    func respond(to request: Request, context: GatewayContext) async throws -> Response {
        guard request.uri.path == "/metrics" else {
            return plain(.notFound, "only /metrics is here\n")
        }
        let text = plain(.ok, metrics.text, "text/plain; version=0.0.4; charset=utf-8")
        switch request.method {
        case .get: return text
        case .head: return text.createHeadResponse()
        default: return plain(.methodNotAllowed, "only GET\n")
        }
    }

    private func plain(
        _ status: HTTPResponse.Status, _ text: String,
        _ contentType: String = "text/plain; charset=utf-8"
    ) -> Response {
        Response(
            status: status, headers: [.contentType: contentType],
            body: ResponseBody(byteBuffer: ByteBuffer(string: text)))
    }
}
