import BasicContainers
import SluiceRecordFormat
import SluiceWire

// Where the two ends of a task meet. They may belong to two shards: all that one end knows of the
// other goes through `post`, and comes out of `received(_: RelayMessage)` in the same order.
extension ShardMachine {
    /// Says it to the other end: at once where that is this shard's, else through the shell.
    mutating func post(
        _ message: RelayMessage, to shard: UInt16, nowUs: UInt64, out: inout ShardOutput
    ) {
        guard shard != index else { return perform(message, nowUs: nowUs, out: &out) }
        out.actions.append(.relay(shard: shard, message: UInt32(out.relayed.count)))
        out.relayed.append(message)
    }

    /// A message of another shard.
    package mutating func received(
        _ message: RelayMessage, nowUs: UInt64, out: inout ShardOutput
    ) {
        counters.relayedMessages &+= 1
        perform(message, nowUs: nowUs, out: &out)
    }

    private mutating func perform(
        _ message: RelayMessage, nowUs: UInt64, out: inout ShardOutput
    ) {
        switch message {
        case .open(let opening): openSupplier(opening, nowUs: nowUs, out: &out)
        case .limit(let client, let limitBytes):
            supplierLimit(client, limitBytes: limitBytes, out: &out)
        case .cancel(let client, let code):
            cancelSupplier(client, code, nowUs: nowUs, out: &out)
        case .started(let client, let frame):
            guard isBound(client), clients[Int(client.index)].phase == .running else { return }
            clientTasks[Int(client.index)].started = frame
            out.actions.append(.started(slot: clients[Int(client.index)].task, frame))
        case .bodySent(let client):
            guard isBound(client) else { return }
            clients[Int(client.index)].isBodyLent = false
            dropBodyWhenUnneeded(client.index, out: &out)
        case .ended(let client, let frame):
            switch unbind(client) {
            case .running: answerEnded(client.index, frame, nowUs: nowUs, out: &out)
            case .cancelling:
                clientTasks[Int(client.index)].ending?.claim = frame.usage
                report(client.index, nowUs: nowUs, out: &out)
            default: preconditionFailure("an answer on a stream that has no supplier")
            }
        case .lost(let client):
            switch unbind(client) {
            case .running: supplierLost(client.index, nowUs: nowUs, out: &out)
            case .cancelling: report(client.index, nowUs: nowUs, out: &out)
            default: preconditionFailure("a loss on a stream that has no supplier")
            }
        case .undelivered(let client):
            switch unbind(client) {
            case .running:
                clients[Int(client.index)].phase = .queued
                clientTasks[Int(client.index)].starvedSinceMs = nil
                out.requests.append(.undelivered(clients[Int(client.index)].task, client))
            case .cancelling: report(client.index, nowUs: nowUs, out: &out)
            default: preconditionFailure("a return on a stream that has no supplier")
            }
        case .unanswered(let client):
            switch unbind(client) {
            case .cancelling:
                clientTasks[Int(client.index)].ending?.isUnanswered = true
                report(client.index, nowUs: nowUs, out: &out)
            default: preconditionFailure("unanswered without a CANCEL")
            }
        }
    }

    /// The supplier's end is done with the client's stream; answers the phase it is in. A stream
    /// waits for this, so that it is always there.
    private mutating func unbind(_ client: StreamRef) -> ClientStream.Phase {
        precondition(isBound(client), "a supplier's end of a stream that did not wait for it")
        clients[Int(client.index)].isBound = false
        clients[Int(client.index)].isBodyLent = false
        return clients[Int(client.index)].phase
    }

    private func isBound(_ client: StreamRef) -> Bool {
        isCurrent(client) && clients[Int(client.index)].isBound
    }

    // MARK: Frames

    /// TOKENS frames of another shard: whole frames, each with the index of this shard's client
    /// stream as its number. Ranges in `out.actions` are places in `bytes`.
    ///
    /// No generation is needed: they come in order with the messages, and a stream waits for the
    /// last of those before it ends.
    package mutating func receivedRelay(
        _ bytes: Span<UInt8>, nowUs: UInt64, out: inout ShardOutput
    ) {
        var offset = 0
        while offset < bytes.count {
            guard let header = try? FrameHeader(decoding: bytes, at: offset) else {
                preconditionFailure("a relayed frame is malformed")
            }
            let start = offset + FrameHeader.byteCount
            counters.relayedFrames &+= 1
            let client = header.stream.rawValue
            precondition(clients[Int(client)].isBound, "a frame of an unbound supplier")
            if clients[Int(client)].phase == .running {
                enqueue(
                    header, start..<start + Int(header.payloadBytes), for: client,
                    nowUs: nowUs, out: &out)
            } else {
                counters.discardedTokenFrames += 1
            }
            offset += header.frameBytes
        }
    }

    /// A TOKENS frame goes into its connection's next record, or joins its client's queue. `header`
    /// has its flags and tokens as they are forwarded; its stream is not looked at.
    mutating func enqueue(
        _ header: FrameHeader, _ place: Range<Int>, for client: UInt32, nowUs: UInt64,
        out: inout ShardOutput
    ) {
        let creditLeftBytes: UInt64
        if let staged = stage(header, start: place.lowerBound, of: client, out: &out) {
            creditLeftBytes = staged.creditLeftBytes
        } else {
            let enqueued = clients[Int(client)].enqueue(
                UInt64(header.frameBytes), tokens: header.tokens)
            out.actions.append(
                .enqueueTokens(
                    stream: client, headerWord: header.firstWord, streamID: enqueued.id.rawValue,
                    start: UInt32(truncatingIfNeeded: place.lowerBound),
                    count: header.payloadBytes))
            if enqueued.isAtGate {
                reachedGate(client, header, nowUs: nowUs, out: &out)
            } else if !enqueued.isReady {
                makeReady(client: client, out: &out)
            }
            creditLeftBytes = enqueued.creditLeftBytes
        }
        if creditLeftBytes < WireLimits.usefulCreditBytes {
            refreshStarvation(client, nowMs: nowUs / 1_000)
        }
    }

    // MARK: Credit

    /// Tells the supplier's end its new limit: at once when the client's own limit binds, else
    /// when it has grown by half the reserve.
    mutating func refreshSupplierLimit(
        _ client: UInt32, nowUs: UInt64, out: inout ShardOutput
    ) {
        let index = Int(client)
        guard clients[index].isBound, clients[index].phase == .running else { return }
        let limit = clients[index].supplierLimitBytes
        let told = clients[index].limitToldBytes
        guard limit > told else { return }
        let isClientBound = limit == clients[index].clientLimitBytes
        guard isClientBound || limit - told >= UInt64(clients[index].reserveBytes) / 2 else {
            return
        }
        clients[index].limitToldBytes = limit
        post(
            .limit(reference(ofStream: client), limitBytes: limit),
            to: clients[index].supplierShard, nowUs: nowUs, out: &out)
    }

    /// Notes since when the client's credit has been too short for a frame.
    mutating func refreshStarvation(_ client: UInt32, nowMs: UInt64) {
        let index = Int(client)
        let isShort =
            clients[index].clientLimitBytes
            < clients[index].enqueuedBytes + WireLimits.usefulCreditBytes
        guard clients[index].phase == .running, isShort else {
            clientTasks[index].starvedSinceMs = nil
            return
        }
        guard clientTasks[index].starvedSinceMs == nil else { return }
        clientTasks[index].starvedSinceMs = nowMs
        counters.creditStalls &+= 1
        streamTimers.schedule(
            client, atMs: min(clientTasks[index].deadlineMs, nowMs + limits.stalledMs))
    }
}
