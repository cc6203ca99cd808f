package import LinuxIO

/// One connection of one `SecureServer`, for as long as it is open.
///
/// A plain value. `index < TransportLimits.channelsMax`, so that owners keep parallel arrays; the
/// generation tells the uses of an index apart, and calls with a dead identity do nothing.
package struct ChannelID: Hashable, Sendable {
    package let index: UInt32
    package let generation: UInt32

    package init(index: UInt32, generation: UInt32) {
        self.index = index
        self.generation = generation
    }
}

/// What happened in one turn, in order.
package enum TransportEvent: Equatable, Sendable {
    /// A connection was accepted and has its identity; its handshake begins.
    case opened(ChannelID)
    /// Only with `handsOverAccepted`: a connection to be given to some server's `adopt`.
    case accepted(AcceptedStream)
    /// The TLS handshake is complete, with a protocol that the context asks for.
    case established(ChannelID)
    /// Ciphertext is waiting: `read` until `mayHaveMore` is false.
    case received(ChannelID)
    /// The send in flight is done; there is more room to seal.
    case sent(ChannelID)
    /// The connection is gone. The last event of the channel, exactly once; the index is free.
    case closed(ChannelID, CloseReason)
    /// Descriptors or memory ran out; accepting goes on by itself when some are free again.
    case acceptingPaused
    /// SIGTERM, SIGINT or SIGHUP arrived.
    case signal(Int32)
    /// Another thread rang.
    case doorbell
}

/// An accepted connection before TLS. Whoever gets it gives it to `adopt`, once.
package struct AcceptedStream: Equatable, Sendable {
    let number: Int32
}

/// Why a channel closed.
package enum CloseReason: UInt8, Sendable {
    /// This side asked for it.
    case local
    /// The peer said goodbye (close_notify).
    case closedByPeer
    /// The peer's stream ended without a goodbye: what was under way may be cut off.
    case truncated
    /// The connection was reset, timed out or failed.
    case connectionLost
    /// The handshake failed or the connection ended within it.
    case handshakeFailed
    /// A record was forged, malformed or out of place, or the peer sent an alert.
    case protocolViolation
    /// Too many KeyUpdates.
    case tooManyKeyUpdates
}

/// The limits of one `SecureServer`. Its memory is bounded by
/// `channelsMax * (TLS session + 2 * (sealedBytesMax + TLS overhead)) + receive buffers`.
package struct TransportLimits: Sendable {
    /// Connections at once; one more is refused.
    package var channelsMax = 4_096
    /// Ciphertext of one channel that may be sealed but not sent.
    package var sealedBytesMax = 65_536
    /// Receive buffers that one channel may hold unread before its receiving pauses; it resumes
    /// at a quarter.
    package var heldBuffersMax = 64
    /// Bytes that one `wait` brings, for each channel and at least: enough that what goes out to each
    /// is worth its system call, and no more than the processor's caches hold where few channels
    /// bring much.
    package var turnBytesPerChannel = 8_192
    package var turnBytesMin = 131_072
    /// How long a close with `afterSending` may take to get its last bytes out, milliseconds.
    package var drainMs: UInt64 = 3_000
    /// How long a channel that ended by an error may take to get its alert out, milliseconds.
    package var alertMs: UInt64 = 1_000
    /// Pause after descriptors ran out, milliseconds.
    package var acceptPauseMs: UInt64 = 100
    /// A send that is done ends a wait. Where it does not, only one that was asked for by
    /// `awaitSend` does; the others are told with whatever ends the wait.
    package var sendsEndWaits = true
    /// Report accepted connections by `accepted` instead of serving them.
    package var handsOverAccepted = false

    package init() {}
}

/// What `read` did.
package struct ReadResult: Equatable, Sendable {
    /// Bytes written from the offset on.
    package var plaintextBytes: Int
    /// More may be read at once, into a region with room.
    package var mayHaveMore: Bool
}

/// What a server counted since it began.
package struct TransportCounters: Sendable {
    package var accepted: UInt64 = 0
    /// Connections turned away for want of a channel.
    package var refused: UInt64 = 0
    package var handshakes: UInt64 = 0
    package var handshakeFailures: UInt64 = 0
    /// Times accepting paused for want of descriptors or memory.
    package var acceptPauses: UInt64 = 0
    /// Channels cut for too many KeyUpdates.
    package var keyUpdatesRefused: UInt64 = 0
    /// KeyUpdates of all channels; those sent are counted with the next one received, or with the
    /// channel's end.
    package var keyUpdatesReceived: UInt64 = 0
    package var keyUpdatesSent: UInt64 = 0
    /// Ciphertext.
    package var bytesReceived: UInt64 = 0
    package var bytesSent: UInt64 = 0
    package var sends: UInt64 = 0
    /// The backend's own.
    package var backend = BackendCounters()

    package init() {}
}
