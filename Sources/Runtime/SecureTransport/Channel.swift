internal import LinuxIO
internal import TLSEngine

/// One connection's state. Lives at a fixed place of the server's table.
struct Channel: ~Copyable {
    enum Phase: UInt8 {
        case free
        /// TLS is being set up.
        case handshaking
        case established
        /// No more reading; what is sealed goes out, then the sending side finishes.
        case draining
        /// Everything is sent; waits for the peer's end, so that a reset cannot overtake it.
        case lingering
        /// The backend is closing the socket.
        case closing
    }

    var phase = Phase.free
    var generation: UInt32 = 0
    var closeReason = CloseReason.local
    /// From the first byte received to the end.
    var session: TLSSession?

    /// The bytes of the send in flight; they live until the backend says that it is done.
    var sending: CiphertextBlock?
    var sentBytes = 0
    /// A send has failed: nothing more goes out, and the channel ends when receiving has.
    var hasFailedSending = false
    /// What is sealed goes out with the next turn.
    var wantsFlush = false
    /// In the server's list of channels to flush.
    var isListed = false
    /// Somebody waits for the end of the send in flight.
    var isSendAwaited = false

    /// Received buffers in order, linked by the server; the first is lent to the session.
    var firstBuffer = UInt16.max
    var lastBuffer = UInt16.max
    var heldBuffers = 0
    var isFirstLent = false
    var isPaused = false
    /// The code with which receiving ended, 0 for the end of the stream; -1 while it goes on.
    var endCode: Int32 = -1

    /// The turn in which `received` was last reported.
    var notedTurn: UInt64 = 0
    /// When draining or lingering gives up.
    var deadlineMs: UInt64 = 0

    /// Ciphertext that the kernel has not taken.
    ///
    /// By chaining, in place: a `switch` would move the whole session to the stack.
    var unsentBytes: Int {
        mutating get {
            let inFlightBytes = sending?.count ?? sentBytes
            return inFlightBytes - sentBytes + (session?.outputBytes ?? 0)
        }
    }
}
