import AsyncHTTPClient
import JSONScanning
import NIOCore
import NIOHTTP1
package import SluiceWire
import Synchronization

/// Answers tasks by an OpenAI-compatible server.
///
/// It reads from the server no faster than the reader of the answer takes it: each event is
/// written before the next one is read. When the task is cancelled, the request's connection is
/// closed at once, which is how such servers learn to stop.
package final class UpstreamEngine: Engine {
    private let client: UpstreamClient
    private let loads: ModelLoads?
    private let state = Mutex(State())

    private struct State {
        /// Names by offer.
        var engineNames: [String: String] = [:]
        var runningCount = 0
        /// Called when the server did not even begin to answer.
        var unreachable: (@Sendable () -> Void)?
    }

    /// Makes an engine over a client, which the caller shuts down.
    ///
    /// With `loads`, tasks for a model that is not in memory wait for it within half of the time
    /// that they have, at most two minutes, and are then declined: not started, no failure.
    package init(_ client: UpstreamClient, loads: ModelLoads? = nil) {
        self.client = client
        self.loads = loads
    }

    /// Tasks that run now.
    package var runningCount: Int { state.withLock { $0.runningCount } }

    /// Sets what the offered models are called at the upstream; running tasks keep their name.
    package func serve(_ models: [OfferedModel]) {
        let names = models.map { ($0.name, $0.engineName) }
        state.withLock { $0.engineNames = Dictionary(uniqueKeysWithValues: names) }
    }

    /// Sets what is called when the server could not be reached for a task.
    package func onUnreachable(_ call: @escaping @Sendable () -> Void) {
        state.withLock { $0.unreachable = call }
    }

    package func answer(
        _ assignment: Assignment, to sink: some AnswerSink
    ) async throws(EngineFailure) -> Usage {
        state.withLock { $0.runningCount += 1 }
        defer { state.withLock { $0.runningCount -= 1 } }
        let request: Request
        do throws(RequestFault) {
            request = try self.request(assignment)
        } catch {
            throw await error.refuse(assignment, to: sink)
        }
        // The deadline is a sibling that cancels the exchange like a CANCEL does.
        let result = await withTaskGroup(of: Ending?.self) { group in
            group.addTask {
                try? await Task.sleep(until: assignment.deadline, clock: .continuous)
                return nil
            }
            group.addTask { [self] in
                await exchange(assignment, request, sink: sink)
            }
            var ending = await group.next() ?? nil
            let isLate = ending == nil
            group.cancelAll()
            while let other = await group.next() { ending = ending ?? other }
            return (ending: ending, isLate: isLate && !Task.isCancelled)
        }
        switch result.ending {
        case .completed(let usage): return usage
        case .failed(let code, let usage): throw EngineFailure(code: code, usage: usage)
        case .interrupted(let usage, let wasOpen):
            throw EngineFailure(
                code: result.isLate ? .upstreamUnavailable : .cancelled, usage: usage,
                upstreamClosed: wasOpen)
        case nil: preconditionFailure("the exchange always has an ending")
        }
    }

    /// How an exchange ended.
    enum Ending {
        case completed(Usage)
        case failed(WireCode, Usage)
        /// Cancelled, by the client or the deadline; whether the request was under way.
        case interrupted(Usage, wasOpen: Bool)
    }

    private func engineName(_ assignment: Assignment) -> String {
        state.withLock { $0.engineNames[assignment.model] } ?? assignment.model
    }

    /// What the server is asked.
    struct Request: Sendable {
        var path: String
        var body: [UInt8]
        /// The media type of the answer.
        var accept = "text/event-stream"
        /// Numbers of embeddings become base64.
        var encodesBase64 = false
    }

    private func request(_ assignment: Assignment) throws(RequestFault) -> Request {
        let name = engineName(assignment)
        let path =
            switch assignment.operation {
            case .chat: "/chat/completions"
            case .completion: "/completions"
            case .embedding: "/embeddings"
            case .image: "/images/generations"
            }
        switch assignment.payload {
        case .openAI(let body) where assignment.operation.countsResults:
            let counted = try CountedRequest(
                body, assignment.operation, model: name,
                resultsMax: assignment.maxOutputTokens)
            return Request(
                path: path, body: counted.body, accept: "application/json",
                encodesBase64: counted.wantsBase64)
        case .openAI(let body):
            do throws(JSONFault) {
                return Request(
                    path: path,
                    body: try RequestRewriter.rewrite(
                        body, model: name, maxOutputTokens: assignment.maxOutputTokens))
            } catch {
                throw .ambiguous
            }
        case .text(let prompt):
            // The broker lets no other operation through as text [Q8].
            guard !assignment.operation.countsResults else { throw .ambiguous }
            return Request(
                path: path,
                body: RequestRewriter.request(
                    prompt: prompt, isChat: assignment.operation == .chat, model: name,
                    maxOutputTokens: assignment.maxOutputTokens))
        }
    }

    private func exchange(
        _ assignment: Assignment, _ request: Request, sink: some AnswerSink
    ) async -> Ending {
        let patience =
            ContinuousClock.now
            + min(
                Self.loadPatience, (assignment.deadline - ContinuousClock.now) / 2)
        let response: HTTPClientResponse
        switch await begin(assignment, request, patience: patience) {
        case .answering(let begun): response = begun
        case .over(let ending): return ending
        }
        guard response.status == .ok else {
            return await refused(by: response, assignment, sink: sink)
        }
        if assignment.operation.countsResults {
            let answer = CountedAnswer(
                assignment.operation, model: assignment.model,
                resultsMax: assignment.maxOutputTokens, encodesBase64: request.encodesBase64)
            return await relay(response.body, answer, to: sink)
        }
        var answer = UpstreamAnswer(isOpenAI: assignment.isOpenAI, model: assignment.model)
        do {
            try await relay(response.body, &answer, to: sink)
            switch answer.outcome {
            case .completed(let reason):
                try await sink.finish(reason)
                return .completed(answer.usage)
            case .failed(let code): return .failed(code, answer.usage)
            case nil: preconditionFailure("a relay ends with an outcome")
            }
        } catch {
            return .interrupted(answer.usage, wasOpen: answer.outcome == nil)
        }
    }

    /// How a request began.
    private enum Beginning {
        case answering(HTTPClientResponse)
        case over(Ending)
    }

    private static let loadPatience = Duration.seconds(120)

    /// Sends the request once the model is in memory, and again after a 503 that said it was not.
    private func begin(
        _ assignment: Assignment, _ request: Request, patience: ContinuousClock.Instant
    ) async -> Beginning {
        let name = engineName(assignment)
        while true {
            if let loads, await !loads.ready(name, before: patience) {
                return .over(
                    Task.isCancelled
                        ? .interrupted(Usage(), wasOpen: false) : .failed(.declined, Usage()))
            }
            let response: HTTPClientResponse
            do {
                response = try await client.post(
                    request.path, body: request.body, accept: request.accept)
            } catch {
                guard !Task.isCancelled else {
                    return .over(.interrupted(Usage(), wasOpen: true))
                }
                state.withLock { $0.unreachable }?()
                return .over(.failed(.upstreamUnavailable, Usage()))
            }
            guard response.status == .serviceUnavailable, let loads else {
                if response.status == .ok { loads?.answered(name) }
                return .answering(response)
            }
            let text = try? await response.body.collect(upTo: UpstreamAnswer.errorBytesMax)
            guard !Task.isCancelled else { return .over(.interrupted(Usage(), wasOpen: true)) }
            guard let text, ModelLoads.saysLoading(Array(text.readableBytesView)) else {
                return .over(.failed(.upstreamUnavailable, Usage()))
            }
            guard ContinuousClock.now < patience else { return .over(.failed(.declined, Usage())) }
            loads.sawLoading(name)
        }
    }

    /// Relays events until the answer has an outcome. Throws only where the sink does or the task
    /// was cancelled; leaving by a throw drops the body and with it closes the connection.
    private func relay(
        _ body: HTTPClientResponse.Body, _ answer: inout UpstreamAnswer, to sink: some AnswerSink
    ) async throws {
        var parser = EventStreamParser()
        /// The beginning of a body that shows no event: a server's error despite its status 200.
        var opening: [UInt8] = []
        var hasEvents = false
        var chunks = body.makeAsyncIterator()
        while answer.outcome == nil {
            var events: [[UInt8]] = []
            var isBroken = false
            do {
                if let chunk = try await chunks.next() {
                    let bytes = Array(chunk.readableBytesView)
                    events = try parser.push(bytes)
                    hasEvents = hasEvents || !events.isEmpty
                    if hasEvents {
                        opening = []
                    } else if opening.count < UpstreamAnswer.errorBytesMax {
                        opening += bytes
                    }
                } else {
                    isBroken = true
                }
            } catch {
                isBroken = true
            }
            try Task.checkCancellation()
            for event in events where answer.outcome == nil {
                try await perform(answer.received(event), to: sink)
            }
            guard isBroken, answer.outcome == nil else { continue }
            let tail = hasEvents ? try? parser.finish() : Self.tail(&parser, opening)
            try await perform(answer.ended(tail: tail), to: sink)
            return
        }
        release(chunks)
    }

    /// What is left of a body without events: an unfinished event, or the whole as plain JSON
    /// where that is an error.
    private static func tail(_ parser: inout EventStreamParser, _ opening: [UInt8]) -> [UInt8]? {
        if let event = try? parser.finish() { return event }
        guard let event = try? StreamEvent(opening), event.hasErrorBody else { return nil }
        return opening
    }

    private func perform(_ actions: [UpstreamAnswer.Action], to sink: some AnswerSink) async throws
    {
        for action in actions {
            switch action {
            case .started(let inputTokens, let cachedTokens):
                try await sink.started(inputTokens: inputTokens, cachedTokens: cachedTokens)
            case .text(let text, let tokens, let reasoning):
                try await sink.write(text, tokens: tokens, reasoning: reasoning)
            case .event(let event, let tokens, let reasoning):
                try await sink.write(event: event, tokens: tokens, reasoning: reasoning)
            case .error(let body): try await sink.writeError(body)
            }
        }
    }

    /// Reads what follows the last event (the end of the chunked body), without holding up the
    /// task's end, so that the connection can be used again; for at most a second.
    private func release(_ chunks: sending HTTPClientResponse.Body.AsyncIterator) {
        let drain = Task {
            var chunks = chunks
            var count = 0
            while count < 16, (try? await chunks.next()) != nil { count += 1 }
        }
        Task {
            try? await Task.sleep(for: .seconds(1))
            drain.cancel()
        }
    }

    private func refused(
        by response: HTTPClientResponse, _ assignment: Assignment, sink: some AnswerSink
    ) async -> Ending {
        let code = UpstreamStatus.code(Int(response.status.code))
        // Any other failure is this supplier's alone, and the task goes to another one unseen.
        guard code == .upstreamRefused, assignment.isOpenAI else { return .failed(code, Usage()) }
        let body = try? await response.body.collect(upTo: UpstreamAnswer.errorBytesMax)
        guard !Task.isCancelled else { return .interrupted(Usage(), wasOpen: true) }
        guard let body, body.readableBytes > 0 else { return .failed(code, Usage()) }
        do {
            try await sink.writeError(Array(body.readableBytesView))
        } catch {
            return .interrupted(Usage(), wasOpen: false)
        }
        return .failed(code, Usage())
    }
}
