import SluiceRecordFormat
import SluiceWire

// Admission, acceptance, matching and the end of tasks.
extension Dispatcher {
    // MARK: Admission

    mutating func submitted(
        _ submission: Submission, nowUs: UInt64, wallUs: UInt64, out: inout DispatcherOutput
    ) {
        guard let peer = peer(submission.connection) else {
            out.messages.append(.refused(submission.stream, .internalFault, retryAfterMs: 0))
            return
        }
        if !unwrittenNames.isEmpty { writeNames(out: &out) }
        let model = modelByName[submission.model]
        if let (code, retryAfterMs) = refusal(of: submission, model: model, nowUs: nowUs) {
            recordRefusal(
                account: peer.account, code, model: model ?? 0, wallUs: wallUs, out: &out)
            out.messages.append(
                .refused(submission.stream, code, retryAfterMs: retryAfterMs))
            return
        }
        guard let model else { preconditionFailure("an unknown model is refused") }
        let task = admit(submission, model: model, peer)
        guard submission.bodyComplete else {
            out.messages.append(.admitted(submission.stream, task))
            return
        }
        accept(task, nowUs: nowUs, wallUs: wallUs, out: &out)
    }

    private mutating func refusal(
        of submission: Submission, model: UInt32?, nowUs: UInt64
    ) -> (WireCode, UInt32)? {
        let nowMs = nowUs / 1_000
        guard let model else { return (.modelUnknown, jittered(1_000)) }
        if let since = models[Int(model)].absentSinceMs {
            guard nowMs < since + limits.absentModelMs else {
                return (.noSupplier, jittered(2_000))
            }
        } else if !models[Int(model)].offers.contains(where: { isEligible($0, submission) }) {
            return (.noSupplier, 0)
        }
        let queued = models[Int(model)].queued
        if Int(queued) >= limits.queuedTasksPerModel {
            let waitMs = models[Int(model)].served.waitMs(queued: queued, nowMs: nowMs) ?? 5_000
            return (.queueFull, jittered(min(max(waitMs, 100), 60_000)))
        }
        guard hasJournalRoom, unwrittenNames.isEmpty else { return (.journalFull, jittered(1_000)) }
        if openTasks + 1 > openTasksMax || (idleTasks.isEmpty && tasks.count >= openTasksMax) {
            return (.queueFull, jittered(1_000))
        }
        if BrokerLimits.chunked(Int(submission.terms.bodyBytes)) > bodyArenaFreeBytes {
            return (.bodyArenaFull, jittered(1_000))
        }
        let answerBytes = BrokerLimits.answerArenaBytes(reserveBytes: submission.reserveBytes)
        if answerBytes > answerArenaFreeBytes { return (.queueFull, jittered(1_000)) }
        return nil
    }

    /// Between the time and one and a half of it, so that those refused together do not come
    /// back together.
    private mutating func jittered(_ waitMs: UInt64) -> UInt32 {
        UInt32(waitMs + random.next(below: waitMs / 2 + 1))
    }

    private mutating func admit(
        _ submission: Submission, model: UInt32, _ peer: Peer
    ) -> TaskIndex {
        var task = DispatchTask()
        task.state = .admitted
        task.stream = submission.stream
        task.account = peer.account
        task.keyDigestPrefix = peer.digest.words.0
        task.terms = submission.terms
        task.filters = submission.filters
        task.trace = submission.trace
        task.model = model
        task.bodyArenaBytes = BrokerLimits.chunked(Int(submission.terms.bodyBytes))
        task.answerArenaBytes = BrokerLimits.answerArenaBytes(
            reserveBytes: submission.reserveBytes)
        bodyArenaFreeBytes -= task.bodyArenaBytes
        answerArenaFreeBytes -= task.answerArenaBytes
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
        _ task: TaskIndex, nowUs: UInt64, wallUs: UInt64, out: inout DispatcherOutput
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
        journalFreeRecords -= 1
        out.journal.append(.accepted(slot: task, record))
        let model = tasks[index].model
        out.messages.append(
            .accepted(
                tasks[index].stream, task,
                TaskID(instance: instance, counter: taskCounter),
                position: models[Int(model)].queued))
        enqueue(task, atFront: false)
        match(model: model, nowUs: nowUs, out: &out)
        if tasks[index].state == .running { counters.matchedAtOnce += 1 }
    }

    /// The submission ended before its acceptance reached the shard.
    mutating func abandoned(
        _ task: TaskIndex, _ stream: StreamRef, _ code: WireCode, nowUs: UInt64,
        wallUs: UInt64, out: inout DispatcherOutput
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
        release(task)
        tasks[Int(task)] = DispatchTask()
        idleTasks.append(task)
    }

    // MARK: Matching

    /// Gives waiting tasks of the model to offers with a free slot, oldest first. A task that no
    /// offer with a free slot may take does not hold up those behind it.
    mutating func match(model: UInt32, nowUs: UInt64, out: inout DispatcherOutput) {
        var task = models[Int(model)].queueHead
        var lookedAt = 0
        while task != noIndex, lookedAt < 64 {
            guard hasFreeSlot(model) else { return }
            let following = tasks[Int(task)].next
            if let (offer, reason) = choose(task, model: model) {
                dispatch(task, to: offer, reason, nowUs: nowUs, out: &out)
            }
            task = following
            lookedAt += 1
        }
    }

    mutating func matchAll(of supplier: UInt32, nowUs: UInt64, out: inout DispatcherOutput) {
        for position in suppliers[Int(supplier)].offers.indices {
            let offer = suppliers[Int(supplier)].offers[position]
            let model = offers[Int(offer)].model
            guard models[Int(model)].queued > 0 else { continue }
            match(model: model, nowUs: nowUs, out: &out)
        }
    }

    private func hasFreeSlot(_ model: UInt32) -> Bool {
        models[Int(model)].offers.contains { hasFreeSlot(offer: $0) }
    }

    private func hasFreeSlot(offer: UInt32) -> Bool {
        let supplier = Int(offers[Int(offer)].supplier)
        return offers[Int(offer)].hasFreeSlot
            && suppliers[supplier].inUse < suppliers[supplier].granted
    }

    /// The eligible offer with the smallest part of its slots in use.
    private mutating func choose(
        _ task: TaskIndex, model: UInt32
    ) -> (offer: UInt32, WinReason)? {
        let candidates = models[Int(model)].offers.count
        let turn = models[Int(model)].turn
        var best: UInt32?
        var eligible = 0
        var ties = 0
        for step in 0..<candidates {
            let offer = models[Int(model)].offers[(turn + step) % candidates]
            guard hasFreeSlot(offer: offer), isEligible(offer, tasks[Int(task)]) else {
                continue
            }
            eligible += 1
            guard let current = best else {
                best = offer
                continue
            }
            let load = UInt64(offers[Int(offer)].inUse) * UInt64(offers[Int(current)].granted)
            let least = UInt64(offers[Int(current)].inUse) * UInt64(offers[Int(offer)].granted)
            if load < least {
                best = offer
                ties = 0
            } else if load == least {
                ties += 1
            }
        }
        guard let best else { return nil }
        models[Int(model)].turn = (turn + 1) % max(candidates, 1)
        return (best, eligible == 1 ? .onlyEligible : ties > 0 ? .turn : .leastLoaded)
    }

    private func isEligible(_ offer: UInt32, _ task: DispatchTask) -> Bool {
        let identity = suppliers[Int(offers[Int(offer)].supplier)].identity
        return !task.excludes(identity) && satisfies(offer, task.terms, task.filters)
    }

    private func isEligible(_ offer: UInt32, _ submission: Submission) -> Bool {
        satisfies(offer, submission.terms, submission.filters)
    }

    private func satisfies(
        _ offer: UInt32, _ terms: TaskTerms, _ filters: OfferFilters
    ) -> Bool {
        guard let frame = offers[Int(offer)].frame else { return false }
        guard frame.operations.contains(OperationSet(terms.operation)),
            frame.encodings.contains(EncodingSet(terms.encoding)),
            filters.supplyTypes.contains(SupplyTypeSet(frame.supplyType)),
            frame.dataPolicy.rawValue >= filters.dataPolicy.rawValue,
            filters.region == nil || filters.region == frame.region,
            UInt64(frame.prices.input.rawValue) <= filters.inputCeiling,
            UInt64(frame.prices.output.rawValue) <= filters.outputCeiling
        else { return false }
        let wanted = UInt64(terms.maxInputTokens) + UInt64(terms.maxOutputTokens)
        return frame.contextTokens == 0 || wanted <= UInt64(frame.contextTokens)
    }

    private mutating func dispatch(
        _ task: TaskIndex, to offer: UInt32, _ reason: WinReason, nowUs: UInt64,
        out: inout DispatcherOutput
    ) {
        let index = Int(task)
        guard let frame = offers[Int(offer)].frame else { preconditionFailure("offer is gone") }
        let supplier = Int(offers[Int(offer)].supplier)
        unqueue(task)
        tasks[index].state = .running
        tasks[index].offer = offer
        if tasks[index].dispatches == 0 {
            let waitedUs = nowUs - tasks[index].acceptedUs
            tasks[index].queueUs = UInt32(min(waitedUs, UInt64(UInt32.max)))
        }
        tasks[index].dispatches += 1
        tasks[index].winReason = reason
        tasks[index].supplierIdentity = suppliers[supplier].identity
        tasks[index].supplyType = frame.supplyType
        tasks[index].prices = Self.prices(frame.prices)
        offers[Int(offer)].inUse += 1
        suppliers[supplier].inUse += 1
        counters.dispatched += 1
        out.journal.append(
            .assigned(
                slot: task,
                Assignment(
                    supplier: suppliers[supplier].identity, offerModel: tasks[index].model,
                    supplyType: frame.supplyType, dispatches: tasks[index].dispatches,
                    winReason: reason, queueUs: tasks[index].queueUs,
                    prices: tasks[index].prices)))
        out.messages.append(
            .assign(
                tasks[index].stream, suppliers[supplier].connection, frame.offer,
                TaskID(instance: instance, counter: tasks[index].counter)))
    }

    /// The ask of an offer, frozen for the task [S12]. The client pays it without a fee.
    private static func prices(_ ask: TokenPrices) -> TaskPrices {
        let input = UInt64(ask.input.rawValue)
        let output = UInt64(ask.output.rawValue)
        return TaskPrices(
            supplierInput: input, supplierOutput: output, consumerInput: input,
            consumerOutput: output)
    }

    /// The supplier did not do it and nothing was forwarded: another may, at most twice more,
    /// never the same one. Without another it ends as reported.
    mutating func redispatch(
        _ task: TaskIndex, _ stream: StreamRef, _ report: TaskReport, nowUs: UInt64,
        wallUs: UInt64, out: inout DispatcherOutput
    ) {
        guard isCurrent(task, stream), tasks[Int(task)].state == .running else { return }
        let index = Int(task)
        tasks[index].exclude(tasks[index].supplierIdentity)
        tasks[index].offer = noIndex
        let model = tasks[index].model
        let state = tasks[index]
        let hasOther = models[Int(model)].offers.contains { isEligible($0, state) }
        guard Int(state.dispatches) < BrokerLimits.dispatchesMax, hasOther else {
            return finish(report, nowUs: nowUs, out: &out)
        }
        counters.dispatchedAgain += 1
        enqueue(task, atFront: true)
        match(model: model, nowUs: nowUs, out: &out)
    }

    /// No supplier has had it: back to the head of the queue, as if it had not been matched.
    mutating func undelivered(
        _ task: TaskIndex, _ stream: StreamRef, nowUs: UInt64, out: inout DispatcherOutput
    ) {
        guard isCurrent(task, stream), tasks[Int(task)].state == .running else { return }
        tasks[Int(task)].offer = noIndex
        tasks[Int(task)].dispatches -= 1
        if tasks[Int(task)].dispatches == 0 {
            tasks[Int(task)].supplierIdentity = 0
            tasks[Int(task)].supplyType = nil
            tasks[Int(task)].winReason = .none
        }
        enqueue(task, atFront: true)
        match(model: tasks[Int(task)].model, nowUs: nowUs, out: &out)
    }

    // MARK: Queues

    private mutating func enqueue(_ task: TaskIndex, atFront: Bool) {
        let model = Int(tasks[Int(task)].model)
        tasks[Int(task)].state = .queued
        let head = models[model].queueHead
        let tail = models[model].queueTail
        if atFront {
            tasks[Int(task)].previous = noIndex
            tasks[Int(task)].next = head
            if head != noIndex { tasks[Int(head)].previous = task }
            models[model].queueHead = task
            if tail == noIndex { models[model].queueTail = task }
        } else {
            tasks[Int(task)].previous = tail
            tasks[Int(task)].next = noIndex
            if tail != noIndex { tasks[Int(tail)].next = task }
            models[model].queueTail = task
            if head == noIndex { models[model].queueHead = task }
        }
        models[model].queued += 1
    }

    private mutating func unqueue(_ task: TaskIndex) {
        let model = Int(tasks[Int(task)].model)
        let before = tasks[Int(task)].previous
        let after = tasks[Int(task)].next
        if before == noIndex {
            models[model].queueHead = after
        } else {
            tasks[Int(before)].next = after
        }
        if after == noIndex {
            models[model].queueTail = before
        } else {
            tasks[Int(after)].previous = before
        }
        tasks[Int(task)].next = noIndex
        tasks[Int(task)].previous = noIndex
        models[model].queued -= 1
    }

    // MARK: The end

    /// Writes the one ENDED of the task, then releases END.
    mutating func finish(_ report: TaskReport, nowUs: UInt64, out: inout DispatcherOutput) {
        let index = Int(report.task)
        precondition(
            tasks[index].state == .queued || tasks[index].state == .running, "ended twice")
        if tasks[index].state == .queued { unqueue(report.task) }
        let usage = billedUsage(report, maxInputTokens: tasks[index].terms.maxInputTokens)
        let charge =
            tasks[index].prices.charge(
                inputTokens: usage.inputTokens, outputTokens: usage.outputTokens) ?? .none
        let record = EndedRecord(
            task: TaskID(instance: instance, counter: tasks[index].counter),
            status: report.status, code: report.code,
            finishReason: report.claim == nil ? nil : report.finishReason, usage: usage,
            deliveredBytes: report.deliveredPayloadBytes, ttftUs: report.ttftUs,
            durationUs: report.durationUs, queueUs: tasks[index].queueUs, charge: charge,
            supplier: tasks[index].supplierIdentity,
            offerModel: tasks[index].dispatches == 0 ? 0 : tasks[index].model,
            supplyType: tasks[index].supplyType, dispatches: tasks[index].dispatches,
            winReason: tasks[index].winReason.rawValue)
        journalFreeRecords -= 1
        out.journal.append(.ended(slot: report.task, record))
        counters.ended += 1
        if report.status == .completed { counters.completed += 1 }
        models[Int(tasks[index].model)].served.count(nowMs: nowUs / 1_000)
        out.messages.append(
            .end(
                tasks[index].stream,
                EndFrame(
                    code: report.code, finishReason: report.finishReason, usage: usage,
                    cost: charge.consumerCost)))
        release(report.task)
        tasks[index].state = .ended
        endedTasks.append(report.task)
    }

    /// What is billed (DESIGN: "Billed"): output never above what was claimed, counted and
    /// forwarded; input only after the first output or a normal end.
    private func billedUsage(_ report: TaskReport, maxInputTokens: UInt32) -> Usage {
        var output = min(report.deliveredTokens, report.deliveredPayloadBytes)
        if let claim = report.claim { output = min(output, UInt64(claim.outputTokens)) }
        let reasoning = min(report.deliveredReasoningTokens, output)
        var input = report.claim?.inputTokens ?? report.started?.inputTokens ?? 0
        var cached = report.claim?.cachedTokens ?? report.started?.cachedTokens ?? 0
        if let started = report.started, report.claim?.inputTokens == 0 {
            input = started.inputTokens
            cached = started.cachedTokens
        }
        if maxInputTokens != 0 { input = min(input, maxInputTokens) }
        if report.deliveredTokens == 0, report.status != .completed { input = 0 }
        return Usage(
            inputTokens: input, outputTokens: UInt32(min(output, UInt64(UInt32.max))),
            cachedTokens: min(cached, input),
            reasoningTokens: UInt32(min(reasoning, UInt64(UInt32.max))))
    }

    /// Gives back what admission reserved.
    private mutating func release(_ task: TaskIndex) {
        bodyArenaFreeBytes += tasks[Int(task)].bodyArenaBytes
        answerArenaFreeBytes += tasks[Int(task)].answerArenaBytes
        openTasks -= 1
    }
}
