import SluiceRecordFormat
package import SluiceWire

/// One task at its client's shard: upload, answer and end.
package struct ClientStream {
    package enum Phase: UInt8 {
        /// The entry is free.
        case idle
        /// The body is arriving; the dispatcher has not accepted.
        case uploading
        /// Accepted; waits for a supplier.
        case queued
        /// A supplier has it.
        case running
        /// The supplier's END came; queued TOKENS go out first.
        case draining
        /// The end is decided, but the supplier has not answered CANCEL.
        case cancelling
        /// The end was reported; the dispatcher writes it down.
        case finishing
    }

    // What every TOKENS frame touches stands together, so that it shares a cache line.
    package internal(set) var phase: Phase = .idle
    var isReady = false
    /// In the shard's list of streams with staged frames.
    var isStaging = false
    var id = StreamID.connection
    package internal(set) var generation: UInt32 = 0
    /// `noIndex` once the client's connection is gone.
    var connection: UInt32 = noIndex
    /// A supplier's end has the task, or is about to hear of it; at which shard.
    var isBound = false
    var supplierShard: UInt16 = 0
    var nextReady = noIndex
    var reserveBytes: UInt32 = 0
    /// Absolute limit of the answer in bytes, as the client gave it.
    var clientLimitBytes: UInt64 = 0
    /// TOKENS bytes (12 + payload) put into the queue and sealed; since the last dispatch.
    var enqueuedBytes: UInt64 = 0
    var sealedBytes: UInt64 = 0
    /// The limit that the supplier's end was told last.
    var limitToldBytes: UInt64 = 0
    /// The part of `sealedBytes` whose record is not sealed yet.
    var stagedBytes: UInt64 = 0
    /// Delivered, and not yet told to the open-task table.
    var staged = SealedTokens.none
    /// Tokens of the frames that were put into the queue and may go out.
    var enqueuedTokens: UInt64 = 0
    /// From so many on every frame is looked at (`ShardMachine+Gate`); `.max` = never.
    var gateTokens: UInt64 = .max
    /// The queue up to here may go out, counted as `enqueuedBytes`; `.max` = all of it.
    var gateBytes: UInt64 = .max

    /// Known once admitted.
    var task: TaskIndex = noIndex
    var deliveredTokens: UInt64 = 0
    var deliveredReasoningTokens: UInt64 = 0
    var deliveredPayloadBytes: UInt64 = 0
    /// The shell still holds body bytes of this stream.
    var holdsBody = false
    /// The supplier's end still reads the body.
    var isBodyLent = false
    /// Landing bytes that this stream holds until the dispatcher has reserved its body.
    var landingBytes: UInt32 = 0
    /// The dispatcher reserved the body: bytes above the free ones may come.
    var isAdmitted = false
    var receivedBodyBytes: UInt32 = 0
    var ttftUs: UInt64?
    /// When tokens were delivered last; means something once `ttftUs` is there.
    var deliveredUs: UInt64 = 0
    var bodyCompleteUs: UInt64 = 0

    var taskID = TaskID(instance: 0, counter: 0)
    var terms = TaskTerms(operation: .chat, encoding: .text, bodyBytes: 0)
    var trace: TraceContext?
    var started: StartedFrame?
    /// How it will end, once that is known.
    var ending: Ending?
    var submittedUs: UInt64 = 0
    var deadlineMs: UInt64 = 0
    /// The client's credit has been short since then.
    var starvedSinceMs: UInt64?
    /// What money is held for, and whether the dispatcher was asked for more.
    var held = HeldTokens.unbounded
    var isHoldAsked = false

    struct Ending {
        var status: TaskStatus
        var code: WireCode
        var finishReason: FinishReason = .other
        var claim: Usage?
        /// The supplier did not answer CANCEL in time.
        var isUnanswered = false
    }

    var queuedBytes: UInt64 { enqueuedBytes - sealedBytes }
    /// Of them, what may go out now.
    var sendableBytes: UInt64 { min(enqueuedBytes, gateBytes) - sealedBytes }

    /// Something of the answer was forwarded, nothing waits, and the gate is not near.
    func canStage(tokens: UInt16) -> Bool {
        sealedBytes > 0 && sealedBytes == enqueuedBytes
            && enqueuedTokens + UInt64(tokens) < gateTokens
    }

    /// What the shard needs to know of a stream that a frame was just put into.
    struct Enqueued {
        var id: StreamID
        var isReady: Bool
        var isAtGate: Bool
        /// Of the client's credit, beyond all that was put into the queue.
        var creditLeftBytes: UInt64
    }

    /// A frame of `cost` bytes joins the queue. One call, so that the table is entered once.
    mutating func enqueue(_ cost: UInt64, tokens: UInt16) -> Enqueued {
        enqueuedBytes += cost
        enqueuedTokens += UInt64(tokens)
        return Enqueued(
            id: id, isReady: isReady, isAtGate: enqueuedTokens >= gateTokens,
            creditLeftBytes: clientLimitBytes - min(clientLimitBytes, enqueuedBytes))
    }

    /// Counts a frame that is staged: it cannot be taken back, so it is delivered. One call, so
    /// that the table is entered once.
    mutating func stage(_ header: FrameHeader) -> Enqueued {
        sealedBytes += UInt64(header.frameBytes)
        stagedBytes += UInt64(header.frameBytes)
        staged.bytes += header.frameBytes
        staged.payloadBytes += Int(header.payloadBytes)
        staged.tokens += UInt64(header.tokens)
        if header.flags.contains(.reasoning) { staged.reasoningTokens += UInt64(header.tokens) }
        return enqueue(UInt64(header.frameBytes), tokens: header.tokens)
    }

    /// Tokens were delivered; answers how long after those before them. One call, so that the table
    /// is entered once.
    mutating func delivered(atUs nowUs: UInt64) -> UInt64? {
        let beforeUs = deliveredUs
        deliveredUs = nowUs
        return ttftUs == nil ? nil : nowUs - min(nowUs, beforeUs)
    }

    /// What the supplier may send in all: never more than the client takes, never more than the
    /// reserve beyond what left towards the client.
    var supplierLimitBytes: UInt64 {
        min(clientLimitBytes, sealedBytes - stagedBytes + UInt64(reserveBytes))
    }
}

/// One task at its supplier's shard.
package struct SupplierStream {
    package enum Phase: UInt8 {
        case idle
        /// ASSIGN or body bytes are still to be sent, or the answer is running.
        case running
        /// CANCEL went out; what still comes is discarded.
        case cancelled
        /// END did not come in time; the slot stays taken until it does.
        case quarantined
    }

    package internal(set) var phase: Phase = .idle
    var isAssignSent = false
    var isReady = false
    /// The client's stream still waits for this one.
    var isBound = false
    /// STARTED came.
    var hasStarted = false
    var client = StreamRef(shard: 0, index: noIndex, generation: 0)
    /// TOKENS bytes received, and the limit that was sent.
    var receivedBytes: UInt64 = 0
    var limitSentBytes: UInt64 = 0
    var connection: UInt32 = noIndex
    var id = StreamID.connection
    package internal(set) var generation: UInt32 = 0
    var offer = OfferID.connection
    var nextReady = noIndex
    /// Body bytes sent, and the supplier's limit.
    var sentBodyBytes: UInt32 = 0
    var bodyLimitBytes: UInt64 = 0
    /// What ASSIGN says.
    var task = TaskID(instance: 0, counter: 0)
    var terms = TaskTerms(operation: .chat, encoding: .text, bodyBytes: 0)
    var trace: TraceContext?
    var deadlineMs: UInt64 = 0
    /// The limit to be sent with ASSIGN.
    var firstLimitBytes: UInt64 = 0

    /// What to do with a TOKENS frame.
    enum TokensVerdict {
        case forward(client: StreamRef)
        /// It came after CANCEL [K9].
        case discard
        case notAssigned
        case beyondCredit
    }

    /// Counts a TOKENS frame of `cost` bytes. One call, so that the table is entered once.
    mutating func receive(_ cost: UInt64) -> TokensVerdict {
        guard isAssignSent else { return .notAssigned }
        guard receivedBytes + cost <= limitSentBytes else { return .beyondCredit }
        receivedBytes += cost
        return phase == .running ? .forward(client: client) : .discard
    }
}

/// What goes out next on a connection, chosen by the shard, moved by the shell.
package enum SendSegment {
    /// Move whole TOKENS frames of this client stream's queue, at most `atMostBytes`, and report
    /// them with `sealedTokens`. None fits: seal what there is and ask again.
    case tokens(stream: UInt32, atMostBytes: Int)
    /// Write this ASSIGN with `bodyBytes` of the body bound to supplier stream `supplier` from its
    /// start, before anything else is asked.
    case assign(StreamID, AssignFrame, supplier: UInt32, bodyBytes: Int)
    /// Write a BODY frame with `count` bytes of the body bound to supplier stream `supplier` from
    /// `offset`, before anything else is asked.
    case body(StreamID, supplier: UInt32, offset: Int, count: Int)
    /// The next frame does not fit `spaceBytes`: seal what there is and ask again.
    case needsSpace
}

/// TOKENS that are, or are about to be, in a client's record.
package struct SealedTokens: Equatable, Sendable {
    package static let none = SealedTokens(
        bytes: 0, payloadBytes: 0, tokens: 0, reasoningTokens: 0)

    package var bytes: Int
    package var payloadBytes: Int
    package var tokens: UInt64
    package var reasoningTokens: UInt64

    package init(bytes: Int, payloadBytes: Int, tokens: UInt64, reasoningTokens: UInt64) {
        self.bytes = bytes
        self.payloadBytes = payloadBytes
        self.tokens = tokens
        self.reasoningTokens = reasoningTokens
    }
}
