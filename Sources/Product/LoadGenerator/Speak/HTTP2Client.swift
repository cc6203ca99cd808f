/// A mock client of a gRPC-like service over HTTP/2: one request with one message, one response
/// of a message a token and trailers.
package struct HTTP2Client: ClientDialect {
    private struct Stream {
        /// 0 = free.
        var id: UInt32 = 0
        var isOK = false
        var messages = MessageAssembler()
        /// Received and not yet given back.
        var owedBytes = 0
        /// Of the request: what is not sent.
        var unsent: [UInt8] = []
        var sendWindowBytes = 0
    }

    private static let windowBytes: UInt32 = 65_536
    private static let dataBytesMax = 16_384

    package var output = OutputQueue()
    package var isReady: Bool { link.isReady }
    private var link = HTTP2Link(isClient: true, streamWindowBytes: windowBytes)
    private let settings: ClientSettings
    private var streams: [Stream]
    /// By half of the id, in a table that is far larger than the streams open at once.
    private var streamOfID = [Int16](repeating: -1, count: 16_384)
    private var nextID: UInt32 = 1
    private var openCount = 0
    private var waiting: [WaitingTask] = []
    private var head: [UInt8] = []

    package init(_ settings: ClientSettings) {
        self.settings = settings
        streams = [Stream](repeating: Stream(), count: settings.streams)
        // POST, https.
        var block: [UInt8] = [0x83, 0x87]
        HPACK.literal(4, "/bench.Inference/Generate", into: &block)
        HPACK.literal(1, "localhost", into: &block)
        HPACK.literal(31, "application/grpc", into: &block)
        HPACK.literal("te", "trailers", into: &block)
        HTTP2Header(
            .headers, flags: HTTP2Header.endHeaders, stream: 1, payloadBytes: block.count
        ).encode(into: &head)
        head += block
    }

    package mutating func open() { link.open(&output) }

    package mutating func submit(
        _ stream: Int, order: TaskOrder, intendedNs: UInt64, tasks: inout ClientTasks
    ) {
        guard isReady, openCount < link.streamsMax else {
            waiting.append(WaitingTask(stream: stream, order: order, intendedNs: intendedNs))
            return
        }
        let id = nextID
        nextID += 2
        openCount += 1
        streamOfID[place(id)] = Int16(stream)
        head.putBigEndian32(id, at: 5)
        output.append(head)
        streams[stream].id = id
        streams[stream].isOK = false
        streams[stream].owedBytes = 0
        streams[stream].messages.removeAll()
        streams[stream].sendWindowBytes = link.initialSendWindowBytes
        streams[stream].unsent.append(0)
        streams[stream].unsent.appendBigEndian(UInt32(settings.promptBytes))
        order.encode(promptBytes: settings.promptBytes, into: &streams[stream].unsent)
        sendRequest(stream)
        tasks.begin(
            settings.firstSlot + stream, asked: Int(order.tokens), intendedNs: intendedNs,
            isAccepted: true)
    }

    package mutating func dropWaiting() -> Int {
        defer { waiting.removeAll() }
        return waiting.count
    }

    private func place(_ id: UInt32) -> Int { Int(id >> 1) & (streamOfID.count - 1) }

    /// The stream of an id, if it is open.
    private func find(_ id: UInt32) -> Int? {
        let stream = Int(streamOfID[place(id)])
        return stream >= 0 && streams[stream].id == id ? stream : nil
    }

    /// As much of a request as the windows let out.
    private mutating func sendRequest(_ stream: Int) {
        var done = 0
        let total = streams[stream].unsent.count
        while done < total {
            let window = min(link.sendWindowBytes, streams[stream].sendWindowBytes)
            let count = min(total - done, window, Self.dataBytesMax)
            guard count > 0 else { break }
            let header = HTTP2Header(
                .data, flags: done + count == total ? HTTP2Header.endStream : 0,
                stream: streams[stream].id, payloadBytes: count)
            let piece = streams[stream].unsent[done..<done + count]
            output.write {
                header.encode(into: &$0)
                $0.append(contentsOf: piece)
            }
            link.sent(count)
            streams[stream].sendWindowBytes -= count
            done += count
        }
        if done == total {
            streams[stream].unsent.removeAll(keepingCapacity: total < 4_096)
        } else {
            streams[stream].unsent.removeFirst(done)
        }
    }

    // MARK: Receiving

    package mutating func receive(
        _ bytes: Span<UInt8>, nowNs: UInt64, tasks: inout ClientTasks
    ) -> Int {
        var offset = 0
        while let event = link.next(bytes, &offset, &output) {
            switch event {
            case .data(let id, let content, let ends):
                guard let stream = find(id) else { continue }
                data(stream, bytes.extracting(content), nowNs, &tasks)
                // The end belongs to the trailers.
                if ends { ended(stream, isComplete: false, nowNs, &tasks) }
            case .headers(let id, let block, let ends):
                guard let stream = find(id) else { continue }
                headers(stream, bytes.extracting(block), ends: ends, nowNs, &tasks)
            case .reset(let id):
                if let stream = find(id) { ended(stream, isComplete: false, nowNs, &tasks) }
            case .windowOpened(let id, let more):
                opened(id, more)
            case .initialWindowChanged(let change):
                for stream in streams.indices { streams[stream].sendWindowBytes += change }
                submitWaiting(&tasks)
                sendRequests()
            case .none:
                break
            case .malformed:
                tasks.fault(.badFrame)
            }
        }
        return offset
    }

    private mutating func data(
        _ stream: Int, _ content: Span<UInt8>, _ nowNs: UInt64, _ tasks: inout ClientTasks
    ) {
        let slot = settings.firstSlot + stream
        streams[stream].messages.take(content) { bytes, place in
            guard place.count >= ContentStamp.byteCount else { return tasks.fault(.badFrame) }
            let stamp = ContentStamp(decoding: bytes, at: place.lowerBound)
            tasks.token(
                slot, position: stamp.position, intendedNs: stamp.intendedNs, nowNs: nowNs)
        }
        streams[stream].owedBytes += content.count
        guard streams[stream].owedBytes >= Int(Self.windowBytes) / 2 else { return }
        link.update(
            stream: streams[stream].id, by: streams[stream].owedBytes, &output)
        streams[stream].owedBytes = 0
    }

    private mutating func headers(
        _ stream: Int, _ block: Span<UInt8>, ends: Bool, _ nowNs: UInt64,
        _ tasks: inout ClientTasks
    ) {
        guard let outcome = HPACK.outcome(block) else {
            tasks.fault(.badFrame)
            return
        }
        if !ends {
            streams[stream].isOK = outcome.isOK
        } else {
            let isComplete =
                streams[stream].isOK && outcome.grpcIsOK == true
                && streams[stream].messages.isEmpty
            ended(stream, isComplete: isComplete, nowNs, &tasks)
        }
    }

    private mutating func ended(
        _ stream: Int, isComplete: Bool, _ nowNs: UInt64, _ tasks: inout ClientTasks
    ) {
        streamOfID[place(streams[stream].id)] = -1
        streams[stream].id = 0
        streams[stream].unsent.removeAll(keepingCapacity: true)
        openCount -= 1
        tasks.ended(
            settings.firstSlot + stream, isComplete: isComplete, usage: nil, nowNs: nowNs)
        submitWaiting(&tasks)
    }

    private mutating func submitWaiting(_ tasks: inout ClientTasks) {
        while !waiting.isEmpty, isReady, openCount < link.streamsMax {
            let task = waiting.removeFirst()
            submit(task.stream, order: task.order, intendedNs: task.intendedNs, tasks: &tasks)
        }
    }

    private mutating func opened(_ id: UInt32, _ more: Int) {
        if id == 0 { return sendRequests() }
        guard let stream = find(id) else { return }
        streams[stream].sendWindowBytes += more
        if !streams[stream].unsent.isEmpty { sendRequest(stream) }
    }

    private mutating func sendRequests() {
        for stream in streams.indices where !streams[stream].unsent.isEmpty {
            sendRequest(stream)
        }
    }
}
