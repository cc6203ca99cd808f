import AsyncHTTPClient
import NIOCore
import SluiceWire

extension UpstreamEngine {
    /// Relays the JSON object that answers a request for embeddings or images, as it comes: each
    /// part is written before the next one is read. Leaving early drops the body and with it closes
    /// the connection.
    func relay(
        _ body: HTTPClientResponse.Body, _ start: CountedAnswer, to sink: some AnswerSink
    ) async -> Ending {
        var answer = start
        var chunks = body.makeAsyncIterator()
        while true {
            var parts: [CountedAnswer.Part] = []
            var hasEnded = false
            var isBroken = false
            do {
                if let chunk = try await chunks.next() {
                    parts = try answer.push(Array(chunk.readableBytesView))
                } else {
                    try answer.finish()
                    hasEnded = true
                }
            } catch {
                isBroken = true
            }
            guard !Task.isCancelled else {
                return .interrupted(answer.usage, wasOpen: !hasEnded)
            }
            guard !isBroken else { return .failed(.upstreamUnavailable, answer.usage) }
            do {
                for part in parts {
                    try await sink.write(part: part.bytes, results: part.results)
                }
                guard hasEnded else { continue }
                try await sink.finish(.stop)
                return .completed(answer.usage)
            } catch {
                return .interrupted(answer.usage, wasOpen: !hasEnded)
            }
        }
    }
}
