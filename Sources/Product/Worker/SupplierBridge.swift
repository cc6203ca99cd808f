package import SluiceSupplier
import SluiceWire

extension Assignment {
    /// The SDK's task as an engine sees it.
    package init(_ task: SupplierTask) {
        let payload: Payload =
            switch task.payload {
            case .text(let text): .text(text)
            case .openAI(let body): .openAI(body)
            }
        self.init(
            id: task.id, model: task.model, operation: task.operation, payload: payload,
            maxOutputTokens: task.maxOutputTokens, deadline: .now + task.deadlineRemaining)
    }
}

/// The SDK's writer as a sink.
struct WriterSink: AnswerSink {
    let writer: AnswerWriter

    func started(inputTokens: UInt32, cachedTokens: UInt32) async throws {
        try await writer.started(
            inputTokens: Int(inputTokens), cachedTokens: Int(cachedTokens))
    }

    func write(_ text: String, tokens: Int, reasoning: Bool) async throws {
        try await writer.write(text, tokens: tokens, reasoning: reasoning)
    }

    func write(event: [UInt8], tokens: Int, reasoning: Bool) async throws {
        try await writer.write(event: event, tokens: tokens, reasoning: reasoning)
    }

    func write(part: [UInt8], results: Int) async throws {
        try await writer.write(part: part, results: results)
    }

    func writeError(_ body: [UInt8]) async throws {
        try await writer.writeError(body)
    }

    func finish(_ reason: FinishReason) async throws {
        writer.finish(reason)
    }
}

extension TaskFailure {
    /// How the SDK is told of an engine's failure. It replaces the reason of a task that the
    /// broker cancelled by the broker's.
    init(_ failure: EngineFailure) {
        let reason: Reason =
            switch failure.code {
            case .upstreamUnavailable: .upstreamUnavailable
            case .upstreamRefused: .upstreamRefused
            case .declined: .declined
            default: .supplierFailed
            }
        self.init(code: reason, usage: failure.usage)
    }
}

extension WorkerEvent {
    /// What is said of a model that loads.
    init(_ change: ModelLoads.Change) {
        switch change {
        case .loading(let name): self = .loading(engineName: name)
        case .loaded(let name, let time):
            self = .loaded(engineName: name, ms: Int(EngineTiming.seconds(time) * 1_000))
        case .abandoned(let name): self = .loadAbandoned(engineName: name)
        }
    }

    /// What the SDK's event says in the log; nil where the worker says it itself.
    init?(_ event: SupplierEvent) {
        switch event {
        case .connected(let broker): self = .connected(broker: broker)
        case .disconnected(let broker, let reason):
            self = .disconnected(broker: broker, reason: reason)
        case .taskOverdue(let task): self = .overdue(task: task)
        case .taskStarted, .taskEnded, .taskCancelled, .offerInvalid: return nil
        }
    }
}
