import SluiceWire

// The supplier's end of a task: ASSIGN, body, TOKENS, END.
extension ShardMachine {
    /// Opens a stream at the supplier. Where that cannot be, the task goes back at once.
    mutating func assign(
        _ stream: StreamRef, to supplier: ConnectionRef, _ offer: OfferID, _ taskID: TaskID,
        nowUs: UInt64, out: inout ShardOutput
    ) {
        guard isCurrent(stream), clients[Int(stream.index)].phase == .queued else {
            // It ended while the dispatcher chose; its end is on the way there.
            out.requests.append(.slotFreed(supplier, offer))
            return
        }
        let client = stream.index
        guard isCurrent(supplier), connections[Int(supplier.index)].phase == .open,
            let id = connections[Int(supplier.index)].idleNumber(maxStreams: limits.maxStreams)
        else {
            out.requests.append(.slotFreed(supplier, offer))
            out.requests.append(.undelivered(clients[Int(client)].task, stream))
            return
        }
        let bound = openSupplier(supplier.index, id, offer, client: client)
        connections[Int(supplier.index)].take(id, for: bound)
        clients[Int(client)].phase = .running
        clients[Int(client)].supplier = bound
        clients[Int(client)].taskID = taskID
        refreshStarvation(client, nowMs: nowUs / 1_000)
        makeReady(supplier: bound, out: &out)
    }

    private mutating func openSupplier(
        _ connection: UInt32, _ id: StreamID, _ offer: OfferID, client: UInt32
    ) -> UInt32 {
        let index: UInt32
        if let idle = idleSuppliers.popLast() {
            index = idle
        } else {
            index = UInt32(suppliers.count)
            suppliers.append(SupplierStream())
        }
        var opened = SupplierStream()
        opened.generation = suppliers[Int(index)].generation &+ 1
        opened.phase = .running
        opened.connection = connection
        opened.id = id
        opened.offer = offer
        opened.client = client
        opened.bodyLimitBytes = connections[Int(connection)].bodyCreditBytes
        suppliers[Int(index)] = opened
        return index
    }

    /// The hot path: one TOKENS frame from a supplier to its client's queue.
    mutating func receivedTokens(
        _ connection: UInt32, _ header: FrameHeader, _ place: Range<Int>, nowUs: UInt64,
        out: inout ShardOutput
    ) {
        guard let bound = connections[Int(connection)].stream(header.stream) else {
            let isTask =
                header.stream != .connection && header.stream.rawValue <= limits.maxStreams
            let code: WireCode = isTask ? .unexpectedFrame : .streamOutOfRange
            return fail(connection, code, header: header, out: &out)
        }
        let cost = UInt64(header.frameBytes)
        switch suppliers[Int(bound)].receive(cost) {
        case .forward(let client):
            if place.isEmpty, header.increment == 0 {
                // Dropped: forwarded, it would spend the client's patience with this broker.
                return unproductive(connection, header, nowUs: nowUs, out: &out)
            }
            enqueue(header, place, for: client, nowUs: nowUs, out: &out)
        case .discard:
            counters.discardedTokenFrames += 1
        case .notAssigned:
            fail(connection, .unexpectedFrame, header: header, out: &out)
        case .beyondCredit:
            fail(connection, .creditExceeded, header: header, out: &out)
        }
    }

    private mutating func enqueue(
        _ header: FrameHeader, _ place: Range<Int>, for client: UInt32, nowUs: UInt64,
        out: inout ShardOutput
    ) {
        counters.tokenFramesRelayed &+= 1
        var forwarded = header
        forwarded.flags.formIntersection(.forwarded)
        if forwarded.flags.contains(.error) { forwarded.tokens = 0 }
        let enqueued = clients[Int(client)].enqueue(UInt64(header.frameBytes))
        out.actions.append(
            .enqueueTokens(
                stream: client, headerWord: forwarded.firstWord, streamID: enqueued.id.rawValue,
                start: UInt32(truncatingIfNeeded: place.lowerBound),
                count: header.payloadBytes))
        if !enqueued.isReady { makeReady(client: client, out: &out) }
        if enqueued.creditLeftBytes < WireLimits.usefulCreditBytes {
            refreshStarvation(client, nowMs: nowUs / 1_000)
        }
    }

    mutating func supplierStarted(
        _ connection: UInt32, _ header: FrameHeader, _ frame: StartedFrame,
        out: inout ShardOutput
    ) {
        guard let bound = connections[Int(connection)].stream(header.stream),
            suppliers[Int(bound)].isAssignSent
        else {
            return fail(connection, .unexpectedFrame, header: header, out: &out)
        }
        guard suppliers[Int(bound)].phase == .running else { return }
        let client = Int(suppliers[Int(bound)].client)
        guard clients[client].started == nil else {
            return fail(connection, .unexpectedFrame, header: header, out: &out)
        }
        clients[client].started = frame
        out.actions.append(.started(slot: clients[client].task, frame))
    }

    mutating func supplierBodyCredit(
        _ connection: UInt32, _ header: FrameHeader, _ frame: CreditFrame, nowUs: UInt64,
        out: inout ShardOutput
    ) {
        guard let bound = connections[Int(connection)].stream(header.stream) else {
            return late(connection, header, nowUs: nowUs, out: &out)
        }
        let slot = Int(bound)
        let old = suppliers[slot].bodyLimitBytes
        guard frame.limitBytes > old else {
            return unproductive(connection, header, nowUs: nowUs, out: &out)
        }
        suppliers[slot].bodyLimitBytes = frame.limitBytes
        guard suppliers[slot].phase == .running, bodyBytesSendable(bound) > 0 else { return }
        makeReady(supplier: bound, out: &out)
    }

    mutating func supplierEnded(
        _ connection: UInt32, _ header: FrameHeader, _ frame: EndFrame, nowUs: UInt64,
        out: inout ShardOutput
    ) {
        guard let bound = connections[Int(connection)].stream(header.stream),
            suppliers[Int(bound)].isAssignSent
        else {
            return fail(connection, .unexpectedFrame, header: header, out: &out)
        }
        let client = suppliers[Int(bound)].client
        connections[Int(connection)].unproductive.earn(limits: limits)
        out.requests.append(
            .slotFreed(reference(connection), suppliers[Int(bound)].offer))
        releaseSupplier(bound)
        guard client != noIndex else { return }
        clients[Int(client)].supplier = noIndex
        switch clients[Int(client)].phase {
        case .running: answerEnded(client, frame, nowUs: nowUs, out: &out)
        case .cancelling:
            clients[Int(client)].ending?.claim = frame.usage
            report(client, nowUs: nowUs, out: &out)
        case .idle, .uploading, .queued, .draining, .finishing:
            preconditionFailure("a bound supplier in a phase that has none")
        }
    }

    /// The supplier's connection is gone.
    mutating func supplierStreamLost(
        _ bound: UInt32, nowUs: UInt64, out: inout ShardOutput
    ) {
        let client = suppliers[Int(bound)].client
        releaseSupplier(bound)
        guard client != noIndex else { return }
        clients[Int(client)].supplier = noIndex
        switch clients[Int(client)].phase {
        case .running: supplierLost(client, nowUs: nowUs, out: &out)
        case .cancelling: report(client, nowUs: nowUs, out: &out)
        case .idle, .uploading, .queued, .draining, .finishing:
            preconditionFailure("a bound supplier in a phase that has none")
        }
    }

    /// The slot is idle again.
    mutating func releaseSupplier(_ bound: UInt32) {
        let slot = Int(bound)
        let connection = suppliers[slot].connection
        unready(supplier: bound)
        connections[Int(connection)].release(suppliers[slot].id)
        connections[Int(connection)].idleNumbers.append(suppliers[slot].id.rawValue)
        suppliers[slot].phase = .idle
        suppliers[slot].client = noIndex
        idleSuppliers.append(bound)
    }

    /// Body bytes that may be sent to the supplier now.
    func bodyBytesSendable(_ bound: UInt32) -> Int {
        let state = suppliers[Int(bound)]
        guard state.client != noIndex else { return 0 }
        let total = UInt64(clients[Int(state.client)].terms.bodyBytes)
        return Int(
            min(total, state.bodyLimitBytes)
                - min(
                    UInt64(state.sentBodyBytes), min(total, state.bodyLimitBytes)))
    }
}
