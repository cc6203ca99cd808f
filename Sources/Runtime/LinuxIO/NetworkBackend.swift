/// What a backend noticed in one turn.
package enum Completion: Sendable {
    /// A connection was accepted; the descriptor is the receiver's.
    case accepted(StreamNumber)
    /// Accepting stopped for want of descriptors or memory; `startAccepting` resumes it.
    case acceptFailed(code: Int32)
    /// `count` bytes, 1...bufferBytes, lie in `buffer`, which the receiver gives back by `recycle`.
    case received(slot: UInt32, buffer: UInt16, count: Int)
    /// Nothing more will come: end of stream (code 0) or a positive errno.
    case receiveEnded(slot: UInt32, code: Int32)
    /// The send in flight ended after `count` bytes, with a positive errno unless code is 0; its
    /// memory is free. A failed one does not wait for what was received: that may come after it.
    case sent(slot: UInt32, count: Int, code: Int32)
    /// The slot's descriptor is closed and the kernel holds nothing of it any more.
    case closed(slot: UInt32)
    /// A watched descriptor is readable.
    case ready(Watch)
}

/// An accepted descriptor's bare number: whoever gets it closes it or opens a slot with it.
package struct StreamNumber: Sendable {
    package let number: Int32
}

/// What else a thread waits for beside its sockets.
package enum Watch: UInt8, Sendable {
    case doorbell = 0
    case signals = 1
}

/// What a backend counted since it began.
package struct BackendCounters: Sendable {
    /// Waits that entered the kernel.
    package var enters: UInt64 = 0
    /// Times the receive buffers ran out.
    package var bufferShortages: UInt64 = 0
    /// Times the completion queue overflowed.
    package var overflows: UInt64 = 0

    package init() {}
}

/// Sizes of a backend.
package struct BackendSettings: Sendable {
    /// Receive buffers, a power of two.
    package var bufferCount = 256
    /// Bytes of a receive buffer: a TLS record.
    package var bufferBytes = 16_384
    /// Submission entries that a ring asks for first, a power of two; the completion queue has
    /// four times as many.
    package var ringEntries: UInt32 = 4_096

    package init() {}
}

/// The sockets of one thread: accept, receive, send and close by slot number.
///
/// Two conformers: `RingBackend` (io_uring) and `EpollBackend`. A slot has at most one send in
/// flight, and its descriptor closes only when the kernel is done with everything, so that neither
/// memory nor a descriptor's number is reused too early. Owned by one thread, the one that first
/// calls `wait`.
package protocol NetworkBackend: ~Copyable, SendableMetatype {
    /// Serves slots 0..<slotCount.
    init(slotCount: Int, settings: BackendSettings) throws(SystemError)

    /// Accepts from `listener`, which outlives the backend, until `stopAccepting` or
    /// `acceptFailed`.
    mutating func startAccepting(_ listener: borrowing ListeningSocket)
    /// Stops; completions under way may still come.
    mutating func stopAccepting()

    /// Serves a socket in a free slot and begins to receive.
    mutating func open(_ slot: UInt32, _ stream: consuming StreamDescriptor)
    /// Sends `count` bytes; the slot has no send in flight.
    ///
    /// SAFETY: `bytes` stays valid and unchanged until `sent` for the slot.
    @unsafe mutating func send(_ slot: UInt32, _ bytes: UnsafePointer<UInt8>, count: Int)
    /// Tells the peer that nothing more will be sent.
    mutating func finishSending(_ slot: UInt32)
    /// Ends both directions: what the socket has received still comes, then `receiveEnded`.
    mutating func finish(_ slot: UInt32)
    /// Pauses or resumes receiving; what was received before the pause took hold still comes.
    mutating func setReceiving(_ slot: UInt32, _ on: Bool)
    /// Ends the slot at once: a send in flight completes with an error, then `closed` comes.
    mutating func close(_ slot: UInt32)

    /// Reports when the descriptor is readable, in every turn until it is drained.
    mutating func watch(_ event: borrowing EventDescriptor)
    mutating func watch(_ signals: borrowing SignalDescriptor)

    /// Submits what is prepared and waits for something to happen, at most `timeoutNs` (below 0:
    /// without end; 0: not at all). With `gatherUs` > 0 it may hold the wait open that long to
    /// gather more; a backend that cannot returns early. Once it has brought `turnBytes` it leaves
    /// what else was received to the next call. Answers the number of completions, which stay
    /// readable until then; 0 also when the wait was interrupted.
    mutating func wait(timeoutNs: Int64, gatherUs: Int, turnBytes: Int) -> Int
    /// A completion of the last `wait`, 0..<its answer.
    func completion(at index: Int) -> Completion

    /// SAFETY: valid until the buffer is recycled.
    @unsafe func bytes(of buffer: UInt16) -> UnsafePointer<UInt8>
    /// Gives a receive buffer back.
    mutating func recycle(_ buffer: UInt16)

    /// Makes the kernel let go of all memory that was lent to it, at once; called when the owner
    /// goes away. Nothing else may be called after it.
    func abandon()

    var counters: BackendCounters { get }
}

/// Closes a descriptor that was accepted but finds no place.
package func refuse(_ stream: StreamNumber) {
    _ = StreamDescriptor(stream.number)
}
