import SluiceSession
import SluiceTransport
import SluiceWire
import Synchronization

/// The client behind its public face: one connection at a time, to one of the brokers, and the
/// tasks that wait for it. Any thread.
///
/// Locks are taken in the order core, session, tasks of a connection, task; events are handed on
/// with none held.
final class ClientCore: Sendable {
    /// One connection and the tasks on it.
    final class Connection: Sendable {
        let link: ClientLink
        let broker: BrokerAddress
        /// By the serial of their stream.
        let tasks = Mutex<[UInt64: ClientTask]>([:])
        /// Rung when the connection takes no more tasks.
        let retired = Doorbell()
        let wasWelcomed = Atomic(false)
        /// GO-AWAY came.
        let wasDrained = Atomic(false)

        init(link: ClientLink, broker: BrokerAddress) {
            self.link = link
            self.broker = broker
        }
    }

    private struct State {
        /// The connection that takes tasks.
        var current: Connection?
        /// Every connection that still carries something.
        var live: [Connection] = []
        /// Tasks that wait for a connection or a stream, oldest first.
        var waiting: [ClientTask] = []
        var isClosed = false
    }

    /// Tasks that may wait for a connection or a stream.
    static let waitingMax = 65_536

    let configuration: SluiceClient.Configuration
    let environment: SessionEnvironment
    private let brokers: [BrokerAddress]
    private let state = Mutex(State())

    init(
        _ configuration: SluiceClient.Configuration, environment: SessionEnvironment
    ) throws(TransportError) {
        self.configuration = configuration
        self.environment = environment
        var brokers: [BrokerAddress] = []
        for text in configuration.brokers { brokers.append(try BrokerAddress(text)) }
        guard !brokers.isEmpty else { throw .invalidAddress("") }
        self.brokers = brokers
    }

    // MARK: Tasks

    func submit(_ request: TaskRequest) -> ClientTask {
        let nowMs = environment.clock.nowMs
        guard let submission = request.submission(nowMs: nowMs) else {
            let empty = Submission(
                terms: TaskTerms(
                    operation: request.operation, encoding: request.encoding, bodyBytes: 0),
                model: Self.noModel, body: [], windowBytes: 1)
            let task = ClientTask(empty, expiresMs: nowMs)
            task.ended(.failure(.refused(.invalidRequest)))
            return task
        }
        let task = ClientTask(
            submission, expiresMs: submission.expiresMs ?? nowMs + UInt64(WireLimits.deadlineMsMax))
        let refusal = state.withLock { state -> SluiceError? in
            guard !state.isClosed else { return .cancelled(Receipt()) }
            guard state.waiting.count < Self.waitingMax else {
                return .rejected(Rejection(code: .queueFull))
            }
            state.waiting.append(task)
            pump(&state)
            return nil
        }
        if let refusal { task.ended(.failure(refusal)) }
        return task
    }

    /// A name for tasks that never leave this process.
    private static let noModel: ModelName = {
        guard let name = ModelName("-") else { preconditionFailure("a dash is a name") }
        return name
    }()

    /// Gives waiting tasks streams while there are any.
    private func pump(_ state: inout State) {
        guard let connection = state.current else { return }
        var taken = 0
        defer { state.waiting.removeFirst(taken) }
        while taken < state.waiting.count {
            let task = state.waiting[taken]
            guard let submission = task.waiting else {
                taken += 1
                continue
            }
            let refusal = connection.link.command { session -> ClientSession.SubmitRefusal? in
                do throws(ClientSession.SubmitRefusal) {
                    let handle = try session.submit(submission)
                    guard task.open(connection.link, handle) else {
                        session.cancel(handle)
                        return nil
                    }
                    connection.tasks.withLock { $0[handle.serial] = task }
                    return nil
                } catch {
                    return error
                }
            }
            switch refusal {
            case nil: taken += 1
            case .bodyTooLarge:
                task.ended(.failure(.refused(.bodyTooLarge)))
                taken += 1
            case .notOpen, .noFreeStream: return
            }
        }
    }

    private func pump() {
        state.withLock { pump(&$0) }
    }

    /// Ends the tasks whose deadline passed while they waited.
    private func expire() {
        let nowMs = environment.clock.nowMs
        let expired = state.withLock { state in
            let expired = state.waiting.filter { $0.expiresMs <= nowMs || $0.waiting == nil }
            if !expired.isEmpty {
                state.waiting.removeAll { $0.expiresMs <= nowMs || $0.waiting == nil }
            }
            return expired
        }
        for task in expired { task.ended(.failure(.deadlineExceeded(Receipt()))) }
    }

    // MARK: Life

    /// Keeps a connection up until `close`.
    func run() async {
        await withDiscardingTaskGroup { group in
            group.addTask { await self.keepTime() }
            var backoff = ReconnectBackoff()
            var attempt = Int(truncatingIfNeeded: environment.random() >> 1)
            while !isClosed {
                let broker = brokers[attempt % brokers.count]
                attempt = (attempt + 1) % brokers.count
                if let connection = await connect(to: broker, in: &group) {
                    await connection.retired.wait()
                    if connection.wasWelcomed.load(ordering: .relaxed) { backoff.succeeded() }
                    if connection.wasDrained.load(ordering: .relaxed), brokers.count == 1 {
                        await letSuppliersGoFirst()
                        continue
                    }
                }
                guard !isClosed else { break }
                await environment.clock.sleep(
                    backoff.nextDelayMs(random: environment.random()))
            }
        }
    }

    /// The successor of a broker that drained has no model until suppliers have come over, which
    /// takes them up to 200 ms. Tasks wait here meanwhile; there they would be refused.
    private func letSuppliersGoFirst() async {
        await environment.clock.sleep(1_000 + environment.random() % 500)
    }

    private var isClosed: Bool { state.withLock { $0.isClosed } }

    private func keepTime() async {
        while !isClosed {
            await environment.clock.sleep(200)
            expire()
        }
    }

    private func connect(
        to broker: BrokerAddress, in group: inout DiscardingTaskGroup
    ) async -> Connection? {
        let pipe: any BytePipe
        do throws(TransportError) {
            pipe = try await environment.connector.dial(broker)
        } catch {
            configuration.onEvent?(.disconnected(broker: "\(broker)", reason: "\(error)"))
            return nil
        }
        let session = ClientSession(
            configuration.credential.handshake(.client, agent: SluiceClient.agent))
        let owner = Mutex<Connection?>(nil)
        let link = ClientLink(session: session, clock: environment.clock) { _, events in
            guard let connection = owner.withLock({ $0 }) else { return }
            self.handle(events, of: connection)
        }
        let connection = Connection(link: link, broker: broker)
        owner.withLock { $0 = connection }
        let isClosed = state.withLock { state in
            state.live.append(connection)
            return state.isClosed
        }
        if isClosed { link.perform { $0.close() } }
        group.addTask {
            await link.run(over: pipe)
            owner.withLock { $0 = nil }
        }
        return connection
    }

    /// Ends every task and every connection.
    func close() {
        let (live, waiting) = state.withLock { state in
            state.isClosed = true
            defer { state.waiting = [] }
            return (state.live, state.waiting)
        }
        for task in waiting { task.cancel() }
        for connection in live {
            let tasks = connection.tasks.withLock { Array($0.values) }
            for task in tasks { task.ended(.failure(.cancelled(task.receipt))) }
            connection.link.perform { $0.close() }
        }
    }

    // MARK: Events

    private func handle(_ events: [ClientSession.Event], of connection: Connection) {
        for event in events {
            switch event {
            case .connected:
                connection.wasWelcomed.store(true, ordering: .relaxed)
                state.withLock { state in
                    state.current = connection
                    pump(&state)
                }
                configuration.onEvent?(.connected(broker: "\(connection.broker)"))
            case .accepted(let handle, let id, _):
                connection.task(handle)?.accepted(id)
            case .chunk(let handle, let payload, let tokens, let flags):
                connection.task(handle)?.arrived(
                    AnswerFrame(payload: payload, tokens: tokens, flags: flags))
            case .ended(let handle, let id, let end):
                connection.removeTask(handle)?.ended(Self.result(end, id))
                closeIfDrained(connection)
            case .streamFree: pump()
            case .draining:
                connection.wasDrained.store(true, ordering: .relaxed)
                retire(connection)
                closeIfDrained(connection)
            case .abandoned(let handle, let id, let usage, let unsent):
                guard let task = connection.removeTask(handle) else { continue }
                abandon(task, Receipt(task: id, usage: usage), unsent)
                closeIfDrained(connection)
            case .lost(let loss): lost(connection, loss)
            }
        }
    }

    private static func result(
        _ end: EndFrame, _ id: TaskID?
    ) -> Result<Completion, SluiceError> {
        if let error = SluiceError(end, task: id) { return .failure(error) }
        // A session reports `completed` for accepted tasks only.
        guard let id else { return .failure(.connectionLost(Receipt())) }
        return .success(
            Completion(
                task: id, usage: end.usage, cost: end.cost, finishReason: end.finishReason))
    }

    private func abandon(_ task: ClientTask, _ receipt: Receipt, _ unsent: Submission?) {
        if let unsent, task.reopen(unsent) {
            let isClosed = state.withLock { state in
                guard !state.isClosed else { return true }
                state.waiting.insert(task, at: 0)
                pump(&state)
                return false
            }
            guard isClosed else { return }
        }
        task.ended(.failure(.connectionLost(receipt)))
    }

    private func lost(_ connection: Connection, _ loss: ConnectionLoss) {
        state.withLock { state in
            state.live.removeAll { $0 === connection }
        }
        retire(connection)
        configuration.onEvent?(
            .disconnected(broker: "\(connection.broker)", reason: "\(loss)"))
        guard loss.isRefusalForGood else { return }
        let refused = state.withLock { state in
            defer { state.waiting = [] }
            return state.waiting
        }
        for task in refused { task.ended(.failure(.refused(loss.code))) }
    }

    /// The connection takes no more tasks: time for the next one.
    private func retire(_ connection: Connection) {
        state.withLock { state in
            if state.current === connection { state.current = nil }
        }
        connection.retired.ring()
    }

    private func closeIfDrained(_ connection: Connection) {
        let isDrained = connection.link.command { !$0.takesTasks && $0.openStreamCount == 0 }
        if isDrained { connection.link.perform { $0.close() } }
    }
}

extension ClientCore.Connection {
    fileprivate func task(_ handle: StreamHandle) -> ClientTask? {
        tasks.withLock { $0[handle.serial] }
    }

    fileprivate func removeTask(_ handle: StreamHandle) -> ClientTask? {
        tasks.withLock { $0.removeValue(forKey: handle.serial) }
    }
}
