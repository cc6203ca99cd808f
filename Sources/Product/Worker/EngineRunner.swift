package import SluiceWire
import Synchronization

/// Runs tasks on the engine that serves their model, and says how each one ended.
package final class EngineRunner: Sendable {
    private let running = Atomic(0)
    private let engine: @Sendable (_ model: String) -> (any Engine)?
    private let log: WorkerLog

    /// Makes a runner.
    ///
    /// - Parameters:
    ///   - engine: Which engine serves an offered name; nil where none does any more.
    package init(log: WorkerLog, engine: @escaping @Sendable (_ model: String) -> (any Engine)?) {
        self.engine = engine
        self.log = log
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
    private let state = Mutex((tokens: 0, finishReason: FinishReason?.none))

    init(_ sink: Sink) {
        self.sink = sink
    }

    var tokens: Int { state.withLock { $0.tokens } }
    var finishReason: FinishReason? { state.withLock { $0.finishReason } }

    func started(inputTokens: UInt32, cachedTokens: UInt32) async throws {
        try await sink.started(inputTokens: inputTokens, cachedTokens: cachedTokens)
    }

    func write(_ text: String, tokens: Int, reasoning: Bool) async throws {
        try await sink.write(text, tokens: tokens, reasoning: reasoning)
        state.withLock { $0.tokens += tokens }
    }

    func write(event: [UInt8], tokens: Int, reasoning: Bool) async throws {
        try await sink.write(event: event, tokens: tokens, reasoning: reasoning)
        state.withLock { $0.tokens += tokens }
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
