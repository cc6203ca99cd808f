import BasicContainers
import SluiceRecordFormat
import SluiceWire

// How answers, losses, deadlines and cancels end a task. The client's shard decides: the first end
// that it sees wins.
extension ShardMachine {
    /// The supplier's END: the answer's queued frames go out first, or the task goes elsewhere.
    mutating func answerEnded(
        _ client: UInt32, _ frame: EndFrame, nowUs: UInt64, out: inout ShardOutput
    ) {
        let status: TaskStatus
        let code: WireCode
        switch frame.code {
        case .completed: (status, code) = (.completed, .completed)
        case .deadlineExceeded: (status, code) = (.deadlineExceeded, .deadlineExceeded)
        case .upstreamRefused: (status, code) = (.supplierFailed, .upstreamRefused)
        case .cancelled: (status, code) = (.supplierFailed, .supplierFailed)
        default:
            // Another supplier may do, as long as nothing was forwarded [D6][D8].
            guard clients[Int(client)].sealedBytes > 0 else {
                dropQueued(client, out: &out)
                return giveBack(client, claim: frame, nowUs: nowUs, out: &out)
            }
            (status, code) = (.supplierFailed, .supplierFailed)
        }
        clientTasks[Int(client)].ending = ClientTask.Ending(
            status: status, code: code, finishReason: frame.finishReason, claim: frame.usage)
        drainAnswer(client, nowUs: nowUs, out: &out)
    }

    /// The supplier is gone while it had the task.
    mutating func supplierLost(_ client: UInt32, nowUs: UInt64, out: inout ShardOutput) {
        let index = Int(client)
        guard clients[index].sealedBytes > 0 else {
            dropQueued(client, out: &out)
            return giveBack(client, claim: nil, nowUs: nowUs, out: &out)
        }
        clientTasks[index].ending = ClientTask.Ending(status: .supplierLost, code: .supplierLost)
        drainAnswer(client, nowUs: nowUs, out: &out)
    }

    /// What is queued goes out, then the end is reported.
    private mutating func drainAnswer(
        _ client: UInt32, nowUs: UInt64, out: inout ShardOutput
    ) {
        clients[Int(client)].phase = .draining
        // What is left is within the client's credit: only its socket can hold it up now.
        clientTasks[Int(client)].starvedSinceMs = nil
        guard clients[Int(client)].queuedBytes == 0 else { return }
        report(client, nowUs: nowUs, out: &out)
    }

    /// Nothing of an answer left: another supplier may try. The dispatcher decides whether.
    mutating func giveBack(
        _ client: UInt32, claim: EndFrame?, nowUs: UInt64, out: inout ShardOutput
    ) {
        let index = Int(client)
        clients[index].phase = .queued
        clients[index].enqueuedBytes = 0
        clients[index].sealedBytes = 0
        clients[index].gateTokens = .max
        clientTasks[index].started = nil
        clientTasks[index].starvedSinceMs = nil
        unready(client: client)
        // Told to the client only when there is nobody else [D9].
        var report = TaskReport(
            task: clients[index].task,
            status: claim == nil ? .supplierLost : .supplierFailed,
            code: claim == nil ? .supplierLost : .supplierFailed)
        report.durationUs = nowUs - clientTasks[index].submittedUs
        report.isDeclined = claim?.code == .declined
        out.requests.append(.redispatch(report.task, reference(ofStream: client), report))
    }

    /// Ends a task before its answer did: cancel, deadline, loss of the client, drain. Nothing
    /// more is forwarded. A supplier that has it is told, and waited for.
    mutating func endEarly(
        _ client: UInt32, status: TaskStatus, code: WireCode, nowUs: UInt64,
        out: inout ShardOutput
    ) {
        let index = Int(client)
        switch clients[index].phase {
        case .idle, .cancelling, .finishing:
            return
        case .uploading:
            abandon(client, code == .deadlineExceeded ? .uploadTimeout : code, out: &out)
        case .queued:
            clientTasks[index].ending = ClientTask.Ending(status: status, code: code)
            report(client, nowUs: nowUs, out: &out)
        case .draining:
            dropQueued(client, out: &out)
            unready(client: client)
            let claim = clientTasks[index].ending?.claim
            clientTasks[index].ending = ClientTask.Ending(
                status: status, code: code, claim: claim)
            report(client, nowUs: nowUs, out: &out)
        case .running:
            dropQueued(client, out: &out)
            unready(client: client)
            clientTasks[index].ending = ClientTask.Ending(status: status, code: code)
            clients[index].phase = .cancelling
            streamTimers.cancel(client)
            // The supplier's end answers in any case, at the latest when its grace is over.
            post(
                .cancel(reference(ofStream: client), code), to: clients[index].supplierShard,
                nowUs: nowUs, out: &out)
        }
    }

    /// The end is final: the dispatcher writes it down and releases END.
    mutating func report(_ client: UInt32, nowUs: UInt64, out: inout ShardOutput) {
        let index = Int(client)
        precondition(!clients[index].isBound, "reported with a supplier bound")
        commitStaged(client, nowUs: nowUs, out: &out)
        guard let ending = clientTasks[index].ending else {
            preconditionFailure("reported without an ending")
        }
        clients[index].phase = .finishing
        streamTimers.cancel(client)
        var report = TaskReport(
            task: clients[index].task, status: ending.status, code: ending.code)
        report.finishReason = ending.finishReason
        report.isUnanswered = ending.isUnanswered
        report.claim = ending.claim
        report.started = clientTasks[index].started
        report.deliveredTokens = clients[index].deliveredTokens
        report.deliveredReasoningTokens = clients[index].deliveredReasoningTokens
        report.deliveredPayloadBytes = clients[index].deliveredPayloadBytes
        report.ttftUs = clientTasks[index].ttftUs
        report.durationUs = nowUs - clientTasks[index].submittedUs
        out.requests.append(.finished(reference(ofStream: client), report))
    }

    // MARK: Time

    mutating func streamExpired(_ client: UInt32, nowUs: UInt64, out: inout ShardOutput) {
        let index = Int(client)
        let nowMs = nowUs / 1_000
        switch clients[index].phase {
        case .idle, .cancelling, .finishing:
            return
        case .uploading:
            if nowMs < clientTasks[index].deadlineMs, isUploadHeldBack(client) {
                return streamTimers.schedule(
                    client, atMs: min(clientTasks[index].deadlineMs, nowMs + limits.uploadMs))
            }
            abandon(client, .uploadTimeout, out: &out)
        case .queued, .running, .draining:
            if nowMs >= clientTasks[index].deadlineMs {
                return endEarly(
                    client, status: .deadlineExceeded, code: .deadlineExceeded, nowUs: nowUs,
                    out: &out)
            }
            if let since = clientTasks[index].starvedSinceMs {
                guard nowMs < since + limits.stalledMs else {
                    counters.stalledReaders += 1
                    return endEarly(
                        client, status: .cancelled, code: .stalled, nowUs: nowUs, out: &out)
                }
                streamTimers.schedule(
                    client, atMs: min(clientTasks[index].deadlineMs, since + limits.stalledMs))
            } else {
                streamTimers.schedule(client, atMs: clientTasks[index].deadlineMs)
            }
        }
    }

    /// The drain's time is over.
    mutating func drained(_ client: UInt32, nowUs: UInt64, out: inout ShardOutput) {
        guard clients[Int(client)].phase != .idle else { return }
        endEarly(client, status: .drained, code: .drained, nowUs: nowUs, out: &out)
    }
}
