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
    /// The tokens of `demo`.
    private let demoTokens: [String]

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
        demoTokens = kind == .demo ? Words.tokens(of: Self.demoText).map(String.init) : []
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
            throw await RequestFault.refuse(assignment, to: sink)
        }
        let tokens = kind == .echo ? Words.tokens(of: request.prompt).map(String.init) : demoTokens
        let count = min(tokens.count, request.maxTokens ?? tokens.count)
        var usage = Usage(inputTokens: UInt32(clamping: Words.count(in: request.prompt)))
        do {
            try await sink.started(inputTokens: usage.inputTokens, cachedTokens: 0)
            var pace = Pace(tokensPerSecond: tokensPerSecond)
            let events = ChunkWriter(assignment)
            for token in tokens[..<count] {
                try await pace.next()
                if assignment.isOpenAI {
                    if usage.outputTokens == 0 {
                        try await sink.write(event: events.role, tokens: 0, reasoning: false)
                    }
                    try await sink.write(event: events.token(token), tokens: 1, reasoning: false)
                } else {
                    try await sink.write(token, tokens: 1, reasoning: false)
                }
                usage.outputTokens += 1
            }
            let reason: FinishReason = count < tokens.count ? .length : .stop
            if assignment.isOpenAI {
                let leading = count == 0 ? [events.role] : []
                for event in leading + [events.finish(reason), events.usage(usage)] {
                    try await sink.write(event: event, tokens: 0, reasoning: false)
                }
            }
            try await sink.finish(reason)
            return usage
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
    mutating func next() async throws {
        guard let interval else { return }
        let now = ContinuousClock.now
        if due > now {
            try await Task.sleep(until: due, clock: .continuous)
        } else if now - due > max(interval, .milliseconds(100)) {
            due = now
        }
        due += interval
    }
}
