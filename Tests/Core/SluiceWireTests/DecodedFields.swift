import SluiceWire

extension DecodedFrame {
    /// Every field by the name it has in the vectors. What the decoder does not keep (the agent of
    /// HELLO, the bytes of affinity keys) is left out.
    var fields: [String: String] {
        switch payload {
        case .hello(let hello):
            [
                "oldestVersion": "\(hello.oldestVersion)",
                "newestVersion": "\(hello.newestVersion)", "role": "\(hello.role.rawValue)",
                "credentialKind": "\(hello.credentialKind.rawValue)",
                "credential": hexOfBytes(payloadBytes[hello.credential]),
                "bodyCredit": "\(hello.bodyCreditBytes)",
            ]
        case .welcome(let welcome): fields(of: welcome)
        case .ping(let ping): ["value": "\(ping.value)"]
        case .goAway(let goAway):
            ["code": "\(goAway.code.rawValue)", "graceMs": "\(goAway.graceMs)"]
        case .error(let error):
            [
                "code": "\(error.code.rawValue)", "kindAtFault": "\(error.kindAtFault)",
                "streamAtFault": "\(error.streamAtFault.rawValue)",
            ]
        case .offer(let offer): fields(of: offer)
        case .grant(let grant): ["offer": "\(grant.offer.rawValue)", "slots": "\(grant.slots)"]
        case .withdraw(let withdraw): ["offer": "\(withdraw.offer.rawValue)"]
        case .ask(let ask): ["question": "\(ask.question)"]
        case .report(let report):
            [
                "question": "\(report.question)", "rowsLeft": "\(report.rowsLeft)",
                "model": report.model?.description ?? "",
                "counts": report.counts.map { "\($0.number)=\($0.value)" }
                    .joined(separator: ","),
            ]
        case .submit(let submit): fields(of: submit)
        case .queued(let queued):
            [
                "instance": "\(queued.task.instance)", "counter": "\(queued.task.counter)",
                "reserveBytes": "\(queued.reserveBytes)", "position": "\(queued.position)",
            ]
        case .assign(let assign): fields(of: assign)
        case .started(let started):
            [
                "inputTokens": "\(started.inputTokens)", "cachedTokens": "\(started.cachedTokens)",
            ]
        case .end(let end): fields(of: end)
        case .cancel(let cancel): ["code": "\(cancel.code.rawValue)"]
        case .credit(let credit): ["limit": "\(credit.limitBytes)"]
        case .content:
            header.kind == .body
                ? ["body": hexOfBytes(payloadBytes)]
                : ["payload": hexOfBytes(payloadBytes), "increment": "\(header.increment)"]
        case .skipped: [:]
        }
    }

    private func fields(of welcome: WelcomeFrame) -> [String: String] {
        [
            "version": "\(welcome.version)", "shard": "\(welcome.shard)",
            "shards": "\(welcome.shardCount)", "maxStreams": "\(welcome.maxStreams)",
            "maxBodyBytes": "\(welcome.maxBodyBytes)",
            "uploadLimit": "\(welcome.uploadLimitBytes)", "instance": "\(welcome.instance)",
            "maxDeadlineMs": "\(welcome.maxDeadlineMs)", "keepAliveMs": "\(welcome.keepAliveMs)",
            "brokers": String(decoding: welcome.brokers, as: UTF8.self),
        ]
    }

    private func fields(of offer: OfferFrame) -> [String: String] {
        [
            "offer": "\(offer.offer.rawValue)", "contextTokens": "\(offer.contextTokens)",
            "inputPrice": "\(offer.prices.input.rawValue)",
            "cachedPrice": "\(offer.prices.cached.rawValue)",
            "outputPrice": "\(offer.prices.output.rawValue)",
            "reasoningPrice": "\(offer.prices.reasoning.rawValue)",
            "supplyType": "\(offer.supplyType.rawValue)",
            "dataPolicy": "\(offer.dataPolicy.rawValue)",
            "quantisation": "\(offer.quantisation.rawValue)",
            "operations": "\(offer.operations.rawValue)",
            "encodings": "\(offer.encodings.rawValue)", "model": offer.model.description,
            "region": offer.region?.description ?? "",
        ]
    }

    private func fields(of submit: SubmitFrame) -> [String: String] {
        var fields = fields(of: submit.terms)
        fields["preference"] = "\(submit.terms.preference.rawValue)"
        fields["reserveBytes"] = "\(submit.windowBytes)"
        fields["model"] = submit.model.description
        fields["credit"] = "\(submit.creditLimitBytes)"
        fields["budget"] = "\(submit.budget.rawValue)"
        fields["body"] = hexOfBytes(payloadBytes[submit.inlineBody])
        fields["idempotencyKey"] = submit.idempotencyKey.map { hexOfBytes(payloadBytes[$0]) } ?? ""
        fields["affinityKeyCount"] = "\(submit.affinityKeys.count)"
        fields["inputCeiling"] = "\(submit.filters.inputCeiling)"
        fields["outputCeiling"] = "\(submit.filters.outputCeiling)"
        fields["region"] = submit.filters.region?.description ?? ""
        fields["dataPolicy"] = "\(submit.filters.dataPolicy.rawValue)"
        fields["supplyTypes"] = "\(submit.filters.supplyTypes.rawValue)"
        fields["trace"] = text(of: submit.trace)
        fields["hedgeCopies"] = "\(submit.hedgeCopies)"
        return fields
    }

    private func fields(of assign: AssignFrame) -> [String: String] {
        var fields = fields(of: assign.terms)
        fields["instance"] = "\(assign.task.instance)"
        fields["counter"] = "\(assign.task.counter)"
        fields["offer"] = "\(assign.offer.rawValue)"
        fields["credit"] = "\(assign.creditLimitBytes)"
        fields["trace"] = text(of: assign.trace)
        fields["body"] = hexOfBytes(payloadBytes[assign.inlineBody])
        return fields
    }

    private func fields(of terms: TaskTerms) -> [String: String] {
        [
            "operation": "\(terms.operation.rawValue)", "encoding": "\(terms.encoding.rawValue)",
            "priority": "\(terms.priority)", "bodyBytes": "\(terms.bodyBytes)",
            "deadlineMs": "\(terms.deadlineMs)", "maxInputTokens": "\(terms.maxInputTokens)",
            "maxOutputTokens": "\(terms.maxOutputTokens)",
            "maxReasoningTokens": "\(terms.maxReasoningTokens)",
        ]
    }

    private func fields(of end: EndFrame) -> [String: String] {
        [
            "code": "\(end.code.rawValue)", "finishReason": "\(end.finishReason.rawValue)",
            "inputTokens": "\(end.usage.inputTokens)",
            "cachedTokens": "\(end.usage.cachedTokens)",
            "outputTokens": "\(end.usage.outputTokens)",
            "reasoningTokens": "\(end.usage.reasoningTokens)",
            "retryAfterMs": "\(end.retryAfterMs)", "cost": "\(end.cost.rawValue)",
        ]
    }

    private func text(of trace: TraceContext?) -> String {
        trace.map { "\($0.traceHigh),\($0.traceLow),\($0.span)" } ?? ""
    }
}
