package import SluiceWire
import Synchronization

/// Runs tasks on the engine that serves their model, and says how each one ended.
package final class EngineRunner: Sendable {
    private let running = Atomic(0)
    private let engine: @Sendable (_ model: String) -> (any Engine)?
    private let log: WorkerLog
    private let onSpeed: (@Sendable (_ tokensPerSecond: Double, _ running: Int) -> Void)?

    /// Makes a runner.
    ///
    /// - Parameters:
    ///   - onSpeed: Told how fast the engine wrote an answer, and how many ran when it ended.
    ///   - engine: Which engine serves an offered name; nil where none does any more.
    package init(
        log: WorkerLog,
        onSpeed: (@Sendable (_ tokensPerSecond: Double, _ running: Int) -> Void)? = nil,
        engine: @escaping @Sendable (_ model: String) -> (any Engine)?
    ) {
        self.engine = engine
        self.log = log
        self.onSpeed = onSpeed
    }

    /// Tasks that run now.
    package var runningCount: Int { running.load(ordering: .relaxed) }

    /// Answers one task.
    package func run(
        _ assignment: Assignment, to sink: some AnswerSink
    ) async throws(EngineFailure) -> Usage {
        running.add(1, ordering: .relaxed)
        defer { running.subtract(1, ordering: .relaxed) }
        let id = assignment.id
        let model = assignment.model
        guard let engine = engine(model) else {
            let failure = EngineFailure(code: .declined)
            log.record(.failed(task: id, model: model, code: .declined, usage: failure.usage))
            throw failure
        }
        let counted = CountingSink(sink)
        do throws(EngineFailure) {
            let usage = try await engine.answer(assignment, to: counted)
            if let onSpeed, let speed = counted.tokensPerSecond { onSpeed(speed, runningCount) }
            log.record(
                .ended(task: id, model: model, reason: counted.finishReason ?? .other, usage: usage)
            )
            return usage
        } catch {
            if error.code == .cancelled {
                log.record(
                    .cancelled(
                        task: id, model: model, tokens: counted.tokens,
                        upstreamClosed: error.upstreamClosed))
            } else {
                log.record(.failed(task: id, model: model, code: error.code, usage: error.usage))
            }
            throw error
        }
    }
}

/// Passes an answer on and counts what went through.
private final class CountingSink<Sink: AnswerSink>: AnswerSink {
    private let sink: Sink
    private let state = Mutex(
        (tokens: 0, finishReason: FinishReason?.none, timing: EngineTiming()))

    init(_ sink: Sink) {
        self.sink = sink
    }

    var tokens: Int { state.withLock { $0.tokens } }
    var finishReason: FinishReason? { state.withLock { $0.finishReason } }
    var tokensPerSecond: Double? { state.withLock { $0.timing.tokensPerSecond } }

    func started(inputTokens: UInt32, cachedTokens: UInt32) async throws {
        try await sink.started(inputTokens: inputTokens, cachedTokens: cachedTokens)
    }

    func write(_ text: String, tokens: Int, reasoning: Bool) async throws {
        state.withLock { $0.timing.willWrite(tokens: tokens) }
        try await sink.write(text, tokens: tokens, reasoning: reasoning)
        note(tokens)
    }

    func write(event: [UInt8], tokens: Int, reasoning: Bool) async throws {
        state.withLock { $0.timing.willWrite(tokens: tokens) }
        try await sink.write(event: event, tokens: tokens, reasoning: reasoning)
        note(tokens)
    }

    private func note(_ tokens: Int) {
        state.withLock { state in
            state.tokens += tokens
            state.timing.didWrite()
        }
    }

    func write(part: [UInt8], results: Int) async throws {
        try await sink.write(part: part, results: results)
        state.withLock { $0.tokens += results }
    }

    func writeError(_ body: [UInt8]) async throws {
        try await sink.writeError(body)
    }

    func finish(_ reason: FinishReason) async throws {
        try await sink.finish(reason)
        state.withLock { $0.finishReason = reason }
    }
}
