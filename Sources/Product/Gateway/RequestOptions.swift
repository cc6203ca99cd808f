package import HTTPTypes
package import JSONScanning
package import SluiceClient
import SluiceWire

/// What a request says to the broker beside its payload: headers, and the member `sluice` of the
/// body, which wins (`Protocol/HTTP.md`).
package struct RequestOptions {
    package var submit = SubmitOptions()
    /// Models to try one after the other instead of the request's own.
    package var models: [String] = []

    /// Names of headers, each with the member of `sluice` that says the same.
    package static let headers: [(HTTPField.Name, String)] = [
        (.wellKnown("sluice-deadline-ms"), "deadline_ms"),
        (.wellKnown("sluice-budget-micro-usd"), "budget_micro_usd"),
        (.wellKnown("sluice-preference"), "preference"),
        (.wellKnown("sluice-input-price-ceiling"), "input_price_ceiling"),
        (.wellKnown("sluice-output-price-ceiling"), "output_price_ceiling"),
        (.wellKnown("sluice-region"), "region"),
        (.wellKnown("sluice-data-policy"), "data_policy"),
        (.wellKnown("sluice-supplier-types"), "supplier_types"),
        (.wellKnown("sluice-priority"), "priority"),
        (.wellKnown("sluice-models"), "models"),
        (.idempotencyKey, "idempotency_key"),
        (.traceparent, "traceparent"),
    ]
    /// Models that a request may list.
    package static let modelsMax = 8

    /// Reads both places. Throws a fault with status 400 that names what is wrong.
    package init(headers: HTTPFields, extra: JSONValue?) throws(HTTPFault) {
        for (field, name) in Self.headers {
            guard let text = headers[field] else { continue }
            try set(name, Value(text), param: field.canonicalName)
        }
        guard let extra, !extra.isNull else { return }
        guard let members = extra.members else {
            throw .invalid("The member sluice is an object.", param: "sluice")
        }
        for member in members where !member.value.isNull {
            try set(member.name, Value(member.value), param: "sluice.\(member.name)")
        }
    }

    /// One option as text: headers have lists with commas, JSON has arrays, and both have numbers.
    private struct Value {
        var text: String?
        var list: [String]

        init(_ header: String) {
            text = header
            list = header.split(separator: ",").map { $0.trimmed }
        }

        init(_ value: JSONValue) {
            switch value {
            case .string(let string): (text, list) = (string, [string])
            case .literal(let bytes): (text, list) = (String(decoding: bytes, as: UTF8.self), [])
            case .array(let elements): (text, list) = (nil, elements.map { $0.text ?? "" })
            case .object: (text, list) = (nil, [])
            }
        }

        func integer(_ range: ClosedRange<Int64>) -> Int64? {
            guard let text, let value = Int64(text), range.contains(value) else { return nil }
            return value
        }
    }

    private mutating func set(_ name: String, _ value: Value, param: String) throws(HTTPFault) {
        func need<Result>(_ result: Result?, _ expected: String) throws(HTTPFault) -> Result {
            guard let result else { throw .invalid("\(param) is \(expected).", param: param) }
            return result
        }
        let prices: ClosedRange<Int64> = 0...TokenPrices.amountMax
        switch name {
        case "deadline_ms":
            let range = 1...Int64(WireLimits.deadlineMsMax)
            submit.deadline = .milliseconds(
                try need(value.integer(range), "1 to \(WireLimits.deadlineMsMax) milliseconds"))
        case "budget_micro_usd":
            submit.budget = MicroUSD(
                try need(value.integer(1...1 << 62), "a whole number of micro-USD above 0"))
        case "preference":
            submit.preference = try need(
                Self.preferences[value.text ?? ""], "balanced, price, latency or throughput")
        case "input_price_ceiling":
            submit.inputPriceCeiling = MicroUSD(
                try need(value.integer(prices), "micro-USD per million tokens"))
        case "output_price_ceiling":
            submit.outputPriceCeiling = MicroUSD(
                try need(value.integer(prices), "micro-USD per million tokens"))
        case "region":
            let text = try need(value.text, "1 to 16 printable ASCII characters")
            _ = try need(ShortText(text), "1 to 16 printable ASCII characters")
            submit.region = text
        case "data_policy":
            submit.dataPolicy = try need(
                Self.dataPolicies[value.text ?? ""], "unstated, no-training or no-retention")
        case "supplier_types":
            let expected = "a list of " + Self.supplyTypes.keys.sorted().joined(separator: ", ")
            var types: Set<SupplyType> = []
            for name in value.list { types.insert(try need(Self.supplyTypes[name], expected)) }
            submit.supplyTypes = try need(types.isEmpty ? nil : types, expected)
        case "priority":
            submit.priority = UInt8(try need(value.integer(0...255), "0 to 255"))
        case "idempotency_key":
            let key = try need(value.text, "1 to 64 bytes")
            submit.idempotencyKey = try need(
                (1...64).contains(key.utf8.count) ? key : nil, "1 to 64 bytes")
        case "traceparent":
            // A trace that cannot be read is left out, as its specification asks.
            submit.trace = value.text.flatMap { SubmitOptions.Trace(traceparent: $0) }
        case "models":
            let isUsable =
                (1...Self.modelsMax).contains(value.list.count) && !value.list.contains("")
            models = try need(
                isUsable ? value.list : nil, "a list of 1 to \(Self.modelsMax) names")
        default:
            throw .invalid("\(param) is not an option of Sluice.", param: param)
        }
    }

    private static let preferences: [String: Preference] = [
        "balanced": .balanced, "price": .price, "latency": .latency, "throughput": .throughput,
    ]
    private static let dataPolicies: [String: DataPolicy] = [
        "unstated": .unstated, "no-training": .noTraining, "no-retention": .noRetention,
    ]
    private static let supplyTypes: [String: SupplyType] = Dictionary(
        uniqueKeysWithValues: SupplyType.allCases.map { ("\($0)", $0) })
}

extension Substring {
    fileprivate var trimmed: String {
        String(drop { $0 == " " }.reversed().drop { $0 == " " }.reversed())
    }
}

extension SubmitOptions.Trace {
    /// Reads `00-TRACE-SPAN-FLAGS` (W3C Trace Context); nil for anything else.
    package init?(traceparent: String) {
        let parts = traceparent.split(separator: "-", omittingEmptySubsequences: false)
        guard parts.count >= 4, parts[0].utf8.count == 2, parts[0] != "ff",
            parts[1].utf8.count == 32, parts[2].utf8.count == 16,
            let high = UInt64(parts[1].prefix(16), radix: 16),
            let low = UInt64(parts[1].suffix(16), radix: 16),
            let span = UInt64(parts[2], radix: 16), high | low != 0, span != 0
        else { return nil }
        self.init(traceID: (high, low), parentSpan: span)
    }
}
