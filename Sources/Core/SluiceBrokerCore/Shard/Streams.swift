import SluiceRecordFormat
package import SluiceWire

/// One task at its client's shard: what its frames touch. The rest is its `ClientTask`: thousands of
/// streams that each get a frame a turn then share the processor's caches.
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

    package internal(set) var phase: Phase = .idle
    var isReady = false
    /// In the shard's list of streams with staged frames that are not in their books yet.
    var isStaging = false
    /// A supplier's end has the task, or is about to hear of it; at `supplierShard`.
    var isBound = false
    /// The shell still holds body bytes of this stream.
    var holdsBody = false
    /// The supplier's end still reads the body.
    var isBodyLent = false
    var supplierShard: UInt16 = 0
    var id = StreamID.connection
    /// `noIndex` once the client's connection is gone.
    var connection: UInt32 = noIndex
    var reserveBytes: UInt32 = 0
    /// The part of `sealedBytes` whose record is not sealed yet.
    var stagedBytes: UInt32 = 0
    /// Absolute limit of the answer in bytes, as the client gave it.
    var clientLimitBytes: UInt64 = 0
    /// TOKENS bytes (12 + payload) put into the queue and sealed; since the last dispatch.
    var enqueuedBytes: UInt64 = 0
    var sealedBytes: UInt64 = 0
    /// Tokens of the frames that were put into the queue and may go out.
    var enqueuedTokens: UInt64 = 0
    /// From so many on every frame is looked at (`ShardMachine+Gate`); `.max` = never.
    var gateTokens: UInt64 = .max
    /// Delivered, and not yet told to the open-task table.
    var staged = SealedTokens.none

    // Once a turn, not once a frame.
    /// The limit that the supplier's end was told last.
    var limitToldBytes: UInt64 = 0
    /// The queue up to here may go out, counted as `enqueuedBytes`; `.max` = all of it.
    var gateBytes: UInt64 = .max
    /// When tokens were delivered last; `.max` before the first.
    var deliveredUs: UInt64 = .max
    var deliveredTokens: UInt64 = 0
    var deliveredReasoningTokens: UInt64 = 0
    var deliveredPayloadBytes: UInt64 = 0
    /// Known once admitted.
    var task: TaskIndex = noIndex
    package internal(set) var generation: UInt32 = 0
    var nextReady = noIndex

    var queuedBytes: UInt64 { enqueuedBytes - sealedBytes }
    /// Of them, what may go out now.
    var sendableBytes: UInt64 { min(enqueuedBytes, gateBytes) - sealedBytes }

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

    /// What the shard needs to know of a stream of which a frame was just staged.
    struct Staged {
        var id: StreamID
        /// The first since its frames were entered in the books.
        var isFirst: Bool
        /// As in `Enqueued`.
        var creditLeftBytes: UInt64
    }

    /// Counts a frame that is staged: it cannot be taken back, so it is delivered. Nil where it must
    /// be queued: nothing of the answer was forwarded yet, something waits, or the gate is near.
    /// One call, so that the table is entered once.
    mutating func stage(_ header: FrameHeader) -> Staged? {
        let tokens = enqueuedTokens + UInt64(header.tokens)
        // What comes first waits for its turn's end: until something is forwarded, a loss or an END
        // can send the task elsewhere, and what is queued is dropped [D8].
        guard sealedBytes > 0, sealedBytes == enqueuedBytes, tokens < gateTokens else {
            return nil
        }
        let costBytes = UInt32(truncatingIfNeeded: header.frameBytes)
        enqueuedTokens = tokens
        enqueuedBytes += UInt64(costBytes)
        sealedBytes = enqueuedBytes
        stagedBytes += costBytes
        staged.add(header)
        let isFirst = !isStaging
        isStaging = true
        return Staged(
            id: id, isFirst: isFirst,
            creditLeftBytes: clientLimitBytes - min(clientLimitBytes, enqueuedBytes))
    }

    /// What was staged since it was last asked for; nil for nothing.
    mutating func takeStaged() -> SealedTokens? {
        guard isStaging else { return nil }
        isStaging = false
        defer { staged = .none }
        return staged
    }

    /// Enters what left towards the client, and answers what else depends on it. One call, so that
    /// the table is entered once.
    mutating func deliver(_ sealed: SealedTokens, atUs nowUs: UInt64) -> Delivery {
        deliveredTokens += sealed.tokens
        deliveredReasoningTokens += sealed.reasoningTokens
        deliveredPayloadBytes += UInt64(sealed.payloadBytes)
        var delivery = Delivery(
            task: task, isGated: gateTokens != .max, holdsBody: holdsBody,
            order: .untimed)
        // What leaves within one turn is one delivery, of which only the first part has a gap.
        if sealed.tokens > 0, deliveredUs != nowUs {
            delivery.order =
                deliveredUs == .max ? .first : .later(gapUs: nowUs - min(nowUs, deliveredUs))
            deliveredUs = nowUs
        }
        return delivery
    }

    /// What the shard needs to know of a delivery.
    struct Delivery {
        enum Order {
            /// Without tokens, or in one turn with those before.
            case untimed
            /// The answer's first tokens.
            case first
            /// So long after those before them.
            case later(gapUs: UInt64)
        }

        var task: TaskIndex
        /// Money may be held for fewer tokens than were delivered.
        var isGated: Bool
        var holdsBody: Bool
        var order: Order
    }

    /// What the supplier may send in all: never more than the client takes, never more than the
    /// reserve beyond what left towards the client.
    var supplierLimitBytes: UInt64 {
        min(clientLimitBytes, sealedBytes - UInt64(stagedBytes) + UInt64(reserveBytes))
    }
}

/// One task at its supplier's shard: what its frames touch. The rest is its `SupplierTask`.
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
    var nextReady = noIndex
    /// Body bytes sent, and the supplier's limit.
    var sentBodyBytes: UInt32 = 0
    var bodyLimitBytes: UInt64 = 0

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

    /// One more frame of them.
    mutating func add(_ header: FrameHeader) {
        bytes += header.frameBytes
        payloadBytes += Int(header.payloadBytes)
        tokens += UInt64(header.tokens)
        if header.flags.contains(.reasoning) { reasoningTokens += UInt64(header.tokens) }
    }

    package init(bytes: Int, payloadBytes: Int, tokens: UInt64, reasoningTokens: UInt64) {
        self.bytes = bytes
        self.payloadBytes = payloadBytes
        self.tokens = tokens
        self.reasoningTokens = reasoningTokens
    }
}
