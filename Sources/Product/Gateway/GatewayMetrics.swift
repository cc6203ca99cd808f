import Synchronization

/// What the gateway has done since its start, as Prometheus takes it (`Protocol/Metrics.md`). Holds
/// no content, key or address; its labels are routes and statuses, of which there are few. Any
/// thread.
final class GatewayMetrics: Sendable {
    /// Upper bounds of the wait for the first byte, in milliseconds.
    static let boundsMs: [UInt64] = [
        1, 2, 5, 10, 20, 50, 100, 200, 500, 1_000, 2_000, 5_000, 10_000, 30_000, 60_000,
    ]

    private struct Request: Hashable, Comparable {
        let route: String
        let status: Int

        static func < (left: Request, right: Request) -> Bool {
            (left.route, left.status) < (right.route, right.status)
        }
    }

    private struct State {
        var requests: [Request: UInt64] = [:]
        /// By `boundsMs`, and one more for what is above them.
        var waits = [UInt64](repeating: 0, count: boundsMs.count + 1)
        var waitsUs: UInt64 = 0
    }

    private let state = Mutex(State())
    private let open = Atomic(0)
    private let events = Atomic(0)
    private let answerBytes = Atomic(0)
    private let requestBytes = Atomic(0)
    private let broken = Atomic(0)

    /// A route's name where there is such a route; else `other`, so that nobody can invent labels.
    static func label(_ path: String) -> String {
        if TaskRoute(rawValue: path) != nil || path == "/health" { return path }
        return path == "/v1/models" || path.hasPrefix("/v1/models/") ? "/v1/models" : "other"
    }

    /// The status of a request is known.
    func answered(_ path: String, status: Int) {
        let request = Request(route: Self.label(path), status: status)
        state.withLock { $0.requests[request, default: 0] += 1 }
    }

    /// The first event of an answer, or the whole of one that is no stream, is about to be sent.
    func began(after duration: Duration) {
        let us = duration < .zero ? 0 : UInt64(duration / .microseconds(1))
        let place = Self.boundsMs.firstIndex { us <= $0 * 1_000 } ?? Self.boundsMs.count
        state.withLock { state in
            state.waits[place] += 1
            state.waitsUs += us
        }
    }

    /// A stream begins (1) or is over (-1).
    func streams(_ change: Int) { open.add(change, ordering: .relaxed) }

    /// A stream ended with an error after its status had been sent.
    func brokeOff() { broken.add(1, ordering: .relaxed) }

    /// Bytes of a request's body were read.
    func read(_ bytes: Int) { requestBytes.add(bytes, ordering: .relaxed) }

    /// Bytes of an answer's body were taken by the connection to the client.
    func wrote(_ bytes: Int, events count: Int) {
        answerBytes.add(bytes, ordering: .relaxed)
        if count > 0 { events.add(count, ordering: .relaxed) }
    }

    /// Everything in the text format of Prometheus, version 0.0.4.
    var text: String {
        let (requests, waits, waitsUs) = state.withLock { ($0.requests, $0.waits, $0.waitsUs) }
        var text = ""
        func metric(_ name: String, _ kind: String, _ help: String, _ samples: [String]) {
            text += "# HELP sluice_gateway_\(name) \(help)\n# TYPE sluice_gateway_\(name) \(kind)\n"
            for sample in samples { text += "sluice_gateway_\(name)\(sample)\n" }
        }
        func number(_ value: borrowing Atomic<Int>) -> [String] {
            [" \(value.load(ordering: .relaxed))"]
        }
        metric(
            "requests_total", "counter", "Requests whose status was decided.",
            requests.sorted { $0.key < $1.key }.map { request, count in
                "{route=\"\(request.route)\",status=\"\(request.status)\"} \(count)"
            })
        metric("streams_open", "gauge", "Streams that are being sent.", number(open))
        metric(
            "streams_broken_total", "counter",
            "Streams that ended with an error after their status had been sent.", number(broken))
        metric("events_total", "counter", "Events sent in streams.", number(events))
        metric("answer_bytes_total", "counter", "Bytes of answers sent.", number(answerBytes))
        metric("request_bytes_total", "counter", "Bytes of requests read.", number(requestBytes))
        var count: UInt64 = 0
        var samples: [String] = []
        for (place, bound) in Self.boundsMs.enumerated() {
            count += waits[place]
            samples.append("_bucket{le=\"\(Self.seconds(bound * 1_000))\"} \(count)")
        }
        count += waits[Self.boundsMs.count]
        samples += [
            "_bucket{le=\"+Inf\"} \(count)", "_sum \(Self.seconds(waitsUs))", "_count \(count)",
        ]
        metric(
            "first_byte_seconds", "histogram",
            "From a request's arrival to the first event or the whole answer.", samples)
        return text
    }

    /// Exact, without an exponent.
    private static func seconds(_ us: UInt64) -> String {
        let fraction = String(us % 1_000_000)
        let padded = String(repeating: "0", count: 6 - fraction.count) + fraction
        return "\(us / 1_000_000).\(padded)"
    }
}
