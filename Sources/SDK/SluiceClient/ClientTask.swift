import SluiceSession
import SluiceTransport
import SluiceWire
import Synchronization

typealias ClientLink = PeerLink<ClientSession>

/// One task of a client from the call to its end: what has arrived and waits to be read, bounded
/// by the task's window, and who waits for it. Any thread.
final class ClientTask: Sendable {
    /// What a reader gets.
    enum Delivery {
        /// All frames that had arrived; their credit is given back.
        case frames([AnswerFrame])
        /// The reader's own task was cancelled; END has not come yet.
        case cancelledHere(Receipt)
        /// Everything was read, and this is how the task ended.
        case end(Result<Completion, SluiceError>)
    }

    /// Who waits for something to read or the end. Woken with no lock held.
    fileprivate struct Waiting {
        let readers: [CheckedContinuation<Void, Never>]
        let onReady: (@Sendable () -> Void)?

        func wake() {
            for reader in readers { reader.resume() }
            onReady?()
        }
    }

    fileprivate enum Phase {
        /// For a connection or a free stream; the body is kept no longer than that.
        case waiting(Submission)
        case open(ClientLink, StreamHandle)
        case ended(Result<Completion, SluiceError>)
    }

    fileprivate struct State {
        var phase: Phase
        var frames: [AnswerFrame] = []
        var readers: [CheckedContinuation<Void, Never>] = []
        /// Who waits for the identity.
        var acceptanceReaders: [CheckedContinuation<Void, Never>] = []
        /// Who waits for something to read, at most for a while.
        var watchers: [UInt64: CheckedContinuation<Void, Never>] = [:]
        var lastWatcher: UInt64 = 0
        /// Called, with no lock held, whenever there is something to read.
        var onReady: (@Sendable () -> Void)?
        var receipt = Receipt()
        var isCancelled = false
        /// An iterator was made.
        var isIterated = false
    }

    let form: AnswerForm
    /// On the environment's clock.
    let expiresMs: UInt64
    private let state: Mutex<State>

    init(_ submission: Submission, expiresMs: UInt64) {
        form = AnswerForm(submission.terms)
        self.expiresMs = expiresMs
        state = Mutex(State(phase: .waiting(submission)))
    }

    func makeDecoder() -> AnswerDecoder {
        AnswerDecoder(form)
    }

    /// What had arrived so far.
    var receipt: Receipt { state.withLock { $0.receipt } }

    /// What a task that still waits for a stream would submit; nil for any other.
    var waiting: Submission? {
        state.withLock { state in
            if case .waiting(let submission) = state.phase { submission } else { nil }
        }
    }

    // MARK: What the connection says

    /// The task got a stream. False when it was cancelled while it waited.
    func open(_ link: ClientLink, _ handle: StreamHandle) -> Bool {
        state.withLock { state in
            guard case .waiting = state.phase else { return false }
            state.phase = .open(link, handle)
            return true
        }
    }

    /// The connection was lost before the broker heard of the task: it waits again.
    func reopen(_ submission: Submission) -> Bool {
        state.withLock { state in
            guard case .open = state.phase, !state.isCancelled else { return false }
            state.phase = .waiting(submission)
            return true
        }
    }

    func accepted(_ task: TaskID) {
        let readers = state.withLock { state in
            state.receipt.task = task
            defer { state.acceptanceReaders = [] }
            return state.acceptanceReaders
        }
        for reader in readers { reader.resume() }
    }

    func arrived(_ frame: AnswerFrame) {
        let waiting = state.withLock { state -> Waiting? in
            state.receipt.usage.count(
                Int(frame.tokens), isReasoning: frame.flags.contains(.reasoning))
            guard !state.isCancelled else { return nil }
            state.frames.append(frame)
            return state.takeWaiting()
        }
        waiting?.wake()
    }

    func ended(_ result: Result<Completion, SluiceError>) {
        let waiting = state.withLock { state -> Waiting? in
            guard !state.hasEnded else { return nil }
            state.phase = .ended(result)
            return state.takeWaiting()
        }
        waiting?.wake()
    }

    // MARK: What the caller says

    /// What has arrived, waiting for it if need be; with `untilEnd` a cancelled task is waited for
    /// until its END. Cancelling the calling task cancels this one.
    func next(untilEnd: Bool) async -> Delivery {
        while true {
            if let delivery = take(untilEnd: untilEnd) { return delivery }
            await withTaskCancellationHandler {
                await withCheckedContinuation { reader in
                    let isReady = state.withLock { state in
                        guard !state.isReady(untilEnd: untilEnd) else { return true }
                        state.readers.append(reader)
                        return false
                    }
                    if isReady { reader.resume() }
                }
            } onCancel: {
                cancel()
            }
        }
    }

    /// What has arrived, without waiting; nil where there is nothing. A task that was cancelled here
    /// says so at once.
    func nextArrived() -> Delivery? { take(untilEnd: false) }

    /// Calls `body` whenever there is something to read, at once if there is, with no lock held and
    /// from any thread; nil ends that. It replaces an earlier one.
    func whenReady(_ body: (@Sendable () -> Void)?) {
        let isReady = state.withLock { state in
            state.onReady = body
            return state.isReady(untilEnd: false)
        }
        if isReady { body?() }
    }

    /// The task's identity, waiting for it if need be; throws what ended the task before it had
    /// one. Cancelling the calling task cancels this one.
    func acceptance() async throws(SluiceError) -> TaskID {
        await withTaskCancellationHandler {
            await withCheckedContinuation { reader in
                let isReady = state.withLock { state in
                    guard !state.isDecided else { return true }
                    state.acceptanceReaders.append(reader)
                    return false
                }
                if isReady { reader.resume() }
            }
        } onCancel: {
            cancel()
        }
        let (receipt, phase) = state.withLock { ($0.receipt, $0.phase) }
        if let task = receipt.task { return task }
        // A session reports `completed` for accepted tasks only, which have an identity.
        guard case .ended(.failure(let error)) = phase else { throw .cancelled(receipt) }
        throw error
    }

    /// True once something can be read, false after `duration` without it.
    func hasArrived(within duration: Duration) async -> Bool {
        await withTaskGroup(of: Void.self) { group in
            group.addTask { await self.watch() }
            group.addTask { try? await Task.sleep(for: duration) }
            await group.next()
            group.cancelAll()
        }
        return state.withLock { $0.isReady(untilEnd: false) }
    }

    /// Until something can be read or the caller is cancelled, which leaves the task alone.
    private func watch() async {
        let watcher = state.withLock { state in
            state.lastWatcher += 1
            return state.lastWatcher
        }
        await withTaskCancellationHandler {
            await withCheckedContinuation { reader in
                let waits = state.withLock { state in
                    guard !state.isReady(untilEnd: false), !Task.isCancelled else { return false }
                    state.watchers[watcher] = reader
                    return true
                }
                if !waits { reader.resume() }
            }
        } onCancel: {
            state.withLock { $0.watchers.removeValue(forKey: watcher) }?.resume()
        }
    }

    private func take(untilEnd: Bool) -> Delivery? {
        let (delivery, grant) = state.withLock { $0.take(untilEnd: untilEnd) }
        if let grant {
            grant.link.command { $0.consumed(grant.bytes, of: grant.handle) }
        }
        return delivery
    }

    /// Cancels; END still comes if the broker knows the task.
    func cancel() {
        let (waiting, open) = state.withLock { state -> (Waiting?, (ClientLink, StreamHandle)?) in
            guard !state.isCancelled, !state.hasEnded else { return (nil, nil) }
            state.isCancelled = true
            state.frames = []
            var open: (ClientLink, StreamHandle)?
            switch state.phase {
            case .open(let link, let handle): open = (link, handle)
            case .waiting: state.phase = .ended(.failure(.cancelled(state.receipt)))
            case .ended: break
            }
            return (state.takeWaiting(), open)
        }
        waiting?.wake()
        if let (link, handle) = open { link.perform { $0.cancel(handle) } }
    }

    /// An iterator was made: it decides from now on.
    func iterate() {
        state.withLock { $0.isIterated = true }
    }

    /// The answer was let go.
    func answerReleased() {
        guard !state.withLock({ $0.isIterated }) else { return }
        cancel()
    }
}

extension ClientTask.State {
    var hasEnded: Bool {
        if case .ended = phase { true } else { false }
    }

    /// A reader would get something.
    func isReady(untilEnd: Bool) -> Bool {
        !frames.isEmpty || hasEnded || isCancelled && !untilEnd
    }

    /// What a reader gets, and the credit to give back for it.
    mutating func take(
        untilEnd: Bool
    ) -> (ClientTask.Delivery?, (link: ClientLink, handle: StreamHandle, bytes: UInt64)?) {
        guard frames.isEmpty else {
            let taken = frames
            frames = []
            guard case .open(let link, let handle) = phase else { return (.frames(taken), nil) }
            let bytes = taken.reduce(0) { $0 + $1.creditBytes }
            return (.frames(taken), (link, handle, bytes))
        }
        if case .ended(let result) = phase { return (.end(result), nil) }
        return (isCancelled && !untilEnd ? .cancelledHere(receipt) : nil, nil)
    }

    /// Whether the task has an identity, or will get none.
    var isDecided: Bool { receipt.task != nil || hasEnded || isCancelled }

    /// Everyone who waits for something to read or the end.
    mutating func takeWaiting() -> ClientTask.Waiting {
        guard !readers.isEmpty || !acceptanceReaders.isEmpty || !watchers.isEmpty else {
            return ClientTask.Waiting(readers: [], onReady: onReady)
        }
        defer { (readers, acceptanceReaders, watchers) = ([], [], [:]) }
        return ClientTask.Waiting(
            readers: readers + acceptanceReaders + watchers.values, onReady: onReady)
    }
}
