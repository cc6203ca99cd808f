import SluiceWire

/// A mock client of `sluice/1`: keeps a window of 64 KiB on every stream and raises it by halves.
package struct SluiceClient: ClientDialect {
    package static let windowBytes: UInt64 = 65_536
    /// Body bytes that go with SUBMIT itself.
    private static let inlineBytesMax = 16_000
    private static let bodyFrameBytes = 16_000

    private struct Stream {
        var receivedBytes: UInt64 = 0
        var limitBytes: UInt64 = 0
        var bodySentBytes = 0
        var bodyBytes = 0
        var bodyLimitBytes: UInt64 = 0
    }

    package var output = OutputQueue()
    package private(set) var isReady = false
    private let settings: ClientSettings
    /// By stream number, 1...streams.
    private var streams: [Stream]
    private var uploadedBytes: UInt64 = 0
    private var uploadLimitBytes: UInt64 = 0
    private var waiting: [WaitingTask] = []
    private var submitHead: [UInt8] = []
    private var filler: [UInt8]
    private var credit: [UInt8] = []

    package init(_ settings: ClientSettings) {
        self.settings = settings
        streams = [Stream](repeating: Stream(), count: settings.streams + 1)
        filler = [UInt8](repeating: 0x70, count: Self.bodyFrameBytes)
        guard let model = ModelName("bench") else { preconditionFailure("not a model name") }
        var terms = TaskTerms(
            operation: .chat, encoding: .text, bodyBytes: UInt32(settings.promptBytes))
        terms.deadlineMs = 600_000
        let frame = SubmitFrame(terms: terms, model: model, creditLimitBytes: Self.windowBytes)
        frame.encode(stream: StreamID(1), inlineBodyBytes: inlineBytes, into: &submitHead)
        CreditFrame(limitBytes: 0).encode(stream: StreamID(1), into: &credit)
    }

    private var inlineBytes: Int { min(settings.promptBytes, Self.inlineBytesMax) }

    package mutating func open() {
        let key = Array(settings.key.utf8)
        output.write {
            HelloFrame.encode(role: .client, kind: .apiKey, credential: key, into: &$0)
        }
    }

    package mutating func submit(
        _ stream: Int, order: TaskOrder, intendedNs: UInt64, tasks: inout ClientTasks
    ) {
        guard isReady, uploadedBytes + UInt64(inlineBytes) <= uploadLimitBytes else {
            waiting.append(WaitingTask(stream: stream, order: order, intendedNs: intendedNs))
            return
        }
        uploadedBytes += UInt64(inlineBytes)
        streams[stream + 1] = Stream(
            limitBytes: Self.windowBytes, bodySentBytes: inlineBytes,
            bodyBytes: settings.promptBytes)
        submitHead.put32(UInt32(stream + 1), at: 8)
        output.append(submitHead)
        let promptBytes = inlineBytes
        output.write { order.encode(promptBytes: promptBytes, into: &$0) }
        tasks.begin(
            settings.firstSlot + stream, asked: Int(order.tokens), intendedNs: intendedNs,
            isAccepted: false)
    }

    package mutating func dropWaiting() -> Int {
        defer { waiting.removeAll() }
        return waiting.count
    }

    private mutating func submitWaiting(_ tasks: inout ClientTasks) {
        guard !waiting.isEmpty else { return }
        let all = waiting
        waiting.removeAll(keepingCapacity: true)
        for task in all {
            submit(task.stream, order: task.order, intendedNs: task.intendedNs, tasks: &tasks)
        }
    }

    // MARK: Receiving

    package mutating func receive(
        _ bytes: Span<UInt8>, nowNs: UInt64, tasks: inout ClientTasks
    ) -> Int {
        var offset = 0
        while bytes.count - offset >= FrameHeader.byteCount {
            guard let header = try? FrameHeader(decoding: bytes, at: offset) else {
                tasks.fault(.badFrame)
                return bytes.count
            }
            let end = offset + header.frameBytes
            guard end <= bytes.count else { break }
            let payload = offset + FrameHeader.byteCount
            if header.rawKind == FrameKind.tokens.rawValue {
                tokens(header, bytes, payload, nowNs, &tasks)
            } else {
                other(header, bytes.extracting(payload..<end), nowNs, &tasks)
            }
            offset = end
        }
        return offset
    }

    @inline(__always)
    private mutating func tokens(
        _ header: FrameHeader, _ bytes: Span<UInt8>, _ payload: Int, _ nowNs: UInt64,
        _ tasks: inout ClientTasks
    ) {
        let number = Int(header.stream.rawValue)
        guard number > 0, number < streams.count, header.tokens == 1,
            header.payloadBytes >= UInt32(ContentStamp.byteCount)
        else { return tasks.fault(.badFrame) }
        let stamp = ContentStamp(decoding: bytes, at: payload)
        tasks.token(
            settings.firstSlot + number - 1, position: stamp.position,
            intendedNs: stamp.intendedNs, nowNs: nowNs)
        let receivedBytes = streams[number].receivedBytes + UInt64(header.frameBytes)
        streams[number].receivedBytes = receivedBytes
        guard streams[number].limitBytes &- receivedBytes < Self.windowBytes / 2 else { return }
        streams[number].limitBytes = receivedBytes + Self.windowBytes
        credit.put32(UInt32(number), at: 8)
        credit.put64(streams[number].limitBytes, at: 12)
        output.append(credit)
    }

    private mutating func other(
        _ header: FrameHeader, _ payload: Span<UInt8>, _ nowNs: UInt64,
        _ tasks: inout ClientTasks
    ) {
        let number = Int(header.stream.rawValue)
        guard number < streams.count else { return tasks.fault(.badFrame) }
        switch header.kind {
        case .welcome:
            guard let welcome = try? WelcomeFrame(decoding: payload) else {
                return tasks.fault(.badFrame)
            }
            uploadLimitBytes = welcome.uploadLimitBytes
            isReady = true
            submitWaiting(&tasks)
        case .queued where number > 0:
            tasks.accepted(settings.firstSlot + number - 1)
        case .end where number > 0:
            guard let end = try? EndFrame(decoding: payload) else { return tasks.fault(.badFrame) }
            tasks.ended(
                settings.firstSlot + number - 1, isComplete: end.code == .completed,
                usage: end.usage.outputTokens, nowNs: nowNs)
        case .credit:
            guard let frame = try? CreditFrame(decoding: payload) else {
                return tasks.fault(.badFrame)
            }
            if number == 0 {
                uploadLimitBytes = max(uploadLimitBytes, frame.limitBytes)
                submitWaiting(&tasks)
            } else {
                streams[number].bodyLimitBytes = max(
                    streams[number].bodyLimitBytes, frame.limitBytes)
                sendBody(number)
            }
        case .ping:
            guard let ping = try? PingFrame(decoding: payload) else {
                return tasks.fault(.badFrame)
            }
            output.write { ping.encode(as: .pong, into: &$0) }
        case .pong:
            break
        default:
            tasks.fault(.badFrame)
        }
    }

    /// As much of a long prompt as there is credit for. Its first bytes went with SUBMIT.
    private mutating func sendBody(_ number: Int) {
        while streams[number].bodySentBytes < streams[number].bodyBytes {
            let left = streams[number].bodyBytes - streams[number].bodySentBytes
            let credit =
                Int(clamping: streams[number].bodyLimitBytes) - streams[number].bodySentBytes
            let count = min(left, credit, Self.bodyFrameBytes)
            guard count == left || count >= WireLimits.bodyFrameBytesMin else { return }
            let header = FrameHeader(
                kind: .body, stream: StreamID(UInt32(number)), payloadBytes: count)
            let text = filler
            output.write {
                header.encode(into: &$0)
                $0.append(contentsOf: text[..<count])
            }
            streams[number].bodySentBytes += count
        }
    }
}
