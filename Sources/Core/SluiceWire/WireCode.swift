/// Why a stream or a connection ended: the closed table of error codes. It travels in END, ERROR,
/// CANCEL and GO-AWAY. Numbers are fixed for ever; see `Protocol/Specification.md`.
public enum WireCode: UInt16, Sendable, CaseIterable {
    /// A task ended as it should.
    case completed = 0

    // Connection scope: ERROR, then the connection is closed.
    /// The peer broke a rule that has no code of its own.
    case protocolViolation = 1
    /// A header names a payload above 16,372 bytes.
    case frameTooLarge = 2
    /// A kind that this version does not know came without the ignorable flag.
    case unknownKind = 3
    /// A control payload is too short, too long or holds a value out of range.
    case malformedPayload = 4
    /// A known kind came in a state or from a role that may not send it.
    case unexpectedFrame = 5
    /// No common version.
    case versionMismatch = 6
    /// The credential is not known, is expired or was revoked.
    case unauthenticated = 7
    /// The credential does not allow the role it was used for.
    case forbidden = 8
    /// A stream was opened whose slot is still taken.
    case streamInUse = 9
    /// A stream number of 0 or above `maxStreams` where a task stream is meant.
    case streamOutOfRange = 10
    /// Data beyond the credit that was given.
    case creditExceeded = 11
    /// An offer, grant or withdraw that contradicts itself or what was offered before.
    case invalidOffer = 12
    /// TLS and HELLO were not done in time.
    case handshakeTimeout = 13
    /// A ping stayed without an answer.
    case keepAliveTimeout = 14
    /// Too many frames that move nothing.
    case flood = 15
    /// The peer does not read what it was sent.
    case stalledReader = 16
    /// No room for another connection.
    case tooManyConnections = 17
    /// The broker has a fault of its own.
    case internalFault = 18
    /// The broker is going away; connect again, elsewhere or later.
    case shuttingDown = 19

    // Stream scope: how an accepted task ended when not completed.
    /// The client cancelled.
    case cancelled = 32
    /// The client did not read or give credit for 30 s.
    case stalled = 33
    /// The deadline passed.
    case deadlineExceeded = 34
    /// The supplier's connection was lost after output had been forwarded, or too often before.
    case supplierLost = 35
    /// The supplier reported that it cannot complete the task.
    case supplierFailed = 36
    /// The budget or wallet is used up.
    case budgetExhausted = 37
    /// The broker drained and the task did not end in time.
    case drained = 38

    // Stream scope: refusals. The task was not accepted; nothing is charged.
    /// No supplier has offered this model.
    case modelUnknown = 48
    /// The model is known, but nobody serves it now within the task's filters.
    case noSupplier = 49
    /// The queue is full.
    case queueFull = 50
    /// A rate or concurrency limit of the account or key.
    case rateLimited = 51
    /// A field or operation that this version or deployment does not support.
    case unsupported = 52
    /// The declared body is above the broker's limit.
    case bodyTooLarge = 53
    /// BODY bytes contradict the declared size, or a BODY before the last is below 1 KiB.
    case bodyMismatch = 54
    /// The body arena has no room now.
    case bodyArenaFull = 55
    /// The body did not arrive in time.
    case uploadTimeout = 56
    /// The journal has no room now.
    case journalFull = 57
    /// The broker takes no new tasks.
    case draining = 58
    /// A field of SUBMIT is out of range.
    case invalidRequest = 59
    /// The account cannot pay for the task.
    case insufficientFunds = 60
    /// The account may not use this model or feature.
    case notPermitted = 61
    /// An earlier task of the account has the same idempotency key: no second one runs. The QUEUED
    /// before it names that task, and usage and cost are that task's once it has ended ([Q15]).
    case duplicate = 62

    // Stream scope: a supplier's END.
    /// The supplier did not start the task (an ASSIGN that crossed a WITHDRAW): no strike.
    case declined = 80
    /// The engine behind the supplier is unreachable or broke off; another supplier may do.
    case upstreamUnavailable = 81
    /// The engine refused the request itself; no other supplier would do better.
    case upstreamRefused = 82
}

/// What a code applies to.
package enum WireScope: Sendable {
    case connection
    case stream
}

/// Whether sending the same again can help.
public enum RetryAdvice: Sendable {
    /// The same request would fail again.
    case never
    /// At once, on another connection or supplier.
    case now
    /// After a while; END says how long where the broker knows.
    case later
}

extension WireCode {
    package var scope: WireScope {
        rawValue >= 1 && rawValue < 32 ? .connection : .stream
    }

    /// True for the codes that say why an accepted task was ended early: those a CANCEL may carry
    /// ([N1]).
    package var endsAcceptedTask: Bool { rawValue >= 32 && rawValue < 48 }

    /// True for a task that was never accepted ([N2]).
    package var isRefusal: Bool { rawValue >= 48 && rawValue < 80 }

    /// Whether a retry can help.
    public var retry: RetryAdvice {
        switch self {
        case .completed, .cancelled, .deadlineExceeded, .budgetExhausted, .stalled: .never
        case .protocolViolation, .frameTooLarge, .unknownKind, .malformedPayload,
            .unexpectedFrame, .versionMismatch, .unauthenticated, .forbidden, .streamInUse,
            .streamOutOfRange, .creditExceeded, .invalidOffer, .flood:
            .never
        case .handshakeTimeout, .keepAliveTimeout, .stalledReader, .internalFault,
            .shuttingDown:
            .now
        case .tooManyConnections: .later
        case .supplierLost, .supplierFailed, .drained: .now
        case .modelUnknown, .noSupplier, .queueFull, .rateLimited, .bodyArenaFull, .journalFull:
            .later
        case .draining: .now
        case .uploadTimeout: .now
        case .unsupported, .bodyTooLarge, .bodyMismatch, .invalidRequest, .insufficientFunds,
            .notPermitted, .duplicate:
            .never
        case .declined, .upstreamUnavailable: .now
        case .upstreamRefused: .never
        }
    }
}

/// Why a completed answer stopped.
public enum FinishReason: UInt8, Sendable {
    /// The model ended its answer.
    case stop = 0
    /// The output limit was reached.
    case length = 1
    /// Anything else (tool calls, a filter); the payload says more.
    case other = 2
}

/// Bytes from a peer that break the specification. Closed; carries no byte of any payload.
@usableFromInline
package enum WireError: Error, Equatable, Sendable {
    /// From the header alone.
    case frameTooLarge
    case unknownKind
    case malformedPayload(PayloadFault)

    /// The code that the peer is told.
    package var code: WireCode {
        switch self {
        case .frameTooLarge: .frameTooLarge
        case .unknownKind: .unknownKind
        case .malformedPayload: .malformedPayload
        }
    }
}

/// What is wrong with a control payload.
@usableFromInline
package enum PayloadFault: String, Sendable {
    /// A field is not whole.
    case truncated
    /// Bytes are left after the last field.
    case trailingBytes
    /// A number lies outside its range or names no case of its table.
    case valueOutOfRange
    /// Text is not of the allowed form.
    case invalidText
    /// An extension is cut off, repeated, out of order or of the wrong length ([X1], [X4]).
    case badExtension
    /// An extension marked critical is not known ([X2]).
    case unknownCriticalExtension
}
