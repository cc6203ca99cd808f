import Development
import Foundation
import SluiceClient
import SluiceWire
import Synchronization

/// One task from submission to exit code.
struct Asking {
    /// Longest wait for the broker's last word after Ctrl-C: its own wait for a supplier is 2 s.
    private static let cancelPatience = Duration.seconds(4)

    let isJSON: Bool

    /// Prints the answer as it comes.
    func run(
        _ request: TaskRequest, with configuration: SluiceClient.Configuration
    ) async -> ExitStatus {
        let progress = Progress()
        var configuration = configuration
        configuration.onEvent = { progress.note($0) }
        do {
            return try await SluiceClient.withClient(configuration) { client in
                let answer = client.stream(request)
                progress.began(answer)
                let signals = StopSignals(onStop: { progress.stop() })
                defer { signals.cancel() }
                return await follow(answer, progress)
            }
        } catch {
            Output.note("the connection cannot be set up: \(error)")
            return .notConnected
        }
    }

    private func follow(_ answer: Answer, _ progress: Progress) async -> ExitStatus {
        do throws(SluiceError) {
            for try await chunk in answer {
                guard write(chunk) else {
                    answer.cancel()
                    Output.note("the answer could not be written")
                    return .outputClosed
                }
            }
            finish(try await answer.completion())
            return .done
        } catch {
            let error = await Self.lastWord(on: answer, after: error)
            let status = progress.status(of: error)
            if isJSON { Output.line(Self.line(of: error)) }
            Output.note(progress.sentence(of: error))
            return status
        }
    }

    /// After a cancel the broker still says what was delivered and charged; to leave before would
    /// look to it like a lost client.
    private static func lastWord(
        on answer: Answer, after error: SluiceError
    ) async -> SluiceError {
        guard case .cancelled = error else { return error }
        do throws(SluiceError) {
            _ = try await answer.completion()
            return error
        } catch {
            return error
        }
    }

    /// False if standard output takes no more.
    private func write(_ chunk: AnswerChunk) -> Bool {
        do {
            if isJSON {
                var line = JSONLine()
                line.add("text", chunk.text ?? "")
                line.add("tokens", chunk.tokens)
                if chunk.isReasoning { line.add("reasoning", true) }
                if chunk.isError { line.add("error", true) }
                try FileHandle.standardOutput.write(contentsOf: Data("\(line)\n".utf8))
            } else if !chunk.isReasoning, !chunk.isError {
                try FileHandle.standardOutput.write(contentsOf: Data(chunk.bytes))
            }
            return true
        } catch {
            return false
        }
    }

    private func finish(_ completion: Completion) {
        guard isJSON else { return }
        var line = JSONLine()
        line.add("status", "completed")
        line.add("taskID", completion.task.description)
        Self.add(completion.usage, to: &line)
        line.add("costMicroUSD", completion.cost.rawValue)
        line.add("finishReason", "\(completion.finishReason)")
        Output.line(line)
    }

    private static func line(of error: SluiceError) -> JSONLine {
        let receipt = error.receipt
        var line = JSONLine()
        line.add("status", "failed")
        if let task = receipt.task {
            line.add("taskID", task.description)
        } else {
            line.addNull("taskID")
        }
        add(receipt.usage, to: &line)
        line.add("costMicroUSD", receipt.cost?.rawValue)
        line.add("code", error.code.map { "\($0)" } ?? "connectionLost")
        line.add("retry", "\(error.retry)")
        return line
    }

    private static func add(_ usage: Usage, to line: inout JSONLine) {
        line.add("inputTokens", usage.inputTokens)
        line.add("outputTokens", usage.outputTokens)
        line.add("cachedTokens", usage.cachedTokens)
        line.add("reasoningTokens", usage.reasoningTokens)
    }

    /// What has happened around the answer; called from any thread.
    private final class Progress: Sendable {
        private struct State {
            var answer: Answer?
            var wasConnected = false
            /// Why there is no connection, once an attempt has failed.
            var failure: String?
            var stops = 0
        }

        private let state = Mutex(State())

        func began(_ answer: Answer) {
            let isLost = state.withLock { state in
                state.answer = answer
                return state.failure != nil
            }
            if isLost { giveUp() }
        }

        func note(_ event: SluiceClient.ConnectionEvent) {
            switch event {
            case .connected:
                state.withLock { $0.wasConnected = true }
            case .disconnected(_, let reason):
                let isFirst = state.withLock { state in
                    guard !state.wasConnected, state.failure == nil else { return false }
                    state.failure = reason
                    return true
                }
                if isFirst { giveUp() }
            }
        }

        /// The client would try again until the deadline; a person at a terminal wants to know.
        /// A refusal of the key ends the task by itself just now, and says more.
        private func giveUp() {
            Task {
                try? await Task.sleep(for: .milliseconds(150))
                state.withLock { $0.answer }?.cancel()
            }
        }

        func stop() {
            let stops = state.withLock { state in
                state.stops += 1
                return state.stops
            }
            guard stops == 1 else { exit(ExitStatus.cancelled.rawValue) }
            state.withLock { $0.answer }?.cancel()
            Task {
                try? await Task.sleep(for: Asking.cancelPatience)
                exit(ExitStatus.cancelled.rawValue)
            }
        }

        func status(of error: SluiceError) -> ExitStatus {
            switch error {
            case .rejected(let rejection):
                rejection.code == .modelUnknown ? .modelUnknown : .busy
            case .refused(.unauthenticated), .refused(.forbidden): .keyRefused
            case .refused(.insufficientFunds), .budgetExhausted: .budgetExhausted
            case .refused(.modelUnknown): .modelUnknown
            case .refused, .duplicate: .requestRefused
            case .supplierLost: .supplierLost
            case .supplierFailed: .supplierFailed
            case .deadlineExceeded: .deadlineExceeded
            case .cancelled: wasStopped ? .cancelled : .notConnected
            case .stalled: .outputClosed
            case .brokerDrained: .drained
            case .connectionLost: .notConnected
            }
        }

        func sentence(of error: SluiceError) -> String {
            guard case .cancelled = error, !wasStopped else { return "\(error)" }
            return "not connected: \(state.withLock { $0.failure } ?? "no broker")"
        }

        private var wasStopped: Bool { state.withLock { $0.stops > 0 } }
    }
}
