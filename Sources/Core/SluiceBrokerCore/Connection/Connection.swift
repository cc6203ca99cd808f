package import SluiceWire

/// One peer's connection as its shard sees it. Streams live in the shard's tables; the connection
/// knows which of its slots is taken by which.
package struct Connection {
    package enum Phase: UInt8 {
        /// No connection at this index.
        case closed
        /// TCP is up, TLS is not.
        case handshaking
        case awaitingHello
        /// HELLO is with the dispatcher.
        case authenticating
        case open
        /// ERROR was queued; nothing more is read.
        case closing
    }

    // Small ones stand together: padding is multiplied by the number of connections.
    package internal(set) var phase: Phase = .closed
    package internal(set) var role: PeerRole = .client
    /// The shell was told that there is something to send.
    var isDirty = false
    /// A PING is unanswered.
    var pingOutstanding = false
    package internal(set) var generation: UInt32 = 0
    /// Known from WELCOME on.
    var account: UInt64 = 0

    /// Stream number → index of the shard's client or supplier stream; `noIndex` is idle.
    /// Grows up to `maxStreams + 1`.
    var slots: [UInt32] = []
    var openStreams = 0
    /// Client: by stream number, how many free body bytes of the stream that ended last may still
    /// be under way. Shorter than `slots` where there are none.
    private var lateFreeBytes: [UInt16] = []
    /// Supplier: numbers below `slots.count` that are idle.
    var idleNumbers: [UInt32] = []

    /// Client: body bytes without stream credit, sent so far and allowed in all.
    var uploadedBytes: UInt64 = 0
    var uploadLimitBytes: UInt64 = 0
    /// Highest upload limit that was sent.
    var uploadLimitSentBytes: UInt64 = 0
    /// Client: what is left of the reserves above the floor.
    var extraPoolFreeBytes: UInt32 = 0
    /// Supplier: body credit of each new stream.
    var bodyCreditBytes: UInt64 = 0

    /// Streams with data to send, oldest first.
    var ready = ReadyList()
    /// Supplier: the last of them that has not been sent its ASSIGN; those stand in front.
    var lastAssigning = noIndex
    /// Supplier: bytes of ASSIGNs that passed bodies and are not made up for.
    var passedBytes = 0
    /// Supplier: they are being made up for.
    var isBodiesTurn = false
    /// Client: TOKENS bytes that may still be staged, and those that are and wait for their seal.
    var stagingFreeBytes: UInt32 = 0
    var stagedBytes: UInt32 = 0
    /// Control bytes that were handed to the shell and not yet sealed.
    var controlBytes = 0
    /// When the socket last took something while bytes were waiting; nil with nothing waiting.
    var waitingSinceMs: UInt64?

    var lastReceivedMs: UInt64 = 0
    var unproductive = UnproductiveBudget()

    /// Whether TOKENS may come. By pattern: `==` of an enum from another module is a call.
    var isOpenSupplier: Bool {
        switch (phase, role) {
        case (.open, .supplier): true
        default: false
        }
    }

    /// Whether a frame of `costBytes` may be staged; `isRoomForAnother` connection where this one
    /// has nothing staged.
    func canStage(_ costBytes: UInt32, isRoomForAnother: Bool) -> Bool {
        costBytes <= stagingFreeBytes && (stagedBytes > 0 || isRoomForAnother)
    }

    /// Takes room for a frame that may be staged, and marks the connection dirty; answers whether
    /// nothing was staged before, and whether it was dirty. One call, so that the table is entered
    /// once.
    mutating func stage(_ costBytes: UInt32) -> (isEmpty: Bool, isDirty: Bool) {
        let before = (isEmpty: stagedBytes == 0, isDirty: isDirty)
        stagingFreeBytes -= costBytes
        stagedBytes += costBytes
        isDirty = true
        return before
    }

    /// Index in the shard's stream tables, or nil for an idle slot.
    func stream(_ id: StreamID) -> UInt32? {
        guard id.rawValue < UInt32(slots.count) else { return nil }
        let index = slots[Int(id.rawValue)]
        return index == noIndex ? nil : index
    }

    mutating func take(_ id: StreamID, for stream: UInt32) {
        let number = Int(id.rawValue)
        while slots.count <= number { slots.append(noIndex) }
        precondition(slots[number] == noIndex, "slot is taken")
        slots[number] = stream
        openStreams += 1
    }

    mutating func release(_ id: StreamID) {
        precondition(slots[Int(id.rawValue)] != noIndex, "slot is idle")
        slots[Int(id.rawValue)] = noIndex
        openStreams -= 1
    }

    /// The stream ended (or was never opened) with this many free body bytes still to come.
    mutating func expectLate(_ id: StreamID, _ byteCount: Int) {
        let number = Int(id.rawValue)
        guard byteCount > 0 || number < lateFreeBytes.count else { return }
        while lateFreeBytes.count <= number { lateFreeBytes.append(0) }
        lateFreeBytes[number] = UInt16(byteCount)
    }

    /// How many of the `byteCount` bytes of a late BODY were free ones.
    mutating func takeLate(_ id: StreamID, _ byteCount: Int) -> Int {
        let number = Int(id.rawValue)
        guard number < lateFreeBytes.count else { return 0 }
        let free = min(byteCount, Int(lateFreeBytes[number]))
        lateFreeBytes[number] -= UInt16(free)
        return free
    }

    /// The lowest-numbered way to get an idle number as the opener; nil when all are taken.
    mutating func idleNumber(maxStreams: UInt32) -> StreamID? {
        if let number = idleNumbers.popLast() { return StreamID(number) }
        if slots.isEmpty { slots.append(noIndex) }
        guard UInt32(slots.count) <= maxStreams else { return nil }
        slots.append(noIndex)
        return StreamID(UInt32(slots.count - 1))
    }
}

/// A queue of streams through their own links: first in, first out, each at most once.
struct ReadyList {
    var head = noIndex
    var tail = noIndex

    var isEmpty: Bool { head == noIndex }
}

/// How many unproductive frames a connection may still send [L10]: a token bucket.
struct UnproductiveBudget {
    private var left: Int64 = 0
    private var refilledMs: UInt64 = 0

    mutating func reset(limits: BrokerLimits, nowMs: UInt64) {
        left = limits.unproductiveBurst
        refilledMs = nowMs
    }

    /// An END on the connection: work was done.
    mutating func earn(limits: BrokerLimits) {
        left = min(limits.unproductiveBurst, left + BrokerLimits.unproductivePerEnd)
    }

    /// Pays for one; false when the budget is used up.
    mutating func pay(limits: BrokerLimits, nowMs: UInt64) -> Bool {
        let elapsedMs = nowMs > refilledMs ? nowMs - refilledMs : 0
        if elapsedMs >= 100 {
            let refill = Int64(min(elapsedMs, 60_000)) * limits.unproductivePerSecond / 1_000
            left = min(limits.unproductiveBurst, left + refill)
            refilledMs = nowMs
        }
        guard left > 0 else { return false }
        left -= 1
        return true
    }
}
