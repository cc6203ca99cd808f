internal import CLinuxIO

/// Sockets over epoll, for kernels and containers that refuse io_uring.
///
/// The same rules as `RingBackend`: bounded receive buffers, one send in flight a slot, nothing
/// reported from inside a command.
@safe
package struct EpollBackend: NetworkBackend, ~Copyable, @unchecked Sendable {
    private let epoll: Int32
    /// SAFETY: `slotCount` slots, from `init` to `deinit`.
    private let slots: UnsafeMutablePointer<Slot>
    private let slotCount: Int
    /// SAFETY: `bufferCount * bufferBytes` bytes, from `init` to `deinit`.
    private let memory: UnsafeMutablePointer<UInt8>
    private let bufferCount: Int
    private let bufferBytes: Int
    private var freeBuffers: [UInt16]
    /// SAFETY: `eventsMax` entries that the kernel fills, from `init` to `deinit`.
    private let events: UnsafeMutablePointer<epoll_event>

    private var listener: Int32 = -1
    private var watched: (doorbell: Int32, signals: Int32) = (-1, -1)
    private var completions: [Completion] = []
    /// Completions of this side's making, reported by the next `wait`.
    private var prepared: [Completion] = []
    /// Slots that may have something to receive, each at most once.
    private var readable: [UInt32] = []
    /// Bytes that this wait has brought.
    private var receivedBytes = 0
    /// Slots with a send that was not tried yet.
    private var sendable: [UInt32] = []

    package private(set) var counters = BackendCounters()

    @safe
    private struct Slot {
        var descriptor: Int32 = -1
        var isReadable = false
        var isListed = false
        var wantsReceive = false
        /// The peer has finished or the socket failed; reading on tells which.
        var mayHaveEnded = false
        var sendBase: UnsafePointer<UInt8>?
        var sendCount = 0
        var sendDone = 0
    }

    private static let eventsMax = 512
    /// Buffers that one slot may fill in one turn.
    private static let receivesPerTurn = 8
    /// Connections accepted in one turn.
    private static let acceptsPerTurn = 64
    /// Tokens from here on are not slots.
    private static let listenerToken: UInt64 = 1 << 32
    private static let doorbellToken: UInt64 = 2 << 32
    private static let signalsToken: UInt64 = 3 << 32

    package init(
        slotCount: Int, settings: BackendSettings = BackendSettings()
    ) throws(SystemError) {
        precondition(slotCount > 0 && slotCount < 1 << 24)
        precondition(settings.bufferCount > 0 && settings.bufferCount <= 32_768)
        let bytes = settings.bufferCount * settings.bufferBytes
        guard let mapped = unsafe sluice_map_anonymous(bytes) else {
            throw SystemError(.memory, code: ENOMEM)
        }
        let created = sluice_epoll_create()
        guard created >= 0 else {
            unsafe munmap(mapped, bytes)
            throw SystemError(.epoll, code: -created)
        }
        epoll = created
        unsafe memory = mapped.assumingMemoryBound(to: UInt8.self)
        bufferCount = settings.bufferCount
        bufferBytes = settings.bufferBytes
        freeBuffers = (0..<settings.bufferCount).reversed().map { UInt16($0) }
        unsafe slots = .allocate(capacity: slotCount)
        unsafe slots.initialize(repeating: Slot(), count: slotCount)
        self.slotCount = slotCount
        unsafe events = .allocate(capacity: Self.eventsMax)
        unsafe events.initialize(repeating: epoll_event(), count: Self.eventsMax)
    }

    deinit {
        CLinuxIO.close(epoll)
        for index in 0..<slotCount where unsafe slots[index].descriptor >= 0 {
            unsafe CLinuxIO.close(slots[index].descriptor)
        }
        unsafe slots.deinitialize(count: slotCount)
        unsafe slots.deallocate()
        unsafe events.deinitialize(count: Self.eventsMax)
        unsafe events.deallocate()
        unsafe munmap(memory, bufferCount * bufferBytes)
    }

    /// Nothing to do: the kernel never holds this backend's memory.
    package func abandon() {}

    // MARK: Accepting

    package mutating func startAccepting(_ listener: borrowing ListeningSocket) {
        guard self.listener < 0 else { return }
        self.listener = listener.descriptor
        _ = sluice_set_nonblocking(listener.descriptor, 1)
        add(listener.descriptor, SLUICE_EPOLL_READ, Self.listenerToken)
    }

    package mutating func stopAccepting() {
        guard listener >= 0 else { return }
        _ = sluice_epoll_remove(epoll, listener)
        listener = -1
    }

    private mutating func acceptAll() {
        for _ in 0..<Self.acceptsPerTurn {
            let result = sluice_accept(listener)
            if result >= 0 {
                completions.append(.accepted(StreamNumber(number: result)))
            } else if isExhaustion(-result) {
                stopAccepting()
                completions.append(.acceptFailed(code: -result))
                return
            } else if result == -EAGAIN {
                return
            }
        }
    }

    // MARK: Slots

    package mutating func open(_ slot: UInt32, _ stream: consuming StreamDescriptor) {
        let index = Int(slot)
        unsafe precondition(index < slotCount && slots[index].descriptor < 0)
        let isListed = unsafe slots[index].isListed
        let descriptor = stream.release()
        unsafe slots[index] = Slot(
            descriptor: descriptor, isListed: isListed, wantsReceive: true)
        add(descriptor, SLUICE_EPOLL_STREAM, UInt64(slot))
    }

    @unsafe
    package mutating func send(_ slot: UInt32, _ bytes: UnsafePointer<UInt8>, count: Int) {
        let index = Int(slot)
        unsafe precondition(slots[index].sendBase == nil && slots[index].descriptor >= 0)
        precondition(count > 0)
        unsafe slots[index].sendBase = bytes
        unsafe slots[index].sendCount = count
        unsafe slots[index].sendDone = 0
        sendable.append(slot)
    }

    package mutating func finishSending(_ slot: UInt32) {
        unsafe shutdown(slots[Int(slot)].descriptor, Int32(SHUT_WR))
    }

    package mutating func finish(_ slot: UInt32) {
        unsafe shutdown(slots[Int(slot)].descriptor, Int32(SHUT_RDWR))
    }

    package mutating func setReceiving(_ slot: UInt32, _ on: Bool) {
        let index = Int(slot)
        unsafe slots[index].wantsReceive = on
        if on, unsafe slots[index].isReadable { list(slot) }
    }

    package mutating func close(_ slot: UInt32) {
        let index = Int(slot)
        guard unsafe slots[index].descriptor >= 0 else { return }
        if unsafe slots[index].sendBase != nil {
            let done = unsafe slots[index].sendDone
            prepared.append(.sent(slot: slot, count: done, code: ECANCELED))
        }
        _ = unsafe sluice_epoll_remove(epoll, slots[index].descriptor)
        unsafe shutdown(slots[index].descriptor, Int32(SHUT_RDWR))
        unsafe CLinuxIO.close(slots[index].descriptor)
        let isListed = unsafe slots[index].isListed
        unsafe slots[index] = Slot(isListed: isListed)
        prepared.append(.closed(slot: slot))
    }

    // MARK: Watching

    package mutating func watch(_ event: borrowing EventDescriptor) {
        watched.doorbell = event.descriptor
        add(event.descriptor, SLUICE_EPOLL_READ, Self.doorbellToken)
    }

    package mutating func watch(_ signals: borrowing SignalDescriptor) {
        watched.signals = signals.descriptor
        add(signals.descriptor, SLUICE_EPOLL_READ, Self.signalsToken)
    }

    private func add(_ descriptor: Int32, _ events: UInt32, _ token: UInt64) {
        let code = sluice_epoll_add(epoll, descriptor, events, token)
        // It fails for want of kernel memory or because of a bug; neither can be served.
        precondition(code >= 0)
    }

    // MARK: The turn

    package mutating func wait(timeoutNs: Int64, gatherUs: Int, turnBytes: Int) -> Int {
        completions.removeAll(keepingCapacity: true)
        completions.append(contentsOf: prepared)
        prepared.removeAll(keepingCapacity: true)
        for slot in sendable { trySend(slot) }
        sendable.removeAll(keepingCapacity: true)
        let hasWork = !completions.isEmpty || (!readable.isEmpty && !freeBuffers.isEmpty)
        counters.enters += 1
        let count = unsafe sluice_epoll_wait(
            epoll, events, Int32(Self.eventsMax), hasWork ? 0 : timeoutNs)
        // A process that is stopped and resumed sees EINTR even without a signal handler.
        precondition(count >= 0 || count == -EINTR)
        for index in 0..<max(0, Int(count)) { unsafe handle(events[index]) }
        receiveAll(turnBytes: turnBytes)
        return completions.count
    }

    package func completion(at index: Int) -> Completion { completions[index] }

    @unsafe
    private mutating func handle(_ event: epoll_event) {
        let token = unsafe withUnsafePointer(to: event) { unsafe sluice_epoll_token($0) }
        let happened = unsafe event.events
        switch token {
        case Self.listenerToken:
            acceptAll()
        case Self.doorbellToken:
            completions.append(.ready(.doorbell))
        case Self.signalsToken:
            completions.append(.ready(.signals))
        default:
            let slot = UInt32(truncatingIfNeeded: token)
            let index = Int(slot)
            guard unsafe slots[index].descriptor >= 0 else { return }
            if happened & SLUICE_EPOLL_READABLE != 0 {
                unsafe slots[index].isReadable = true
                if happened & ~SLUICE_EPOLL_READ & SLUICE_EPOLL_READABLE != 0 {
                    unsafe slots[index].mayHaveEnded = true
                }
                list(slot)
            }
            if happened & SLUICE_EPOLL_WRITABLE != 0 { trySend(slot) }
        }
    }

    private mutating func list(_ slot: UInt32) {
        guard unsafe !slots[Int(slot)].isListed else { return }
        unsafe slots[Int(slot)].isListed = true
        readable.append(slot)
    }

    private mutating func trySend(_ slot: UInt32) {
        let index = Int(slot)
        guard let base = unsafe slots[index].sendBase else { return }
        while true {
            let done = unsafe slots[index].sendDone
            let left = unsafe slots[index].sendCount - done
            let result = unsafe sluice_send(slots[index].descriptor, base + done, left)
            if result > 0 {
                unsafe slots[index].sendDone += result
                if result < left { continue }
                unsafe slots[index].sendBase = nil
                completions.append(.sent(slot: slot, count: done + result, code: 0))
                return
            }
            if result == -Int(EINTR) { continue }
            if result == -Int(EAGAIN) { return }
            unsafe slots[index].sendBase = nil
            completions.append(.sent(slot: slot, count: done, code: Int32(-result)))
            return
        }
    }

    /// Receives from every listed slot, a few buffers each, until `turnBytes` came; what is
    /// left stays listed.
    private mutating func receiveAll(turnBytes: Int) {
        receivedBytes = 0
        var kept = 0
        var position = 0
        while position < readable.count, receivedBytes < turnBytes {
            let slot = readable[position]
            position += 1
            if receive(slot, turnBytes: turnBytes) {
                readable[kept] = slot
                kept += 1
            } else {
                unsafe slots[Int(slot)].isListed = false
            }
        }
        guard position < readable.count else { return readable.removeSubrange(kept...) }
        // Those that had no turn come first next time.
        for served in 0..<kept { readable.append(readable[served]) }
        readable.removeSubrange(..<position)
    }

    /// Whether the slot has more to receive.
    private mutating func receive(_ slot: UInt32, turnBytes: Int) -> Bool {
        let index = Int(slot)
        for _ in 0..<Self.receivesPerTurn where receivedBytes < turnBytes {
            guard unsafe slots[index].descriptor >= 0, unsafe slots[index].isReadable,
                unsafe slots[index].wantsReceive
            else { return false }
            guard let buffer = freeBuffers.popLast() else {
                counters.bufferShortages += 1
                return true
            }
            let target = unsafe memory + Int(buffer) * bufferBytes
            let result = unsafe sluice_recv(slots[index].descriptor, target, bufferBytes)
            if result > 0 {
                receivedBytes += result
                completions.append(.received(slot: slot, buffer: buffer, count: result))
                // A short read has emptied the socket, unless an end came with it.
                if result < bufferBytes, unsafe !slots[index].mayHaveEnded {
                    unsafe slots[index].isReadable = false
                }
                continue
            }
            freeBuffers.append(buffer)
            if result == -Int(EINTR) { continue }
            unsafe slots[index].isReadable = false
            if result == -Int(EAGAIN) { return false }
            unsafe slots[index].wantsReceive = false
            completions.append(.receiveEnded(slot: slot, code: Int32(-result)))
            return false
        }
        return unsafe slots[index].isReadable
    }

    // MARK: Buffers

    @unsafe
    package func bytes(of buffer: UInt16) -> UnsafePointer<UInt8> {
        unsafe UnsafePointer(memory + Int(buffer) * bufferBytes)
    }

    package mutating func recycle(_ buffer: UInt16) {
        freeBuffers.append(buffer)
    }
}
