import SluiceSession
public import SluiceWire

/// A piece of an answer: what had arrived when it was asked for.
public struct AnswerChunk: Hashable, Sendable {
    /// The answer's own bytes: UTF-8 text, one OpenAI event in JSON, or of embeddings and images
    /// the next part of the one JSON object that they all make.
    public let bytes: [UInt8]
    /// Tokens, embeddings or images that this piece stands for.
    public let tokens: Int
    /// The piece is the model's reasoning, not its answer.
    public let isReasoning: Bool
    /// The piece is an upstream's error body; the stream then ends with an error.
    public let isError: Bool
    let isText: Bool

    /// The piece as text; nil where the request was `.openAI`.
    public var text: String? { isText ? String(decoding: bytes, as: UTF8.self) : nil }
}

/// How a task ended as it should.
public struct Completion: Hashable, Sendable {
    /// The task's identity in records.
    public let task: TaskID
    /// What the task used.
    public let usage: Usage
    /// What was charged.
    public let cost: MicroUSD
    /// Why the answer stopped.
    public let finishReason: FinishReason
}

/// The whole answer to a task.
public struct TaskResult: Hashable, Sendable {
    /// The answer's text; empty where the request was `.openAI`.
    public let text: String
    /// The OpenAI events of a chat or completion; empty where the request was `.text`.
    public let events: [[UInt8]]
    /// The JSON object of embeddings and images, as the engine wrote it; empty for anything else.
    public let body: [UInt8]
    /// How the task ended.
    public let completion: Completion
}

/// The answer to one task, as it comes. Pulling grants the broker credit to send more: an answer
/// that nobody reads stops at its supplier. Iterate it once. Letting the iterator go before the
/// end, or cancelling the task that iterates, cancels the task at the broker; so does letting go
/// of an answer that was never read.
public struct Answer: AsyncSequence, Sendable {
    /// A piece of the answer.
    public typealias Element = AnswerChunk
    /// How a task ends other than as it should.
    public typealias Failure = SluiceError

    let lifetime: AnswerLifetime

    /// The pieces, in order.
    public func makeAsyncIterator() -> Iterator {
        Iterator(lifetime: IteratorLifetime(lifetime.task), decoder: lifetime.task.makeDecoder())
    }

    /// Waits for the end of the task; what was not read of the answer is dropped.
    public func completion() async throws(SluiceError) -> Completion {
        while true {
            let delivery = await lifetime.task.next(untilEnd: true)
            guard case .end(let result) = delivery else { continue }
            return try result.get()
        }
    }

    /// Waits until the broker has accepted the task: it then has its identity, and one final record
    /// will be written of it. Answers at once for a task that was accepted before. Takes nothing of
    /// the answer, and any number of callers may wait. Throws what ended the task before that.
    /// Cancelling the calling task cancels this one.
    public func accepted() async throws(SluiceError) -> TaskID {
        try await lifetime.task.acceptance()
    }

    /// The task's identity, once the broker has accepted it.
    package var acceptedTask: TaskID? { lifetime.task.receipt.task }

    /// Waits until a piece or the end of the answer is there, at most for `duration`; false if
    /// neither came. Takes nothing of the answer. Unlike `next`, a cancelled wait ends early and
    /// leaves the task alone.
    package func hasArrived(within duration: Duration) async -> Bool {
        await lifetime.task.hasArrived(within: duration)
    }

    /// Calls `body` whenever there is something to read, at once if there is, from any thread and
    /// with no lock held; nil ends that. For readers that cannot wait: `Iterator.nextArrived`.
    package func whenReady(_ body: (@Sendable () -> Void)?) {
        lifetime.task.whenReady(body)
    }

    /// Cancels the task. Its end still comes, with what was charged.
    public func cancel() {
        lifetime.task.cancel()
    }

    /// Hands out what has arrived.
    public struct Iterator: AsyncIteratorProtocol, Sendable {
        let lifetime: IteratorLifetime
        var decoder: AnswerDecoder

        /// The next piece: all text or JSON that has arrived, or the next event. Nil after the end.
        public mutating func next() async throws(SluiceError) -> AnswerChunk? {
            try await next(isolation: nil)
        }

        /// What can be read without waiting.
        package enum Arrived {
            case piece(AnswerChunk)
            /// Nothing yet.
            case nothing
            /// The answer is complete.
            case end
        }

        /// The next piece, without waiting for it. Throws what ended the task.
        package mutating func nextArrived() throws(SluiceError) -> Arrived {
            while true {
                if let chunk = decoder.next() { return .piece(chunk) }
                guard let delivery = lifetime.task.nextArrived() else { return .nothing }
                guard try take(delivery) else { return .end }
            }
        }

        /// The next piece: all text or JSON that has arrived, or the next event. Nil after the end.
        public mutating func next(
            isolation actor: isolated (any Actor)?
        ) async throws(SluiceError) -> AnswerChunk? {
            while true {
                if let chunk = decoder.next() { return chunk }
                guard try take(await lifetime.task.next(untilEnd: false)) else { return nil }
            }
        }

        /// False at the end of a complete answer.
        private mutating func take(_ delivery: ClientTask.Delivery) throws(SluiceError) -> Bool {
            switch delivery {
            case .frames(let frames):
                guard decoder.add(frames) else {
                    lifetime.task.cancel()
                    throw .supplierFailed(.supplierFailed, lifetime.task.receipt)
                }
                return true
            case .cancelledHere(let receipt): throw .cancelled(receipt)
            case .end(.success): return false
            case .end(.failure(let error)): throw error
            }
        }
    }
}

/// Held by an answer: an answer that is let go without ever having been read cancels its task.
final class AnswerLifetime: Sendable {
    let task: ClientTask

    init(_ task: ClientTask) {
        self.task = task
    }

    deinit {
        task.answerReleased()
    }
}

/// Held by an iterator: letting it go before the end cancels the task.
final class IteratorLifetime: Sendable {
    let task: ClientTask

    init(_ task: ClientTask) {
        self.task = task
        task.iterate()
    }

    deinit {
        task.cancel()
    }
}

/// A TOKENS frame that waits to be read.
struct AnswerFrame: Sendable {
    let payload: [UInt8]
    let tokens: UInt16
    let flags: FrameFlags

    /// What it costs of the credit.
    var creditBytes: UInt64 { UInt64(FrameHeader.byteCount + payload.count) }
}

/// Turns frames into pieces: joins text and JSON that waits together, and cuts the byte string of
/// an OpenAI stream into events.
struct AnswerDecoder: Sendable {
    /// Largest event that is put together [P10].
    static let eventBytesMax = 1_048_576

    let form: AnswerForm
    private var ready: [AnswerChunk] = []
    private var nextReady = 0
    /// Bytes of events that are not whole; of the upstream's error body not at all.
    private var partial: [UInt8] = []
    /// Increments of the event that is not whole.
    private var tokens = 0

    init(_ form: AnswerForm) {
        self.form = form
    }

    mutating func next() -> AnswerChunk? {
        guard nextReady < ready.count else { return nil }
        defer { nextReady += 1 }
        return ready[nextReady]
    }

    /// Takes what arrived, once `next` has returned nil. False when an event is empty or too large [P18].
    mutating func add(_ frames: [AnswerFrame]) -> Bool {
        ready.removeAll(keepingCapacity: true)
        nextReady = 0
        var index = 0
        while index < frames.count {
            let flags = frames[index].flags
            if form != .events || flags.contains(.error) {
                var bytes: [UInt8] = []
                var tokens = 0
                while index < frames.count, frames[index].flags == flags {
                    bytes += frames[index].payload
                    tokens += Int(frames[index].tokens)
                    index += 1
                }
                append(bytes, tokens: tokens, flags: flags)
            } else {
                guard addEvents(frames[index]) else { return false }
                index += 1
            }
        }
        return true
    }

    private mutating func addEvents(_ frame: AnswerFrame) -> Bool {
        partial += frame.payload
        tokens += Int(frame.tokens)
        var start = 0
        while partial.count - start >= 4 {
            let byteCount = Int(partial.span.littleEndian32(at: start))
            guard (1...Self.eventBytesMax).contains(byteCount) else { return false }
            guard partial.count - start - 4 >= byteCount else { break }
            let end = start + 4 + byteCount
            append(Array(partial[start + 4..<end]), tokens: tokens, flags: frame.flags)
            tokens = 0
            start = end
        }
        partial.removeFirst(start)
        return true
    }

    private mutating func append(_ bytes: [UInt8], tokens: Int, flags: FrameFlags) {
        ready.append(
            AnswerChunk(
                bytes: bytes, tokens: tokens, isReasoning: flags.contains(.reasoning),
                isError: flags.contains(.error), isText: form == .text))
    }
}
