/// A request of OTLP/HTTP with JSON (opentelemetry-proto, trace/v1), as far as it is used here.
/// Ids are hexadecimal, times are nanoseconds in a text, as its JSON mapping asks.
struct TraceDocument: Encodable {
    var resourceSpans: [ResourceSpans]

    struct ResourceSpans: Encodable {
        var resource: Resource
        var scopeSpans: [ScopeSpans]
    }

    struct Resource: Encodable {
        var attributes: [Attribute]
    }

    struct ScopeSpans: Encodable {
        var scope: Scope
        var spans: [Span]
    }

    struct Scope: Encodable {
        var name: String
        var version: String
    }

    struct Span: Encodable {
        var traceId: String
        var spanId: String
        /// Nil for the first span of a trace.
        var parentSpanId: String?
        var name: String
        /// 1 internal, 2 server.
        var kind: Int
        var startTimeUnixNano: String
        var endTimeUnixNano: String
        var attributes: [Attribute]
        var status: Status
    }

    struct Status: Encodable {
        /// 0 unset, 1 ok, 2 error.
        var code: Int
    }

    struct Attribute: Encodable {
        var key: String
        var value: Value

        init(_ key: String, _ value: Value) {
            self.key = key
            self.value = value
        }
    }

    enum Value: Encodable {
        case text(String)
        case texts([String])
        case number(UInt64)

        private enum Key: String, CodingKey {
            case stringValue, intValue, arrayValue, values
        }

        func encode(to encoder: any Encoder) throws {
            var container = encoder.container(keyedBy: Key.self)
            switch self {
            case .text(let text): try container.encode(text, forKey: .stringValue)
            // A 64-bit number is a text in protobuf's JSON.
            case .number(let number): try container.encode(String(number), forKey: .intValue)
            case .texts(let texts):
                var list = container.nestedContainer(keyedBy: Key.self, forKey: .arrayValue)
                try list.encode(texts.map { Value.text($0) }, forKey: .values)
            }
        }
    }
}
