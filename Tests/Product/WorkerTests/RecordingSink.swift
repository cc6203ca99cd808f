import SluiceWire
import Synchronization
import Worker

/// Takes an answer and keeps it. With a gate, each counted write waits until the test lets it.
final class RecordingSink: AnswerSink {
    struct Record {
        var started: (input: UInt32, cached: UInt32)?
        var text = ""
        var events: [String] = []
        var object: [UInt8] = []
        var increments: [Int] = []
        var reasoning = 0
        var errors: [String] = []
        var finishReason: FinishReason?

        var tokens: Int { increments.reduce(0, +) }
    }

    private let state = Mutex(Record())
    private let gate: Gate?
    private let changes = AsyncStream.makeStream(of: Void.self)

    init(gate: Gate? = nil) {
        self.gate = gate
    }

    var record: Record { state.withLock { $0 } }

    /// Returns once the record is as wanted; hangs where that never comes.
    func wait(until isWanted: (Record) -> Bool) async {
        var changes = changes.stream.makeAsyncIterator()
        while !isWanted(record) { await changes.next() }
    }

    func started(inputTokens: UInt32, cachedTokens: UInt32) async throws {
        update { $0.started = (inputTokens, cachedTokens) }
    }

    func write(_ text: String, tokens: Int, reasoning: Bool) async throws {
        try await pass()
        update {
            $0.text += text
            $0.increments.append(tokens)
            if reasoning { $0.reasoning += tokens }
        }
    }

    func write(event: [UInt8], tokens: Int, reasoning: Bool) async throws {
        try await pass()
        update {
            $0.events.append(String(decoding: event, as: UTF8.self))
            $0.increments.append(tokens)
            if reasoning { $0.reasoning += tokens }
        }
    }

    func write(part: [UInt8], results: Int) async throws {
        try await pass()
        update {
            $0.object += part
            $0.increments.append(results)
        }
    }

    func writeError(_ body: [UInt8]) async throws {
        try Task.checkCancellation()
        update { $0.errors.append(String(decoding: body, as: UTF8.self)) }
    }

    func finish(_ reason: FinishReason) async throws {
        update { $0.finishReason = reason }
    }

    private func pass() async throws {
        if let gate { await gate.pass() }
        try Task.checkCancellation()
    }

    private func update(_ change: (inout Record) -> Void) {
        state.withLock { change(&$0) }
        changes.continuation.yield()
    }
}

/// Lets those who wait through, once opened; a cancelled Swift task passes at once.
final class Gate: Sendable {
    private struct State {
        var isOpen = false
        var nextWaiter = 0
        var waiters: [Int: CheckedContinuation<Void, Never>] = [:]
    }

    private let state = Mutex(State())

    var isOpen: Bool { state.withLock { $0.isOpen } }

    func open() {
        let waiters = state.withLock { state in
            state.isOpen = true
            defer { state.waiters = [:] }
            return state.waiters
        }
        for waiter in waiters.values { waiter.resume() }
    }

    func pass() async {
        let waiter = state.withLock { state in
            state.nextWaiter += 1
            return state.nextWaiter
        }
        await withTaskCancellationHandler {
            await withCheckedContinuation { continuation in
                let passes = state.withLock { state in
                    guard !state.isOpen, !Task.isCancelled else { return true }
                    state.waiters[waiter] = continuation
                    return false
                }
                if passes { continuation.resume() }
            }
        } onCancel: {
            state.withLock { $0.waiters.removeValue(forKey: waiter) }?.resume()
        }
    }
}
