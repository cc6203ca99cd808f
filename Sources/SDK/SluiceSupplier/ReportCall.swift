import SluiceSession
import SluiceTransport
import SluiceWire
import Synchronization

extension SluiceSupplier {
    /// Asks one broker (`host:port`) how the supplier of this credential stands. Uses a connection of
    /// its own that offers nothing, so that no task can come; a worker may run at the same time.
    public static func report(
        from broker: String, credential: BrokerCredential, trust: BrokerTrust = .systemRoots
    ) async throws(ReportError) -> SupplyReport {
        let answer: Result<SupplyReport, ReportError>
        do throws(TransportError) {
            answer = try await report(
                from: broker, credential: credential,
                environment: .system(trust: trust, credential: credential))
        } catch {
            throw .transport(error)
        }
        return try answer.get()
    }

    /// The same over a transport and clock of the caller's. The inner error says what the broker
    /// did, the thrown one that there was no connection.
    package static func report(
        from broker: String, credential: BrokerCredential, environment: SessionEnvironment
    ) async throws(TransportError) -> Result<SupplyReport, ReportError> {
        let pipe = try await environment.connector.dial(try BrokerAddress(broker))
        let call = ReportCall()
        let session = SupplierSession(
            credential.handshake(.supplier, agent: agent, bodyCreditBytes: bodyCreditBytes))
        let link = SupplierLink(session: session, clock: environment.clock) { link, events in
            call.handle(events, of: link)
        }
        let carrying = Task { await link.run(over: pipe) }
        let asking = Task { await call.ask(again: environment.clock, on: link) }
        let result = await call.result()
        asking.cancel()
        link.perform { $0.close() }
        await carrying.value
        return result
    }
}

/// One question, asked until it is answered.
private final class ReportCall: Sendable {
    private struct State {
        var rows: [ReportFrame] = []
        var isOpen = false
        var result: Result<SupplyReport, ReportError>?
        var waiter: CheckedContinuation<Result<SupplyReport, ReportError>, Never>?
    }

    /// A broker answers one supplier once a second, and a running worker may have asked as well.
    private static let pauseMs = WireLimits.reportPauseMs + 100
    private static let attempts = 5
    private static let handshakeMs: UInt64 = 12_000

    private let state = Mutex(State())

    func result() async -> Result<SupplyReport, ReportError> {
        await withCheckedContinuation { waiter in
            let known = state.withLock { state in
                if state.result == nil { state.waiter = waiter }
                return state.result
            }
            if let known { waiter.resume(returning: known) }
        }
    }

    func handle(_ events: [SupplierSession.Event], of link: SupplierLink) {
        for event in events {
            switch event {
            case .connected: state.withLock { $0.isOpen = true }
            case .reported(let row): take(row)
            case .lost(.peerError(let code)): finish(.failure(.refused(code)))
            case .lost: finish(.failure(.transport(.closed)))
            case .assigned, .writable, .cancelled, .overdue, .finished, .draining, .abandoned:
                break
            }
        }
    }

    /// Asks once WELCOME is there, and again while no answer comes.
    func ask(again clock: any SessionClock, on link: SupplierLink) async {
        let startMs = clock.nowMs
        while !state.withLock({ $0.isOpen || $0.result != nil }) {
            await clock.sleep(10)
            guard !Task.isCancelled, clock.nowMs < startMs + Self.handshakeMs else { return }
        }
        for question in 1...UInt32(Self.attempts) {
            link.command { $0.ask(question: question) }
            await clock.sleep(Self.pauseMs)
            guard !Task.isCancelled else { return }
        }
        finish(.failure(.notTold))
    }

    private func take(_ row: ReportFrame) {
        let report = state.withLock { state in
            if state.rows.last?.question != row.question { state.rows = [] }
            // Its longest answer, with room for what later versions may tell.
            guard state.rows.count < 4_096 else { return nil as SupplyReport? }
            state.rows.append(row)
            return row.rowsLeft == 0 ? SupplyReport(state.rows) : nil
        }
        if let report { finish(.success(report)) }
    }

    private func finish(_ result: Result<SupplyReport, ReportError>) {
        let waiter = state.withLock { state in
            guard state.result == nil else {
                return nil as CheckedContinuation<Result<SupplyReport, ReportError>, Never>?
            }
            state.result = result
            defer { state.waiter = nil }
            return state.waiter
        }
        waiter?.resume(returning: result)
    }
}
