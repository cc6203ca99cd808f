internal import CLinuxIO

/// Sockets over io_uring: multishot accept and receive, buffers provided to the kernel, one system
/// call a turn.
///
/// The ring is made disabled and enabled by the first `wait`, whose thread becomes its only
/// issuer.
@safe
package struct RingBackend: NetworkBackend, ~Copyable, @unchecked Sendable {
    private var ring: SubmissionRing
    private var buffers: ProvidedBuffers
    /// SAFETY: `slotCount` slots, from `init` to `deinit`.
    private let slots: UnsafeMutablePointer<Slot>
    private let slotCount: Int

    private var listener: Int32 = -1
    private var acceptIsArmed = false
    private var watched: (doorbell: Int32, signals: Int32) = (-1, -1)
    private var isEnabled = false

    private var completions: [Completion] = []
    /// Bytes that this wait has brought, and from which on it leaves the rest to the next ones.
    private var receivedBytes = 0
    private var turnBytes = 0
    /// What was received beyond, oldest first from `backlogHead` on, each buffer at most once. Its
    /// slots stay taken: the end of a receive stands behind what that brought.
    private var backlog: [SubmissionRing.Completed] = []
    private var backlogHead = 0
    /// Completions of this side's making, reported by the next `wait`.
    private var prepared: [Completion] = []
    /// Slots whose receive ended for want of buffers.
    private var starved: [UInt32] = []

    package private(set) var counters = BackendCounters()

    /// What the kernel has in hand for a slot.
    private struct Slot {
        var descriptor: Int32 = -1
        /// Counts the slot's uses; completions of an earlier use are told apart by it.
        var generation: UInt32 = 0
        /// Operations whose last completion has not come.
        var inFlight = 0
        var receiveIsArmed = false
        var wantsReceive = false
        var isStarved = false
        var isClosing = false
        var isSending = false
    }

    private enum Operation: UInt8 {
        case accept = 1
        case receive, send, cancel, poll
    }

    package init(
        slotCount: Int, settings: BackendSettings = BackendSettings()
    ) throws(SystemError) {
        precondition(slotCount > 0 && slotCount < 1 << 24)
        let ring = try Self.makeRing(entries: settings.ringEntries)
        buffers = try ProvidedBuffers(
            ring: ring.descriptor, count: settings.bufferCount, bytes: settings.bufferBytes)
        self.ring = ring
        unsafe slots = .allocate(capacity: slotCount)
        unsafe slots.initialize(repeating: Slot(), count: slotCount)
        self.slotCount = slotCount
        completions.reserveCapacity(Int(settings.ringEntries))
    }

    /// Asks for less when a container's RLIMIT_MEMLOCK has no room for the full size (ENOMEM).
    private static func makeRing(entries: UInt32) throws(SystemError) -> SubmissionRing {
        var entries = entries
        while true {
            do throws(SystemError) {
                return try SubmissionRing(entries: entries)
            } catch {
                guard error.code == ENOMEM, entries > 256 else { throw error }
                entries /= 4
            }
        }
    }

    deinit {
        abandon()
        for index in 0..<slotCount where unsafe slots[index].descriptor >= 0 {
            unsafe CLinuxIO.close(slots[index].descriptor)
        }
        unsafe slots.deinitialize(count: slotCount)
        unsafe slots.deallocate()
    }

    package func abandon() {
        for index in 0..<slotCount where unsafe slots[index].descriptor >= 0 {
            unsafe shutdown(slots[index].descriptor, Int32(SHUT_RDWR))
        }
        if isEnabled { _ = sluice_ring_cancel_all(ring.descriptor) }
    }

    // MARK: Accepting

    package mutating func startAccepting(_ listener: borrowing ListeningSocket) {
        _ = sluice_set_nonblocking(listener.descriptor, 0)
        self.listener = listener.descriptor
        armAccept()
    }

    package mutating func stopAccepting() {
        guard listener >= 0 else { return }
        listener = -1
        guard acceptIsArmed else { return }
        let target = token(.accept)
        let cancel = token(.cancel, slot: UInt32.max)
        unsafe sluice_prepare_cancel(ring.nextEntry(), target, cancel)
    }

    private mutating func armAccept() {
        guard listener >= 0, !acceptIsArmed else { return }
        acceptIsArmed = true
        let token = token(.accept)
        unsafe sluice_prepare_accept(ring.nextEntry(), listener, token)
    }

    private mutating func accepted(_ result: Int32, more: Bool) {
        if !more { acceptIsArmed = false }
        if result >= 0 {
            completions.append(.accepted(StreamNumber(number: result)))
        } else if isExhaustion(-result) {
            completions.append(.acceptFailed(code: -result))
            return
        }
        if !more { armAccept() }
    }

    // MARK: Slots

    package mutating func open(_ slot: UInt32, _ stream: consuming StreamDescriptor) {
        let index = Int(slot)
        unsafe precondition(index < slotCount && slots[index].descriptor < 0)
        let generation = unsafe slots[index].generation &+ 1
        unsafe slots[index] = Slot(
            descriptor: stream.release(), generation: generation, wantsReceive: true)
        armReceive(slot)
    }

    @unsafe
    package mutating func send(_ slot: UInt32, _ bytes: UnsafePointer<UInt8>, count: Int) {
        let index = Int(slot)
        unsafe precondition(!slots[index].isSending && !slots[index].isClosing && count > 0)
        unsafe slots[index].isSending = true
        unsafe slots[index].inFlight += 1
        let token = token(.send, slot: slot)
        unsafe sluice_prepare_send(
            ring.nextEntry(), slots[index].descriptor, bytes, UInt32(clamping: count), token)
    }

    package mutating func finishSending(_ slot: UInt32) {
        unsafe shutdown(slots[Int(slot)].descriptor, Int32(SHUT_WR))
    }

    package mutating func finish(_ slot: UInt32) {
        unsafe shutdown(slots[Int(slot)].descriptor, Int32(SHUT_RDWR))
    }

    package mutating func setReceiving(_ slot: UInt32, _ on: Bool) {
        let index = Int(slot)
        guard unsafe !slots[index].isClosing, unsafe slots[index].wantsReceive != on else { return }
        unsafe slots[index].wantsReceive = on
        if on {
            armReceive(slot)
        } else if unsafe slots[index].receiveIsArmed {
            unsafe slots[index].inFlight += 1
            let target = token(.receive, slot: slot)
            let cancel = token(.cancel, slot: slot)
            unsafe sluice_prepare_cancel(ring.nextEntry(), target, cancel)
        }
    }

    /// `close` of the descriptor alone would leave the peer without an end of stream while a
    /// receive is armed: shut down, cancel, wait for every completion, and only then close.
    package mutating func close(_ slot: UInt32) {
        let index = Int(slot)
        unsafe precondition(slots[index].descriptor >= 0)
        guard unsafe !slots[index].isClosing else { return }
        unsafe slots[index].isClosing = true
        unsafe slots[index].wantsReceive = false
        unsafe shutdown(slots[index].descriptor, Int32(SHUT_RDWR))
        if unsafe slots[index].inFlight > 0 {
            unsafe slots[index].inFlight += 1
            let cancel = token(.cancel, slot: slot)
            unsafe sluice_prepare_cancel_descriptor(
                ring.nextEntry(), slots[index].descriptor, cancel)
        } else {
            prepared.append(finishClose(slot))
        }
    }

    private mutating func finishClose(_ slot: UInt32) -> Completion {
        let index = Int(slot)
        unsafe CLinuxIO.close(slots[index].descriptor)
        unsafe slots[index].descriptor = -1
        unsafe slots[index].isClosing = false
        return .closed(slot: slot)
    }

    private mutating func armReceive(_ slot: UInt32) {
        let index = Int(slot)
        guard unsafe slots[index].wantsReceive, unsafe !slots[index].receiveIsArmed,
            unsafe !slots[index].isStarved
        else { return }
        unsafe slots[index].receiveIsArmed = true
        unsafe slots[index].inFlight += 1
        let token = token(.receive, slot: slot)
        unsafe sluice_prepare_receive(
            ring.nextEntry(), slots[index].descriptor, ProvidedBuffers.group, token)
    }

    // MARK: Watching

    package mutating func watch(_ event: borrowing EventDescriptor) {
        watched.doorbell = event.descriptor
        arm(.doorbell)
    }

    package mutating func watch(_ signals: borrowing SignalDescriptor) {
        watched.signals = signals.descriptor
        arm(.signals)
    }

    private mutating func arm(_ watch: Watch) {
        let descriptor = watch == .doorbell ? watched.doorbell : watched.signals
        let token = token(.poll, slot: UInt32(watch.rawValue))
        unsafe sluice_prepare_poll(ring.nextEntry(), descriptor, token)
    }

    // MARK: The turn

    package mutating func wait(timeoutNs: Int64, gatherUs: Int, turnBytes: Int) -> Int {
        self.turnBytes = turnBytes
        if !isEnabled {
            let code = enable()
            precondition(code >= 0)
        }
        if !completions.isEmpty { completions.removeAll(keepingCapacity: true) }
        if !prepared.isEmpty {
            completions.append(contentsOf: prepared)
            prepared.removeAll(keepingCapacity: true)
        }
        // First of all: it may end receives for want of buffers, which are armed again below.
        takeBacklog()
        armStarved()
        buffers.publish()
        let mayWait = completions.isEmpty && timeoutNs != 0
        counters.enters += 1
        ring.enter(
            waitFor: mayWait ? 1 : 0, timeoutNs: timeoutNs, gatherUs: mayWait ? gatherUs : 0)
        if ring.hasOverflowed { counters.overflows += 1 }
        while let entry = ring.nextCompletion() { handle(entry) }
        return completions.count
    }

    private mutating func takeBacklog() {
        receivedBytes = 0
        guard backlogHead < backlog.count else { return }
        while backlogHead < backlog.count, receivedBytes < turnBytes {
            backlogHead += 1
            perform(backlog[backlogHead - 1])
        }
        // It may never be empty while much comes, so that what was taken is dropped in between.
        guard backlogHead == backlog.count || backlogHead >= 512 else { return }
        backlog.removeFirst(backlogHead)
        backlogHead = 0
    }

    /// Sends, accepts and bells are told at once; what was received waits for its turn.
    private mutating func handle(_ entry: SubmissionRing.Completed) {
        guard Operation(rawValue: UInt8(entry.token >> 56)) == .receive else {
            return perform(entry)
        }
        if entry.flags & SLUICE_CQE_BUFFER != 0 { buffers.taken() }
        if receivedBytes >= turnBytes || !backlog.isEmpty {
            backlog.append(entry)
        } else {
            perform(entry)
        }
    }

    /// Makes the calling thread the ring's only issuer; 0 or -errno.
    mutating func enable() -> Int32 {
        let code = sluice_ring_enable(ring.descriptor)
        isEnabled = code >= 0
        return code
    }

    package func completion(at index: Int) -> Completion { completions[index] }

    /// An empty buffer ring fails a receive at once, even one without data, so receives wait here
    /// until buffers have come back.
    private mutating func armStarved() {
        guard !starved.isEmpty, buffers.available > 0 else { return }
        // No more than one receive for each buffer: the rest would only fail again.
        for _ in 0..<min(starved.count, buffers.available) {
            let slot = starved.removeLast()
            unsafe slots[Int(slot)].isStarved = false
            armReceive(slot)
        }
    }

    private mutating func perform(_ entry: SubmissionRing.Completed) {
        let slot = UInt32(truncatingIfNeeded: entry.token)
        let more = entry.flags & SLUICE_CQE_MORE != 0
        guard let operation = Operation(rawValue: UInt8(entry.token >> 56)) else { return }
        switch operation {
        case .accept:
            accepted(entry.result, more: more)
            return
        case .poll:
            guard let watch = Watch(rawValue: UInt8(truncatingIfNeeded: slot)) else { return }
            completions.append(.ready(watch))
            // Polled anew each time: a level, not an edge. The receiver drains it in between.
            arm(watch)
            return
        case .cancel where slot == UInt32.max:
            return
        case .receive, .send, .cancel:
            break
        }
        let index = Int(slot)
        let generation = UInt32(truncatingIfNeeded: entry.token >> 32) & 0xFF_FFFF
        unsafe precondition(
            slots[index].descriptor >= 0 && slots[index].generation & 0xFF_FFFF == generation)
        switch operation {
        case .receive:
            received(entry, slot: slot, more: more)
        case .send:
            unsafe slots[index].isSending = false
            unsafe slots[index].inFlight -= 1
            let count = max(0, Int(entry.result))
            completions.append(.sent(slot: slot, count: count, code: max(0, -entry.result)))
        case .cancel:
            unsafe slots[index].inFlight -= 1
        case .accept, .poll:
            break
        }
        if unsafe slots[index].isClosing, unsafe slots[index].inFlight == 0 {
            completions.append(finishClose(slot))
        }
    }

    private mutating func received(
        _ entry: SubmissionRing.Completed, slot: UInt32, more: Bool
    ) {
        let index = Int(slot)
        let isClosing = unsafe slots[index].isClosing
        if !more {
            unsafe slots[index].receiveIsArmed = false
            unsafe slots[index].inFlight -= 1
        }
        if entry.flags & SLUICE_CQE_BUFFER != 0 {
            let buffer = UInt16(truncatingIfNeeded: entry.flags >> SLUICE_CQE_BUFFER_SHIFT)
            if entry.result > 0, !isClosing {
                receivedBytes += Int(entry.result)
                completions.append(
                    .received(slot: slot, buffer: buffer, count: Int(entry.result)))
            } else {
                buffers.recycle(buffer)
            }
        }
        guard !more, !isClosing else { return }
        switch -entry.result {
        case ENOBUFS:
            counters.bufferShortages += 1
            unsafe slots[index].isStarved = true
            starved.append(slot)
        case Int32.min..<0, ECANCELED, EINTR, EAGAIN:
            // Data, a pause that is over, or a completion queue that overflowed: go on.
            armReceive(slot)
        default:
            unsafe slots[index].wantsReceive = false
            completions.append(.receiveEnded(slot: slot, code: -entry.result))
        }
    }

    // MARK: Buffers

    @unsafe
    package func bytes(of buffer: UInt16) -> UnsafePointer<UInt8> {
        unsafe buffers.bytes(of: buffer)
    }

    package mutating func recycle(_ buffer: UInt16) {
        buffers.recycle(buffer)
    }

    // MARK: Private

    /// What comes back with a completion: operation (8 bits), generation (24), slot (32).
    private func token(_ operation: Operation, slot: UInt32 = 0) -> UInt64 {
        var generation: UInt32 = 0
        if Int(slot) < slotCount, operation != .accept, operation != .poll {
            generation = unsafe slots[Int(slot)].generation & 0xFF_FFFF
        }
        return UInt64(operation.rawValue) << 56 | UInt64(generation) << 32 | UInt64(slot)
    }
}

/// Whether an accept failed because something ran out, so that trying again at once is useless.
func isExhaustion(_ code: Int32) -> Bool {
    code == EMFILE || code == ENFILE || code == ENOBUFS || code == ENOMEM
}
