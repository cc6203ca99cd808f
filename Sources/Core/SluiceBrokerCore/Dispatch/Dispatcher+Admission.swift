import BasicContainers
import SluiceLedgerCore
import SluiceRecordFormat
import SluiceWire

// Admission and acceptance.
extension Dispatcher {
    // MARK: Admission

    mutating func submitted(
        _ submission: Submission, nowUs: UInt64, out: inout DispatcherOutput
    ) {
        guard let peer = peer(submission.connection) else {
            out.messages.append(.refused(submission.stream, .internalFault, retryAfterMs: 0))
            return
        }
        if !unwrittenNames.isEmpty { writeNames(out: &out) }
        if submission.keyDigest != 0, answerDuplicate(submission, peer, nowUs: nowUs, out: &out) {
            return
        }
        let model = knownModel(submission)
        if let (code, retryAfterMs) = refusal(of: submission, peer, model: model, nowUs: nowUs) {
            return refuse(
                submission, peer, code, model: model ?? 0, retryAfterMs: retryAfterMs, out: &out)
        }
        guard let model else { preconditionFailure("an unknown model is refused") }
        var keyPlace = noIndex
        if submission.keyDigest != 0 {
            guard let place = idempotency.reserve(peer.accountIndex, submission.keyDigest) else {
                return refuse(
                    submission, peer, .rateLimited, model: model, retryAfterMs: jittered(1_000),
                    out: &out)
            }
            keyPlace = place
        }
        let task = admit(submission, model: model, peer, nowUs: nowUs)
        tasks[Int(task)].keyPlace = keyPlace
        guard accounts[Int(peer.accountIndex)].isPrepaid else {
            return admitted(task, nowUs: nowUs, out: &out)
        }
        switch holdAtAdmission(task, nowUs: nowUs, out: &out) {
        case .held: admitted(task, nowUs: nowUs, out: &out)
        case .waits: break
        case .refused(let code):
            refuseAdmitted(task, code, retryAfterMs: 0, nowUs: nowUs, out: &out)
        }
    }

    /// Nothing stands in its way any more: it is accepted, or the rest of its body may come.
    mutating func admitted(_ task: TaskIndex, nowUs: UInt64, out: inout DispatcherOutput) {
        guard tasks[Int(task)].isBodyComplete else {
            out.messages.append(.admitted(tasks[Int(task)].stream, task))
            return
        }
        accept(task, nowUs: nowUs, out: &out)
    }

    private mutating func refuse(
        _ submission: Submission, _ peer: Peer, _ code: WireCode, model: UInt32,
        retryAfterMs: UInt32, out: inout DispatcherOutput
    ) {
        recordRefusal(account: peer.account, code, model: model, wallUs: wallUs, out: &out)
        out.messages.append(.refused(submission.stream, code, retryAfterMs: retryAfterMs))
    }

    /// Takes an admission back before its shard has heard of it.
    mutating func refuseAdmitted(
        _ task: TaskIndex, _ code: WireCode, retryAfterMs: UInt32, nowUs: UInt64,
        out: inout DispatcherOutput
    ) {
        let stream = tasks[Int(task)].stream
        recordRefusal(
            account: tasks[Int(task)].account, code, model: tasks[Int(task)].model,
            wallUs: wallUs, out: &out)
        forgetAdmission(task, nowUs: nowUs, out: &out)
        out.messages.append(.refused(stream, code, retryAfterMs: retryAfterMs))
    }

    /// A task that was not accepted leaves nothing behind.
    private mutating func forgetAdmission(
        _ task: TaskIndex, nowUs: UInt64, out: inout DispatcherOutput
    ) {
        releaseHold(task, nowUs: nowUs, out: &out)
        if tasks[Int(task)].keyPlace != noIndex { idempotency.forget(tasks[Int(task)].keyPlace) }
        release(task, usedTokens: 0)
        tasks[Int(task)] = DispatchTask()
        idleTasks.append(task)
    }

    /// The model's number, without a look-up by name where it is the connection's last one.
    private mutating func knownModel(_ submission: Submission) -> UInt32? {
        let shard = Int(submission.connection.shard)
        let index = Int(submission.connection.index)
        let last = peers[shard][index].model
        if last != noIndex, models[Int(last)].name == submission.model { return last }
        guard let model = modelByName[submission.model] else { return nil }
        peers[shard][index].model = model
        return model
    }

    /// Why a submission is not admitted now, and when another try may help.
    private mutating func refusal(
        of submission: Submission, _ peer: Peer, model: UInt32?, nowUs: UInt64
    ) -> (WireCode, UInt32)? {
        let nowMs = nowUs / 1_000
        let account = peer.accountIndex
        guard keys[Int(peer.key)].entry.allows(submission.terms.operation) else {
            return (.notPermitted, 0)
        }
        if submission.budget > .zero, !accounts[Int(account)].isPrepaid { return (.unsupported, 0) }
        guard let model else { return (.modelUnknown, jittered(1_000)) }
        if let since = models[Int(model)].absentSinceMs {
            guard nowMs < since + limits.absentModelMs else {
                return (.noSupplier, jittered(2_000))
            }
        } else {
            let demand = Demand(submission.terms, submission.filters, deadlineUs: .max)
            guard isServed(model, demand, region: submission.filters.region, nowUs: nowUs) else {
                return (.noSupplier, 0)
            }
        }
        if let retryAfterMs = limitWaitMs(submission, peer, model: model, nowUs: nowUs) {
            counters.limitRefusals += 1
            return (.rateLimited, retryAfterMs)
        }
        let bodyBytes = BrokerLimits.chunked(Int(submission.terms.bodyBytes))
        if accounts[Int(account)].waitingTasks >= limits.queuedTasksPerAccount
            || accounts[Int(account)].waitingBytes + bodyBytes > limits.queuedBytesPerAccount
        {
            return (.rateLimited, retryAfterMs(model: model, nowMs: nowMs))
        }
        if models[Int(model)].waitingTasks >= limits.queuedTasksPerModel
            || models[Int(model)].waitingBytes + bodyBytes > limits.queuedBytesPerModel
        {
            return (.queueFull, retryAfterMs(model: model, nowMs: nowMs))
        }
        guard hasJournalRoom, unwrittenNames.isEmpty else { return (.journalFull, jittered(1_000)) }
        if openTasks + 1 > openTasksMax || (idleTasks.isEmpty && tasks.count >= openTasksMax) {
            return (.queueFull, jittered(1_000))
        }
        guard arenas.fitsBody(bodyBytes) else {
            return (.bodyArenaFull, jittered(1_000))
        }
        let answerBytes = BrokerLimits.answerArenaBytes(reserveBytes: submission.reserveBytes)
        guard arenas.fitsAnswer(answerBytes) else {
            return (.queueFull, jittered(1_000))
        }
        return nil
    }

    /// How long what waits for the model takes at the rate of the last 10 s; 5 s where nothing
    /// was served. Between 100 ms and 60 s, jittered.
    private mutating func retryAfterMs(model: UInt32, nowMs: UInt64) -> UInt32 {
        let tokens = models[Int(model)].queuedTokens
        let waitMs = models[Int(model)].served.waitMs(tokens: tokens, nowMs: nowMs) ?? 5_000
        return jittered(min(max(waitMs, 100), 60_000))
    }

    /// Between the time and one and a half of it, so that those refused together do not come
    /// back together.
    mutating func jittered(_ waitMs: UInt64) -> UInt32 {
        UInt32(waitMs + random.next(below: waitMs / 2 + 1))
    }

    private mutating func admit(
        _ submission: Submission, model: UInt32, _ peer: Peer, nowUs: UInt64
    ) -> TaskIndex {
        var task = DispatchTask()
        task.state = .admitted
        task.stream = submission.stream
        task.account = peer.account
        task.accountIndex = peer.accountIndex
        task.key = peer.key
        task.keyDigestPrefix = peer.digest.words.0
        task.keyDigest = submission.keyDigest
        task.budget = submission.budget
        task.isBodyComplete = submission.bodyComplete
        task.terms = submission.terms
        task.inputBound = Hold.inputBound(
            maxInputTokens: submission.terms.maxInputTokens, bodyBytes: submission.terms.bodyBytes)
        task.filters = submission.filters
        task.affinityKeys = submission.affinityKeys
        task.trace = submission.trace
        task.model = model
        let deadlineMs =
            submission.terms.deadlineMs == 0
            ? WireLimits.deadlineMsMax : submission.terms.deadlineMs
        task.demand = Demand(
            submission.terms, submission.filters,
            deadlineUs: nowUs + UInt64(deadlineMs) * 1_000)
        task.bodyArenaBytes = BrokerLimits.chunked(Int(submission.terms.bodyBytes))
        task.answerArenaBytes = BrokerLimits.answerArenaBytes(
            reserveBytes: submission.reserveBytes)
        arenas.take(body: task.bodyArenaBytes, answer: task.answerArenaBytes)
        task.isWaiting = true
        task.estimatedTokens = estimatedTokens(submission.terms, model: model)
        accounts[Int(peer.accountIndex)].limits.admit(tokens: task.estimatedTokens)
        keys[Int(peer.key)].limits.admit(tokens: task.estimatedTokens)
        accounts[Int(peer.accountIndex)].waitingTasks += 1
        accounts[Int(peer.accountIndex)].waitingBytes += task.bodyArenaBytes
        models[Int(model)].waitingTasks += 1
        models[Int(model)].waitingBytes += task.bodyArenaBytes
        openTasks += 1
        if let idle = idleTasks.popLast() {
            tasks[Int(idle)] = task
            return idle
        }
        tasks.append(task)
        return TaskIndex(tasks.count - 1)
    }

    /// From here on the task has exactly one end in the journal.
    mutating func accept(
        _ task: TaskIndex, nowUs: UInt64, out: inout DispatcherOutput
    ) {
        let index = Int(task)
        taskCounter += 1
        counters.accepted += 1
        tasks[index].counter = taskCounter
        tasks[index].acceptedUs = nowUs
        var record = AcceptedRecord(
            counter: taskCounter, acceptedAtUs: wallUs, account: tasks[index].account,
            keyDigestPrefix: tasks[index].keyDigestPrefix, model: tasks[index].model,
            operation: tasks[index].terms.operation, encoding: tasks[index].terms.encoding,
            priority: tasks[index].terms.priority, preference: tasks[index].terms.preference,
            deadlineMs: tasks[index].terms.deadlineMs, bodyBytes: tasks[index].terms.bodyBytes)
        record.maxInputTokens = tasks[index].terms.maxInputTokens
        record.maxOutputTokens = tasks[index].terms.maxOutputTokens
        record.trace = tasks[index].trace
        record.idempotencyDigest = tasks[index].keyDigest
        if tasks[index].isPrepaid {
            record.inputPrice = UInt64(tasks[index].holdPrices.input)
            record.outputPrice = UInt64(tasks[index].holdPrices.output)
        }
        if tasks[index].keyPlace != noIndex {
            idempotency.accepted(
                tasks[index].keyPlace, TaskID(instance: instance, counter: taskCounter))
        }
        journalFreeRecords -= 1
        out.journal.append(.accepted(slot: task, record, inputBound: tasks[index].inputBound))
        let model = tasks[index].model
        out.messages.append(
            .accepted(
                tasks[index].stream, task,
                TaskID(instance: instance, counter: taskCounter),
                position: models[Int(model)].queue.count))
        // No waiting task fits a slot that is free, so this one takes it from nobody.
        guard let (offer, reason) = choose(task, nowUs: nowUs) else {
            return enqueue(task, isReturned: false)
        }
        dispatch(task, to: offer, reason, nowUs: nowUs, out: &out)
        if tasks[index].state == .running { counters.matchedAtOnce += 1 }
    }

    /// The submission ended before its acceptance reached the shard.
    mutating func abandoned(
        _ task: TaskIndex, _ stream: StreamRef, _ code: WireCode, nowUs: UInt64,
        out: inout DispatcherOutput
    ) {
        guard isCurrent(task, stream) else { return }
        guard tasks[Int(task)].state == .admitted else {
            // Accepted in the meantime: it ends like any accepted task.
            let status: TaskStatus = code == .uploadTimeout ? .cancelled : .clientLost
            return finish(
                TaskReport(task: task, status: status, code: code), nowUs: nowUs, out: &out)
        }
        recordRefusal(
            account: tasks[Int(task)].account, code, model: tasks[Int(task)].model,
            wallUs: wallUs, out: &out)
        forgetAdmission(task, nowUs: nowUs, out: &out)
    }

    /// The task no longer counts among those that wait for the first time.
    mutating func stopWaiting(_ task: TaskIndex) {
        let index = Int(task)
        guard tasks[index].isWaiting else { return }
        tasks[index].isWaiting = false
        let account = Int(tasks[index].accountIndex)
        let model = Int(tasks[index].model)
        accounts[account].waitingTasks -= 1
        accounts[account].waitingBytes -= tasks[index].bodyArenaBytes
        models[model].waitingTasks -= 1
        models[model].waitingBytes -= tasks[index].bodyArenaBytes
    }

    /// Gives back what admission reserved, and tells the limits what was used.
    mutating func release(_ task: TaskIndex, usedTokens: UInt64) {
        stopWaiting(task)
        let estimate = tasks[Int(task)].estimatedTokens
        accounts[Int(tasks[Int(task)].accountIndex)].limits.leave(
            tokens: estimate, used: usedTokens)
        keys[Int(tasks[Int(task)].key)].limits.leave(tokens: estimate, used: usedTokens)
        arenas.giveBack(
            body: tasks[Int(task)].bodyArenaBytes, answer: tasks[Int(task)].answerArenaBytes)
        openTasks -= 1
    }
}
