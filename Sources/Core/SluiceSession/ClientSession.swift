package import SluiceWire

/// A client's half of one connection: pure, no clock, no I/O.
///
/// Order of use: `start`; then in any order `receive`, `tick` and the commands; after each of them
/// `takeEvents`, and `takeOutput` whenever the transport takes bytes. After `lost` nothing but
/// the rest of the output is left.
///
/// Memory: bodies of tasks not yet accepted, one partial frame, and events not yet taken, which the credit
/// given to the broker bounds.
package struct ClientSession: PeerSession {
    /// What a client's session tells its owner, in order.
    package enum Event: Sendable {
        /// WELCOME came: tasks may be submitted.
        case connected(WelcomeFrame)
        /// QUEUED came: the task is accepted.
        case accepted(StreamHandle, TaskID, position: UInt32)
        /// One TOKENS frame. Its cost, 12 + payload, is given back by `consumed`.
        case chunk(StreamHandle, payload: [UInt8], tokens: UInt16, flags: FrameFlags)
        /// END came; the stream is free.
        case ended(StreamHandle, TaskID?, EndFrame)
        /// A stream was free again while a `submit` had found none.
        case streamFree
        /// GO-AWAY came: submit elsewhere; what runs goes on.
        case draining(WireCode, graceMs: UInt32)
        /// The connection was lost under this task. `usage` is what had arrived. A task that the
        /// broker never heard of comes back as `unsent` and may be submitted elsewhere without
        /// harm; so does one that crossed the broker's GO-AWAY and was refused for it [G2].
        case abandoned(StreamHandle, TaskID?, usage: Usage, unsent: Submission?)
        /// The connection is over; the last event.
        case lost(ConnectionLoss)
    }

    private struct Stream: Sendable {
        let handle: StreamHandle
        /// Until SUBMIT is sent.
        var submission: Submission?
        /// From then on until the task is accepted, for another broker.
        var offered: Submission?
        var upload: Upload
        var window: GrantWindow
        var task: TaskID?
        var isCancelled = false
        /// In `uploading`.
        var isUploading = false
        var usage = Usage()
    }

    private let handshake: Handshake
    private var core = SessionCore()
    private var events: [Event] = []
    /// By stream number; grows to the highest number used.
    private var streams: [Stream?] = []
    private var freeStreams: [UInt32] = []
    private var openCount = 0
    private var nextSerial: UInt64 = 0
    /// Streams whose SUBMIT is to be sent, oldest first.
    private var opening: [StreamID] = []
    /// Streams with body bytes that may travel, in turn.
    private var uploading: [StreamID] = []
    private var uploadLimitBytes: UInt64 = 0
    private var uploadSentBytes: UInt64 = 0
    /// A `submit` found no free stream since one was last free.
    private var isSubmitRefused = false
    /// `lost` was said.
    private var hasLost = false

    package init(_ handshake: Handshake) {
        precondition(handshake.role == .client)
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
        !core.control.isEmpty || !core.isOver && !(opening.isEmpty && uploading.isEmpty)
    }

    /// Tasks without END.
    package var openStreamCount: Int { openCount }

    /// True while `submit` can succeed as far as the connection is concerned.
    package var takesTasks: Bool { core.isOpen && !core.isDraining }

    // MARK: Commands

    /// Why a task was not taken.
    package enum SubmitRefusal: Error, Sendable {
        /// Not connected, or the broker drains.
        case notOpen
        /// Every stream is taken; `streamFree` follows.
        case noFreeStream
        /// The body is larger than the broker takes.
        case bodyTooLarge
    }

    /// Opens a stream for a task. The body is sent as credit comes.
    package mutating func submit(
        _ submission: Submission
    ) throws(SubmitRefusal) -> StreamHandle {
        guard takesTasks else { throw .notOpen }
        guard submission.body.count <= Int(core.welcome.maxBodyBytes) else {
            throw .bodyTooLarge
        }
        guard openCount < Int(core.welcome.maxStreams) else {
            isSubmitRefused = true
            throw .noFreeStream
        }
        let number: UInt32
        if let freed = freeStreams.popLast() {
            number = freed
        } else {
            if streams.isEmpty { streams.append(nil) }
            number = UInt32(streams.count)
            streams.append(nil)
        }
        nextSerial += 1
        let handle = StreamHandle(stream: StreamID(number), serial: nextSerial)
        streams[Int(number)] = Stream(
            handle: handle, submission: submission, upload: Upload(submission.body),
            window: GrantWindow(windowBytes: submission.windowBytes))
        openCount += 1
        opening.append(handle.stream)
        return handle
    }

    /// Stops a task. END still comes, unless the broker had not yet heard of the task: then it
    /// ends here, as `cancelled`.
    package mutating func cancel(_ handle: StreamHandle) {
        guard let index = index(of: handle), streams[index]?.isCancelled == false else { return }
        streams[index]?.isCancelled = true
        streams[index]?.upload.abandon()
        guard streams[index]?.submission == nil else {
            opening.removeAll { $0 == handle.stream }
            events.append(.ended(handle, nil, EndFrame(code: .cancelled)))
            close(index)
            return
        }
        CancelFrame(code: .cancelled).encode(stream: handle.stream, into: &core.control)
    }

    /// The reader is done with `byteCount` bytes of TOKENS frames (12 + payload each).
    package mutating func consumed(_ byteCount: UInt64, of handle: StreamHandle) {
        guard let index = index(of: handle), streams[index]?.isCancelled == false,
            let limit = streams[index]?.window.consume(byteCount)
        else { return }
        CreditFrame(limitBytes: limit).encode(stream: handle.stream, into: &core.control)
    }

    /// Ends the session from our side. Open tasks are abandoned.
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
            while !core.isOver, let frame = try core.nextFrame() { try handle(frame) }
        } catch {
            core.refuse(error)
            lose(.peerViolation(error.code))
        }
    }

    /// Time passed. Called at least once a second.
    package mutating func tick(nowMs: UInt64) {
        guard let loss = core.tick(nowMs: nowMs) else { return }
        lose(loss)
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

    /// Bytes to send now: control frames first, then SUBMITs, then bodies in turn, one frame of at
    /// most 16 KiB each. Stops at the first frame that reaches `targetBytes`. Empty when there
    /// is nothing to send.
    package mutating func takeOutput(targetBytes: Int, nowMs: UInt64) -> [UInt8] {
        var bytes = core.control
        core.control = []
        guard !core.isOver else { return bytes }
        var sentStreams = 0
        while bytes.count < targetBytes, sentStreams < opening.count {
            sendSubmit(opening[sentStreams], nowMs: nowMs, into: &bytes)
            sentStreams += 1
        }
        opening.removeFirst(sentStreams)
        while bytes.count < targetBytes, !uploading.isEmpty {
            sendBody(uploading.removeFirst(), into: &bytes)
        }
        return bytes
    }

    private mutating func sendSubmit(
        _ stream: StreamID, nowMs: UInt64, into bytes: inout [UInt8]
    ) {
        let index = Int(stream.rawValue)
        guard let submission = streams[index]?.submission else { return }
        streams[index]?.submission = nil
        streams[index]?.offered = submission
        let (frame, extensions) = submission.frame(
            maxDeadlineMs: core.welcome.maxDeadlineMs, nowMs: nowMs)
        let roomBytes =
            WireLimits.payloadBytesMax - SubmitFrame.fixedBytes - extensions.bytes.count
            - Int(submission.model.byteCount)
        let freeBytes = min(roomBytes, submission.body.count, Int(WireLimits.freeBodyBytesMax))
        let inlineBytes = Int(min(uploadLeftBytes, UInt64(freeBytes)))
        frame.encode(
            stream: stream, extensions: extensions, inlineBodyBytes: inlineBytes, into: &bytes)
        if let free = streams[index]?.upload.take(inlineBytes, into: &bytes) {
            uploadSentBytes += free
        }
        resumeUpload(index)
    }

    private mutating func sendBody(_ stream: StreamID, into bytes: inout [UInt8]) {
        let index = Int(stream.rawValue)
        guard streams[index] != nil else { return }
        streams[index]?.isUploading = false
        let byteCount = nextBodyBytes(index)
        guard byteCount > 0 else { return }
        FrameHeader(kind: .body, stream: stream, payloadBytes: byteCount).encode(into: &bytes)
        if let free = streams[index]?.upload.take(byteCount, into: &bytes) {
            uploadSentBytes += free
        }
        resumeUpload(index)
    }

    /// Gives a stream its turn if it has body bytes that may travel.
    private mutating func resumeUpload(_ index: Int) {
        guard let stream = streams[index], stream.submission == nil, !stream.isUploading,
            nextBodyBytes(index) > 0
        else { return }
        streams[index]?.isUploading = true
        uploading.append(stream.handle.stream)
    }

    private func nextBodyBytes(_ index: Int) -> Int {
        streams[index]?.upload.nextFrameBytes(uploadLeftBytes: uploadLeftBytes) ?? 0
    }

    private var uploadLeftBytes: UInt64 { uploadLimitBytes - uploadSentBytes }

    // MARK: Frames

    private mutating func handle(_ frame: ReceivedFrame) throws(Violation) {
        switch try core.receiveConnectionFrame(frame) {
        case .none: return
        case .opened:
            uploadLimitBytes = core.welcome.uploadLimitBytes
            events.append(.connected(core.welcome))
        case .draining(let goAway):
            events.append(.draining(goAway.code, graceMs: goAway.graceMs))
        case .lost(let loss): lose(loss)
        case .notMine: try handleTaskFrame(frame)
        }
    }

    private mutating func handleTaskFrame(_ frame: ReceivedFrame) throws(Violation) {
        let header = frame.header
        switch header.kind {
        case .credit: try receiveCredit(frame)
        case .queued: try receiveQueued(frame, at: try openIndex(header))
        case .tokens: try receiveTokens(frame, at: try openIndex(header))
        case .end: try receiveEnd(frame, at: try openIndex(header))
        default: throw Violation(.unexpectedFrame, header)
        }
    }

    private mutating func receiveCredit(_ frame: ReceivedFrame) throws(Violation) {
        let limit = try frame.decode { bytes throws(WireError) in
            try CreditFrame(decoding: bytes.span)
        }.limitBytes
        let stream = frame.header.stream
        guard stream == .connection else {
            let index = Int(stream.rawValue)
            guard stream.rawValue <= core.welcome.maxStreams else {
                throw Violation(.streamOutOfRange, frame.header)
            }
            // A late CREDIT on an idle slot is ignored.
            guard index < streams.count, let known = streams[index]?.upload.limitBytes else {
                return
            }
            streams[index]?.upload.limitBytes = max(known, limit)
            resumeUpload(index)
            return
        }
        guard limit > uploadLimitBytes else { return }
        uploadLimitBytes = limit
        for index in streams.indices { resumeUpload(index) }
    }

    private mutating func receiveQueued(
        _ frame: ReceivedFrame, at index: Int
    ) throws(Violation) {
        let queued = try frame.decode { bytes throws(WireError) in
            try QueuedFrame(decoding: bytes.span)
        }
        guard let stream = streams[index], stream.task == nil, stream.upload.isComplete else {
            throw Violation(.unexpectedFrame, frame.header)
        }
        streams[index]?.task = queued.task
        streams[index]?.offered = nil
        events.append(.accepted(stream.handle, queued.task, position: queued.position))
    }

    private mutating func receiveTokens(
        _ frame: ReceivedFrame, at index: Int
    ) throws(Violation) {
        let header = frame.header
        guard let handle = streams[index]?.handle, streams[index]?.task != nil else {
            throw Violation(.unexpectedFrame, header)
        }
        guard streams[index]?.window.receive(UInt64(header.frameBytes)) == true else {
            throw Violation(.creditExceeded, header)
        }
        streams[index]?.usage.count(
            Int(header.increment), isReasoning: header.flags.contains(.reasoning))
        // What comes after our CANCEL nobody reads.
        guard streams[index]?.isCancelled == false else { return }
        events.append(
            .chunk(handle, payload: frame.payload, tokens: header.increment, flags: header.flags))
    }

    private mutating func receiveEnd(_ frame: ReceivedFrame, at index: Int) throws(Violation) {
        let end = try frame.decode { bytes throws(WireError) in
            try EndFrame(decoding: bytes.span)
        }
        guard let stream = streams[index], end.code != .completed || stream.task != nil else {
            throw Violation(.unexpectedFrame, frame.header)
        }
        if end.code == .draining, core.isDraining, !stream.isCancelled,
            let offered = stream.offered
        {
            events.append(.abandoned(stream.handle, nil, usage: Usage(), unsent: offered))
        } else {
            events.append(.ended(stream.handle, stream.task, end))
        }
        close(index)
    }

    /// The slot of a frame that only an open stream may carry.
    private func openIndex(_ header: FrameHeader) throws(Violation) -> Int {
        let stream = header.stream
        guard stream != .connection, stream.rawValue <= core.welcome.maxStreams else {
            throw Violation(.streamOutOfRange, header)
        }
        let index = Int(stream.rawValue)
        guard index < streams.count, let open = streams[index], open.submission == nil else {
            throw Violation(.unexpectedFrame, header)
        }
        return index
    }

    // MARK: Ends

    private func index(of handle: StreamHandle) -> Int? {
        let index = Int(handle.stream.rawValue)
        guard index < streams.count, streams[index]?.handle == handle else { return nil }
        return index
    }

    private mutating func close(_ index: Int) {
        guard let stream = streams[index] else { return }
        if stream.isUploading { uploading.removeAll { $0 == stream.handle.stream } }
        streams[index] = nil
        openCount -= 1
        freeStreams.append(UInt32(index))
        guard isSubmitRefused else { return }
        isSubmitRefused = false
        events.append(.streamFree)
    }

    private mutating func lose(_ loss: ConnectionLoss) {
        guard !hasLost else { return }
        hasLost = true
        if !core.isOver { core.finish() }
        for stream in streams {
            guard let stream else { continue }
            events.append(
                .abandoned(
                    stream.handle, stream.task, usage: stream.usage,
                    unsent: stream.submission))
        }
        streams = []
        opening = []
        uploading = []
        openCount = 0
        events.append(.lost(loss))
    }
}
