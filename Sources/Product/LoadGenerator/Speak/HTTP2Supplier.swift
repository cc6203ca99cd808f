/// A mock supplier as a server of a gRPC-like service over HTTP/2: headers, a message a token,
/// trailers.
package struct HTTP2Supplier: SupplierDialect {
    private struct Stream {
        /// 0 = free.
        var id: UInt32 = 0
        var task: Int32 = -1
        var messages = MessageAssembler()
        var order: TaskOrder?
        var sendWindowBytes = 0
        var owedBytes = 0
    }

    private static let windowBytes: UInt32 = 1 << 20

    package var output = OutputQueue()
    package var isReady: Bool { link.isReady }
    private var link = HTTP2Link(isClient: false, streamWindowBytes: windowBytes)
    private var streams: [Stream] = []
    private var free: [Int] = []
    private var streamOfID = [Int16](repeating: -1, count: 16_384)
    private var head: [UInt8] = []
    private var trailers: [UInt8] = []
    private var message: [UInt8] = []

    package init(_ settings: SupplierSettings) {
        // :status 200.
        var block: [UInt8] = [0x88]
        HPACK.literal(31, "application/grpc", into: &block)
        HTTP2Header(
            .headers, flags: HTTP2Header.endHeaders, stream: 1, payloadBytes: block.count
        ).encode(into: &head)
        head += block
        block.removeAll()
        HPACK.literal("grpc-status", "0", into: &block)
        HTTP2Header(
            .headers, flags: HTTP2Header.endHeaders | HTTP2Header.endStream, stream: 1,
            payloadBytes: block.count
        ).encode(into: &trailers)
        trailers += block
    }

    package mutating func open() { link.open(&output) }

    private func place(_ id: UInt32) -> Int { Int(id >> 1) & (streamOfID.count - 1) }

    private func find(_ id: UInt32) -> Int? {
        let stream = Int(streamOfID[place(id)])
        return stream >= 0 && streams[stream].id == id ? stream : nil
    }

    // MARK: Receiving

    package mutating func receive(
        _ bytes: Span<UInt8>, connection: Int, nowNs: UInt64, tasks: inout SupplierTasks
    ) -> Int {
        var offset = 0
        while let event = link.next(bytes, &offset, &output) {
            switch event {
            case .headers(let id, _, let ends):
                if ends || find(id) != nil { tasks.badFrame() } else { begin(id) }
            case .data(let id, let content, let ends):
                guard let stream = find(id) else { continue }
                data(stream, bytes.extracting(content), &tasks)
                if ends { requested(stream, connection, nowNs, &tasks) }
            case .reset(let id):
                if find(id) != nil { tasks.badFrame() }
            case .windowOpened(let id, let more):
                opened(id, more, &tasks)
            case .initialWindowChanged(let change):
                for stream in streams.indices { streams[stream].sendWindowBytes += change }
                creditAll(&tasks)
            case .none:
                break
            case .malformed:
                tasks.badFrame()
            }
        }
        return offset
    }

    private mutating func begin(_ id: UInt32) {
        let stream: Int
        if let reused = free.popLast() {
            stream = reused
        } else {
            streams.append(Stream())
            stream = streams.count - 1
        }
        streams[stream] = Stream(id: id, sendWindowBytes: link.initialSendWindowBytes)
        streamOfID[place(id)] = Int16(stream)
    }

    private mutating func data(
        _ stream: Int, _ content: Span<UInt8>, _ tasks: inout SupplierTasks
    ) {
        var order: TaskOrder?
        streams[stream].messages.take(content) { bytes, place in
            if place.count >= TaskOrder.byteCount {
                order = TaskOrder(decoding: bytes, at: place.lowerBound)
            }
        }
        if let order { streams[stream].order = order }
        streams[stream].owedBytes += content.count
        guard streams[stream].owedBytes >= Int(Self.windowBytes) / 2 else { return }
        link.update(
            stream: streams[stream].id, by: streams[stream].owedBytes, &output)
        streams[stream].owedBytes = 0
    }

    /// The whole request is here.
    private mutating func requested(
        _ stream: Int, _ connection: Int, _ nowNs: UInt64, _ tasks: inout SupplierTasks
    ) {
        guard let order = streams[stream].order else { return tasks.badFrame() }
        head.putBigEndian32(streams[stream].id, at: 5)
        output.append(head)
        streams[stream].task = tasks.open(
            connection: connection, key: stream, order: order, nowNs: nowNs)
    }

    private mutating func opened(_ id: UInt32, _ more: Int, _ tasks: inout SupplierTasks) {
        if id == 0 { return creditAll(&tasks) }
        guard let stream = find(id) else { return }
        streams[stream].sendWindowBytes += more
        if streams[stream].task >= 0 { tasks.credited(streams[stream].task) }
    }

    private func creditAll(_ tasks: inout SupplierTasks) {
        for stream in streams where stream.task >= 0 { tasks.credited(stream.task) }
    }

    // MARK: Sending

    package func canSend(_ task: SupplierTasks.Task) -> Bool {
        min(link.sendWindowBytes, streams[Int(task.key)].sendWindowBytes)
            >= MessageAssembler.prefixBytes + Int(task.tokenBytes)
    }

    package mutating func sendToken(_ task: SupplierTasks.Task, intendedNs: UInt64) {
        let payloadBytes = MessageAssembler.prefixBytes + Int(task.tokenBytes)
        if message.count != HTTP2Header.byteCount + payloadBytes {
            message.removeAll()
            HTTP2Header(.data, stream: 1, payloadBytes: payloadBytes).encode(into: &message)
            message.append(0)
            message.appendBigEndian(task.tokenBytes)
            message.append(contentsOf: repeatElement(0x74, count: Int(task.tokenBytes)))
        }
        let stamp = HTTP2Header.byteCount + MessageAssembler.prefixBytes
        message.putBigEndian32(streams[Int(task.key)].id, at: 5)
        message.put32(task.sent, at: stamp)
        message.put32(ContentStamp.token, at: stamp + 4)
        message.put64(intendedNs, at: stamp + 8)
        output.append(message)
        link.sent(payloadBytes)
        streams[Int(task.key)].sendWindowBytes -= payloadBytes
    }

    package mutating func sendEnd(_ task: SupplierTasks.Task) {
        let stream = Int(task.key)
        trailers.putBigEndian32(streams[stream].id, at: 5)
        output.append(trailers)
        streamOfID[place(streams[stream].id)] = -1
        streams[stream].id = 0
        streams[stream].task = -1
        free.append(stream)
    }
}
