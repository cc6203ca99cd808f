import BasicContainers
import SluiceLedgerCore
import SluiceRecordFormat
import SluiceWire

// The gate of a prepaid task: TOKENS go out only while fewer tokens went out than money is held
// for. What comes beyond waits in the queue as it waits for credit, until the dispatcher holds for
// more or says that there is none. A frame without tokens costs nothing and passes.
extension ShardMachine {
    /// A frame behind the gate.
    struct GatedFrame {
        let costBytes: UInt32
        let tokens: UInt16
    }

    /// A supplier begins: nothing has passed yet.
    mutating func closeGate(_ client: UInt32, _ held: HeldTokens) {
        let index = Int(client)
        clientTasks[index].held = held
        clientTasks[index].isHoldAsked = false
        clients[index].enqueuedTokens = 0
        clients[index].gateBytes = .max
        moveGate(client)
    }

    /// The frame that was just put into the queue is near the gate, or beyond it.
    mutating func reachedGate(
        _ client: UInt32, _ header: FrameHeader, nowUs: UInt64, out: inout ShardOutput
    ) {
        let index = Int(client)
        let tokens = UInt64(header.tokens)
        let before = clients[index].enqueuedTokens - tokens
        let isBeyond = tokens > 0 && before >= clientTasks[index].held.count
        if isBeyond, clients[index].gateBytes == .max {
            clients[index].gateBytes = clients[index].enqueuedBytes - UInt64(header.frameBytes)
        }
        if clients[index].gateBytes != .max {
            clients[index].enqueuedTokens = before
            gatedFrames[client, default: []].append(
                GatedFrame(costBytes: UInt32(header.frameBytes), tokens: header.tokens))
        } else if !clients[index].isReady {
            makeReady(client: client, out: &out)
        }
        askForHold(client, out: &out)
        moveGate(client)
        exhaustAtGate(client, nowUs: nowUs, out: &out)
    }

    /// The dispatcher's answer: how many tokens money is held for now.
    mutating func holdChanged(
        _ stream: StreamRef, _ held: HeldTokens, nowUs: UInt64, out: inout ShardOutput
    ) {
        let client = stream.index
        let index = Int(client)
        guard isCurrent(stream) else { return }
        switch clients[index].phase {
        case .running, .draining: break
        case .idle, .uploading, .queued, .cancelling, .finishing: return
        }
        let delivered = clients[index].deliveredTokens
        let counted = min(delivered, clientTasks[index].held.count)
        if min(delivered, held.count) > counted {
            // The open-task slot had only what was held for.
            let more = SealedTokens(
                bytes: 0, payloadBytes: 0, tokens: min(delivered, held.count) - counted,
                reasoningTokens: 0)
            out.delivered.append(DeliveredTokens(slot: clients[index].task, more))
        }
        clientTasks[index].held = held
        clientTasks[index].isHoldAsked = false
        openGate(client)
        if clients[index].sendableBytes > 0, !clients[index].isReady {
            makeReady(client: client, out: &out)
        }
        askForHold(client, out: &out)
        moveGate(client)
        exhaustAtGate(client, nowUs: nowUs, out: &out)
    }

    /// Nothing waits behind the gate any more.
    mutating func forgetGate(_ client: UInt32) {
        guard clients[Int(client)].gateBytes != .max else { return }
        clients[Int(client)].gateBytes = .max
        gatedFrames[client] = nil
    }

    /// All that may go out has gone out: that is the end where no more is to be had. Else the
    /// supplier is told how far it may go.
    mutating func exhaustAtGate(_ client: UInt32, nowUs: UInt64, out: inout ShardOutput) {
        let index = Int(client)
        guard clients[index].gateBytes != .max, clients[index].sendableBytes == 0 else { return }
        guard clientTasks[index].held.isLast else {
            return refreshSupplierLimit(client, nowUs: nowUs, out: &out)
        }
        endEarly(
            client, status: .budgetExhausted, code: .budgetExhausted, nowUs: nowUs, out: &out)
    }

    /// Lets those through that money is held for now.
    private mutating func openGate(_ client: UInt32) {
        let index = Int(client)
        guard clients[index].gateBytes != .max, var frames = gatedFrames[client] else { return }
        var passed = 0
        while passed < frames.count {
            let frame = frames[passed]
            guard frame.tokens == 0 || clients[index].enqueuedTokens < clientTasks[index].held.count
            else { break }
            clients[index].enqueuedTokens += UInt64(frame.tokens)
            clients[index].gateBytes += UInt64(frame.costBytes)
            passed += 1
        }
        guard passed < frames.count else { return forgetGate(client) }
        frames.removeFirst(passed)
        gatedFrames[client] = frames
    }

    /// Once for every answer, and while enough is left that the answer can come in time.
    private mutating func askForHold(_ client: UInt32, out: inout ShardOutput) {
        let index = Int(client)
        let held = clientTasks[index].held
        let left = held.count - min(held.count, clients[index].enqueuedTokens)
        guard !held.isLast, !clientTasks[index].isHoldAsked, left < UInt64(Hold.lowTokens)
        else { return }
        clientTasks[index].isHoldAsked = true
        out.requests.append(.holdLow(clients[index].task, reference(ofStream: client)))
    }

    /// From which count of tokens on a frame must be looked at.
    private mutating func moveGate(_ client: UInt32) {
        let index = Int(client)
        let held = clientTasks[index].held
        if clients[index].gateBytes != .max {
            clients[index].gateTokens = 0
        } else if held.isLast || clientTasks[index].isHoldAsked {
            clients[index].gateTokens = held.count == .max ? .max : held.count + 1
        } else {
            let margin = UInt64(Hold.lowTokens) - 1
            clients[index].gateTokens = held.count - min(held.count, margin)
        }
    }

    /// What counts of the tokens that were just delivered: the frame that reached the gate may have
    /// had more than money was held for.
    func billable(_ sealed: SealedTokens, of client: UInt32) -> SealedTokens {
        let delivered = clients[Int(client)].deliveredTokens
        let held = clientTasks[Int(client)].held
        guard delivered > held.count else { return sealed }
        var counted = sealed
        let before = delivered - sealed.tokens
        counted.tokens = held.count - min(held.count, before)
        return counted
    }
}
