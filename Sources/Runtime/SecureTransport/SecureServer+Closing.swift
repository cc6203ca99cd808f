import LinuxIO
import TLSEngine

// How channels end: by the caller's word, the peer's, or a failure. What is sealed goes out first
// where that can be, and the socket is closed only when the peer has seen its end.
extension SecureServer where Backend: ~Copyable {
    /// Closes a channel; `closed` follows in a later turn.
    ///
    /// `afterSending`: first sends what is sealed and a goodbye, for at most `drainMs`; nothing
    /// more is read. Otherwise at once.
    @specialized(where Backend == RingBackend)
    @specialized(where Backend == EpollBackend)
    package mutating func close(_ channel: ChannelID, afterSending: Bool) {
        guard let index = find(channel) else { return }
        let phase = unsafe channels[index].phase
        if afterSending {
            guard phase == .established else {
                if phase == .handshaking { shut(index, .local) }
                return
            }
            unsafe channels[index].session?.sealGoodbye()
            drain(index, .local, withinMs: limits.drainMs)
        } else {
            shut(index, .local)
        }
    }

    /// Ends a channel after a TLS failure: its alert still goes out.
    mutating func fail(_ index: Int, _ failure: TLSFailure, orElse reason: CloseReason) {
        switch failure {
        case .closedByPeer:
            unsafe channels[index].session?.sealGoodbye()
            drain(index, .closedByPeer, withinMs: limits.drainMs)
        case .tooManyKeyUpdates:
            tally.keyUpdatesRefused += 1
            shut(index, .tooManyKeyUpdates)
        case .outputOverflow:
            tally.keyUpdatesRefused += 1
            shut(index, .tooManyKeyUpdates)
        case .handshake, .protocolViolation:
            drain(index, reason, withinMs: limits.alertMs)
        }
    }

    mutating func drain(_ index: Int, _ reason: CloseReason, withinMs: UInt64) {
        if unsafe channels[index].phase == .handshaking { handshakingCount -= 1 }
        unsafe channels[index].phase = .draining
        unsafe channels[index].closeReason = reason
        unsafe channels[index].deadlineMs = MonotonicClock.nowMs + withinMs
        leaving.append(UInt32(index))
        returnBuffers(index)
        resumeReceiving(index)
        wantFlush(index)
    }

    /// Once everything is out: no more sending, and on to the peer's end of stream. Closing with
    /// unread bytes would send a reset, which can destroy what the peer has not read yet.
    mutating func finishIfDrained(_ index: Int) {
        guard unsafe channels[index].phase == .draining, unsafe channels[index].sending == nil,
            unsafe channels[index].session?.outputBytes ?? 0 == 0
        else { return }
        if unsafe channels[index].endCode >= 0 {
            return shut(index, .local)
        }
        backend.finishSending(UInt32(index))
        unsafe channels[index].phase = .lingering
    }

    /// Closes the socket at once. The reason counts unless the channel has one already.
    mutating func shut(_ index: Int, _ reason: CloseReason) {
        switch unsafe channels[index].phase {
        case .free, .closing:
            return
        case .handshaking:
            handshakingCount -= 1
            if reason == .handshakeFailed { tally.handshakeFailures += 1 }
            unsafe channels[index].closeReason = reason
        case .established:
            unsafe channels[index].closeReason = reason
        case .draining, .lingering:
            break
        }
        unsafe channels[index].phase = .closing
        returnBuffers(index)
        backend.close(UInt32(index))
    }

    /// The connection is lost, but what the peer sent before may still be unread, in the backend
    /// or in the socket: the channel ends as it does when receiving ends.
    mutating func sendFailed(_ index: Int) {
        guard unsafe channels[index].phase == .established else {
            return shut(index, .connectionLost)
        }
        unsafe channels[index].hasFailedSending = true
        if unsafe channels[index].endCode < 0 { backend.finish(UInt32(index)) }
    }

    mutating func shutAfterEnd(_ index: Int) {
        let isLost = unsafe channels[index].endCode != 0 || channels[index].hasFailedSending
        shut(index, isLost ? .connectionLost : .truncated)
    }

    mutating func returnBuffers(_ index: Int) {
        unsafe channels[index].session?.dropCiphertext()
        while unsafe channels[index].firstBuffer != .max { returnFirstBuffer(index) }
    }

    /// A channel that leaves reads on, only to see the peer's end.
    mutating func resumeReceiving(_ index: Int) {
        guard unsafe channels[index].isPaused else { return }
        unsafe channels[index].isPaused = false
        backend.setReceiving(UInt32(index), true)
    }

    mutating func closed(_ slot: UInt32) {
        let index = Int(slot)
        let channel = identity(index)
        let reason = unsafe channels[index].closeReason
        let isListed = unsafe channels[index].isListed
        countKeyUpdates(index)
        unsafe channels[index] = Channel()
        unsafe channels[index].isListed = isListed
        unsafe channels[index].generation = channel.generation &+ 1
        freeIndexes.append(slot)
        channelCount -= 1
        events.append(.closed(channel, reason))
        if acceptAgainMs != 0 { acceptAgain() }
    }

    /// Adds what a channel's session has counted since the last time.
    mutating func countKeyUpdates(_ index: Int) {
        guard let counts = unsafe channels[index].session?.takeKeyUpdates() else { return }
        tally.keyUpdatesReceived += counts.received
        tally.keyUpdatesSent += counts.sent
    }

    /// Ends what drains or lingers too long, and resumes accepting.
    mutating func checkDeadlines(nowMs: UInt64) {
        if acceptAgainMs != 0, nowMs >= acceptAgainMs { acceptAgain() }
        var kept = 0
        for position in leaving.indices {
            let slot = leaving[position]
            switch unsafe channels[Int(slot)].phase {
            case .draining, .lingering:
                if unsafe nowMs < channels[Int(slot)].deadlineMs {
                    leaving[kept] = slot
                    kept += 1
                } else {
                    shut(Int(slot), .local)
                }
            case .free, .handshaking, .established, .closing:
                break
            }
        }
        leaving.removeSubrange(kept...)
    }

    mutating func acceptAgain() {
        acceptAgainMs = 0
        switch listener {
        case .some(let socket): backend.startAccepting(socket)
        case .none: break
        }
    }
}
