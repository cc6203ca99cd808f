import Gateway
import HTTPTypes
import JSONScanning
import SluiceClient
import SluiceWire
import Testing

private func bytes(_ text: String) -> [UInt8] { Array(text.utf8) }
private func text(_ bytes: [UInt8]) -> String { String(decoding: bytes, as: UTF8.self) }

/// The headers that a client would send.
private func fields(_ pairs: [String: String]) -> HTTPFields {
    var fields = HTTPFields()
    for (name, value) in pairs {
        guard let name = HTTPField.Name(name) else { continue }
        fields[name] = value
    }
    return fields
}

@Suite struct ClientRequestTests {
    @Test("a request goes on byte for byte, spaces, unknown members and large numbers included")
    func untouched() throws {
        let body = bytes(
            #"  { "model" : "m", "x_unknown": {"a":[1e400, 12345678901234567890]}, "tools":[{}] } "#
        )
        let request = try ClientRequest(body)
        #expect(request.payload == body)
        #expect(request.model == "m")
        #expect(!request.isStreaming)
    }

    @Test(
        "the member sluice is taken out with its comma wherever it stands",
        arguments: [
            (#"{"sluice":{"priority":1},"model":"m"}"#, #"{"model":"m"}"#),
            (#"{ "sluice" : {} , "model":"m"}"#, #"{ "model":"m"}"#),
            (#"{"model":"m", "sluice":{"a":"}"}, "n":1}"#, #"{"model":"m", "n":1}"#),
            (#"{"model":"m" ,"sluice":null}"#, #"{"model":"m"}"#),
        ])
    func sluiceIsRemoved(_ body: String, _ expected: String) throws {
        let request = try ClientRequest(bytes(body))
        #expect(text(request.payload) == expected)
        #expect(try JSONValue(parsing: request.payload)["model"] == "m")
    }

    @Test("the limit is what all choices may bring together, by either name")
    func limit() throws {
        let one = try ClientRequest(bytes(#"{"model":"m","max_tokens":7,"n":3}"#))
        #expect(one.maxOutputTokens == 21)
        let other = try ClientRequest(bytes(#"{"model":"m","max_completion_tokens":9}"#))
        #expect(other.maxOutputTokens == 9)
        let none = try ClientRequest(bytes(#"{"model":"m","max_tokens":null}"#))
        #expect(none.maxOutputTokens == nil)
    }

    @Test(
        "embeddings are counted by their inputs",
        arguments: [
            (#""a""#, 1), (#"["a","b"]"#, 2), ("[1,2,3]", 1), ("[[1],[2,3]]", 2), ("[]", 0),
            ("{}", nil), ("7", nil), ("null", nil),
        ] as [(String, Int?)])
    func inputs(_ input: String, _ count: Int?) throws {
        let request = try ClientRequest(bytes(#"{"model":"m","input":\#(input)}"#))
        #expect(request.inputs == count)
        #expect(try ClientRequest(bytes(#"{"model":"m"}"#)).inputs == nil)
    }

    @Test("n is a whole number, or it is odd")
    func choices() throws {
        func read(_ n: String) throws -> String {
            let request = try ClientRequest(bytes(#"{"model":"m","n":\#(n)}"#))
            return "\(request.choices ?? -1) \(request.hasOddChoices)"
        }
        #expect(try read("3") == "3 false")
        #expect(try read("null") == "-1 false")
        #expect(try read("1.5") == "-1 true")
        #expect(try read(#""3""#) == "-1 true")
    }

    @Test(
        "what is no request is refused with the member that is wrong",
        arguments: [
            ("", nil), ("[]", nil), (#"{"model":"m""#, nil), (#"{"model":"m"} x"#, nil),
            (#"{"messages":[]}"#, "model"), (#"{"model":7}"#, "model"),
            (#"{"model":"m","model":"n"}"#, "model"), (#"{"model":"m","stream":1}"#, "stream"),
        ] as [(String, String?)])
    func refused(_ body: String, _ param: String?) {
        let fault = #expect(throws: HTTPFault.self) { try ClientRequest(bytes(body)) }
        #expect(fault?.status == .badRequest)
        #expect(fault?.param == param)
    }

    @Test("no text of a prompt is in the error about it")
    func noContent() {
        let fault = #expect(throws: HTTPFault.self) {
            try ClientRequest(bytes(#"{"model":"m","messages":["canary"#))
        }
        let said = text(fault?.body ?? [])
        #expect(!said.contains("canary"))
    }
}

@Suite struct RequestOptionsTests {
    @Test("headers and the member sluice say the same, and the member wins")
    func places() throws {
        let headers = fields([
            "Sluice-Deadline-Ms": "1500", "Sluice-Budget-Micro-USD": "2000",
            "Sluice-Preference": "price", "Sluice-Region": "eu-west", "Sluice-Priority": "9",
            "Sluice-Supplier-Types": "community, dedicated", "Idempotency-Key": "k1",
            "Sluice-Data-Policy": "no-retention", "Sluice-Models": "a, b",
            "traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
        ])
        let extra: JSONValue = ["preference": "latency", "input_price_ceiling": .number(5)]
        let options = try RequestOptions(headers: headers, extra: extra)
        #expect(options.submit.deadline == .milliseconds(1_500))
        #expect(options.submit.budget == 2_000)
        #expect(options.submit.preference == .latency)
        #expect(options.submit.region == "eu-west")
        #expect(options.submit.priority == 9)
        #expect(options.submit.supplyTypes == [.community, .dedicated])
        #expect(options.submit.idempotencyKey == "k1")
        #expect(options.submit.dataPolicy == .noRetention)
        #expect(options.submit.inputPriceCeiling == 5)
        #expect(options.submit.trace?.traceID.low == 0x8448_eb21_1c80_319c)
        #expect(options.models == ["a", "b"])
    }

    @Test(
        "a value out of range and an option that does not exist are refused by name",
        arguments: [
            ["deadline_ms": .number(0)], ["deadline_ms": "soon"], ["budget_micro_usd": .number(-1)],
            ["preference": "fast"], ["region": ""], ["data_policy": "none"],
            ["supplier_types": ["alien"]], ["supplier_types": []], ["priority": .number(256)],
            ["idempotency_key": ""], ["models": []], ["models": [""]], ["deadline": .number(5)],
        ] as [JSONValue])
    func refused(_ extra: JSONValue) {
        let fault = #expect(throws: HTTPFault.self) {
            try RequestOptions(headers: HTTPFields(), extra: extra)
        }
        #expect(fault?.status == .badRequest)
        #expect(fault?.param == "sluice.\(extra.members?.first?.name ?? "")")
    }

    @Test("a trace that cannot be read is left out")
    func trace() throws {
        for text in ["", "00-0-0-01", "ff-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"] {
            let options = try RequestOptions(
                headers: fields(["traceparent": text]), extra: nil)
            #expect(options.submit.trace == nil)
        }
    }
}

@Suite struct ModelBookTests {
    @Test("aliases, fallbacks and a client's own list become targets in order, each once")
    func targets() throws {
        let book = try ModelBook(["fast=a,b", "c"])
        #expect(try ModelBook(["fast=a|b", "c"]) == book)
        #expect(book.targets(of: "fast", listed: []) == ["a", "b"])
        #expect(book.targets(of: "c", listed: []) == ["c"])
        #expect(book.targets(of: "other", listed: []) == ["other"])
        #expect(book.targets(of: "x", listed: ["fast", "b", "z"]) == ["a", "b", "z"])
    }

    @Test("a closed book knows only what it lists")
    func closed() throws {
        var book = try ModelBook(["fast=a"])
        book.isClosed = true
        #expect(book.targets(of: "a", listed: []) == nil)
        #expect(book.targets(of: "fast", listed: ["other"]) == nil)
    }

    @Test("text that names no model is refused", arguments: ["", "=a", "a=", "a=b,,c"])
    func malformed(_ text: String) {
        #expect(throws: ModelBook.Fault.malformed) { try ModelBook([text]) }
        #expect(throws: ModelBook.Fault.repeated) { try ModelBook(["a", "a=b"]) }
    }
}

@Suite struct HTTPFaultTests {
    @Test(
        "every end of a task has its status",
        arguments: [
            (.unauthenticated, 401), (.insufficientFunds, 402), (.budgetExhausted, 402),
            (.forbidden, 403), (.notPermitted, 403), (.modelUnknown, 404), (.duplicate, 409),
            (.bodyTooLarge, 413), (.invalidRequest, 400), (.upstreamRefused, 400),
            (.rateLimited, 429), (.queueFull, 429), (.noSupplier, 503), (.bodyArenaFull, 503),
            (.journalFull, 503), (.draining, 503), (.drained, 503), (.unsupported, 501),
            (.supplierLost, 502), (.supplierFailed, 502), (.upstreamUnavailable, 502),
            (.deadlineExceeded, 504),
        ] as [(WireCode, Int)])
    func statuses(_ code: WireCode, _ status: Int) {
        let error: SluiceError =
            switch code {
            case .budgetExhausted: .budgetExhausted(Receipt())
            case .duplicate: .duplicate(Receipt())
            case .drained: .brokerDrained(Receipt())
            case .supplierLost: .supplierLost(Receipt())
            case .deadlineExceeded: .deadlineExceeded(Receipt())
            case .supplierFailed, .upstreamRefused, .upstreamUnavailable:
                .supplierFailed(code, Receipt())
            default: .refused(code)
            }
        let fault = HTTPFault(error)
        #expect(fault.status.code == status)
        let object = try? JSONValue(parsing: fault.body)["error"]
        #expect(object?["message"]?.text?.isEmpty == false)
        #expect(object?["type"]?.text != nil && object?["code"]?.text != nil)
        #expect(object?["param"] != nil)
    }

    @Test("the wait is told in whole seconds, rounded up, and in milliseconds")
    func retryAfter() {
        let rejection = Rejection(code: .queueFull, retryAfter: .milliseconds(1_200))
        let headers = HTTPFault(.rejected(rejection)).headers
        #expect(headers[.retryAfter] == "2")
        #expect(headers[.retryAfterMs] == "1200")
        #expect(HTTPFault(.rejected(Rejection(code: .queueFull))).headers[.retryAfter] == nil)
    }

    @Test("an engine's own error body is passed through, and wrapped only where it has no error")
    func engineBody() {
        let error = SluiceError.supplierFailed(.upstreamRefused, Receipt())
        let own = bytes(#"{"error": {"message":"too long","code":42}}"#)
        #expect(HTTPFault(error, engineBody: own).body == own)
        let bare = HTTPFault(error, engineBody: bytes(#"{"detail":"no"}"#)).body
        #expect(text(bare) == #"{"error":{"detail":"no"}}"#)
        let noise = HTTPFault(error, engineBody: bytes("<html>")).body
        let said = text(noise)
        #expect(!said.contains("html"))
    }
}
