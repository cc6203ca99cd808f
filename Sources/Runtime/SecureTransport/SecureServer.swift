package import ContentArena
package import LinuxIO
package import TLSEngine

/// The TLS connections of one thread: accepts, shakes hands, decrypts into the caller's memory,
/// encrypts from it, sends once a turn. Knows no frames.
///
/// A turn: `wait`, look at the events, `read`, `seal` and `flush`, and `wait` again, which submits
/// everything with one system call. No call but `wait` ever blocks. Owned by the thread that
/// first calls `wait`; it may be built on another.
@safe
package struct SecureServer<Backend: NetworkBackend & ~Copyable>: ~Copyable, @unchecked Sendable {
    var backend: Backend
    let limits: TransportLimits
    var context: TLSContext
    var listener: ListeningSocket?
    let bell: EventDescriptor
    let signals: SignalDescriptor?

    /// SAFETY: `limits.channelsMax` channels, from `init` to `deinit`.
    let channels: UnsafeMutablePointer<Channel>
    var freeIndexes: [UInt32]
    /// Channels with something to send at the next turn.
    var flushes: [UInt32] = []
    /// Events of this wait that need not have ended it.
    private var unaskedSends = 0
    /// Channels that drain or linger.
    var leaving: [UInt32] = []
    /// Received buffers: their length and the next of the same channel.
    var bufferCounts: [Int32]
    var bufferLinks: [UInt16]

    var events: [TransportEvent] = []
    var turn: UInt64 = 0
    var acceptAgainMs: UInt64 = 0
    var tally = TransportCounters()

    /// Connections that have an identity, unfinished handshakes included.
    package internal(set) var channelCount = 0
    /// Channels whose handshake is not complete.
    package internal(set) var handshakingCount = 0

    /// Serves `listener` (nil: only adopted connections) under `context`. `stop` is the one place
    /// where signals arrive, so at most one server of a process gets it.
    package init(
        context: TLSContext, listener: consuming ListeningSocket?,
        limits: TransportLimits = TransportLimits(),
        settings: BackendSettings = BackendSettings(), stop: consuming SignalDescriptor? = nil
    ) throws(SystemError) {
        precondition(limits.channelsMax > 0)
        let bell = try EventDescriptor()
        var backend = try Backend(slotCount: limits.channelsMax, settings: settings)
        backend.watch(bell)
        switch stop {
        case .some(let signals): backend.watch(signals)
        case .none: break
        }
        switch listener {
        case .some(let socket): backend.startAccepting(socket)
        case .none: break
        }
        self.backend = backend
        self.bell = bell
        signals = stop
        self.listener = listener
        self.limits = limits
        self.context = context
        unsafe channels = .allocate(capacity: limits.channelsMax)
        for index in 0..<limits.channelsMax { unsafe (channels + index).initialize(to: Channel()) }
        freeIndexes = (0..<UInt32(limits.channelsMax)).reversed()
        bufferCounts = [Int32](repeating: 0, count: settings.bufferCount)
        bufferLinks = [UInt16](repeating: .max, count: settings.bufferCount)
    }

    deinit {
        // Sends in flight read the channels' memory until the backend has let go.
        backend.abandon()
        unsafe channels.deinitialize(count: limits.channelsMax)
        unsafe channels.deallocate()
    }

    // MARK: The turn

    /// Submits all that was flushed and closed, then waits until something happens, at most
    /// `timeoutMs` (below 0: without end; 0: not at all).
    ///
    /// `gatherUs` > 0 lets it hold the wait open that long for more to come, where the kernel can
    /// do that: a trade of latency for fewer turns. Answers the number of events,
    /// which may be 0 before the time is over.
    @specialized(where Backend == RingBackend)
    @specialized(where Backend == EpollBackend)
    package mutating func wait(timeoutMs: Int, gatherUs: Int = 0) -> Int {
        wait(timeoutNs: timeoutMs < 0 ? -1 : Int64(timeoutMs) * 1_000_000, gatherUs: gatherUs)
    }

    /// The same, at most `timeoutNs`: for those who must wake on time.
    @specialized(where Backend == RingBackend)
    @specialized(where Backend == EpollBackend)
    package mutating func wait(timeoutNs: Int64, gatherUs: Int = 0) -> Int {
        events.removeAll(keepingCapacity: true)
        turn &+= 1
        startSends()
        var timeoutNs = timeoutNs
        if !leaving.isEmpty || acceptAgainMs != 0 {
            checkDeadlines(nowMs: MonotonicClock.nowMs)
            if timeoutNs < 0 || timeoutNs > 50_000_000 { timeoutNs = 50_000_000 }
        }
        unaskedSends = 0
        var count = waitOnce(timeoutNs: timeoutNs, gatherUs: gatherUs)
        // A lone token's send is done at once, and to wake for it costs a whole turn (decision 90). The
        // time begins anew with the first of them, so a wait lasts at most twice its time.
        var deadlineNs = UInt64.max
        while count > 0, timeoutNs != 0, unaskedSends > 0, unaskedSends == events.count,
            flushes.isEmpty
        {
            let nowNs = MonotonicClock.nowNs
            if deadlineNs == .max, timeoutNs > 0 { deadlineNs = nowNs + UInt64(timeoutNs) }
            guard nowNs < deadlineNs else { break }
            let leftNs = timeoutNs < 0 ? -1 : Int64(deadlineNs - nowNs)
            count = waitOnce(timeoutNs: leftNs, gatherUs: gatherUs)
        }
        return events.count
    }

    private mutating func waitOnce(timeoutNs: Int64, gatherUs: Int) -> Int {
        let turnBytes = max(limits.turnBytesMin, limits.turnBytesPerChannel * channelCount)
        let count = backend.wait(
            timeoutNs: timeoutNs, gatherUs: gatherUs, turnBytes: turnBytes)
        for index in 0..<count { handle(backend.completion(at: index)) }
        return count
    }

    /// An event of the last `wait`, 0..<its answer.
    @specialized(where Backend == RingBackend)
    @specialized(where Backend == EpollBackend)
    package func event(at index: Int) -> TransportEvent { events[index] }

    /// Other threads ring it to end a `wait`.
    package var doorbell: Doorbell { bell.doorbell }

    mutating func handle(_ completion: Completion) {
        switch completion {
        case .accepted(let stream): accepted(stream)
        case .acceptFailed: acceptFailed()
        case .received(let slot, let buffer, let count): received(slot, buffer, count)
        case .receiveEnded(let slot, let code): receiveEnded(slot, code)
        case .sent(let slot, let count, let code): sent(slot, count, code)
        case .closed(let slot): closed(slot)
        case .ready(.doorbell):
            bell.drain()
            events.append(.doorbell)
        case .ready(.signals):
            switch signals {
            case .some(let signals):
                while let signal = signals.next() { events.append(.signal(signal)) }
            case .none: break
            }
        }
    }

    // MARK: Opening

    mutating func accepted(_ stream: StreamNumber) {
        tally.accepted += 1
        guard isAccepting else { return refuse(stream) }
        if limits.handsOverAccepted {
            events.append(.accepted(AcceptedStream(number: stream.number)))
        } else if let channel = adopt(AcceptedStream(number: stream.number)) {
            events.append(.opened(channel))
        }
    }

    /// Serves a connection that some server accepted; nil, and the connection refused, when there
    /// is no channel. Its events begin with `established`.
    package mutating func adopt(_ stream: AcceptedStream) -> ChannelID? {
        open(StreamDescriptor(adopting: stream.number))
    }

    /// Opens a connection of this side's own making, whose server must have a certificate for
    /// `serverName`; nil, and it is closed, when there is no channel. Its events begin with
    /// `established`.
    package mutating func connect(
        _ stream: consuming StreamDescriptor, context: TLSContext, serverName: String
    ) throws(TLSSetupError) -> ChannelID? {
        let session = try TLSSession(context: context, serverName: serverName)
        guard let channel = open(stream) else { return nil }
        unsafe channels[Int(channel.index)].session = consume session
        // The first message is this side's.
        shakeHands(Int(channel.index))
        return channel
    }

    private mutating func open(_ stream: consuming StreamDescriptor) -> ChannelID? {
        guard let index = freeIndexes.popLast() else {
            tally.refused += 1
            return nil
        }
        let generation = unsafe channels[Int(index)].generation
        unsafe channels[Int(index)] = Channel()
        unsafe channels[Int(index)].generation = generation
        unsafe channels[Int(index)].phase = .handshaking
        channelCount += 1
        handshakingCount += 1
        backend.open(index, stream)
        return ChannelID(index: index, generation: generation)
    }

    func refuse(_ stream: StreamNumber) {
        LinuxIO.refuse(stream)
    }

    mutating func acceptFailed() {
        guard isAccepting else { return }
        tally.acceptPauses += 1
        acceptAgainMs = MonotonicClock.nowMs + limits.acceptPauseMs
        events.append(.acceptingPaused)
    }

    /// Whether a listener is open.
    package var isAccepting: Bool { listener != nil }

    /// Closes the listener. Connections that are open stay.
    package mutating func stopAccepting() {
        backend.stopAccepting()
        listener = nil
        acceptAgainMs = 0
    }

    /// Serves later connections with another certificate.
    package mutating func replaceContext(_ context: TLSContext) {
        self.context = context
    }

    // MARK: Receiving

    mutating func received(_ slot: UInt32, _ buffer: UInt16, _ count: Int) {
        let index = Int(slot)
        tally.bytesReceived &+= UInt64(count)
        switch unsafe channels[index].phase {
        case .handshaking:
            hold(buffer, count, for: index)
            shakeHands(index)
        case .established:
            hold(buffer, count, for: index)
            note(index)
        case .free, .draining, .lingering, .closing:
            backend.recycle(buffer)
        }
    }

    mutating func hold(_ buffer: UInt16, _ count: Int, for index: Int) {
        bufferCounts[Int(buffer)] = Int32(count)
        bufferLinks[Int(buffer)] = .max
        if unsafe channels[index].lastBuffer == .max {
            unsafe channels[index].firstBuffer = buffer
        } else {
            unsafe bufferLinks[Int(channels[index].lastBuffer)] = buffer
        }
        unsafe channels[index].lastBuffer = buffer
        unsafe channels[index].heldBuffers += 1
        if unsafe channels[index].heldBuffers >= limits.heldBuffersMax,
            unsafe !channels[index].isPaused
        {
            unsafe channels[index].isPaused = true
            backend.setReceiving(UInt32(index), false)
        }
    }

    /// Reports that there is something to read, once a turn.
    mutating func note(_ index: Int) {
        guard unsafe channels[index].notedTurn != turn else { return }
        unsafe channels[index].notedTurn = turn
        events.append(.received(identity(index)))
    }

    mutating func receiveEnded(_ slot: UInt32, _ code: Int32) {
        let index = Int(slot)
        unsafe channels[index].endCode = code
        switch unsafe channels[index].phase {
        case .handshaking:
            shut(index, .handshakeFailed)
        case .established:
            // What came before the end is read first.
            if !hasUnread(index) { shutAfterEnd(index) }
        case .lingering:
            shut(index, .local)
        case .draining:
            if code != 0 { shut(index, .local) }
        case .free, .closing:
            break
        }
    }

    /// Lends the session its next buffer and gives back the one that it used up.
    mutating func feedNext(_ index: Int) -> Bool {
        returnUsedBuffer(index)
        let buffer = unsafe channels[index].firstBuffer
        guard buffer != .max, unsafe !channels[index].isFirstLent else { return false }
        unsafe channels[index].isFirstLent = true
        let count = Int(bufferCounts[Int(buffer)])
        unsafe channels[index].session?.feed(backend.bytes(of: buffer), count: count)
        return true
    }

    mutating func returnUsedBuffer(_ index: Int) {
        guard unsafe channels[index].isFirstLent,
            unsafe channels[index].session?.unreadCiphertextBytes ?? 0 == 0
        else { return }
        returnFirstBuffer(index)
        if unsafe channels[index].isPaused,
            unsafe channels[index].heldBuffers <= limits.heldBuffersMax / 4
        {
            unsafe channels[index].isPaused = false
            backend.setReceiving(UInt32(index), true)
        }
    }

    mutating func returnFirstBuffer(_ index: Int) {
        let buffer = unsafe channels[index].firstBuffer
        unsafe channels[index].firstBuffer = bufferLinks[Int(buffer)]
        if unsafe channels[index].firstBuffer == .max { unsafe channels[index].lastBuffer = .max }
        unsafe channels[index].isFirstLent = false
        unsafe channels[index].heldBuffers -= 1
        backend.recycle(buffer)
    }

    func hasUnread(_ index: Int) -> Bool {
        unsafe channels[index].heldBuffers > 0
            || channels[index].session?.hasOpenedBytes ?? false
    }

    mutating func shakeHands(_ index: Int) {
        if unsafe channels[index].session == nil {
            guard let session = try? TLSSession(context: context) else {
                return shut(index, .handshakeFailed)
            }
            unsafe channels[index].session = consume session
        }
        while true {
            let progress = unsafe channels[index].session?.handshake()
            switch progress {
            case .done:
                returnUsedBuffer(index)
                unsafe channels[index].phase = .established
                handshakingCount -= 1
                tally.handshakes += 1
                events.append(.established(identity(index)))
                if hasUnread(index) { note(index) }
                return flushOutput(index)
            case .needsCiphertext:
                if !feedNext(index) { return flushOutput(index) }
            case .failed(let failure):
                tally.handshakeFailures += 1
                return fail(index, failure, orElse: .handshakeFailed)
            case nil:
                return
            }
        }
    }

    /// SHA-256 of the certificate (DER) with which the client of an established channel has proved
    /// who it is, in the form of `sha256`; nil where it showed none of the context's client
    /// authorities.
    @specialized(where Backend == RingBackend)
    @specialized(where Backend == EpollBackend)
    package func peerCertificateDigest(
        _ channel: ChannelID
    ) -> (UInt64, UInt64, UInt64, UInt64)? {
        guard let index = find(channel), unsafe channels[index].phase == .established else {
            return nil
        }
        return unsafe channels[index].session?.peerCertificateDigest
    }

    /// Decrypts what has arrived into `region` from `offset` on, until the region is full or
    /// nothing is left.
    ///
    /// `offset < region.byteCount`. Never blocks. A channel that ended answers 0 bytes; why comes with `closed`.
    @specialized(where Backend == RingBackend)
    @specialized(where Backend == EpollBackend)
    package mutating func read(
        _ channel: ChannelID, into region: inout ContentRegion, at offset: Int
    ) -> ReadResult {
        precondition(offset >= 0 && offset < region.byteCount)
        guard let index = find(channel), unsafe channels[index].phase == .established else {
            return ReadResult(plaintextBytes: 0, mayHaveMore: false)
        }
        // SAFETY: the region outlives this call and nothing else touches it meanwhile.
        let target = unsafe region.withUnsafeMutableBytes { buffer in
            unsafe UnsafeMutableBufferPointer(
                rebasing: buffer.bindMemory(to: UInt8.self)[offset...])
        }
        let done = unsafe open(index, into: target)
        if unsafe channels[index].session?.keyUpdatesReceived ?? 0 > 0 { countKeyUpdates(index) }
        flushOutput(index)
        guard unsafe channels[index].phase == .established else {
            return ReadResult(plaintextBytes: done, mayHaveMore: false)
        }
        let mayHaveMore = hasUnread(index) && done == target.count
        if !mayHaveMore, unsafe channels[index].endCode >= 0 { shutAfterEnd(index) }
        return ReadResult(plaintextBytes: done, mayHaveMore: mayHaveMore)
    }

    @unsafe
    mutating func open(
        _ index: Int, into target: UnsafeMutableBufferPointer<UInt8>
    ) -> Int {
        guard let base = target.baseAddress else { return 0 }
        var done = 0
        while done < target.count {
            if unsafe channels[index].session?.hasInput == false, !feedNext(index) { return done }
            let progress = unsafe channels[index].session?.open(
                into: base + done, capacity: target.count - done)
            switch progress {
            case .done(let count):
                done += count
            case .needsCiphertext:
                if !feedNext(index) { return done }
            case .failed(let failure):
                fail(index, failure, orElse: .protocolViolation)
                return done
            case nil:
                return done
            }
        }
        returnUsedBuffer(index)
        return done
    }

    // MARK: Sending

    /// Encrypts `plaintext`, 1...16,384 bytes, as one record behind what is sealed already.
    ///
    /// False, and nothing is sealed, when the channel is not established or the plaintext exceeds
    /// `sealBudgetBytes`. It goes out after `flush`.
    @specialized(where Backend == RingBackend)
    @specialized(where Backend == EpollBackend)
    package mutating func seal(_ channel: ChannelID, _ plaintext: Span<UInt8>) -> Bool {
        guard let index = find(channel), plaintext.count <= sealBudgetBytes(channel),
            plaintext.count > 0
        else { return false }
        guard unsafe channels[index].session?.seal(plaintext) ?? false else {
            fail(index, .protocolViolation, orElse: .protocolViolation)
            return false
        }
        return true
    }

    /// Plaintext that may be sealed now, 0...sealedBytesMax: what the limit leaves beside
    /// ciphertext that is sealed or in flight. 0 unless the channel is established.
    @specialized(where Backend == RingBackend)
    @specialized(where Backend == EpollBackend)
    package mutating func sealBudgetBytes(_ channel: ChannelID) -> Int {
        guard let index = find(channel), unsafe channels[index].phase == .established else {
            return 0
        }
        return unsafe max(0, limits.sealedBytesMax - channels[index].unsentBytes)
    }

    /// Sends what is sealed with the next turn, or when the send in flight is done.
    @specialized(where Backend == RingBackend)
    @specialized(where Backend == EpollBackend)
    package mutating func flush(_ channel: ChannelID) {
        guard let index = find(channel) else { return }
        wantFlush(index)
    }

    mutating func flushOutput(_ index: Int) {
        if unsafe channels[index].session?.outputBytes ?? 0 > 0 { wantFlush(index) }
    }

    mutating func wantFlush(_ index: Int) {
        unsafe channels[index].wantsFlush = true
        guard unsafe !channels[index].isListed else { return }
        unsafe channels[index].isListed = true
        flushes.append(UInt32(index))
    }

    mutating func startSends() {
        guard !flushes.isEmpty else { return }
        for slot in flushes {
            unsafe channels[Int(slot)].isListed = false
            startSend(Int(slot))
        }
        flushes.removeAll(keepingCapacity: true)
    }

    /// Hands everything sealed to the backend, unless a send is in flight.
    mutating func startSend(_ index: Int) {
        switch unsafe channels[index].phase {
        case .handshaking, .established, .draining: break
        case .free, .lingering, .closing: return
        }
        if unsafe channels[index].hasFailedSending {
            // A channel that only drains has nothing more to wait for.
            if unsafe channels[index].phase == .draining { shut(index, .local) }
            return
        }
        guard unsafe channels[index].sending == nil, unsafe channels[index].wantsFlush else {
            return
        }
        unsafe channels[index].wantsFlush = false
        guard let block = unsafe channels[index].session?.takeOutput() else {
            return finishIfDrained(index)
        }
        tally.sends += 1
        unsafe backend.send(UInt32(index), block.start, count: block.count)
        unsafe channels[index].sentBytes = 0
        unsafe channels[index].sending = consume block
    }

    mutating func sent(_ slot: UInt32, _ count: Int, _ code: Int32) {
        let index = Int(slot)
        tally.bytesSent &+= UInt64(count)
        unsafe channels[index].sentBytes += count
        let isClosing = unsafe channels[index].phase == .closing
        if code == 0, !isClosing, continueSend(index) { return }
        unsafe channels[index].sending = nil
        guard !isClosing else { return }
        if code != 0 { return sendFailed(index) }
        if unsafe channels[index].phase == .established { tellSent(index) }
        if unsafe channels[index].wantsFlush {
            startSend(index)
        } else {
            finishIfDrained(index)
        }
    }

    private mutating func tellSent(_ index: Int) {
        events.append(.sent(identity(index)))
        if !limits.sendsEndWaits, unsafe !channels[index].isSendAwaited { unaskedSends += 1 }
        unsafe channels[index].isSendAwaited = false
    }

    /// The end of the channel's send in flight, or of the next one, shall end a wait: for those who
    /// have more to say than may be sealed now.
    @specialized(where Backend == RingBackend)
    @specialized(where Backend == EpollBackend)
    package mutating func awaitSend(_ channel: ChannelID) {
        guard let index = find(channel) else { return }
        unsafe channels[index].isSendAwaited = true
    }

    /// Sends what a short send left over; false when nothing is.
    mutating func continueSend(_ index: Int) -> Bool {
        let done = unsafe channels[index].sentBytes
        switch unsafe channels[index].sending {
        case .some(let block):
            guard done < block.count else { return false }
            unsafe backend.send(UInt32(index), block.start + done, count: block.count - done)
            return true
        case .none:
            return false
        }
    }

    // MARK: Looking

    /// What was counted since the server began.
    package var counters: TransportCounters {
        var counters = tally
        counters.backend = backend.counters
        return counters
    }

    func identity(_ index: Int) -> ChannelID {
        ChannelID(index: UInt32(index), generation: unsafe channels[index].generation)
    }

    /// The place of a channel that is open.
    func find(_ channel: ChannelID) -> Int? {
        let index = Int(channel.index)
        guard index < limits.channelsMax,
            unsafe channels[index].generation == channel.generation,
            unsafe channels[index].phase != .free
        else { return nil }
        return index
    }
}
