package import SluiceWire

/// A task as the broker assigned it, with its whole body.
package struct Assignment: Sendable {
    package let task: TaskID
    package let offer: OfferID
    package let terms: TaskTerms
    package let trace: TraceContext?
    package let body: [UInt8]
    /// On the session's clock.
    package let expiresMs: UInt64
}

/// A supplier's half of one connection: pure, no clock, no I/O. Used like `ClientSession`.
///
/// Memory: bodies of assigned tasks until they are handed out, each within the credit given for
/// it and the broker's largest body; and answers within the credit that the broker gave.
package struct SupplierSession: PeerSession {
    /// What a supplier's session tells its owner, in order.
    package enum Event: Sendable {
        /// WELCOME came: models may be offered.
        case connected(WelcomeFrame)
        /// A task with its whole body: run it, then say `end`.
        case assigned(StreamHandle, Assignment)
        /// A write that was told to wait may go on.
        case writable(StreamHandle)
        /// CANCEL came, or the deadline passed: stop and say `end`; what was not sent is dropped.
        case cancelled(StreamHandle, WireCode)
        /// The task did not stop in time after CANCEL or its deadline; its END is sent and its slot is free.
        case overdue(StreamHandle)
        /// The END of a task, which had to wait for its last TOKENS, is sent.
        case finished(StreamHandle)
        /// GO-AWAY came: no more tasks come from here; what runs goes on.
        case draining(WireCode, graceMs: UInt32)
        /// A row of the answer to `ask`; `rowsLeft` says how many follow.
        case reported(ReportFrame)
        /// The connection was lost under this task: stop it.
        case abandoned(StreamHandle)
        /// The connection is over; the last event.
        case lost(ConnectionLoss)
    }

    /// How long after CANCEL a task may take to stop before the session ends it; below the 2 s
    /// of the protocol, to leave room for the tick and the way.
    package static let cancelPatienceMs: UInt64 = 1_000

    private struct Stream: Sendable {
        let handle: StreamHandle
        let assign: AssignFrame
        let expiresMs: UInt64
        var body: [UInt8] = []
        var bodyWindow: GrantWindow
        /// The whole body is here and the task was handed out.
        var isRunning = false
        var isStarted = false
        var answer: AnswerQueue
        /// In `writing`.
        var isWriting = false
        /// A write was told to wait.
        var hasWaitingWriter = false
        /// END, to follow the last of `answer`.
        var end: EndFrame?
        var cancel: (code: WireCode, overdueMs: UInt64)?
        /// What STARTED said and the increments written; the claim of an END without its own.
        var usage = Usage()
    }

    private struct OfferState: Sendable {
        var isWithdrawn = false
        /// Largest number of slots that was ever granted: a lower GRANT may cross an ASSIGN.
        var slotsMax: UInt32 = 0
        var openCount: UInt32 = 0
    }

    private let handshake: Handshake
    private var core = SessionCore()
    private var events: [Event] = []
    /// By stream number; grows to the highest number used.
    private var streams: [Stream?] = []
    private var openCount = 0
    private var nextSerial: UInt64 = 0
    private var offers: [OfferID: OfferState] = [:]
    /// Streams with answer frames that may travel, in turn.
    private var writing: [StreamID] = []
    /// `lost` was said.
    private var hasLost = false

    package init(_ handshake: Handshake) {
        precondition(handshake.role == .supplier && handshake.bodyCreditBytes >= 1)
        self.handshake = handshake
    }

    /// Queues HELLO.
    package mutating func start(nowMs: UInt64) {
        core.start(handshake, nowMs: nowMs)
    }

    // MARK: Getters

    /// The connection is over; what `takeOutput` still has may be sent before it is closed.
    package var isOver: Bool { core.isOver }

    /// `takeOutput` would return bytes, or might.
    package var hasOutput: Bool {
        !core.control.isEmpty || !core.isOver && !writing.isEmpty
    }

    /// Streams without END.
    package var openStreamCount: Int { openCount }

    /// True from WELCOME to the end.
    package var isOpen: Bool { core.isOpen }

    /// True when a write would be told to go on at once. Also true for a task that is over, so
    /// that its writer wakes up and learns it.
    package func canWrite(_ handle: StreamHandle) -> Bool {
        guard let index = index(of: handle), let stream = streams[index] else { return true }
        return stream.cancel != nil || stream.answer.fitsCredit
    }

    /// What a task's own side may still do.
    package enum TaskState: Equatable, Sendable {
        case running
        case cancelled(WireCode)
        /// END is sent or decided, or the connection is lost.
        case over
    }

    /// Whether a task still runs.
    package func state(of handle: StreamHandle) -> TaskState {
        guard let index = index(of: handle), let stream = streams[index], stream.end == nil
        else { return .over }
        return stream.cancel.map { .cancelled($0.code) } ?? .running
    }

    // MARK: Commands about supply

    /// Offers a model. The id was never used on this connection.
    package mutating func offer(_ frame: OfferFrame) {
        precondition(offers[frame.offer] == nil, "an offer's id is used once a connection")
        guard core.isOpen else { return }
        offers[frame.offer] = OfferState()
        frame.encode(into: &core.control)
    }

    /// Sets the slots of an offer, or of the connection (offer 0).
    package mutating func grant(_ offer: OfferID, slots: UInt32) {
        guard core.isOpen else { return }
        if offer != .connection {
            guard let state = offers[offer], !state.isWithdrawn else { return }
            offers[offer]?.slotsMax = max(state.slotsMax, slots)
        }
        GrantFrame(offer: offer, slots: slots).encode(into: &core.control)
    }

    /// Takes an offer back; what runs on it goes on.
    package mutating func withdraw(_ offer: OfferID) {
        guard core.isOpen, let state = offers[offer], !state.isWithdrawn else { return }
        offers[offer]?.isWithdrawn = true
        WithdrawFrame(offer: offer).encode(into: &core.control)
    }

    /// Takes every offer back.
    package mutating func drain() {
        for offer in offers.keys.sorted(by: { $0.rawValue < $1.rawValue }) { withdraw(offer) }
    }

    /// Asks how the supplier stands; a broker that can tell answers with `reported`.
    package mutating func ask(question: UInt32) {
        guard core.isOpen else { return }
        AskFrame(question: question).encode(into: &core.control)
    }

    // MARK: Commands about a task

    /// What became of a write.
    package enum WriteResult: Equatable, Sendable {
        /// Taken, and there is credit: write on.
        case proceed
        /// Taken; write on after `writable`.
        case wait
        /// Not taken: the task was cancelled for this reason.
        case cancelled(WireCode)
        /// Not taken: the task is over or its connection is lost.
        case over
    }

    /// The engine has read the prompt. Said at most once, before output; later calls are ignored.
    package mutating func started(
        _ handle: StreamHandle, inputTokens: UInt32, cachedTokens: UInt32
    ) -> WriteResult {
        guard let index = index(of: handle), streams[index]?.end == nil else { return .over }
        if let cancel = streams[index]?.cancel { return .cancelled(cancel.code) }
        guard streams[index]?.isStarted == false else { return .proceed }
        let cachedTokens = min(cachedTokens, inputTokens)
        streams[index]?.isStarted = true
        streams[index]?.usage.inputTokens = inputTokens
        streams[index]?.usage.cachedTokens = cachedTokens
        StartedFrame(inputTokens: inputTokens, cachedTokens: cachedTokens)
            .encode(stream: handle.stream, into: &core.control)
        return .proceed
    }

    /// Queues a piece of the answer. `tokens` ≥ 0; 0 with flag `error`.
    package mutating func write(
        _ bytes: [UInt8], tokens: Int, flags: FrameFlags, to handle: StreamHandle
    ) -> WriteResult {
        precondition(tokens >= 0 && (tokens == 0 || !flags.contains(.error)))
        guard let index = index(of: handle), streams[index]?.end == nil else { return .over }
        if let cancel = streams[index]?.cancel { return .cancelled(cancel.code) }
        streams[index]?.answer.append(bytes, tokens: tokens, flags: flags)
        streams[index]?.usage.count(tokens, isReasoning: flags.contains(.reasoning))
        resumeWriting(index)
        guard streams[index]?.answer.fitsCredit == false else { return .proceed }
        streams[index]?.hasWaitingWriter = true
        return .wait
    }

    /// Ends a task: END follows its last TOKENS, or goes at once after CANCEL. Without a `usage`
    /// the claim is what STARTED said and what was written. Returns the claim.
    @discardableResult
    package mutating func end(
        _ handle: StreamHandle, code: WireCode, finishReason: FinishReason = .stop,
        usage: Usage? = nil
    ) -> Usage {
        precondition(code.scope == .stream)
        guard let index = index(of: handle), let stream = streams[index], stream.end == nil
        else { return usage ?? Usage() }
        let end = EndFrame(
            code: code, finishReason: finishReason, usage: (usage ?? stream.usage).consistent)
        guard stream.cancel == nil, !stream.answer.isEmpty else {
            end.encode(stream: handle.stream, into: &core.control)
            close(index)
            return end.usage
        }
        streams[index]?.end = end
        return end.usage
    }

    /// Ends the session from our side.
    package mutating func close() {
        core.stop()
        lose(.finished)
    }

    // MARK: Events in

    /// Bytes came from the broker, split anywhere.
    package mutating func receive(_ bytes: [UInt8], nowMs: UInt64) {
        guard !core.isOver else { return }
        core.append(bytes, nowMs: nowMs)
        do throws(Violation) {
            while !core.isOver, let frame = try core.nextFrame() {
                try handle(frame, nowMs: nowMs)
            }
        } catch {
            core.refuse(error)
            lose(.peerViolation(error.code))
        }
    }

    /// Time passed. Called at least every half second while tasks run.
    package mutating func tick(nowMs: UInt64) {
        if let loss = core.tick(nowMs: nowMs) { return lose(loss) }
        for index in streams.indices {
            guard let stream = streams[index] else { continue }
            if let cancel = stream.cancel {
                guard nowMs >= cancel.overdueMs else { continue }
                end(stream.handle, code: cancel.code)
                events.append(.overdue(stream.handle))
            } else if nowMs >= stream.expiresMs {
                // A supplier stops by itself when the time is over ([D5]).
                stop(index, .deadlineExceeded, nowMs: nowMs)
            }
        }
    }

    /// The transport has no more bytes, either way.
    package mutating func transportClosed() {
        lose(.closed)
    }

    // MARK: Work out

    /// What happened since the last call, in order.
    package mutating func takeEvents() -> [Event] {
        defer { events = [] }
        return events
    }

    /// Bytes to send now: control frames first, then answers in turn, one frame of at most 16 KiB
    /// each. Stops at the first frame that reaches `targetBytes`. Empty when there is nothing to
    /// send.
    package mutating func takeOutput(targetBytes: Int, nowMs: UInt64) -> [UInt8] {
        var bytes = core.control
        core.control = []
        guard !core.isOver else { return bytes }
        while bytes.count < targetBytes, !writing.isEmpty {
            sendTokens(writing.removeFirst(), into: &bytes)
        }
        return bytes
    }

    private mutating func sendTokens(_ stream: StreamID, into bytes: inout [UInt8]) {
        let index = Int(stream.rawValue)
        guard streams[index] != nil else { return }
        streams[index]?.isWriting = false
        guard streams[index]?.answer.canSend == true else { return }
        _ = streams[index]?.answer.takeFrame(stream: stream, into: &bytes)
        if let handle = streams[index]?.handle, let end = streams[index]?.end,
            streams[index]?.answer.isEmpty == true
        {
            end.encode(stream: stream, into: &bytes)
            events.append(.finished(handle))
            close(index)
            return
        }
        resumeWriting(index)
        wakeWriter(index)
    }

    /// Gives a stream its turn if it has output that may travel.
    private mutating func resumeWriting(_ index: Int) {
        guard streams[index]?.isWriting == false, streams[index]?.answer.canSend == true,
            let stream = streams[index]?.handle.stream
        else { return }
        streams[index]?.isWriting = true
        writing.append(stream)
    }

    private mutating func wakeWriter(_ index: Int) {
        guard streams[index]?.hasWaitingWriter == true,
            streams[index]?.answer.fitsCredit == true, let handle = streams[index]?.handle
        else { return }
        streams[index]?.hasWaitingWriter = false
        events.append(.writable(handle))
    }

    // MARK: Frames

    private mutating func handle(_ frame: ReceivedFrame, nowMs: UInt64) throws(Violation) {
        switch try core.receiveConnectionFrame(frame) {
        case .none: return
        case .opened: events.append(.connected(core.welcome))
        case .draining(let goAway):
            events.append(.draining(goAway.code, graceMs: goAway.graceMs))
        case .lost(let loss): lose(loss)
        case .notMine where frame.header.kind == .report:
            guard frame.header.stream == .connection else {
                throw Violation(.unexpectedFrame, frame.header)
            }
            events.append(
                .reported(
                    try frame.decode { bytes throws(WireError) in
                        try ReportFrame(decoding: bytes.span)
                    }))
        case .notMine: try handleTaskFrame(frame, nowMs: nowMs)
        }
    }

    private mutating func handleTaskFrame(
        _ frame: ReceivedFrame, nowMs: UInt64
    ) throws(Violation) {
        let header = frame.header
        guard header.stream != .connection, header.stream.rawValue <= core.welcome.maxStreams
        else { throw Violation(.streamOutOfRange, header) }
        let index = Int(header.stream.rawValue)
        let isOpen = index < streams.count && streams[index] != nil
        switch header.kind {
        case .assign:
            guard !isOpen else { throw Violation(.streamInUse, header) }
            try receiveAssign(frame, nowMs: nowMs)
        // Late BODY, CANCEL and CREDIT, which crossed our END, are ignored.
        case .body:
            if isOpen { try receiveBody(frame, at: index) }
        case .cancel:
            let cancel = try frame.decode { bytes throws(WireError) in
                try CancelFrame(decoding: bytes.span)
            }
            if isOpen { stop(index, cancel.code, nowMs: nowMs) }
        case .credit:
            let credit = try frame.decode { bytes throws(WireError) in
                try CreditFrame(decoding: bytes.span)
            }
            guard isOpen else { return }
            streams[index]?.answer.raiseLimit(credit.limitBytes)
            resumeWriting(index)
            wakeWriter(index)
        default:
            throw Violation(.unexpectedFrame, header)
        }
    }

    private mutating func receiveAssign(
        _ frame: ReceivedFrame, nowMs: UInt64
    ) throws(Violation) {
        let header = frame.header
        let assign = try frame.decode { bytes throws(WireError) in
            try AssignFrame(decoding: bytes.span)
        }
        guard let offer = offers[assign.offer] else { throw Violation(.invalidOffer, header) }
        guard !offer.isWithdrawn else {
            EndFrame(code: .declined).encode(stream: header.stream, into: &core.control)
            return
        }
        guard offer.openCount < offer.slotsMax else {
            throw Violation(.protocolViolation, header)
        }
        guard assign.terms.bodyBytes <= core.welcome.maxBodyBytes else {
            throw Violation(.protocolViolation, header)
        }
        let index = Int(header.stream.rawValue)
        while streams.count <= index { streams.append(nil) }
        nextSerial += 1
        let deadlineMs =
            assign.terms.deadlineMs == 0 ? core.welcome.maxDeadlineMs : assign.terms.deadlineMs
        streams[index] = Stream(
            handle: StreamHandle(stream: header.stream, serial: nextSerial), assign: assign,
            expiresMs: nowMs + UInt64(deadlineMs),
            bodyWindow: GrantWindow(windowBytes: handshake.bodyCreditBytes),
            answer: AnswerQueue(
                isText: assign.terms.encoding == .text, limitBytes: assign.creditLimitBytes))
        openCount += 1
        offers[assign.offer]?.openCount += 1
        try receiveBodyBytes(frame.payload[assign.inlineBody], header, at: index)
    }

    private mutating func receiveBody(
        _ frame: ReceivedFrame, at index: Int
    ) throws(Violation) {
        guard streams[index]?.isRunning == false, !frame.payload.isEmpty else {
            throw Violation(.protocolViolation, frame.header)
        }
        try receiveBodyBytes(frame.payload[...], frame.header, at: index)
    }

    private mutating func receiveBodyBytes(
        _ bytes: ArraySlice<UInt8>, _ header: FrameHeader, at index: Int
    ) throws(Violation) {
        guard let declaredBytes = streams[index]?.assign.terms.bodyBytes,
            let knownBytes = streams[index]?.body.count
        else { return }
        let byteCount = UInt64(bytes.count)
        guard bytes.count <= Int(declaredBytes) - knownBytes else {
            throw Violation(.protocolViolation, header)
        }
        guard streams[index]?.bodyWindow.receive(byteCount) == true else {
            throw Violation(.creditExceeded, header)
        }
        streams[index]?.body.append(contentsOf: bytes)
        guard knownBytes + bytes.count == Int(declaredBytes) else {
            if let limit = streams[index]?.bodyWindow.consume(byteCount) {
                CreditFrame(limitBytes: limit).encode(stream: header.stream, into: &core.control)
            }
            return
        }
        handOut(index)
    }

    private mutating func handOut(_ index: Int) {
        guard let stream = streams[index] else { return }
        streams[index]?.body = []
        streams[index]?.isRunning = true
        events.append(
            .assigned(
                stream.handle,
                Assignment(
                    task: stream.assign.task, offer: stream.assign.offer,
                    terms: stream.assign.terms, trace: stream.assign.trace, body: stream.body,
                    expiresMs: stream.expiresMs)))
    }

    /// Stops a task: what waits to be sent is dropped, and its END is due soon.
    private mutating func stop(_ index: Int, _ code: WireCode, nowMs: UInt64) {
        guard let stream = streams[index], stream.cancel == nil else { return }
        streams[index]?.answer.clear()
        streams[index]?.cancel = (code, nowMs + Self.cancelPatienceMs)
        guard stream.isRunning, stream.end == nil else {
            // Nothing runs for it: END can go at once.
            (stream.end ?? EndFrame(code: code)).encode(
                stream: stream.handle.stream, into: &core.control)
            close(index)
            return
        }
        events.append(.cancelled(stream.handle, code))
    }

    // MARK: Ends

    private func index(of handle: StreamHandle) -> Int? {
        let index = Int(handle.stream.rawValue)
        guard index < streams.count, streams[index]?.handle == handle else { return nil }
        return index
    }

    private mutating func close(_ index: Int) {
        guard let stream = streams[index] else { return }
        if stream.isWriting { writing.removeAll { $0 == stream.handle.stream } }
        streams[index] = nil
        openCount -= 1
        offers[stream.assign.offer]?.openCount -= 1
    }

    private mutating func lose(_ loss: ConnectionLoss) {
        guard !hasLost else { return }
        hasLost = true
        if !core.isOver { core.finish() }
        for stream in streams {
            guard let stream, stream.isRunning else { continue }
            events.append(.abandoned(stream.handle))
        }
        streams = []
        writing = []
        openCount = 0
        events.append(.lost(loss))
    }
}
