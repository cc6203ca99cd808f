import NIOCore
import SluiceClient
import SluiceWire

/// The answer to one request from the moment that its HTTP status is known. Reading it gives the
/// broker credit, so it is read no faster than the HTTP client takes it.
struct OpenAnswer: Sendable {
    /// The model that was asked in the end.
    let model: String
    private let answer: Answer
    private var iterator: Answer.Iterator
    /// Keeps the client open.
    private let lease: ClientLease
    /// Read already.
    private var first: [UInt8]?
    private var isEnded = false
    /// An engine's own error, as far as it has come.
    private var engineBody: [UInt8] = []

    /// The task's identity.
    var task: TaskID? { answer.acceptedTask }

    /// How long is waited for what.
    struct Patience: Sendable {
        /// Between two signs of life to a client whose task is queued.
        var keepAlive = Duration.seconds(5)
        /// For a connection to a broker.
        var connect = Duration.seconds(10)
    }

    /// Submits a request and waits until its HTTP status is known: until the first event or the
    /// end has come or, where `mayWaitInStream`, the task was accepted and the first sign of life
    /// is due. Throws the fault that the task ended with. The task is cancelled when the client
    /// behind `peer` is gone.
    init(
        _ request: TaskRequest, lease: ClientLease, peer: PeerWatch, patience: Patience,
        mayWaitInStream: Bool
    ) async throws(HTTPFault) {
        model = request.model
        self.lease = lease
        let answer = lease.client.stream(request)
        self.answer = answer
        iterator = answer.makeAsyncIterator()
        peer.whenGone { answer.cancel() }
        let started = ContinuousClock.now
        while await !answer.hasArrived(within: min(patience.keepAlive, patience.connect)) {
            if Task.isCancelled {
                answer.cancel()
                throw HTTPFault(.brokerDrained(Receipt()))
            }
            if answer.acceptedTask != nil {
                if mayWaitInStream { return }
            } else if !lease.isConnected, .now - started >= patience.connect {
                answer.cancel()
                throw .noBroker
            }
        }
        first = try await read()
        isEnded = first == nil
    }

    /// Neither the first event nor the end was there when the status was due.
    var isQueued: Bool { first == nil && !isEnded }

    /// Whether the first event or the end is there, after at most this time.
    func hasArrived(within duration: Duration) async -> Bool {
        if first != nil || isEnded { return true }
        return await answer.hasArrived(within: duration)
    }

    /// The next event, or for an answer without events the next bytes; nil at the end. Throws what
    /// the task ended with.
    mutating func next() async throws(HTTPFault) -> [UInt8]? {
        if let event = first {
            first = nil
            return event
        }
        return isEnded ? nil : try await read()
    }

    /// What can be read without waiting.
    enum Arrived {
        case event([UInt8])
        case nothing
        case end
    }

    /// The next event, without waiting for it. Throws what the task ended with.
    mutating func nextArrived() throws(HTTPFault) -> Arrived {
        if let event = first {
            first = nil
            return .event(event)
        }
        guard !isEnded else { return .end }
        do throws(SluiceError) {
            while true {
                switch try iterator.nextArrived() {
                case .nothing: return .nothing
                case .end:
                    isEnded = true
                    return .end
                case .piece(let chunk):
                    guard chunk.isError else { return .event(chunk.bytes) }
                    keepEngineBody(chunk)
                }
            }
        } catch {
            throw fault(error)
        }
    }

    /// Calls `body` whenever `nextArrived` has something new to say; nil ends that.
    func whenReady(_ body: (@Sendable () -> Void)?) {
        answer.whenReady(body)
    }

    /// Cancels the task; `nextArrived` says so.
    func cancel() {
        answer.cancel()
    }

    private mutating func read() async throws(HTTPFault) -> [UInt8]? {
        do throws(SluiceError) {
            while let chunk = try await iterator.next() {
                guard chunk.isError else { return chunk.bytes }
                keepEngineBody(chunk)
            }
            return nil
        } catch {
            throw fault(error)
        }
    }

    private mutating func keepEngineBody(_ chunk: AnswerChunk) {
        // Bounded by [P16] at the supplier; by this where a supplier breaks it.
        if engineBody.count <= 65_536 { engineBody += chunk.bytes }
    }

    private func fault(_ error: SluiceError) -> HTTPFault {
        switch error.code {
        case .unauthenticated?, .forbidden?: lease.keyWasRefused(error.code ?? .forbidden)
        default: break
        }
        return HTTPFault(error, engineBody: engineBody)
    }
}
