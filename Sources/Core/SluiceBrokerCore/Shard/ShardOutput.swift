package import BasicContainers
import SluiceRecordFormat
package import SluiceWire

/// One order of a shard to its shell. Ranges are places in the span that the call was given.
package enum ShardAction {
    /// Append the frame to the connection's control queue.
    case send(connection: UInt32, ControlFrame)
    /// Append WELCOME (see `ShardMachine.welcome`) to the connection's control queue.
    case welcome(connection: UInt32)
    /// Append `out.reports[report]`, whole frames, to the connection's control queue.
    case report(connection: UInt32, report: UInt32)
    /// Hash the credential at `start`, wipe it, and answer with `credential`.
    case authenticate(connection: UInt32, start: UInt32, count: UInt32, kind: CredentialKind)
    /// Answer with `certificate`: the one that the connection's TLS session has verified.
    case verifyCertificate(connection: UInt32)
    /// Hash the idempotency key at `start` with the account's number, and answer with
    /// `idempotencyKey`.
    case hashKey(stream: StreamRef, start: UInt32, count: UInt32, account: UInt64)
    /// Append these bytes to the body of the client stream.
    case storeBody(stream: UInt32, start: UInt32, count: UInt32)
    /// Zero and release the body of the client stream.
    case dropBody(stream: UInt32)
    /// Append a frame with this header and payload to the TOKENS queue of the client stream.
    case enqueueTokens(
        stream: UInt32, headerWord: UInt64, streamID: UInt32, start: UInt32, count: UInt32)
    /// Zero and release the TOKENS queue of the client stream.
    case dropTokens(stream: UInt32)
    /// The body of the client stream is what supplier stream `supplier` sends from now on. A body
    /// of another shard came with the `open` that is being performed.
    case bindBody(supplier: UInt32, client: StreamRef)
    /// Hand a TOKENS frame with this header to stream `client` of another shard.
    case relayTokens(
        shard: UInt16, headerWord: UInt64, client: UInt32, start: UInt32, count: UInt32)
    /// Hand `out.relayed[message]` to another shard, behind every frame relayed so far. An `open`
    /// takes the client stream's body along.
    case relay(shard: UInt16, message: UInt32)
    /// Write the time to first token to the open-task slot.
    case firstOutput(slot: TaskIndex, ttftUs: UInt64)
    /// Write the prompt's size to the open-task slot.
    case started(slot: TaskIndex, StartedFrame)
    /// Close the connection, with what is queued sent first or not.
    case close(connection: UInt32, afterSending: Bool)
}

/// A TOKENS frame that goes behind what is staged for its client's connection. Its payload, of the
/// length in `headerWord`, begins at `start` of the span that the call was given.
package struct StagedFrame {
    package let headerWord: UInt64
    package let stream: UInt32
    package let connection: UInt32
    package let start: UInt32
}

/// What has left, or is about to leave, towards a client: to be added to the task's open-task slot.
package struct DeliveredTokens {
    package let slot: TaskIndex
    package let tokens: UInt32
    package let reasoningTokens: UInt32
    package let payloadBytes: UInt32

    init(slot: TaskIndex, _ sealed: SealedTokens) {
        self.slot = slot
        // The table counts tokens modulo 2^32; the bytes are those of one turn.
        tokens = UInt32(truncatingIfNeeded: sealed.tokens)
        reasoningTokens = UInt32(truncatingIfNeeded: sealed.reasoningTokens)
        payloadBytes = UInt32(truncatingIfNeeded: sealed.payloadBytes)
    }
}

/// What a shard call leaves to be done, in order.
package struct ShardOutput: ~Copyable {
    package var actions = UniqueArray<ShardAction>()
    /// Independent of `actions`: no order touches what another stages.
    package var staged = UniqueArray<StagedFrame>()
    /// To be done behind `actions`: a time to first token is written before its tokens are counted.
    package var delivered = UniqueArray<DeliveredTokens>()
    package var requests = UniqueArray<DispatchRequest>()
    /// What `relay` actions name; forgotten with them.
    package var relayed = UniqueArray<RelayMessage>()
    /// What `report` actions name; forgotten with them.
    package var reports = UniqueArray<[UInt8]>()
    /// Connections that have something to send since the list was last taken.
    package var dirty = UniqueArray<UInt32>()

    /// Every action is performed.
    package mutating func removeActions() {
        if !actions.isEmpty { actions.removeAll(keepingCapacity: true) }
        if !staged.isEmpty { staged.removeAll(keepingCapacity: true) }
        if !delivered.isEmpty { delivered.removeAll(keepingCapacity: true) }
        if !relayed.isEmpty { relayed.removeAll(keepingCapacity: true) }
        if !reports.isEmpty { reports.removeAll(keepingCapacity: true) }
    }

    package init() {
        actions.reserveCapacity(1_024)
        staged.reserveCapacity(1_024)
        delivered.reserveCapacity(1_024)
        relayed.reserveCapacity(64)
        requests.reserveCapacity(256)
        dirty.reserveCapacity(256)
    }
}

/// Counters of one shard since its start; the shell copies them to the statistics page.
package struct ShardCounters: Equatable, Sendable {
    package var connectionsAccepted: UInt64 = 0
    package var connectionsCut: UInt64 = 0
    package var framesReceived: UInt64 = 0
    package var tokenFramesRelayed: UInt64 = 0
    package var tokensDelivered: UInt64 = 0
    package var answerBytesDelivered: UInt64 = 0
    package var bodyBytesReceived: UInt64 = 0
    package var lateFrames: UInt64 = 0
    package var discardedTokenFrames: UInt64 = 0
    package var protocolErrors: UInt64 = 0
    package var stalledReaders: UInt64 = 0
    /// Messages and TOKENS frames that came from other shards.
    package var relayedMessages: UInt64 = 0
    package var relayedFrames: UInt64 = 0
    package var quarantinedSlots: UInt64 = 0
    /// CANCEL frames to suppliers.
    package var cancelsSent: UInt64 = 0
    /// Times that an answer had to wait for its client's credit.
    package var creditStalls: UInt64 = 0

    package init() {}

    /// The sum with another shard's.
    package mutating func add(_ other: ShardCounters) {
        connectionsAccepted &+= other.connectionsAccepted
        connectionsCut &+= other.connectionsCut
        framesReceived &+= other.framesReceived
        tokenFramesRelayed &+= other.tokenFramesRelayed
        tokensDelivered &+= other.tokensDelivered
        answerBytesDelivered &+= other.answerBytesDelivered
        bodyBytesReceived &+= other.bodyBytesReceived
        lateFrames &+= other.lateFrames
        discardedTokenFrames &+= other.discardedTokenFrames
        protocolErrors &+= other.protocolErrors
        stalledReaders &+= other.stalledReaders
        quarantinedSlots &+= other.quarantinedSlots
        cancelsSent &+= other.cancelsSent
        creditStalls &+= other.creditStalls
        relayedMessages &+= other.relayedMessages
        relayedFrames &+= other.relayedFrames
    }
}
