package import SluiceWire

/// A task as an engine sees it.
package struct Assignment: Sendable {
    /// The prompt, in the encoding of the task.
    package enum Payload: Sendable {
        /// A prompt as text.
        case text(String)
        /// An OpenAI request as JSON.
        case openAI([UInt8])
    }

    package var id: TaskID
    /// Name of the offer that was matched.
    package var model: String
    package var operation: TaskOperation
    package var payload: Payload
    /// 0 = not limited. Of embeddings and images how many, never 0.
    package var maxOutputTokens: UInt32
    /// When the task is over for the broker, whatever the engine does.
    package var deadline: ContinuousClock.Instant

    /// Makes an assignment.
    package init(
        id: TaskID, model: String, operation: TaskOperation, payload: Payload,
        maxOutputTokens: UInt32 = 0, deadline: ContinuousClock.Instant
    ) {
        self.id = id
        self.model = model
        self.operation = operation
        self.payload = payload
        self.maxOutputTokens = maxOutputTokens
        self.deadline = deadline
    }

    var isOpenAI: Bool {
        if case .openAI = payload { true } else { false }
    }
}

/// Where an engine's answer goes. Each write suspends until the reader has given credit for it,
/// and throws when the task was cancelled.
package protocol AnswerSink: Sendable {
    /// The prompt was read; at most once, before the end.
    func started(inputTokens: UInt32, cachedTokens: UInt32) async throws
    /// Text of the answer with its tokens, 0…65,535; empty text only counts.
    func write(_ text: String, tokens: Int, reasoning: Bool) async throws
    /// One event of an `openai` answer with its tokens, 0…65,535.
    func write(event: [UInt8], tokens: Int, reasoning: Bool) async throws
    /// The next part of the JSON object that answers a request for embeddings or images, with how
    /// many of them it completes.
    func write(part: [UInt8], results: Int) async throws
    /// The engine's own account of its failure, in `openai` encoding; the end follows.
    func writeError(_ body: [UInt8]) async throws
    /// Why the answer is complete; the engine returns after it.
    func finish(_ reason: FinishReason) async throws
}

/// What answers tasks.
package protocol Engine: Sendable {
    /// Answers one task. Runs in the task's own Swift task, whose cancellation means that nobody
    /// wants the answer any more.
    ///
    /// - Returns: What was used.
    /// - Throws: `EngineFailure`; its code is `cancelled` where the task was cancelled.
    func answer(_ assignment: Assignment, to sink: some AnswerSink) async throws(EngineFailure)
        -> Usage
}

/// How a task ended that did not complete. Carries no content.
package struct EngineFailure: Error, Equatable {
    /// `upstreamUnavailable`, `upstreamRefused` or `cancelled`.
    package var code: WireCode
    /// What had been used until then.
    package var usage: Usage
    /// A request was open at the upstream and its connection was closed before the answer's end.
    package var upstreamClosed: Bool?

    /// Makes a failure.
    package init(code: WireCode, usage: Usage = Usage(), upstreamClosed: Bool? = nil) {
        self.code = code
        self.usage = usage
        self.upstreamClosed = upstreamClosed
    }
}
