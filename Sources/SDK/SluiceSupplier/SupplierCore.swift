import SluiceSession
import SluiceTransport
import SluiceWire
import Synchronization

/// The supplier behind its public face: a connection to each broker, the offers that stand, and
/// the tasks that run. Any thread.
///
/// Locks are taken in the order core, session, tasks of a connection; events are handed on with
/// none held.
final class SupplierCore: Sendable {
    typealias Handler = @Sendable (SupplierTask, AnswerWriter) async throws -> Usage

    /// One connection and the tasks on it.
    final class Connection: Sendable {
        let link: SupplierLink
        let broker: BrokerAddress
        /// By the serial of their stream.
        let tasks = Mutex<[UInt64: RunningTask]>([:])
        /// Rung when no more tasks come from here.
        let retired = Doorbell()
        let wasWelcomed = Atomic(false)

        init(link: SupplierLink, broker: BrokerAddress) {
            self.link = link
            self.broker = broker
        }
    }

    struct RunningTask {
        let id: TaskID
        let writer: AnswerWriter
        var work: Task<Void, Never>?
        /// To be cancelled as soon as `work` is known.
        var isStopped = false
    }

    private struct StandingOffer {
        let id: OfferID
        var offer: Offer
    }

    private struct State {
        var offers: [StandingOffer] = []
        var nextOffer: UInt32 = 1
        /// Connections that were welcomed and take tasks.
        var serving: [Connection] = []
        /// Every connection that still carries something.
        var live: [Connection] = []
        var isDraining = false
        /// Tasks at once over all offers; nil = the sum of their slots.
        var slots: Int?
    }

    let configuration: SluiceSupplier.Configuration
    let environment: SessionEnvironment
    private let credential: BrokerCredential
    private let brokers: [BrokerAddress]
    private let handler: Handler
    private let state = Mutex(State())

    init(
        brokers: [BrokerAddress], credential: BrokerCredential, offers: [Offer],
        configuration: SluiceSupplier.Configuration, environment: SessionEnvironment,
        handler: @escaping Handler
    ) {
        self.brokers = brokers
        self.credential = credential
        self.configuration = configuration
        self.environment = environment
        self.handler = handler
        update(offers, slots: .some(configuration.slots))
    }

    // MARK: Supply

    /// Replaces the offers: what is the same stays, what is gone is withdrawn, what is new or has
    /// new terms is offered under a new id.
    ///
    /// `slots`, where given, replaces how many tasks may run at once over all offers.
    func update(_ offers: [Offer], slots: Int?? = nil) {
        var invalid: [Offer] = []
        state.withLock { state in
            if let slots { state.slots = slots }
            var wanted = offers
            var kept: [StandingOffer] = []
            for var standing in state.offers {
                if let place = wanted.firstIndex(where: { $0.isSame(as: standing.offer) }) {
                    standing.offer = wanted.remove(at: place)
                    kept.append(standing)
                } else {
                    for connection in state.serving {
                        connection.link.command { $0.withdraw(standing.id) }
                    }
                }
            }
            for offer in wanted {
                guard let frame = offer.frame(OfferID(state.nextOffer)),
                    kept.count < WireLimits.offersMax
                else {
                    invalid.append(offer)
                    continue
                }
                kept.append(StandingOffer(id: frame.offer, offer: offer))
                state.nextOffer += 1
                for connection in state.serving { connection.link.command { $0.offer(frame) } }
            }
            state.offers = kept
            grant(&state)
        }
        for offer in invalid { configuration.onEvent?(.offerInvalid(model: offer.model)) }
    }

    /// Splits the slots of every offer over the brokers that are connected.
    private func grant(_ state: inout State) {
        let count = state.serving.count
        for (position, connection) in state.serving.enumerated() {
            func share(of slots: Int) -> Int {
                slots / count + (position < slots % count ? 1 : 0)
            }
            var total = 0
            for standing in state.offers {
                let share = share(of: standing.offer.slots)
                total += share
                connection.link.command { $0.grant(standing.id, slots: UInt32(share)) }
            }
            let shared = state.slots.map { share(of: max(0, $0)) } ?? total
            let bound = UInt32(min(total, shared, Int(WireLimits.slotsMax)))
            connection.link.command { $0.grant(.connection, slots: bound) }
        }
    }

    private func serve(_ connection: Connection) {
        state.withLock { state in
            guard !state.isDraining else { return }
            for standing in state.offers {
                guard let frame = standing.offer.frame(standing.id) else { continue }
                connection.link.command { $0.offer(frame) }
            }
            state.serving.append(connection)
            grant(&state)
        }
    }

    private func stopServing(_ connection: Connection) {
        state.withLock { state in
            guard state.serving.contains(where: { $0 === connection }) else { return }
            state.serving.removeAll { $0 === connection }
            if !state.isDraining { grant(&state) }
        }
        connection.retired.ring()
    }

    // MARK: Life

    /// Keeps a connection to every broker up until `drain`, then until their tasks are done.
    func run() async {
        await withDiscardingTaskGroup { group in
            for broker in brokers {
                group.addTask { await self.keepConnected(to: broker) }
            }
        }
    }

    /// Takes no more tasks; those that run get `drainTime`, then they are cancelled.
    func drain() {
        let connections = state.withLock { state in
            guard !state.isDraining else { return [Connection]() }
            state.isDraining = true
            return state.live
        }
        for connection in connections {
            connection.link.command { $0.drain() }
            closeIfDrained(connection)
        }
        let (seconds, attoseconds) = configuration.drainTime.components
        let graceMs =
            UInt64(clamping: seconds) * 1_000
            + UInt64(clamping: attoseconds / 1_000_000_000_000_000)
        Task {
            await environment.clock.sleep(graceMs)
            for connection in state.withLock({ $0.live }) {
                connection.link.perform { $0.close() }
            }
        }
    }

    private var isDraining: Bool { state.withLock { $0.isDraining } }

    private func keepConnected(to broker: BrokerAddress) async {
        await withDiscardingTaskGroup { group in
            var backoff = ReconnectBackoff()
            while !isDraining {
                if let connection = await connect(to: broker, in: &group) {
                    await connection.retired.wait()
                    if connection.wasWelcomed.load(ordering: .relaxed) { backoff.succeeded() }
                }
                guard !isDraining else { break }
                await environment.clock.sleep(
                    backoff.nextDelayMs(random: environment.random()))
            }
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
        let session = SupplierSession(
            credential.handshake(
                .supplier, agent: SluiceSupplier.agent,
                bodyCreditBytes: SluiceSupplier.bodyCreditBytes))
        let owner = Mutex<Connection?>(nil)
        let link = SupplierLink(session: session, clock: environment.clock) { _, events in
            guard let connection = owner.withLock({ $0 }) else { return }
            self.handle(events, of: connection)
        }
        let connection = Connection(link: link, broker: broker)
        owner.withLock { $0 = connection }
        let isDraining = state.withLock { state in
            state.live.append(connection)
            return state.isDraining
        }
        if isDraining { link.perform { $0.close() } }
        group.addTask {
            await link.run(over: pipe)
            owner.withLock { $0 = nil }
        }
        return connection
    }

    // MARK: Events

    private func handle(_ events: [SupplierSession.Event], of connection: Connection) {
        for event in events {
            switch event {
            case .connected:
                connection.wasWelcomed.store(true, ordering: .relaxed)
                serve(connection)
                configuration.onEvent?(.connected(broker: "\(connection.broker)"))
                closeIfDrained(connection)
            case .assigned(let handle, let assignment): start(handle, assignment, on: connection)
            case .writable(let handle):
                connection.tasks.withLock { $0[handle.serial]?.writer }?.wake()
            case .cancelled(let handle, let code):
                if let id = stop(handle, on: connection) {
                    configuration.onEvent?(.taskCancelled(id, code: code))
                }
            case .overdue(let handle):
                if let id = stop(handle, on: connection) {
                    configuration.onEvent?(.taskOverdue(id))
                }
                closeIfDrained(connection)
            case .draining:
                // The broker closes it: until then tasks that wait there may still come [G3].
                stopServing(connection)
            case .finished: closeIfDrained(connection)
            case .abandoned(let handle): _ = stop(handle, on: connection)
            // Only `report` asks, on a connection of its own.
            case .reported: break
            case .lost(let loss):
                state.withLock { state in state.live.removeAll { $0 === connection } }
                stopServing(connection)
                connection.retired.ring()
                configuration.onEvent?(
                    .disconnected(broker: "\(connection.broker)", reason: "\(loss)"))
            }
        }
    }

    private func closeIfDrained(_ connection: Connection) {
        guard isDraining else { return }
        let isDone = connection.link.command { $0.isOpen && $0.openStreamCount == 0 }
        if isDone { connection.link.perform { $0.close() } }
    }

    // MARK: Tasks

    private func start(
        _ handle: StreamHandle, _ assignment: Assignment, on connection: Connection
    ) {
        let model = state.withLock { state in
            state.offers.first { $0.id == assignment.offer }?.offer.model
        }
        guard let model else {
            connection.link.perform { $0.end(handle, code: .declined) }
            return
        }
        let writer = AnswerWriter(
            link: connection.link, handle: handle, form: AnswerForm(assignment.terms))
        connection.tasks.withLock {
            $0[handle.serial] = RunningTask(id: assignment.task, writer: writer)
        }
        configuration.onEvent?(.taskStarted(assignment.task, model: model))
        let task = SupplierTask(assignment, model: model, clock: environment.clock)
        let work = Task { await run(task, writer, handle, on: connection) }
        let isStopped = connection.tasks.withLock { tasks in
            tasks[handle.serial]?.work = work
            return tasks[handle.serial]?.isStopped ?? false
        }
        if isStopped { work.cancel() }
    }

    private func run(
        _ task: SupplierTask, _ writer: AnswerWriter, _ handle: StreamHandle,
        on connection: Connection
    ) async {
        var code = WireCode.completed
        var usage: Usage?
        do {
            usage = try await handler(task, writer)
        } catch let failure as TaskFailure {
            code = failure.code.code
            usage = failure.usage
        } catch {
            code = .supplierFailed
        }
        if code != .completed {
            if case .cancelled(let reason) = connection.link.command({ $0.state(of: handle) }) {
                code = reason
            } else if task.deadlineRemaining == .zero {
                // It stopped by itself because its time is over, before the broker said so [D5].
                code = .deadlineExceeded
            }
        }
        let claim = connection.link.command {
            $0.end(handle, code: code, finishReason: writer.finishReason, usage: usage)
        }
        _ = connection.tasks.withLock { $0.removeValue(forKey: handle.serial) }
        configuration.onEvent?(
            .taskEnded(task.id, code: code, outputTokens: claim.outputTokens))
        closeIfDrained(connection)
    }

    private func stop(_ handle: StreamHandle, on connection: Connection) -> TaskID? {
        let running = connection.tasks.withLock { tasks in
            tasks[handle.serial]?.isStopped = true
            return tasks[handle.serial]
        }
        running?.work?.cancel()
        running?.writer.wake()
        return running?.id
    }
}
