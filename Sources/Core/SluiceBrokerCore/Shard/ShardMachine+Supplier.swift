import BasicContainers
import SluiceWire

// The supplier's end of a task: ASSIGN, body, TOKENS, END.
extension ShardMachine {
    /// Opens a stream at the supplier. Where that cannot be, the task goes back at once.
    mutating func openSupplier(
        _ opening: RelayOpening, nowUs: UInt64, out: inout ShardOutput
    ) {
        let supplier = opening.supplier
        guard isCurrent(supplier), connections[Int(supplier.index)].phase == .open,
            let id = connections[Int(supplier.index)].idleNumber(maxStreams: limits.maxStreams)
        else {
            out.requests.append(.slotFreed(supplier, opening.offer))
            return post(
                .undelivered(opening.client), to: opening.client.shard, nowUs: nowUs, out: &out)
        }
        let bound = takeSupplierSlot()
        var opened = SupplierStream()
        opened.generation = suppliers[Int(bound)].generation &+ 1
        opened.phase = .running
        opened.connection = supplier.index
        opened.id = id
        opened.isBound = true
        opened.client = opening.client
        opened.bodyLimitBytes = connections[Int(supplier.index)].bodyCreditBytes
        suppliers[Int(bound)] = opened
        supplierTasks[Int(bound)] = SupplierTask(
            offer: opening.offer, task: opening.task, terms: opening.terms, trace: opening.trace,
            deadlineMs: opening.deadlineMs, firstLimitBytes: opening.limitBytes)
        openAssignments += 1
        connections[Int(supplier.index)].take(id, for: bound)
        remember(opening.client, bound)
        out.actions.append(.bindBody(supplier: bound, client: opening.client))
        makeReady(supplier: bound, out: &out)
    }

    private mutating func takeSupplierSlot() -> UInt32 {
        if let idle = idleSuppliers.popLast() { return idle }
        suppliers.append(SupplierStream())
        supplierTasks.append(SupplierTask())
        return UInt32(suppliers.count - 1)
    }

    /// Which supplier stream a client's stream is bound to, so that its messages find it.
    private mutating func remember(_ client: StreamRef, _ bound: UInt32) {
        let shard = Int(client.shard)
        while boundByClient.count <= shard { boundByClient.append(UniqueArray()) }
        while boundByClient[shard].count <= Int(client.index) {
            boundByClient[shard].append(noIndex)
        }
        boundByClient[shard][Int(client.index)] = bound
    }

    /// The supplier stream that this client's stream waits for; nil when its last message is under
    /// way to the client.
    private func bound(to client: StreamRef) -> UInt32? {
        let shard = Int(client.shard)
        guard shard < boundByClient.count, Int(client.index) < boundByClient[shard].count else {
            return nil
        }
        let bound = boundByClient[shard][Int(client.index)]
        guard bound != noIndex, suppliers[Int(bound)].isBound,
            suppliers[Int(bound)].client == client
        else { return nil }
        return bound
    }

    /// A new limit of the answer: sent at once, or with ASSIGN.
    mutating func supplierLimit(
        _ client: StreamRef, limitBytes: UInt64, out: inout ShardOutput
    ) {
        guard let bound = bound(to: client) else { return }
        let slot = Int(bound)
        guard suppliers[slot].isAssignSent else {
            supplierTasks[slot].firstLimitBytes = limitBytes
            return
        }
        guard suppliers[slot].phase == .running else { return }
        suppliers[slot].limitSentBytes = limitBytes
        send(
            .credit(suppliers[slot].id, CreditFrame(limitBytes: limitBytes)),
            on: suppliers[slot].connection, out: &out)
    }

    /// The client's end wants no more of it: CANCEL, whose answer is waited for.
    mutating func cancelSupplier(
        _ client: StreamRef, _ code: WireCode, nowUs: UInt64, out: inout ShardOutput
    ) {
        guard let bound = bound(to: client) else { return }
        let slot = Int(bound)
        guard suppliers[slot].isAssignSent else {
            // It never heard of the task: no CANCEL, no END.
            out.requests.append(
                .slotFreed(reference(suppliers[slot].connection), supplierTasks[slot].offer))
            releaseSupplier(bound)
            return post(.undelivered(client), to: client.shard, nowUs: nowUs, out: &out)
        }
        suppliers[slot].phase = .cancelled
        counters.cancelsSent += 1
        unready(supplier: bound)
        supplierTimers.schedule(bound, atMs: nowUs / 1_000 + WireLimits.cancelGraceMs)
        // Sending may cut the supplier's connection; its streams end when it is closed.
        send(
            .cancel(suppliers[slot].id, CancelFrame(code: code)),
            on: suppliers[slot].connection, out: &out)
    }

    /// The supplier did not answer CANCEL in time: the task ends with what is known, the
    /// supplier's slot stays taken until its END comes.
    mutating func supplierExpired(_ bound: UInt32, nowUs: UInt64, out: inout ShardOutput) {
        guard suppliers[Int(bound)].phase == .cancelled else { return }
        suppliers[Int(bound)].phase = .quarantined
        suppliers[Int(bound)].isBound = false
        counters.quarantinedSlots += 1
        let client = suppliers[Int(bound)].client
        post(.unanswered(client), to: client.shard, nowUs: nowUs, out: &out)
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
            forward(header, place, to: client, nowUs: nowUs, out: &out)
        case .discard:
            counters.discardedTokenFrames += 1
        case .notAssigned:
            fail(connection, .unexpectedFrame, header: header, out: &out)
        case .beyondCredit:
            fail(connection, .creditExceeded, header: header, out: &out)
        }
    }

    private mutating func forward(
        _ header: FrameHeader, _ place: Range<Int>, to client: StreamRef, nowUs: UInt64,
        out: inout ShardOutput
    ) {
        counters.tokenFramesRelayed &+= 1
        var forwarded = header
        forwarded.flags.formIntersection(.forwarded)
        if forwarded.flags.contains(.error) { forwarded.tokens = 0 }
        guard client.shard != index else {
            return enqueue(forwarded, place, for: client.index, nowUs: nowUs, out: &out)
        }
        out.actions.append(
            .relayTokens(
                shard: client.shard, headerWord: forwarded.firstWord, client: client.index,
                start: UInt32(truncatingIfNeeded: place.lowerBound),
                count: header.payloadBytes))
    }

    mutating func supplierStarted(
        _ connection: UInt32, _ header: FrameHeader, _ frame: StartedFrame, nowUs: UInt64,
        out: inout ShardOutput
    ) {
        guard let bound = connections[Int(connection)].stream(header.stream),
            suppliers[Int(bound)].isAssignSent
        else {
            return fail(connection, .unexpectedFrame, header: header, out: &out)
        }
        guard suppliers[Int(bound)].phase == .running else { return }
        guard !suppliers[Int(bound)].hasStarted else {
            return fail(connection, .unexpectedFrame, header: header, out: &out)
        }
        suppliers[Int(bound)].hasStarted = true
        let client = suppliers[Int(bound)].client
        post(.started(client, frame), to: client.shard, nowUs: nowUs, out: &out)
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
        let isBound = suppliers[Int(bound)].isBound
        let client = suppliers[Int(bound)].client
        connections[Int(connection)].unproductive.earn(limits: limits)
        out.requests.append(
            .slotFreed(reference(connection), supplierTasks[Int(bound)].offer))
        releaseSupplier(bound)
        guard isBound else { return }
        post(.ended(client, frame), to: client.shard, nowUs: nowUs, out: &out)
    }

    /// The supplier's connection is gone.
    mutating func supplierStreamLost(
        _ bound: UInt32, nowUs: UInt64, out: inout ShardOutput
    ) {
        let isBound = suppliers[Int(bound)].isBound
        let client = suppliers[Int(bound)].client
        releaseSupplier(bound)
        guard isBound else { return }
        post(.lost(client), to: client.shard, nowUs: nowUs, out: &out)
    }

    /// The slot is idle again.
    mutating func releaseSupplier(_ bound: UInt32) {
        let slot = Int(bound)
        let connection = suppliers[slot].connection
        unready(supplier: bound)
        connections[Int(connection)].release(suppliers[slot].id)
        connections[Int(connection)].idleNumbers.append(suppliers[slot].id.rawValue)
        supplierTimers.cancel(bound)
        suppliers[slot].phase = .idle
        suppliers[slot].isBound = false
        idleSuppliers.append(bound)
        openAssignments -= 1
    }

    /// Body bytes that may be sent to the supplier now.
    func bodyBytesSendable(_ bound: UInt32) -> Int {
        let total = UInt64(supplierTasks[Int(bound)].terms.bodyBytes)
        let allowed = min(total, suppliers[Int(bound)].bodyLimitBytes)
        return Int(allowed - min(UInt64(suppliers[Int(bound)].sentBodyBytes), allowed))
    }
}
