import BasicContainers
import SluiceRecordFormat
import SluiceWire

// How tasks leave their supplier, and how they end.
extension Dispatcher {
    /// The supplier did not do it and nothing was forwarded: another may, at most twice more,
    /// never the same one, within the retry budget. Without another it ends as reported.
    mutating func redispatch(
        _ task: TaskIndex, _ stream: StreamRef, _ report: TaskReport, nowUs: UInt64,
        out: inout DispatcherOutput
    ) {
        guard isCurrent(task, stream), tasks[Int(task)].state == .running else { return }
        let index = Int(task)
        let outcome = outcome(task, report, nowUs: nowUs)
        supplierDone(task, outcome, report, nowUs: nowUs, out: &out)
        tasks[index].exclude(tasks[index].supplierIdentity)
        tasks[index].offer = noIndex
        let model = tasks[index].model
        let hasOther = isServed(
            model, tasks[index].demand, region: tasks[index].filters.region,
            excluded: tasks[index].excluded, nowUs: nowUs)
        guard Int(tasks[index].dispatches) < BrokerLimits.dispatchesMax, hasOther else {
            return finish(report, nowUs: nowUs, out: &out)
        }
        let isWithinBudget = models[Int(model)].retries.take(
            nowMs: nowUs / 1_000, percent: limits.retryPercent, floor: limits.retryFloor)
        guard isWithinBudget else {
            counters.retriesRefused += 1
            return finish(report, nowUs: nowUs, out: &out)
        }
        counters.dispatchedAgain += 1
        goOn(task, nowUs: nowUs, out: &out)
    }

    /// No supplier has had it: it is matched again before all others.
    mutating func undelivered(
        _ task: TaskIndex, _ stream: StreamRef, nowUs: UInt64, out: inout DispatcherOutput
    ) {
        guard isCurrent(task, stream), tasks[Int(task)].state == .running else { return }
        supplierDone(task, .neutral, nil, nowUs: nowUs, out: &out)
        tasks[Int(task)].offer = noIndex
        tasks[Int(task)].dispatches -= 1
        if tasks[Int(task)].dispatches == 0 {
            tasks[Int(task)].supplierIdentity = 0
            tasks[Int(task)].supplyType = nil
            tasks[Int(task)].winReason = .none
        }
        goOn(task, nowUs: nowUs, out: &out)
    }

    private mutating func goOn(
        _ task: TaskIndex, nowUs: UInt64, out: inout DispatcherOutput
    ) {
        guard let (offer, reason) = choose(task, nowUs: nowUs) else {
            return enqueue(task, isReturned: true)
        }
        dispatch(task, to: offer, reason, nowUs: nowUs, out: &out)
    }

    /// Writes the one ENDED of the task, then releases END.
    mutating func finish(_ report: TaskReport, nowUs: UInt64, out: inout DispatcherOutput) {
        let index = Int(report.task)
        precondition(
            tasks[index].state == .queued || tasks[index].state == .running, "ended twice")
        if tasks[index].state == .queued {
            leaveQueue(report.task, charges: false)
        } else {
            let outcome = outcome(report.task, report, nowUs: nowUs)
            supplierDone(report.task, outcome, report, nowUs: nowUs, out: &out)
        }
        let usage = billedUsage(report)
        let charge =
            tasks[index].prices.charge(usage, tasks[index].terms.operation) ?? .none
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
        if tasks[index].dispatches > 0 {
            books.earned(tasks[index].row, usage, charge.supplierEarning, wallUs: wallUs)
        }
        journalFreeRecords -= 1
        out.journal.append(.ended(slot: report.task, record))
        counters.ended += 1
        if report.status == .completed { counters.completed += 1 }
        if report.status == .deadlineExceeded { counters.deadlinesPassed += 1 }
        settle(report.task, report.status, usage, nowUs: nowUs)
        if tasks[index].keyPlace != noIndex {
            idempotency.ended(
                tasks[index].keyPlace, usage, cost: charge.consumerCost, nowUs: nowUs)
        }
        out.messages.append(
            .end(
                tasks[index].stream,
                EndFrame(
                    code: report.code, finishReason: report.finishReason, usage: usage,
                    cost: charge.consumerCost)))
        release(
            report.task, usedTokens: UInt64(usage.inputTokens) + UInt64(usage.outputTokens))
        tasks[index].state = .ended
        endedTasks.append(report.task)
        capture(report.task, cost: charge.consumerCost, nowUs: nowUs, out: &out)
    }

    /// What is billed (`Protocol/Money.md`): output never above what was claimed, counted,
    /// forwarded and, for a prepaid task, held for, nor above the embeddings or images that were
    /// asked for; input never above the task's bound, and only after the first output or a normal
    /// end.
    private mutating func billedUsage(_ report: TaskReport) -> Usage {
        let index = Int(report.task)
        var output = min(report.deliveredTokens, report.deliveredPayloadBytes)
        if tasks[index].isPrepaid { output = min(output, tasks[index].heldTokens) }
        if tasks[index].terms.operation.countsResults {
            output = min(output, UInt64(tasks[index].terms.maxOutputTokens))
        }
        if let claim = report.claim { output = min(output, UInt64(claim.outputTokens)) }
        let reasoning = min(report.deliveredReasoningTokens, output)
        var input = report.claim?.inputTokens ?? report.started?.inputTokens ?? 0
        var cached = report.claim?.cachedTokens ?? report.started?.cachedTokens ?? 0
        if let started = report.started, report.claim?.inputTokens == 0 {
            input = started.inputTokens
            cached = started.cachedTokens
        }
        input = min(input, tasks[index].inputBound)
        if output == 0, report.status != .completed { input = 0 }
        return Usage(
            inputTokens: input, outputTokens: UInt32(min(output, UInt64(UInt32.max))),
            cachedTokens: min(cached, input),
            reasoningTokens: UInt32(min(reasoning, UInt64(UInt32.max))))
    }

    /// What was used is known: the account's charge becomes that, and the model's rates move.
    private mutating func settle(
        _ task: TaskIndex, _ status: TaskStatus, _ usage: Usage, nowUs: UInt64
    ) {
        let index = Int(task)
        let model = Int(tasks[index].model)
        let used = UInt64(usage.inputTokens) + UInt64(usage.outputTokens)
        models[model].served.count(used, nowMs: nowUs / 1_000)
        if status == .completed {
            models[model].speed.sawAnswer(tokens: UInt64(usage.outputTokens))
        }
        guard tasks[index].chargedFlow != noIndex else { return }
        models[model].queue.settle(
            tasks[index].chargedFlow, estimatedTokens: tasks[index].estimatedTokens,
            usedTokens: used)
        tasks[index].chargedFlow = noIndex
    }
}
