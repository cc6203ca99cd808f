import BasicContainers
import SluiceRecordFormat
import SluiceWire

// What goes out next on a connection: control first (the shell's control queue), then data, one
// stream after the other.
extension ShardMachine {
    /// The next data of the connection that fits `spaceBytes`, or nil when there is none.
    package mutating func nextSegment(
        _ connection: UInt32, spaceBytes: Int, nowUs: UInt64, out: inout ShardOutput
    ) -> SendSegment? {
        let slot = Int(connection)
        guard connections[slot].phase == .open else { return nil }
        while connections[slot].ready.head != noIndex {
            let head = connections[slot].ready.head
            switch connections[slot].role {
            case .client:
                guard spaceBytes >= FrameHeader.byteCount else { return .needsSpace }
                let sendable = Int(truncatingIfNeeded: clients[Int(head)].sendableBytes)
                return .tokens(
                    stream: head,
                    atMostBytes: min(spaceBytes, BrokerLimits.quantumBytes, sendable))
            case .supplier:
                let next = nextSupplier(slot)
                guard
                    let segment = supplierSegment(
                        next, spaceBytes: spaceBytes, nowUs: nowUs, out: &out)
                else {
                    unready(supplier: next)
                    continue
                }
                return segment
            }
        }
        return nil
    }

    /// What a `.tokens` segment moved. The stream goes to the end of the line, or its end is
    /// reported when the answer is over and all of it has gone out.
    package mutating func sealedTokens(
        _ stream: UInt32, _ sealed: SealedTokens, nowUs: UInt64, out: inout ShardOutput
    ) {
        let index = Int(stream)
        precondition(UInt64(sealed.bytes) <= clients[index].queuedBytes, "sealed too much")
        clients[index].sealedBytes += UInt64(sealed.bytes)
        countDelivered(sealed, of: stream, nowUs: nowUs, out: &out)
        unready(client: stream)
        guard clients[index].queuedBytes == 0 else {
            if clients[index].sendableBytes == 0 {
                return exhaustAtGate(stream, nowUs: nowUs, out: &out)
            }
            makeReady(client: stream, out: &out)
            return refreshSupplierLimit(stream, nowUs: nowUs, out: &out)
        }
        if clients[index].phase == .draining {
            report(stream, nowUs: nowUs, out: &out)
        } else {
            refreshSupplierLimit(stream, nowUs: nowUs, out: &out)
        }
    }

    /// Into the stream's books and the open-task table.
    mutating func countDelivered(
        _ sealed: SealedTokens, of stream: UInt32, nowUs: UInt64, out: inout ShardOutput
    ) {
        let index = Int(stream)
        counters.tokensDelivered &+= sealed.tokens
        counters.answerBytesDelivered &+= UInt64(sealed.payloadBytes)
        let delivery = clients[index].deliver(sealed, atUs: nowUs)
        switch delivery.order {
        case .untimed: break
        case .later(let gapUs): tokenGaps[HistogramBucket.index(of: gapUs)] &+= 1
        case .first:
            let ttftUs = nowUs - clientTasks[index].bodyCompleteUs
            clientTasks[index].ttftUs = ttftUs
            out.actions.append(.firstOutput(slot: delivery.task, ttftUs: ttftUs))
        }
        out.delivered.append(
            DeliveredTokens(
                slot: delivery.task, delivery.isGated ? billable(sealed, of: stream) : sealed))
        if delivery.holdsBody { dropBodyWhenUnneeded(stream, out: &out) }
    }

    /// ASSIGNs first, until what passed the bodies is as much as a body's turn: then bodies, until
    /// they have had as much. Without that a stream of short tasks would stop a long prompt.
    private mutating func nextSupplier(_ slot: Int) -> UInt32 {
        let head = connections[slot].ready.head
        guard connections[slot].isBodiesTurn else { return head }
        let assigning = connections[slot].lastAssigning
        let body = assigning == noIndex ? head : suppliers[Int(assigning)].nextReady
        guard body == noIndex || connections[slot].passedBytes <= 0 else { return body }
        connections[slot].isBodiesTurn = false
        connections[slot].passedBytes = 0
        return head
    }

    private mutating func supplierSegment(
        _ bound: UInt32, spaceBytes: Int, nowUs: UInt64, out: inout ShardOutput
    ) -> SendSegment? {
        let slot = Int(bound)
        guard suppliers[slot].phase == .running else { return nil }
        guard suppliers[slot].isAssignSent else {
            return assignSegment(bound, spaceBytes: spaceBytes, nowUs: nowUs, out: &out)
        }
        let sendable = bodyBytesSendable(bound)
        let offset = Int(suppliers[slot].sentBodyBytes)
        let left = Int(supplierTasks[slot].terms.bodyBytes) - offset
        guard sendable > 0, sendable == left || sendable >= WireLimits.bodyFrameBytesMin else {
            return nil
        }
        let space = min(spaceBytes, BrokerLimits.quantumBytes) - FrameHeader.byteCount
        let count = min(sendable, space)
        guard count == left || count >= WireLimits.bodyFrameBytesMin else { return .needsSpace }
        suppliers[slot].sentBodyBytes += UInt32(count)
        connections[Int(suppliers[slot].connection)].passedBytes -= count
        endQuantum(supplier: bound, sentBytes: count)
        tellBodySent(bound, nowUs: nowUs, out: &out)
        return .body(suppliers[slot].id, supplier: bound, offset: offset, count: count)
    }

    private mutating func assignSegment(
        _ bound: UInt32, spaceBytes: Int, nowUs: UInt64, out: inout ShardOutput
    ) -> SendSegment? {
        let slot = Int(bound)
        let fixed = FrameHeader.byteCount + AssignFrame.fixedBytes + 28
        guard spaceBytes >= fixed + WireLimits.bodyFrameBytesMin else { return .needsSpace }
        let nowMs = nowUs / 1_000
        var terms = supplierTasks[slot].terms
        let deadlineMs = supplierTasks[slot].deadlineMs
        terms.deadlineMs = UInt32(max(1, deadlineMs - min(deadlineMs - 1, nowMs)))
        let limit = supplierTasks[slot].firstLimitBytes
        var frame = AssignFrame(
            task: supplierTasks[slot].task, offer: supplierTasks[slot].offer, terms: terms,
            creditLimitBytes: limit)
        frame.trace = supplierTasks[slot].trace
        let inline = min(bodyBytesSendable(bound), spaceBytes - fixed)
        suppliers[slot].isAssignSent = true
        suppliers[slot].limitSentBytes = limit
        suppliers[slot].sentBodyBytes = UInt32(inline)
        let connection = Int(suppliers[slot].connection)
        unready(supplier: bound)
        let isPassing = connections[connection].ready.tail != connections[connection].lastAssigning
        connections[connection].passedBytes =
            isPassing ? max(0, connections[connection].passedBytes) + fixed + inline : 0
        if connections[connection].passedBytes >= BrokerLimits.bodyTurnBytes {
            connections[connection].isBodiesTurn = true
        }
        if bodyBytesSendable(bound) > 0 { appendReady(supplier: bound) }
        tellBodySent(bound, nowUs: nowUs, out: &out)
        return .assign(suppliers[slot].id, frame, supplier: bound, bodyBytes: inline)
    }

    /// The client's end may drop the body once the last of it went out. The shell copies it before
    /// it performs anything.
    private mutating func tellBodySent(_ bound: UInt32, nowUs: UInt64, out: inout ShardOutput) {
        guard suppliers[Int(bound)].sentBodyBytes == supplierTasks[Int(bound)].terms.bodyBytes
        else {
            return
        }
        let client = suppliers[Int(bound)].client
        post(.bodySent(client), to: client.shard, nowUs: nowUs, out: &out)
    }

    /// A body is needed until its first answer byte was forwarded and its last byte sent.
    mutating func dropBodyWhenUnneeded(_ stream: UInt32, out: inout ShardOutput) {
        let index = Int(stream)
        guard clients[index].holdsBody, !clients[index].isBodyLent,
            clients[index].sealedBytes > 0
        else { return }
        clients[index].holdsBody = false
        out.actions.append(.dropBody(stream: stream))
    }

    // MARK: Ready lists

    mutating func makeReady(client stream: UInt32, out: inout ShardOutput) {
        let index = Int(stream)
        let connection = clients[index].connection
        guard connection != noIndex, !clients[index].isReady else { return }
        clients[index].isReady = true
        clients[index].nextReady = noIndex
        let slot = Int(connection)
        if connections[slot].ready.tail == noIndex {
            connections[slot].ready.head = stream
        } else {
            clients[Int(connections[slot].ready.tail)].nextReady = stream
        }
        connections[slot].ready.tail = stream
        markDirty(connection, out: &out)
    }

    mutating func makeReady(supplier bound: UInt32, out: inout ShardOutput) {
        guard !suppliers[Int(bound)].isReady else { return }
        appendReady(supplier: bound)
        markDirty(suppliers[Int(bound)].connection, out: &out)
    }

    /// ASSIGNs stand in front of all bodies, so that a short task waits for no long prompt.
    private mutating func appendReady(supplier bound: UInt32) {
        suppliers[Int(bound)].isReady = true
        let slot = Int(suppliers[Int(bound)].connection)
        let before: UInt32
        if suppliers[Int(bound)].isAssignSent {
            before = connections[slot].ready.tail
        } else {
            before = connections[slot].lastAssigning
            connections[slot].lastAssigning = bound
        }
        if before == noIndex {
            suppliers[Int(bound)].nextReady = connections[slot].ready.head
            connections[slot].ready.head = bound
        } else {
            suppliers[Int(bound)].nextReady = suppliers[Int(before)].nextReady
            suppliers[Int(before)].nextReady = bound
        }
        if connections[slot].ready.tail == before { connections[slot].ready.tail = bound }
    }

    /// A body goes on until it is over or has had its turn: one after the other they are whole
    /// sooner than side by side.
    private mutating func endQuantum(supplier bound: UInt32, sentBytes: Int) {
        supplierTasks[Int(bound)].turnBytes += sentBytes
        let isOver = bodyBytesSendable(bound) == 0
        guard isOver || supplierTasks[Int(bound)].turnBytes >= BrokerLimits.bodyTurnBytes else {
            return
        }
        supplierTasks[Int(bound)].turnBytes = 0
        unready(supplier: bound)
        if !isOver { appendReady(supplier: bound) }
    }

    mutating func unready(client stream: UInt32) {
        guard clients[Int(stream)].isReady else { return }
        clients[Int(stream)].isReady = false
        let slot = Int(clients[Int(stream)].connection)
        var before = noIndex
        var current = connections[slot].ready.head
        // Nearly always the head: only an early end takes a stream out of the middle.
        while current != stream {
            before = current
            current = clients[Int(current)].nextReady
        }
        let after = clients[Int(stream)].nextReady
        if before == noIndex {
            connections[slot].ready.head = after
        } else {
            clients[Int(before)].nextReady = after
        }
        if connections[slot].ready.tail == stream { connections[slot].ready.tail = before }
    }

    mutating func unready(supplier bound: UInt32) {
        guard suppliers[Int(bound)].isReady else { return }
        suppliers[Int(bound)].isReady = false
        let slot = Int(suppliers[Int(bound)].connection)
        var before = noIndex
        var current = connections[slot].ready.head
        while current != bound {
            before = current
            current = suppliers[Int(current)].nextReady
        }
        let after = suppliers[Int(bound)].nextReady
        if before == noIndex {
            connections[slot].ready.head = after
        } else {
            suppliers[Int(before)].nextReady = after
        }
        if connections[slot].lastAssigning == bound { connections[slot].lastAssigning = before }
        if connections[slot].ready.tail == bound { connections[slot].ready.tail = before }
    }
}
