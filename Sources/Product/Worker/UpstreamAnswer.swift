package import SluiceWire

/// The rules by which an upstream's event stream becomes a task's answer. Pure: event data in,
/// actions out; the caller performs the actions in order and stops reading once there is an
/// outcome.
package struct UpstreamAnswer {
    /// What the caller does next.
    package enum Action: Equatable {
        /// Report the prompt's tokens.
        case started(inputTokens: UInt32, cachedTokens: UInt32)
        /// Write text (text encoding); empty text only counts tokens, in either encoding.
        case text(String, tokens: Int, reasoning: Bool)
        /// Write one event (`openai` encoding).
        case event([UInt8], tokens: Int, reasoning: Bool)
        /// Write the upstream's error body (`openai` encoding).
        case error([UInt8])
    }

    /// How the answer ended.
    package enum Outcome: Equatable {
        case completed(FinishReason)
        /// `upstreamUnavailable` or `upstreamRefused`.
        case failed(WireCode)
    }

    /// Most bytes of leading events that wait for the first counted one.
    package static let leadingBytesMax = 65_536
    /// Longest error body that is passed on.
    package static let errorBytesMax = 65_536
    /// Most tokens that one frame can carry.
    static let frameTokensMax = Int(UInt16.max)

    /// Set once the answer is over; nothing more is read then.
    package private(set) var outcome: Outcome?

    private let isOpenAI: Bool
    private let model: String
    private var tally = TokenTally()
    private var hasStarted = false
    private var finishReason: FinishReason?
    private var eventCount = 0
    /// Events before the first token. Nothing is forwarded while they wait, so that a supplier
    /// lost in its prompt phase can be replaced without the client noticing.
    private var leading: [[UInt8]] = []
    private var leadingBytes = 0
    private var hasForwarded = false

    /// Begins an answer.
    ///
    /// - Parameters:
    ///   - model: The name of the offer, which replaces the upstream's own in every event.
    package init(isOpenAI: Bool, model: String) {
        self.isOpenAI = isOpenAI
        self.model = model
    }

    /// What has been used so far, and is claimed at the end.
    package var usage: Usage { tally.usage }

    /// The data of one event has come.
    package mutating func received(_ data: [UInt8]) -> [Action] {
        precondition(outcome == nil)
        guard !data.elementsEqual("[DONE]".utf8) else { return finish() }
        let event: StreamEvent
        do {
            event = try StreamEvent(data)
        } catch {
            return fail(.upstreamUnavailable)
        }
        eventCount += 1
        guard !event.hasErrorBody else { return failed(with: data, event) }

        var actions: [Action] = []
        let increment = tally.count(event)
        if !hasStarted, let inputTokens = tally.inputTokens {
            hasStarted = true
            actions.append(
                .started(
                    inputTokens: UInt32(clamping: inputTokens),
                    cachedTokens: UInt32(clamping: tally.cachedTokens)))
        }
        if let reason = event.finishReason { finishReason = reason }
        guard !isOpenAI || data.count + model.utf8.count < EventStreamParser.eventBytesMax else {
            return fail(.upstreamUnavailable)
        }
        actions += isOpenAI ? relay(data, event, increment) : write(event, increment)
        if event.isError { actions += fail(.upstreamUnavailable) }
        return actions
    }

    /// The stream has ended, or broke off, without `[DONE]`.
    ///
    /// - Parameters:
    ///   - tail: Data of an event whose end is missing.
    package mutating func ended(tail: [UInt8]? = nil) -> [Action] {
        precondition(outcome == nil)
        var actions: [Action] = []
        if let tail, tail.elementsEqual("[DONE]".utf8) || (try? StreamEvent(tail)) != nil {
            actions = received(tail)
            if outcome != nil { return actions }
        }
        guard finishReason != nil else { return actions + fail(.upstreamUnavailable) }
        return actions + finish()
    }

    private mutating func finish() -> [Action] {
        guard eventCount > 0 else { return fail(.upstreamUnavailable) }
        outcome = .completed(finishReason ?? .other)
        return releaseLeading()
    }

    private mutating func fail(_ code: WireCode) -> [Action] {
        outcome = .failed(code)
        return []
    }

    private mutating func failed(with data: [UInt8], _ event: StreamEvent) -> [Action] {
        let code = event.errorStatus.map(UpstreamStatus.code) ?? .upstreamUnavailable
        outcome = .failed(code)
        // While nothing was sent, a failure that another supplier may not have stays unseen (P26).
        guard isOpenAI, data.count <= Self.errorBytesMax, code == .upstreamRefused || hasForwarded
        else { return [] }
        return [.error(data)]
    }

    // MARK: - Writing

    private mutating func relay(
        _ data: [UInt8], _ event: StreamEvent, _ increment: TokenTally.Increment
    ) -> [Action] {
        let named = RequestRewriter.rename(data, modelValue: event.modelValue, to: model)
        guard hasForwarded || increment.total > 0 else {
            leading.append(named)
            leadingBytes += named.count
            return leadingBytes > Self.leadingBytesMax ? releaseLeading() : []
        }
        var actions = releaseLeading()
        hasForwarded = true
        // One frame carries one kind of tokens; what does not fit goes ahead without payload.
        var answer = increment.answer
        var reasoning = increment.reasoning
        if answer > 0 || reasoning > Self.frameTokensMax {
            let kept = answer > 0 ? 0 : Self.frameTokensMax
            actions += counting(reasoning - kept, reasoning: true)
            reasoning = kept
        }
        if answer > Self.frameTokensMax {
            actions += counting(answer - Self.frameTokensMax, reasoning: false)
            answer = Self.frameTokensMax
        }
        actions.append(.event(named, tokens: answer + reasoning, reasoning: reasoning > 0))
        return actions
    }

    private func write(_ event: StreamEvent, _ increment: TokenTally.Increment) -> [Action] {
        var actions: [Action] = []
        for (text, tokens, reasoning) in [
            (event.reasoningText, increment.reasoning, true),
            (event.text, increment.answer, false),
        ] where !text.isEmpty || tokens > 0 {
            let kept = min(tokens, Self.frameTokensMax)
            actions += counting(tokens - kept, reasoning: reasoning)
            actions.append(.text(text, tokens: kept, reasoning: reasoning))
        }
        return actions
    }

    /// Frames that only count.
    private func counting(_ tokens: Int, reasoning: Bool) -> [Action] {
        stride(from: 0, to: tokens, by: Self.frameTokensMax).map { counted in
            .text("", tokens: min(Self.frameTokensMax, tokens - counted), reasoning: reasoning)
        }
    }

    private mutating func releaseLeading() -> [Action] {
        defer {
            leading = []
            leadingBytes = 0
        }
        if !leading.isEmpty { hasForwarded = true }
        return leading.map { .event($0, tokens: 0, reasoning: false) }
    }
}

/// What an HTTP status means for a task.
package enum UpstreamStatus {
    /// `upstreamRefused` where the request itself is at fault, so that no other supplier would do
    /// better; else `upstreamUnavailable`. 401, 402 and 407 are about the worker's own account
    /// at the upstream, never about the client.
    package static func code(_ status: Int) -> WireCode {
        switch status {
        case 401, 402, 407, 408, 409, 429: .upstreamUnavailable
        case 400..<500: .upstreamRefused
        default: .upstreamUnavailable
        }
    }
}
