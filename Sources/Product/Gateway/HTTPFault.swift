package import HTTPTypes
import JSONScanning
package import SluiceClient
package import SluiceWire

/// An answer to an HTTP request other than the one that was asked for: the status and the error
/// object that OpenAI's clients know. Holds no byte of a prompt, but may hold the body of an
/// engine's own error, which goes to the client that caused it and nowhere else.
package struct HTTPFault: Error, Equatable {
    package var status: HTTPResponse.Status
    /// For a person.
    package var message: String
    /// OpenAI's kind of error.
    package var type: String
    /// The member of the request that is wrong.
    package var param: String?
    /// For programs.
    package var code: String
    /// When a retry can succeed, where that is known.
    package var retryAfter: Duration?
    /// The task that ended so, where one was accepted.
    package var task: TaskID?
    /// The engine's own error body, a JSON object, sent instead of the members above.
    package var engineBody: [UInt8]?

    package init(
        _ status: HTTPResponse.Status, _ message: String, type: String, param: String? = nil,
        code: String, retryAfter: Duration? = nil, engineBody: [UInt8]? = nil
    ) {
        self.status = status
        self.message = message
        self.type = type
        self.param = param
        self.code = code
        self.retryAfter = retryAfter
        self.engineBody = engineBody
    }

    /// A request that is wrong by itself: 400.
    package static func invalid(_ message: String, param: String? = nil) -> HTTPFault {
        HTTPFault(
            .badRequest, message, type: "invalid_request_error", param: param,
            code: "invalid_request")
    }

    /// The error object as JSON.
    package var body: [UInt8] {
        if let engineBody { return engineBody }
        return JSONValue.object([
            .init(
                "error",
                [
                    "message": .string(message), "type": .string(type),
                    "param": param.map { .string($0) } ?? .null, "code": .string(code),
                ])
        ]).encoded
    }

    /// Headers that belong to it.
    package var headers: HTTPFields {
        var fields = HTTPFields()
        fields[.contentType] = "application/json"
        if let retryAfter {
            let milliseconds = max(1, retryAfter.roundedUpMilliseconds)
            fields[.retryAfter] = String((milliseconds + 999) / 1_000)
            fields[.retryAfterMs] = String(milliseconds)
        }
        if let task { fields[.requestID] = task.description }
        if status == .unauthorized { fields[.wwwAuthenticate] = "Bearer" }
        return fields
    }
}

extension HTTPResponse.Status {
    /// 402.
    fileprivate static let paymentRequired = HTTPResponse.Status(
        code: 402, reasonPhrase: "Payment Required")
}

extension HTTPField.Name {
    /// The wait that OpenAI's clients prefer, being finer.
    package static let retryAfterMs = wellKnown("retry-after-ms")
    /// The task's identity, under the name that OpenAI's clients show in errors.
    package static let requestID = wellKnown("x-request-id")
    package static let idempotencyKey = wellKnown("idempotency-key")
    package static let traceparent = wellKnown("traceparent")

    /// A name written in this source.
    package static func wellKnown(_ name: String) -> HTTPField.Name {
        guard let field = HTTPField.Name(name) else { preconditionFailure("not a header: \(name)") }
        return field
    }
}

extension Duration {
    /// Whole milliseconds, rounded up; 0 for a negative duration.
    package var roundedUpMilliseconds: Int64 {
        guard self > .zero else { return 0 }
        let (seconds, attoseconds) = components
        return seconds * 1_000 + (attoseconds + 999_999_999_999_999) / 1_000_000_000_000_000
    }
}

extension HTTPFault {
    /// What a task's end means over HTTP. `engineBody` is what came as the engine's error.
    package init(_ error: SluiceError, engineBody: [UInt8] = []) {
        guard let code = error.code else {
            self.init(
                .badGateway,
                "The connection to the broker was lost; the request may have run and was not repeated.",
                type: "api_error", code: "connection_lost")
            return
        }
        self = Self.table(code)
        task = error.receipt.task
        if case .rejected(let rejection) = error { retryAfter = rejection.retryAfter }
        if case .duplicate(let receipt) = error, let task = receipt.task {
            message += " It was \(task)."
        }
        if code == .upstreamRefused, !engineBody.isEmpty {
            self.engineBody = Self.errorObject(engineBody)
        }
    }

    /// The engine's body as it is where it is an object with `error`, else as that member.
    private static func errorObject(_ bytes: [UInt8]) -> [UInt8]? {
        guard let value = try? JSONValue(parsing: bytes), value.members != nil else { return nil }
        if value.present("error") != nil { return bytes }
        return Array(#"{"error":"#.utf8) + bytes + [UInt8(ascii: "}")]
    }

    private static func table(_ code: WireCode) -> HTTPFault {
        switch code {
        case .unauthenticated:
            HTTPFault(
                .unauthorized, "The API key is unknown, expired or revoked.",
                type: "authentication_error", code: "invalid_api_key")
        case .forbidden, .notPermitted:
            HTTPFault(
                .forbidden, "The key may not do this.", type: "permission_error",
                code: code == .forbidden ? "forbidden" : "not_permitted")
        case .insufficientFunds:
            HTTPFault(
                .paymentRequired, "The account's balance does not cover this request.",
                type: "insufficient_quota", code: "insufficient_funds")
        case .budgetExhausted:
            HTTPFault(
                .paymentRequired, "The budget or balance was used up.",
                type: "insufficient_quota", code: "budget_exhausted")
        case .modelUnknown:
            HTTPFault(
                .notFound, "No supplier offers this model.", type: "invalid_request_error",
                param: "model", code: "model_not_found")
        case .duplicate:
            HTTPFault(
                .conflict, "An earlier request had this idempotency key; this one did not run.",
                type: "invalid_request_error", code: "duplicate")
        case .bodyTooLarge: .bodyTooLarge
        case .invalidRequest, .bodyMismatch:
            HTTPFault.invalid("A field of the request is out of range.")
        case .upstreamRefused:
            HTTPFault(
                .badRequest, "The engine refused the request.", type: "invalid_request_error",
                code: "upstream_refused")
        case .rateLimited:
            HTTPFault(
                .tooManyRequests, "A rate or concurrency limit was reached.",
                type: "rate_limit_error", code: "rate_limited")
        case .queueFull:
            HTTPFault(
                .tooManyRequests, "All suppliers of this model are busy and the queue is full.",
                type: "rate_limit_error", code: "queue_full")
        case .noSupplier:
            HTTPFault(
                .serviceUnavailable,
                "No supplier serves this model now within the request's terms.",
                type: "api_error", code: "no_supplier")
        case .bodyArenaFull, .journalFull:
            HTTPFault(
                .serviceUnavailable, "The broker is at its limit.", type: "api_error",
                code: code == .journalFull ? "journal_full" : "body_arena_full")
        case .draining, .drained, .shuttingDown:
            HTTPFault(
                .serviceUnavailable, "The broker is shutting down.", type: "api_error",
                code: "draining")
        case .unsupported:
            HTTPFault(
                .notImplemented, "This operation is not supported here.",
                type: "invalid_request_error", code: "unsupported")
        case .supplierLost:
            HTTPFault(
                .badGateway, "The supplier was lost.", type: "api_error", code: "supplier_lost")
        case .upstreamUnavailable:
            HTTPFault(
                .badGateway, "The supplier's engine could not complete the request.",
                type: "api_error", code: "upstream_unavailable")
        case .deadlineExceeded:
            HTTPFault(
                .gatewayTimeout, "The request's deadline passed.", type: "api_error",
                code: "deadline_exceeded")
        case .stalled:
            HTTPFault(
                .requestTimeout, "The answer was not read.", type: "api_error", code: "stalled")
        case .uploadTimeout:
            HTTPFault(
                .requestTimeout, "The request did not reach the broker in time.",
                type: "api_error", code: "upload_timeout")
        case .cancelled:
            HTTPFault(
                .serviceUnavailable, "The request was cancelled.", type: "api_error",
                code: "cancelled")
        default:
            HTTPFault(
                .badGateway, "The supplier could not complete the request.", type: "api_error",
                code: "supplier_failed")
        }
    }

    package static let bodyTooLarge = HTTPFault(
        .contentTooLarge, "The request's body is too large.", type: "invalid_request_error",
        code: "body_too_large")

    /// No broker has answered: the key may be right and the request too.
    package static let noBroker = HTTPFault(
        .serviceUnavailable, "No broker can be reached now.", type: "api_error",
        code: "broker_unreachable", retryAfter: .seconds(2))

    package static let noKey = HTTPFault(
        .unauthorized, "An API key is needed: Authorization: Bearer KEY.",
        type: "authentication_error", code: "missing_api_key")

    /// The gateway holds as many requests or clients as it may.
    package static let overloaded = HTTPFault(
        .serviceUnavailable, "The gateway is at its limit.", type: "api_error",
        code: "gateway_overloaded", retryAfter: .seconds(1))
}
