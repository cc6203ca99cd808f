import SluiceSession
import SluiceTransport
public import SluiceWire

/// A task to run.
public struct SupplierTask: Sendable {
    /// The body of a task; the answer is written in the same way.
    public enum Payload: Hashable, Sendable {
        /// A prompt as text; answer with `write(_:tokens:)`.
        case text(String)
        /// An OpenAI request in JSON; answer with `write(event:tokens:)`, embeddings and images
        /// with `write(part:results:)`.
        case openAI([UInt8])
    }

    /// The task's identity in records.
    public let id: TaskID
    /// The model asked for, as it was offered.
    public let model: String
    /// What is asked of the model.
    public let operation: TaskOperation
    /// The prompt or request.
    public let payload: Payload
    /// Longest prompt that is paid for; 0 = not limited.
    public let maxInputTokens: UInt32
    /// Longest answer, reasoning included; 0 = not limited. Of embeddings and images how many,
    /// never 0.
    public let maxOutputTokens: UInt32
    /// Most reasoning within the answer; 0 = not limited.
    public let maxReasoningTokens: UInt32
    /// 0…255, higher first.
    public let priority: UInt8
    /// Trace id and parent span of the caller, where it gave one.
    public let trace: (traceHigh: UInt64, traceLow: UInt64, parentSpan: UInt64)?
    private let expiresMs: UInt64
    private let clock: any SessionClock

    /// Time left until the broker cancels the task; never negative.
    public var deadlineRemaining: Duration {
        let nowMs = clock.nowMs
        return .milliseconds(Int64(clamping: expiresMs > nowMs ? expiresMs - nowMs : 0))
    }

    init(_ assignment: Assignment, model: String, clock: any SessionClock) {
        id = assignment.task
        self.model = model
        operation = assignment.terms.operation
        payload =
            switch assignment.terms.encoding {
            case .text: .text(String(decoding: assignment.body, as: UTF8.self))
            case .openAI: .openAI(assignment.body)
            }
        maxInputTokens = assignment.terms.maxInputTokens
        maxOutputTokens = assignment.terms.maxOutputTokens
        maxReasoningTokens = assignment.terms.maxReasoningTokens
        priority = assignment.terms.priority
        trace = assignment.trace.map { ($0.traceHigh, $0.traceLow, $0.span) }
        expiresMs = assignment.expiresMs
        self.clock = clock
    }
}

/// Why a piece of an answer was not taken. Closed.
public enum SupplierError: Error, Hashable, Sendable {
    /// The broker cancelled the task for this reason: stop now. The handler's task is cancelled
    /// as well.
    case cancelled(WireCode)
    /// The connection to the broker was lost: nobody waits for the answer.
    case connectionLost
    /// What was written has not the form that the task's operation and encoding ask for.
    case wrongEncoding
    /// An offer has a field out of range.
    case invalidOffer(model: String)
}

/// Thrown by a handler to end its task other than as it should.
public struct TaskFailure: Error, Hashable, Sendable {
    /// What went wrong, as far as the broker needs to know to help the task.
    public enum Reason: Hashable, Sendable {
        /// The engine is unreachable or broke off; another supplier may do.
        case upstreamUnavailable
        /// The engine refused the request itself; no other supplier would do better.
        case upstreamRefused
        /// Anything else.
        case supplierFailed
        /// The task was not started; no strike against this supplier.
        case declined

        var code: WireCode {
            switch self {
            case .upstreamUnavailable: .upstreamUnavailable
            case .upstreamRefused: .upstreamRefused
            case .supplierFailed: .supplierFailed
            case .declined: .declined
            }
        }
    }

    /// What went wrong.
    public var code: Reason
    /// What the task used; nil = what was written.
    public var usage: Usage?

    /// Makes a failure.
    public init(code: Reason, usage: Usage? = nil) {
        self.code = code
        self.usage = usage
    }
}

/// What happens to a supplier, for a log. Holds no content.
public enum SupplierEvent: Hashable, Sendable {
    /// Tasks may come from this broker now.
    case connected(broker: String)
    /// A connection was lost or did not come about; another attempt follows.
    case disconnected(broker: String, reason: String)
    /// A handler was started.
    case taskStarted(TaskID, model: String)
    /// A handler is done; `outputTokens` is what it claimed or wrote.
    case taskEnded(TaskID, code: WireCode, outputTokens: UInt32)
    /// The broker cancelled a task.
    case taskCancelled(TaskID, code: WireCode)
    /// A task did not stop within a second of being cancelled; its slot was given back under it.
    case taskOverdue(TaskID)
    /// An offer was left out because a field is out of range.
    case offerInvalid(model: String)
}
