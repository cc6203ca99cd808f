package import BasicContainers
package import SluiceRecordFormat
package import SluiceWire

// What shards and dispatcher tell each other. Plain values, without references except for a report,
// of which a supplier gets at most one a second: so they can cross threads in a ring as they are.

/// A connection of one shard; `generation` tells apart those that used the same index.
package struct ConnectionRef: Hashable, Sendable {
    package var shard: UInt16
    package var index: UInt32
    package var generation: UInt32

    package init(shard: UInt16, index: UInt32, generation: UInt32) {
        self.shard = shard
        self.index = index
        self.generation = generation
    }
}

/// The client's stream of one task at the client's shard.
package struct StreamRef: Hashable, Sendable {
    package var shard: UInt16
    package var index: UInt32
    package var generation: UInt32

    package init(shard: UInt16, index: UInt32, generation: UInt32) {
        self.shard = shard
        self.index = index
        self.generation = generation
    }
}

/// A task at the dispatcher and its slot of the open-task table.
package typealias TaskIndex = UInt32

/// No task, stream or offer.
package let noIndex = UInt32.max

/// What a shard knows of a SUBMIT that the dispatcher needs.
package struct Submission: Sendable {
    package var stream: StreamRef
    package var connection: ConnectionRef
    package var terms: TaskTerms
    package var model: ModelName
    package var filters: OfferFilters
    package var affinityKeys: AffinityKeys
    package var trace: TraceContext?
    package var reserveBytes: UInt32
    package var bodyComplete: Bool
    /// The most that it may cost; 0 = no bound of its own [Q16].
    package var budget = MicroUSD.zero
    /// Of the idempotency key, salted with the account; 0 = none [Q15].
    package var keyDigest: UInt64 = 0

    package init(
        stream: StreamRef, connection: ConnectionRef, terms: TaskTerms, model: ModelName,
        filters: OfferFilters, affinityKeys: AffinityKeys, trace: TraceContext?,
        reserveBytes: UInt32, bodyComplete: Bool
    ) {
        self.stream = stream
        self.connection = connection
        self.terms = terms
        self.model = model
        self.filters = filters
        self.affinityKeys = affinityKeys
        self.trace = trace
        self.reserveBytes = reserveBytes
        self.bodyComplete = bodyComplete
    }
}

/// How a task ended, as its client's shard saw it.
package struct TaskReport: Sendable {
    package var task: TaskIndex
    package var status: TaskStatus
    package var code: WireCode
    package var finishReason: FinishReason = .other
    /// What the supplier claimed in END; nil without one.
    package var claim: Usage?
    /// What the supplier said in STARTED; nil without one.
    package var started: StartedFrame?
    /// Sealed into the client's connection.
    package var deliveredTokens: UInt64 = 0
    package var deliveredReasoningTokens: UInt64 = 0
    package var deliveredPayloadBytes: UInt64 = 0
    /// Last body fragment in → first tokens out; nil without output.
    package var ttftUs: UInt64?
    /// SUBMIT in → end known.
    package var durationUs: UInt64 = 0
    /// The supplier ended it `declined`: no strike [S9].
    package var isDeclined = false
    /// The supplier did not answer CANCEL in time [E8].
    package var isUnanswered = false

    package init(task: TaskIndex, status: TaskStatus, code: WireCode) {
        self.task = task
        self.status = status
        self.code = code
    }
}

/// What opens a task's stream at its supplier's shard. The body is whole and stays where it is
/// until the supplier's end says that it was sent, or that the stream is over.
package struct RelayOpening: Sendable {
    package var client: StreamRef
    package var supplier: ConnectionRef
    package var offer: OfferID
    package var task: TaskID
    package var terms: TaskTerms
    package var trace: TraceContext?
    /// On the monotonic clock that all shards share.
    package var deadlineMs: UInt64
    /// Absolute limit of the answer, TOKENS bytes.
    package var limitBytes: UInt64
}

/// What the two ends of one task tell each other. A task's client and its supplier may belong to
/// different shards; where they do, these cross in order, TOKENS frames among them. The client's
/// stream names the task at both ends.
///
/// Every `open` is answered by exactly one of `ended`, `lost`, `undelivered` and `unanswered`, the
/// last thing that its client hears of that supplier: until then the client's stream waits.
package enum RelayMessage: Sendable {
    // Client's end → supplier's end.
    case open(RelayOpening)
    /// A new absolute limit of the answer; greater than any before.
    case limit(StreamRef, limitBytes: UInt64)
    /// Nothing more is forwarded: tell the supplier.
    case cancel(StreamRef, WireCode)

    // Supplier's end → client's end.
    case started(StreamRef, StartedFrame)
    /// The whole body went out; it is not read again.
    case bodySent(StreamRef)
    /// The supplier's END.
    case ended(StreamRef, EndFrame)
    /// The supplier's connection is gone.
    case lost(StreamRef)
    /// The supplier never heard of the task.
    case undelivered(StreamRef)
    /// CANCEL was not answered in time; the supplier's slot stays taken.
    case unanswered(StreamRef)
}

/// Shard → dispatcher.
package enum DispatchRequest: Sendable {
    case authenticate(ConnectionRef, PeerRole, CredentialKind, Digest256)
    case connectionClosed(ConnectionRef)
    case offer(ConnectionRef, OfferFrame)
    case grant(ConnectionRef, GrantFrame)
    case withdraw(ConnectionRef, WithdrawFrame)
    /// GO-AWAY of a supplier [G4].
    case withdrawAll(ConnectionRef)
    /// A supplier asks how it stands [S14].
    case ask(ConnectionRef, AskFrame)
    case submit(Submission)
    /// The body of an admitted task is whole.
    case bodyComplete(TaskIndex, StreamRef)
    /// A SUBMIT that the shard refused by itself.
    case refusedAtShard(ConnectionRef, WireCode)
    /// The submission ended before it was accepted.
    case abandoned(TaskIndex, StreamRef, WireCode)
    /// The supplier's stream of the task is over: its slot is free again.
    case slotFreed(ConnectionRef, OfferID)
    /// The supplier did not do the task and nothing was forwarded: find another.
    case redispatch(TaskIndex, StreamRef, TaskReport)
    /// The supplier's connection was going away when the task came for it: it never had it.
    case undelivered(TaskIndex, StreamRef)
    /// The answer comes near the tokens that money is held for: hold more. Always answered by
    /// `held`, unless the task ends or goes to another supplier before.
    case holdLow(TaskIndex, StreamRef)
    /// The end of an accepted task is known; write it down and release END.
    case finished(StreamRef, TaskReport)
}

/// Dispatcher → shard.
package enum ShardMessage: Sendable {
    /// The account salts the digests of its idempotency keys.
    case welcome(ConnectionRef, account: UInt64)
    /// Send ERROR and close.
    case refuseConnection(ConnectionRef, WireCode)
    /// These whole frames answer what the supplier asked.
    case report(ConnectionRef, frames: [UInt8])
    /// The body is reserved; the rest of it may come.
    case admitted(StreamRef, TaskIndex)
    /// Accepted: QUEUED goes out.
    case accepted(StreamRef, TaskIndex, TaskID, position: UInt32)
    /// Not accepted: END goes out and the stream is free.
    case refused(StreamRef, WireCode, retryAfterMs: UInt32)
    /// Not accepted, for an earlier task has the key: QUEUED of that one, then END [Q15].
    case duplicate(StreamRef, TaskID, EndFrame)
    /// Open a stream at this supplier for this task.
    case assign(StreamRef, ConnectionRef, OfferID, TaskID, HeldTokens)
    /// How many tokens money is held for now.
    case held(StreamRef, HeldTokens)
    /// The record is written: END goes out and the stream is free.
    case end(StreamRef, EndFrame)

    /// The shard that it is for: the connection's, or that of the client's stream.
    package var shard: UInt16 {
        switch self {
        case .welcome(let connection, _), .refuseConnection(let connection, _),
            .report(let connection, _):
            connection.shard
        case .admitted(let stream, _), .accepted(let stream, _, _, _), .refused(let stream, _, _),
            .duplicate(let stream, _, _), .assign(let stream, _, _, _, _),
            .held(let stream, _), .end(let stream, _):
            stream.shard
        }
    }
}

/// The tokens of an answer that money is held for. Further ones wait until it is for more, and end
/// the task where there is none.
package struct HeldTokens: Equatable, Sendable {
    /// `.max` for a task that nobody prepays.
    package var count: UInt64
    /// There will be no more.
    package var isLast: Bool

    package init(count: UInt64, isLast: Bool) {
        self.count = count
        self.isLast = isLast
    }

    /// Nothing is held, and nothing is asked for.
    package static let unbounded = HeldTokens(count: .max, isLast: true)
}

/// What a dispatcher call leaves to be done, in order.
package struct DispatcherOutput: ~Copyable {
    package var messages = UniqueArray<ShardMessage>()
    package var journal = UniqueArray<JournalAction>()

    package init() {}
}

/// Writes of the dispatcher to the instance files. The tail is published before any message of
/// the same turn goes out.
package enum JournalAction: Sendable {
    /// Append the record, then fill the table slot with it and the record's sequence. Of input at
    /// most `inputBound` tokens are billed.
    case accepted(slot: TaskIndex, AcceptedRecord, inputBound: UInt32)
    /// Name the chosen supplier in the slot.
    case assigned(slot: TaskIndex, Assignment)
    /// Note the record's sequence in the slot, then append it.
    case ended(slot: TaskIndex, EndedRecord)
    case refused(RefusedRecord)
    case name(NameRecord)
    case lease(LeaseRecord)
}

/// Who runs a task now, as the open-task slot keeps it.
package struct Assignment: Sendable {
    package var supplier: UInt64
    package var offerModel: UInt32
    package var supplyType: SupplyType
    package var dispatches: UInt8
    package var winReason: WinReason
    package var queueUs: UInt32
    package var operation: TaskOperation
    package var prices: TaskPrices
}
