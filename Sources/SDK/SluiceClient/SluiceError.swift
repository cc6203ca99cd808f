public import SluiceWire

/// What a task delivered and cost by the time it ended.
public struct Receipt: Hashable, Sendable {
    /// The task's identity in records, once the broker had accepted it.
    public var task: TaskID?
    /// Tokens that were delivered, and the input that is billed.
    public var usage: Usage
    /// What was charged; nil where the broker could not say.
    public var cost: MicroUSD?

    /// Makes a receipt.
    public init(task: TaskID? = nil, usage: Usage = Usage(), cost: MicroUSD? = nil) {
        self.task = task
        self.usage = usage
        self.cost = cost
    }
}

/// Why the broker did not accept a task now.
public struct Rejection: Hashable, Sendable {
    /// The reason.
    public var code: WireCode
    /// When a retry can succeed, where the broker knows.
    public var retryAfter: Duration?

    /// Makes a rejection.
    public init(code: WireCode, retryAfter: Duration? = nil) {
        self.code = code
        self.retryAfter = retryAfter
    }
}

/// How a task ended other than as it should. Closed; every case says what happened, what was
/// delivered and charged, and by `retry` whether trying again can help. No case holds a byte of a
/// prompt or an answer.
public enum SluiceError: Error, Hashable, Sendable {
    /// Not accepted and not charged; the same request can succeed later.
    case rejected(Rejection)
    /// Not accepted and not charged; the same request would be refused again.
    case refused(WireCode)
    /// An earlier task of the account has the same idempotency key: nothing ran and nothing more is
    /// charged. The receipt is that task's; usage and cost are 0 while it is still open, and its
    /// identity is missing where the broker answered before the body was complete.
    case duplicate(Receipt)
    /// The supplier's connection was lost after output had been delivered.
    case supplierLost(Receipt)
    /// The supplier or the engine behind it could not complete the task.
    case supplierFailed(WireCode, Receipt)
    /// The task's budget or the account's wallet is used up.
    case budgetExhausted(Receipt)
    /// The deadline passed, before or after the task was accepted.
    case deadlineExceeded(Receipt)
    /// The caller cancelled.
    case cancelled(Receipt)
    /// The answer was not read for 30 s.
    case stalled(Receipt)
    /// The broker shut down before the task was done.
    case brokerDrained(Receipt)
    /// The connection to the broker was lost. The task may have gone on without a reader; it is
    /// never sent again by itself. `usage` is what had arrived.
    case connectionLost(Receipt)

    /// What was delivered and charged; empty for a task that was not accepted, and that of the
    /// earlier task for a duplicate.
    public var receipt: Receipt {
        switch self {
        case .rejected, .refused: Receipt()
        case .duplicate(let receipt), .supplierLost(let receipt), .supplierFailed(_, let receipt),
            .budgetExhausted(let receipt), .deadlineExceeded(let receipt),
            .cancelled(let receipt), .stalled(let receipt), .brokerDrained(let receipt),
            .connectionLost(let receipt):
            receipt
        }
    }

    /// The protocol's number for what happened; nil for a lost connection.
    public var code: WireCode? {
        switch self {
        case .rejected(let rejection): rejection.code
        case .refused(let code), .supplierFailed(let code, _): code
        case .duplicate: .duplicate
        case .supplierLost: .supplierLost
        case .budgetExhausted: .budgetExhausted
        case .deadlineExceeded: .deadlineExceeded
        case .cancelled: .cancelled
        case .stalled: .stalled
        case .brokerDrained: .drained
        case .connectionLost: nil
        }
    }

    /// Whether sending the same request again can help.
    public var retry: RetryAdvice { code?.retry ?? .now }

    /// What END says, where it does not say `completed`.
    init?(_ end: EndFrame, task: TaskID?) {
        let receipt = Receipt(task: task, usage: end.usage, cost: end.cost)
        switch end.code {
        case .completed: return nil
        case .duplicate: self = .duplicate(receipt)
        case .cancelled: self = .cancelled(receipt)
        case .stalled: self = .stalled(receipt)
        case .deadlineExceeded: self = .deadlineExceeded(receipt)
        case .supplierLost: self = .supplierLost(receipt)
        case .budgetExhausted: self = .budgetExhausted(receipt)
        case .drained: self = .brokerDrained(receipt)
        case .supplierFailed, .declined, .upstreamUnavailable, .upstreamRefused:
            self = .supplierFailed(end.code, receipt)
        default:
            switch end.code.retry {
            case .never: self = .refused(end.code)
            case .now, .later:
                self = .rejected(
                    Rejection(
                        code: end.code,
                        retryAfter: end.retryAfterMs == 0
                            ? nil : .milliseconds(Int64(end.retryAfterMs))))
            }
        }
    }
}

extension SluiceError: CustomStringConvertible {
    /// The case and its numbers.
    public var description: String {
        let usage = receipt.usage
        let delivered = "\(usage.outputTokens) tokens delivered"
        return switch self {
        case .rejected(let rejection):
            "rejected: \(rejection.code)"
                + (rejection.retryAfter.map { ", retry after \($0)" } ?? "")
        case .refused(let code): "refused: \(code)"
        case .duplicate(let receipt):
            "duplicate of \(receipt.task?.description ?? "an earlier task")"
        case .supplierLost: "supplier lost, \(delivered)"
        case .supplierFailed(let code, _): "supplier failed: \(code), \(delivered)"
        case .budgetExhausted: "budget exhausted, \(delivered)"
        case .deadlineExceeded: "deadline exceeded, \(delivered)"
        case .cancelled: "cancelled, \(delivered)"
        case .stalled: "answer not read, \(delivered)"
        case .brokerDrained: "broker drained, \(delivered)"
        case .connectionLost: "connection lost, \(delivered)"
        }
    }
}
