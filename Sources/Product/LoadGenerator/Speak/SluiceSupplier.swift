import SluiceWire

/// A mock supplier of `sluice/1`: offers one model with 1,024 slots and says STARTED at once.
package struct SluiceSupplier: SupplierDialect {
    private struct Stream {
        var task: Int32 = -1
        var sentBytes: UInt64 = 0
        var limitBytes: UInt64 = 0
        var order: TaskOrder?
        var bodyLeftBytes = 0
    }

    private static let bodyCreditBytes: UInt64 = 16_777_216

    package var output = OutputQueue()
    package private(set) var isReady = false
    private let settings: SupplierSettings
    private var streams = [Stream](repeating: Stream(), count: Int(WireLimits.streamsMax) + 1)
    private var token: [UInt8] = []
    private var end: [UInt8] = []
    private var started: [UInt8] = []

    package init(_ settings: SupplierSettings) {
        self.settings = settings
        let any = StreamID(1)
        setTokenBytes(32)
        let usage = Usage(inputTokens: 10, outputTokens: 0, cachedTokens: 0, reasoningTokens: 0)
        EndFrame(code: .completed, usage: usage).encode(stream: any, into: &end)
        StartedFrame(inputTokens: 10, cachedTokens: 0).encode(stream: any, into: &started)
    }

    private mutating func setTokenBytes(_ count: Int) {
        token.removeAll(keepingCapacity: true)
        FrameHeader(kind: .tokens, stream: StreamID(1), payloadBytes: count, tokens: 1)
            .encode(into: &token)
        token.append(contentsOf: repeatElement(0x74, count: count))
        token.put32(ContentStamp.token, at: 16)
    }

    package mutating func open() {
        let secret = Array(settings.token.utf8)
        output.write {
            HelloFrame.encode(
                role: .supplier, kind: .supplierToken, credential: secret,
                bodyCreditBytes: Self.bodyCreditBytes, into: &$0)
        }
    }

    private mutating func welcomed() {
        guard let model = ModelName("bench") else { preconditionFailure("not a model name") }
        output.write {
            OfferFrame(offer: OfferID(1), model: model).encode(into: &$0)
            GrantFrame(offer: OfferID(1), slots: WireLimits.streamsMax).encode(into: &$0)
        }
        isReady = true
    }

    // MARK: Receiving

    package mutating func receive(
        _ bytes: Span<UInt8>, connection: Int, nowNs: UInt64, tasks: inout SupplierTasks
    ) -> Int {
        var offset = 0
        while bytes.count - offset >= FrameHeader.byteCount {
            guard let header = try? FrameHeader(decoding: bytes, at: offset) else {
                tasks.badFrame()
                return bytes.count
            }
            let end = offset + header.frameBytes
            guard end <= bytes.count else { break }
            let payload = bytes.extracting(offset + FrameHeader.byteCount..<end)
            take(header, payload, connection, nowNs, &tasks)
            offset = end
        }
        return offset
    }

    private mutating func take(
        _ header: FrameHeader, _ payload: Span<UInt8>, _ connection: Int, _ nowNs: UInt64,
        _ tasks: inout SupplierTasks
    ) {
        let number = Int(header.stream.rawValue)
        guard number < streams.count else { return tasks.badFrame() }
        switch header.kind {
        case .assign where number > 0:
            assigned(number, payload, connection, nowNs, &tasks)
        case .body where number > 0:
            body(number, payload, connection, nowNs, &tasks)
        case .credit where number > 0:
            let limitBytes = payload.littleEndian64(at: 0)
            streams[number].limitBytes = max(streams[number].limitBytes, limitBytes)
            if streams[number].task >= 0 { tasks.credited(streams[number].task) }
        case .welcome:
            welcomed()
        case .ping:
            guard let ping = try? PingFrame(decoding: payload) else { return tasks.badFrame() }
            output.write { ping.encode(as: .pong, into: &$0) }
        case .credit, .pong:
            break
        default:
            tasks.badFrame()
        }
    }

    private mutating func assigned(
        _ number: Int, _ payload: Span<UInt8>, _ connection: Int, _ nowNs: UInt64,
        _ tasks: inout SupplierTasks
    ) {
        guard streams[number].task < 0, let frame = try? AssignFrame(decoding: payload) else {
            return tasks.badFrame()
        }
        streams[number] = Stream(
            limitBytes: frame.creditLimitBytes, bodyLeftBytes: Int(frame.terms.bodyBytes))
        body(number, payload.extracting(frame.inlineBody), connection, nowNs, &tasks)
    }

    /// Some of a prompt; with the last of it, the task begins.
    private mutating func body(
        _ number: Int, _ payload: Span<UInt8>, _ connection: Int, _ nowNs: UInt64,
        _ tasks: inout SupplierTasks
    ) {
        guard payload.count <= streams[number].bodyLeftBytes else { return tasks.badFrame() }
        if streams[number].order == nil, payload.count >= TaskOrder.byteCount {
            streams[number].order = TaskOrder(decoding: payload, at: 0)
        }
        streams[number].bodyLeftBytes -= payload.count
        guard streams[number].bodyLeftBytes == 0 else { return }
        guard let order = streams[number].order else { return tasks.badFrame() }
        started.put32(UInt32(number), at: 8)
        output.append(started)
        streams[number].task = tasks.open(
            connection: connection, key: number, order: order, nowNs: nowNs)
    }

    // MARK: Sending

    package func canSend(_ task: SupplierTasks.Task) -> Bool {
        let stream = streams[Int(task.key)]
        return stream.sentBytes + UInt64(FrameHeader.byteCount) + UInt64(task.tokenBytes)
            <= stream.limitBytes
    }

    package mutating func sendToken(_ task: SupplierTasks.Task, intendedNs: UInt64) {
        if token.count != FrameHeader.byteCount + Int(task.tokenBytes) {
            setTokenBytes(Int(task.tokenBytes))
        }
        token.put32(UInt32(task.key), at: 8)
        token.put32(task.sent, at: 12)
        token.put64(intendedNs, at: 20)
        output.append(token)
        streams[Int(task.key)].sentBytes += UInt64(token.count)
    }

    package mutating func sendEnd(_ task: SupplierTasks.Task) {
        end.put32(UInt32(task.key), at: 8)
        end.put32(task.sent, at: 24)
        output.append(end)
        streams[Int(task.key)].task = -1
    }
}
