import BasicContainers
import SluiceRecordFormat
import SluiceWire

// The client's end of a task: SUBMIT, body, credit, cancel, END.
extension ShardMachine {
    // MARK: Upload

    mutating func submitted(
        _ connection: UInt32, _ header: FrameHeader, _ frame: SubmitFrame, _ place: Range<Int>,
        nowUs: UInt64, out: inout ShardOutput
    ) {
        let slot = Int(connection)
        guard connections[slot].stream(header.stream) == nil else {
            return fail(connection, .streamInUse, header: header, out: &out)
        }
        let inlineBytes = frame.inlineBody.count
        guard takeUpload(connection, header, byteCount: inlineBytes, out: &out) else { return }
        guard UInt32(inlineBytes) <= min(frame.terms.bodyBytes, WireLimits.freeBodyBytesMax)
        else {
            return refuseUnopened(connection, header.stream, frame, .bodyMismatch, out: &out)
        }
        if let code = refusal(of: frame) {
            return refuseUnopened(connection, header.stream, frame, code, out: &out)
        }
        let landingBytes = BrokerLimits.chunked(
            Int(min(frame.terms.bodyBytes, WireLimits.freeBodyBytesMax)))
        guard landingBytes <= landingFreeBytes else {
            return refuseUnopened(connection, header.stream, frame, .bodyArenaFull, out: &out)
        }
        landingFreeBytes -= landingBytes
        let stream = openClient(connection, header.stream, frame, nowUs: nowUs)
        let index = Int(stream)
        clientTasks[index].landingBytes = UInt32(landingBytes)
        storeBody(
            stream, place.lowerBound + frame.inlineBody.lowerBound, inlineBytes,
            freeBytes: inlineBytes, nowUs: nowUs, out: &out)
        let isComplete = clientTasks[index].receivedBodyBytes == frame.terms.bodyBytes
        let uploadDueMs = isComplete ? .max : nowUs / 1_000 + limits.uploadMs
        streamTimers.schedule(stream, atMs: min(clientTasks[index].deadlineMs, uploadDueMs))
        var submission = Submission(
            stream: reference(ofStream: stream), connection: reference(connection),
            terms: clientTasks[index].terms, model: frame.model, filters: frame.filters,
            affinityKeys: frame.affinityKeys, trace: frame.trace,
            reserveBytes: clients[index].reserveBytes, bodyComplete: isComplete)
        submission.budget = frame.budget
        guard let key = frame.idempotencyKey else {
            return out.requests.append(.submit(submission))
        }
        keyedSubmissions.append(submission)
        out.actions.append(
            .hashKey(
                stream: submission.stream, start: UInt32(place.lowerBound + key.lowerBound),
                count: UInt32(key.count), account: connections[slot].account))
    }

    /// The digest that `hashKey` asked for. Only now does the dispatcher hear of the submission,
    /// unless it ended in the meantime.
    package mutating func idempotencyKey(
        _ stream: StreamRef, digest: UInt64, out: inout ShardOutput
    ) {
        guard let position = keyedSubmissions.firstIndex(where: { $0.stream == stream }) else {
            return
        }
        var submission = keyedSubmissions.remove(at: position)
        let index = Int(stream.index)
        guard isCurrent(stream), clients[index].phase == .uploading else { return }
        submission.keyDigest = max(1, digest)
        submission.bodyComplete =
            clientTasks[index].receivedBodyBytes == clientTasks[index].terms.bodyBytes
        out.requests.append(.submit(submission))
    }

    /// What can be refused without the dispatcher.
    private func refusal(of frame: SubmitFrame) -> WireCode? {
        if isDraining { return .draining }
        if frame.terms.operation.countsResults {
            // Text has no room for their answers, and without a count nothing bounds their cost.
            if frame.terms.encoding == .text { return .unsupported }
            if frame.terms.maxOutputTokens == 0 { return .invalidRequest }
        }
        if frame.hedgeCopies > 1 { return .unsupported }
        if frame.terms.bodyBytes > limits.maxBodyBytes { return .bodyTooLarge }
        if frame.terms.deadlineMs > WireLimits.deadlineMsMax { return .invalidRequest }
        if frame.windowBytes != 0,
            frame.windowBytes < WireLimits.windowBytesMin
                || frame.windowBytes > WireLimits.windowBytesMax
        {
            return .invalidRequest
        }
        return nil
    }

    private mutating func openClient(
        _ connection: UInt32, _ id: StreamID, _ frame: SubmitFrame, nowUs: UInt64
    ) -> UInt32 {
        let stream: UInt32
        if let idle = idleClients.popLast() {
            stream = idle
        } else {
            stream = UInt32(clients.count)
            clients.append(ClientStream())
            clientTasks.append(ClientTask())
        }
        let index = Int(stream)
        let generation = clients[index].generation &+ 1
        var opened = ClientStream()
        opened.generation = generation
        opened.phase = .uploading
        opened.connection = connection
        opened.id = id
        opened.clientLimitBytes = frame.creditLimitBytes
        opened.reserveBytes = BrokerLimits.reserve(
            askedBytes: frame.windowBytes,
            extraPoolFreeBytes: connections[Int(connection)].extraPoolFreeBytes)
        var task = ClientTask()
        task.terms = frame.terms
        task.trace = frame.trace
        task.submittedUs = nowUs
        let deadlineMs =
            frame.terms.deadlineMs == 0
            ? WireLimits.deadlineMsMax : frame.terms.deadlineMs
        task.deadlineMs = nowUs / 1_000 + UInt64(deadlineMs)
        clients[index] = opened
        clientTasks[index] = task
        connections[Int(connection)].extraPoolFreeBytes -=
            opened.reserveBytes - BrokerLimits.reserveFloorBytes
        connections[Int(connection)].take(id, for: stream)
        openTasks += 1
        return stream
    }

    mutating func receivedBody(
        _ connection: UInt32, _ header: FrameHeader, _ place: Range<Int>, nowUs: UInt64,
        out: inout ShardOutput
    ) {
        let byteCount = place.count
        guard let stream = connections[Int(connection)].stream(header.stream) else {
            // It crossed the END: its free bytes go back to the upload limit.
            let freeBytes = connections[Int(connection)].takeLate(header.stream, byteCount)
            guard takeUpload(connection, header, byteCount: freeBytes, out: &out) else { return }
            returnUpload(connection, byteCount: freeBytes, out: &out)
            counters.lateFrames += 1
            guard byteCount < WireLimits.bodyFrameBytesMin else { return }
            return unproductive(connection, header, nowUs: nowUs, out: &out)
        }
        let index = Int(stream)
        switch clients[index].phase {
        case .uploading: break
        case .cancelling, .finishing: return late(connection, header, nowUs: nowUs, out: &out)
        case .idle, .queued, .running, .draining:
            return fail(connection, .unexpectedFrame, header: header, out: &out)
        }
        let received = clientTasks[index].receivedBodyBytes
        let declared = clientTasks[index].terms.bodyBytes
        let isLast = byteCount == Int(declared - received)
        guard byteCount <= Int(declared - received),
            isLast || byteCount >= WireLimits.bodyFrameBytesMin
        else {
            return abandon(stream, .bodyMismatch, out: &out)
        }
        let freeLeft = Int(WireLimits.freeBodyBytesMax - min(received, WireLimits.freeBodyBytesMax))
        guard clientTasks[index].isGranted || byteCount <= freeLeft else {
            return fail(connection, .creditExceeded, header: header, out: &out)
        }
        let freeBytes = min(byteCount, freeLeft)
        guard takeUpload(connection, header, byteCount: freeBytes, out: &out) else { return }
        storeBody(
            stream, place.lowerBound, byteCount, freeBytes: freeBytes, nowUs: nowUs, out: &out)
        streamTimers.schedule(
            stream, atMs: min(clientTasks[index].deadlineMs, nowUs / 1_000 + limits.uploadMs))
        if uploads.hasWaiting { grantUploads(nowUs: nowUs, out: &out) }
        guard clientTasks[index].receivedBodyBytes == declared, clientTasks[index].isAdmitted else {
            return
        }
        out.requests.append(.bodyComplete(clients[index].task, reference(ofStream: stream)))
    }

    /// Debits the connection's upload limit; false (and ERROR) beyond what the client was told.
    private mutating func takeUpload(
        _ connection: UInt32, _ header: FrameHeader, byteCount: Int, out: inout ShardOutput
    ) -> Bool {
        let slot = Int(connection)
        let used = connections[slot].uploadedBytes + UInt64(byteCount)
        guard used <= connections[slot].uploadLimitSentBytes else {
            fail(connection, .creditExceeded, header: header, out: &out)
            return false
        }
        connections[slot].uploadedBytes = used
        return true
    }

    /// Free bytes reached the arena or were dropped: raise the upload limit by as much, told in
    /// steps of a quarter of the allowance.
    private mutating func returnUpload(
        _ connection: UInt32, byteCount: Int, out: inout ShardOutput
    ) {
        let slot = Int(connection)
        connections[slot].uploadLimitBytes += UInt64(byteCount)
        let grown =
            connections[slot].uploadLimitBytes - connections[slot].uploadLimitSentBytes
        guard grown >= limits.uploadAllowanceBytes / 4 else { return }
        connections[slot].uploadLimitSentBytes = connections[slot].uploadLimitBytes
        let frame = CreditFrame(limitBytes: connections[slot].uploadLimitBytes)
        send(.credit(.connection, frame), on: connection, out: &out)
    }

    private mutating func storeBody(
        _ stream: UInt32, _ start: Int, _ byteCount: Int, freeBytes: Int, nowUs: UInt64,
        out: inout ShardOutput
    ) {
        let index = Int(stream)
        clientTasks[index].receivedBodyBytes += UInt32(byteCount)
        clientTasks[index].bodyCompleteUs = nowUs
        counters.bodyBytesReceived += UInt64(byteCount)
        guard byteCount > 0 else { return }
        uploadArrived(stream, byteCount: byteCount)
        clients[index].holdsBody = true
        out.actions.append(
            .storeBody(stream: stream, start: UInt32(start), count: UInt32(byteCount)))
        returnUpload(clients[index].connection, byteCount: freeBytes, out: &out)
    }

    // MARK: Admission

    mutating func admitted(
        _ stream: StreamRef, _ task: TaskIndex, nowUs: UInt64, out: inout ShardOutput
    ) {
        let index = Int(stream.index)
        guard isCurrent(stream), clients[index].phase == .uploading else {
            // The stream ended while the dispatcher decided: give the reservation back.
            out.requests.append(.abandoned(task, stream, .cancelled))
            return
        }
        clients[index].task = task
        clientTasks[index].isAdmitted = true
        hasLanded(stream.index)
        let declared = clientTasks[index].terms.bodyBytes
        if clientTasks[index].receivedBodyBytes == declared {
            out.requests.append(.bodyComplete(task, stream))
        } else if declared > WireLimits.freeBodyBytesMax {
            let account = connections[Int(clients[index].connection)].account
            uploads.wait(stream.index, account: account, &clientTasks)
            grantUploads(nowUs: nowUs, out: &out)
        }
    }

    /// The dispatcher has reserved the body, or it is gone.
    private mutating func hasLanded(_ stream: UInt32) {
        landingFreeBytes += Int(clientTasks[Int(stream)].landingBytes)
        clientTasks[Int(stream)].landingBytes = 0
    }

    mutating func accepted(
        _ stream: StreamRef, _ task: TaskIndex, _ taskID: TaskID, position: UInt32,
        nowUs: UInt64, out: inout ShardOutput
    ) {
        let index = Int(stream.index)
        guard isCurrent(stream), clients[index].phase == .uploading else {
            // The client left between its last body byte and the acceptance: the task is in the
            // journal, so it ends like any other.
            var report = TaskReport(task: task, status: .clientLost, code: .cancelled)
            report.durationUs = 0
            out.requests.append(.finished(stream, report))
            return
        }
        clients[index].task = task
        clientTasks[index].isAdmitted = true
        hasLanded(stream.index)
        clients[index].phase = .queued
        streamTimers.schedule(stream.index, atMs: clientTasks[index].deadlineMs)
        let frame = QueuedFrame(
            task: taskID, reserveBytes: clients[index].reserveBytes, position: position)
        send(.queued(clients[index].id, frame), on: clients[index].connection, out: &out)
    }

    /// An earlier task has the key: the client is told which.
    mutating func duplicate(
        _ stream: StreamRef, of task: TaskID, _ frame: EndFrame, out: inout ShardOutput
    ) {
        let index = Int(stream.index)
        guard isCurrent(stream), clients[index].phase == .uploading else { return }
        if clientTasks[index].receivedBodyBytes == clientTasks[index].terms.bodyBytes {
            let queued = QueuedFrame(
                task: task, reserveBytes: clients[index].reserveBytes, position: 0)
            send(.queued(clients[index].id, queued), on: clients[index].connection, out: &out)
        }
        finishStream(stream.index, frame, out: &out)
    }

    /// A supplier was chosen: its end is told to open a stream.
    mutating func assign(
        _ stream: StreamRef, to supplier: ConnectionRef, _ offer: OfferID, _ taskID: TaskID,
        _ held: HeldTokens, nowUs: UInt64, out: inout ShardOutput
    ) {
        let index = Int(stream.index)
        guard isCurrent(stream), clients[index].phase == .queued else {
            // It ended while the dispatcher chose; its end is on the way there.
            out.requests.append(.slotFreed(supplier, offer))
            return
        }
        let limit = clients[index].supplierLimitBytes
        clients[index].phase = .running
        clients[index].isBound = true
        clients[index].isBodyLent = clientTasks[index].terms.bodyBytes > 0
        clients[index].supplierShard = supplier.shard
        clients[index].limitToldBytes = limit
        closeGate(stream.index, held)
        refreshStarvation(stream.index, nowMs: nowUs / 1_000)
        let opening = RelayOpening(
            client: stream, supplier: supplier, offer: offer, task: taskID,
            terms: clientTasks[index].terms, trace: clientTasks[index].trace,
            deadlineMs: clientTasks[index].deadlineMs, limitBytes: limit)
        post(.open(opening), to: supplier.shard, nowUs: nowUs, out: &out)
    }

    /// END without a stream: the SUBMIT was refused before one was opened.
    private mutating func refuseUnopened(
        _ connection: UInt32, _ id: StreamID, _ frame: SubmitFrame, _ code: WireCode,
        out: inout ShardOutput
    ) {
        out.requests.append(.refusedAtShard(reference(connection), code))
        let freeBytes = frame.inlineBody.count
        returnUpload(connection, byteCount: freeBytes, out: &out)
        let freeDeclared = Int(min(frame.terms.bodyBytes, WireLimits.freeBodyBytesMax))
        connections[Int(connection)].expectLate(id, max(0, freeDeclared - freeBytes))
        var end = EndFrame(code: code, finishReason: .other)
        if code == .bodyArenaFull { end.retryAfterMs = BrokerLimits.landingRetryMs }
        send(.end(id, end), on: connection, out: &out)
    }

    /// END for a stream that was not accepted; the stream is free.
    mutating func refuse(
        _ stream: UInt32, _ code: WireCode, retryAfterMs: UInt32, out: inout ShardOutput
    ) {
        var frame = EndFrame(code: code, finishReason: .other)
        frame.retryAfterMs = retryAfterMs
        finishStream(stream, frame, out: &out)
    }

    /// Ends a submission that was not accepted yet. What the dispatcher reserved comes back.
    mutating func abandon(_ stream: UInt32, _ code: WireCode, out: inout ShardOutput) {
        let index = Int(stream)
        if clientTasks[index].isAdmitted {
            out.requests.append(
                .abandoned(clients[index].task, reference(ofStream: stream), code))
        }
        refuse(stream, code, retryAfterMs: 0, out: &out)
    }

    // MARK: Answer

    mutating func clientCredit(
        _ connection: UInt32, _ header: FrameHeader, _ frame: CreditFrame, nowUs: UInt64,
        out: inout ShardOutput
    ) {
        guard let stream = connections[Int(connection)].stream(header.stream) else {
            return late(connection, header, nowUs: nowUs, out: &out)
        }
        let index = Int(stream)
        let old = clients[index].clientLimitBytes
        guard frame.limitBytes > old else {
            return unproductive(connection, header, nowUs: nowUs, out: &out)
        }
        clients[index].clientLimitBytes = frame.limitBytes
        refreshStarvation(stream, nowMs: nowUs / 1_000)
        refreshSupplierLimit(stream, nowUs: nowUs, out: &out)
    }

    mutating func clientCancelled(
        _ connection: UInt32, _ header: FrameHeader, _ frame: CancelFrame, nowUs: UInt64,
        out: inout ShardOutput
    ) {
        guard let stream = connections[Int(connection)].stream(header.stream) else {
            return late(connection, header, nowUs: nowUs, out: &out)
        }
        let phase = clients[Int(stream)].phase
        if phase == .cancelling || phase == .finishing {
            return late(connection, header, nowUs: nowUs, out: &out)
        }
        endEarly(stream, status: .cancelled, code: .cancelled, nowUs: nowUs, out: &out)
    }

    /// The client's connection is gone: its tasks end without an END to anybody.
    mutating func clientLost(_ stream: UInt32, nowUs: UInt64, out: inout ShardOutput) {
        let index = Int(stream)
        let connection = clients[index].connection
        endEarly(stream, status: .clientLost, code: .cancelled, nowUs: nowUs, out: &out)
        guard clients[index].connection == connection, clients[index].phase != .idle else {
            return
        }
        unready(client: stream)
        clients[index].connection = noIndex
    }

    /// END to the client, and the stream is free. The last thing that happens to it.
    mutating func finishStream(_ stream: UInt32, _ frame: EndFrame, out: inout ShardOutput) {
        let index = Int(stream)
        precondition(clients[index].phase != .idle, "stream ended twice")
        precondition(!clients[index].isBound, "supplier still bound")
        streamTimers.cancel(stream)
        hasLanded(stream)
        uploads.leave(stream, &clientTasks)
        settleUpload(stream)
        dropQueued(stream, out: &out)
        if clients[index].holdsBody { out.actions.append(.dropBody(stream: stream)) }
        let connection = clients[index].connection
        if connection != noIndex {
            unready(client: stream)
            connections[Int(connection)].release(clients[index].id)
            let freeDeclared = min(clientTasks[index].terms.bodyBytes, WireLimits.freeBodyBytesMax)
            let freeReceived = min(clientTasks[index].receivedBodyBytes, freeDeclared)
            connections[Int(connection)].expectLate(
                clients[index].id, Int(freeDeclared - freeReceived))
            connections[Int(connection)].extraPoolFreeBytes +=
                clients[index].reserveBytes - BrokerLimits.reserveFloorBytes
            connections[Int(connection)].unproductive.earn(limits: limits)
            send(.end(clients[index].id, frame), on: connection, out: &out)
        }
        clients[index].phase = .idle
        clients[index].holdsBody = false
        clients[index].connection = noIndex
        idleClients.append(stream)
        openTasks -= 1
    }

    /// Zeroes what is queued for the client and not sealed.
    mutating func dropQueued(_ stream: UInt32, out: inout ShardOutput) {
        guard clients[Int(stream)].queuedBytes > 0 else { return }
        forgetGate(stream)
        clients[Int(stream)].enqueuedBytes = clients[Int(stream)].sealedBytes
        out.actions.append(.dropTokens(stream: stream))
    }
}
