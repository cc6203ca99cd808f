package import SluiceWire

/// An engine without a model, for trying Sluice out where there is no GPU.
///
/// Its input tokens are the whitespace-separated words of the prompt; each piece of its answer is
/// one token.
package struct BuiltInEngine: Engine {
    /// What is answered.
    package enum Kind: String, Sendable, CaseIterable {
        /// The prompt itself, word by word: the joined answer equals the prompt.
        case echo
        /// A text about Sluice, whatever the prompt.
        case demo
    }

    package let kind: Kind
    /// Nil = as fast as the reader takes them.
    package let tokensPerSecond: Double?

    /// Tokens per second of `demo` where nothing else is asked for.
    package static let demoTokensPerSecond = 40.0

    /// Makes an engine.
    ///
    /// - Parameters:
    ///   - tokensPerSecond: Above 0; nil = the kind's own pace, which for `echo` is none.
    package init(_ kind: Kind, tokensPerSecond: Double? = nil) {
        precondition(tokensPerSecond.map { $0 > 0 } ?? true)
        self.kind = kind
        self.tokensPerSecond = tokensPerSecond ?? (kind == .demo ? Self.demoTokensPerSecond : nil)
    }

    /// The bundled text about Sluice.
    package static var demoText: String {
        String(decoding: PackageResources.demo_txt, as: UTF8.self)
    }

    package func answer(
        _ assignment: Assignment, to sink: some AnswerSink
    ) async throws(EngineFailure) -> Usage {
        let request: PromptReader
        do {
            request = try PromptReader(assignment)
        } catch {
            throw await RequestFault.ambiguous.refuse(assignment, to: sink)
        }
        var tokens = Words(kind == .echo ? request.prompt : Self.demoText)
        let tokensMax = UInt32(clamping: request.maxTokens ?? Int.max)
        var usage = Usage(inputTokens: UInt32(clamping: Words.count(in: request.prompt)))
        do {
            try await sink.started(inputTokens: usage.inputTokens, cachedTokens: 0)
            var pace = Pace(tokensPerSecond: tokensPerSecond)
            let events = ChunkWriter(assignment)
            while usage.outputTokens < tokensMax, let token = tokens.next() {
                guard try await pace.next(before: assignment.deadline) else {
                    throw EngineFailure(code: .upstreamUnavailable, usage: usage)
                }
                if assignment.isOpenAI {
                    if usage.outputTokens == 0 {
                        try await sink.write(event: events.role, tokens: 0, reasoning: false)
                    }
                    try await sink.write(
                        event: events.token(String(token)), tokens: 1, reasoning: false)
                } else {
                    try await sink.write(String(token), tokens: 1, reasoning: false)
                }
                usage.outputTokens += 1
            }
            let reason: FinishReason = tokens.isAtEnd ? .stop : .length
            if assignment.isOpenAI {
                let leading = usage.outputTokens == 0 ? [events.role] : []
                for event in leading + [events.finish(reason), events.usage(usage)] {
                    try await sink.write(event: event, tokens: 0, reasoning: false)
                }
            }
            try await sink.finish(reason)
            return usage
        } catch let failure as EngineFailure {
            throw failure
        } catch {
            throw EngineFailure(code: .cancelled, usage: usage)
        }
    }
}

/// Says when the next token is due.
private struct Pace {
    private let interval: Duration?
    private var due: ContinuousClock.Instant

    init(tokensPerSecond: Double?) {
        interval = tokensPerSecond.map { .seconds(1 / $0) }
        due = .now
    }

    /// Suspends until the next token is due: the first at once, each other one an interval after
    /// the one before was due. After a reader's stall the pace goes on from now, without a burst.
    /// False where the task's deadline comes first.
    mutating func next(before deadline: ContinuousClock.Instant) async throws -> Bool {
        let now = ContinuousClock.now
        guard now < deadline else { return false }
        guard let interval else { return true }
        if due > now {
            try await Task.sleep(until: min(due, deadline), clock: .continuous)
            guard due < deadline else { return false }
        } else if now - due > max(interval, .milliseconds(100)) {
            due = now
        }
        due += interval
        return true
    }
}
