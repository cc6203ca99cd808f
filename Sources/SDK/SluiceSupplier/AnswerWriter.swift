import SluiceSession
import SluiceTransport
public import SluiceWire
import Synchronization

typealias SupplierLink = PeerLink<SupplierSession>

/// Where a handler writes its answer. While there is credit a write returns at once; without, it
/// waits until the reader has made room. Any thread; what is written keeps its order.
public final class AnswerWriter: Sendable {
    private struct State {
        var finishReason = FinishReason.stop
        var waiters: [CheckedContinuation<Void, Never>] = []
    }

    private let link: SupplierLink
    private let handle: StreamHandle
    private let form: AnswerForm
    private let state = Mutex(State())

    init(link: SupplierLink, handle: StreamHandle, form: AnswerForm) {
        self.link = link
        self.handle = handle
        self.form = form
    }

    /// Says that the engine has read the prompt, before the first output. Without it a task that
    /// ends early bills no input.
    public func started(
        inputTokens: Int, cachedTokens: Int = 0
    ) async throws(SupplierError) {
        let result = link.command {
            $0.started(
                handle, inputTokens: UInt32(clamping: inputTokens),
                cachedTokens: UInt32(clamping: cachedTokens))
        }
        try await finish(result)
    }

    /// Writes a piece of text that stands for `tokens` more tokens. For tasks with `.text`; empty
    /// text only counts, and that in either encoding.
    public func write(
        _ text: String, tokens: Int, reasoning: Bool = false
    ) async throws(SupplierError) {
        guard form == .text || text.isEmpty else { throw .wrongEncoding }
        try await send(Array(text.utf8), tokens: tokens, flags: reasoning ? [.reasoning] : [])
    }

    /// Writes one OpenAI event, JSON without framing, that stands for `tokens` more tokens. For
    /// chats and completions with `.openAI`.
    public func write(
        event: [UInt8], tokens: Int, reasoning: Bool = false
    ) async throws(SupplierError) {
        guard form == .events else { throw .wrongEncoding }
        var bytes: [UInt8] = []
        bytes.reserveCapacity(4 + event.count)
        bytes.appendLittleEndian(UInt32(event.count))
        bytes += event
        try await send(bytes, tokens: tokens, flags: reasoning ? [.reasoning] : [])
    }

    /// Writes the next part of the JSON object that answers a request for embeddings or images;
    /// with it `results` more of them are complete. Only what was written counts.
    public func write(part: [UInt8], results: Int) async throws(SupplierError) {
        guard form == .object else { throw .wrongEncoding }
        try await send(part, tokens: results, flags: [])
    }

    /// Passes an upstream's error body on to the client. The handler then throws a `TaskFailure`.
    public func writeError(_ body: [UInt8]) async throws(SupplierError) {
        try await send(body, tokens: 0, flags: [.error])
    }

    /// Sets why a completed answer stopped; `stop` without it.
    public func finish(_ reason: FinishReason) {
        finishReason = reason
    }

    /// Why a completed answer stopped.
    public var finishReason: FinishReason {
        get { state.withLock { $0.finishReason } }
        set { state.withLock { $0.finishReason = newValue } }
    }

    private func send(
        _ bytes: [UInt8], tokens: Int, flags: FrameFlags
    ) async throws(SupplierError) {
        let result = link.command {
            $0.write(bytes, tokens: max(0, tokens), flags: flags, to: handle)
        }
        try await finish(result)
    }

    private func finish(_ result: SupplierSession.WriteResult) async throws(SupplierError) {
        switch result {
        case .proceed: return
        case .cancelled(let code): throw .cancelled(code)
        case .over: throw .connectionLost
        case .wait: break
        }
        while !link.command({ $0.canWrite(handle) }) {
            await withCheckedContinuation { waiter in
                state.withLock { $0.waiters.append(waiter) }
                // Room may have come before the waiter stood in line.
                if link.command({ $0.canWrite(handle) }) { wake() }
            }
        }
        switch link.command({ $0.state(of: handle) }) {
        case .running: return
        case .cancelled(let code): throw .cancelled(code)
        case .over: throw .connectionLost
        }
    }

    /// There is room, or the task is over.
    func wake() {
        let waiters = state.withLock { state in
            defer { state.waiters = [] }
            return state.waiters
        }
        for waiter in waiters { waiter.resume() }
    }
}
