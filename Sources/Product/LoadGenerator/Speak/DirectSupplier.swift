import SluiceWire

/// A mock supplier that the clients of `sluice/1` reach without anything between: what remains is
/// the generator's own cost and latency. It listens, welcomes, and accepts every task.
package struct DirectSupplier: SupplierDialect {
    package var output = OutputQueue()
    package let isReady = true
    private var tasksAccepted: UInt64 = 0
    private var supplier: SluiceSupplier

    package init(_ settings: SupplierSettings) {
        supplier = SluiceSupplier(settings)
    }

    package mutating func open() {}

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
            switch header.kind {
            case .hello:
                welcome()
            case .submit:
                submitted(header, payload, connection, nowNs, &tasks)
            default:
                _ = supplier.receive(
                    bytes.extracting(offset..<end), connection: connection, nowNs: nowNs,
                    tasks: &tasks)
                // STARTED is a word to brokers.
                supplier.output.removeAll()
            }
            offset = end
        }
        return offset
    }

    private mutating func welcome() {
        let frame = WelcomeFrame(
            maxStreams: WireLimits.streamsMax, maxBodyBytes: WireLimits.bodyBytesMaxDefault,
            uploadLimitBytes: WireLimits.creditLimitMax, instance: 1, keepAliveMs: 600_000)
        output.write { frame.encode(into: &$0) }
    }

    /// Tells the client that its task is accepted and its prompt may come, and gives the task to
    /// the mock supplier as a broker would.
    private mutating func submitted(
        _ header: FrameHeader, _ payload: Span<UInt8>, _ connection: Int, _ nowNs: UInt64,
        _ tasks: inout SupplierTasks
    ) {
        guard let frame = try? SubmitFrame(decoding: payload) else { return tasks.badFrame() }
        tasksAccepted += 1
        let id = TaskID(instance: 1, counter: tasksAccepted)
        let queued = QueuedFrame(task: id, reserveBytes: 65_536, position: 0)
        let body = frame.inlineBody
        var assign: [UInt8] = []
        AssignFrame(
            task: id, offer: OfferID(1), terms: frame.terms,
            creditLimitBytes: frame.creditLimitBytes
        ).encode(stream: header.stream, inlineBodyBytes: body.count, into: &assign)
        for position in body { assign.append(payload[position]) }
        output.write {
            queued.encode(stream: header.stream, into: &$0)
            if body.count < Int(frame.terms.bodyBytes) {
                CreditFrame(limitBytes: UInt64(frame.terms.bodyBytes))
                    .encode(stream: header.stream, into: &$0)
            }
        }
        _ = supplier.receive(
            assign.span, connection: connection, nowNs: nowNs, tasks: &tasks)
        // STARTED is a word to brokers.
        supplier.output.removeAll()
    }

    // MARK: Sending

    package func canSend(_ task: SupplierTasks.Task) -> Bool { supplier.canSend(task) }

    package mutating func sendToken(_ task: SupplierTasks.Task, intendedNs: UInt64) {
        swap(&output, &supplier.output)
        supplier.sendToken(task, intendedNs: intendedNs)
        swap(&output, &supplier.output)
    }

    package mutating func sendEnd(_ task: SupplierTasks.Task) {
        swap(&output, &supplier.output)
        supplier.sendEnd(task)
        swap(&output, &supplier.output)
    }
}
