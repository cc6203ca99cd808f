package import EventLoopTasks
package import SluiceClient
package import SluiceWire
import Synchronization

/// One client of the broker for each API key and event loop that are in use, found by the key's
/// hash. Bounded: those nobody has used for a while are closed, and where all are in use a new key
/// is turned away. Any thread.
package final class ClientPool: Sendable {
    /// Limits of a pool.
    package struct Limits: Sendable {
        /// Clients at once.
        package var clientsMax = 1_024
        /// A client that nobody has used for so long is closed.
        package var idleTime = Duration.seconds(60)
        /// A key that the broker refused is refused here for so long without asking again.
        package var refusalTime = Duration.seconds(5)
        /// Refused keys that are remembered.
        package var refusalsMax = 4_096

        /// All defaults.
        package init() {}
    }

    /// Whose client it is, and on which loop.
    fileprivate struct Place: Hashable {
        let hash: [UInt8]
        let loop: ObjectIdentifier?
    }

    /// What the pool holds of one key on one loop.
    fileprivate final class Entry: Sendable {
        let client: SluiceClient
        let connection: ConnectionState
        /// Ending it closes the client.
        let closer: AsyncStream<Void>.Continuation

        init(
            client: SluiceClient, connection: ConnectionState,
            closer: AsyncStream<Void>.Continuation
        ) {
            (self.client, self.connection, self.closer) = (client, connection, closer)
        }
    }

    fileprivate struct Use {
        var entry: Entry
        var users = 0
        var lastUsed = ContinuousClock.now
    }

    /// What the broker said of a key, and until when that is believed.
    fileprivate struct Refusal {
        var code: WireCode
        var until: ContinuousClock.Instant
    }

    fileprivate struct State {
        var uses: [Place: Use] = [:]
        var refused: [[UInt8]: Refusal] = [:]
        var isClosed = false
    }

    private let brokers: [String]
    private let trust: BrokerTrust
    private let limits: Limits
    private let state = Mutex(State())

    package init(brokers: [String], trust: BrokerTrust, limits: Limits = Limits()) {
        (self.brokers, self.trust, self.limits) = (brokers, trust, limits)
    }

    /// Clients that are open.
    package var count: Int { state.withLock { $0.uses.count } }

    /// A client for a key, to be let go with the lease; its connection is on the executor's loop.
    /// Throws a fault: 401 for a key that was refused just now, 503 where there are too many keys.
    package func lease(
        _ key: String, on executor: EventLoopExecutor? = nil
    ) async throws(HTTPFault) -> ClientLease {
        let place = Place(
            hash: SHA256.digest(Array(key.utf8)), loop: executor.map { ObjectIdentifier($0) })
        if let lease = try existing(place) { return lease }
        let entry = try await open(key, on: executor)
        let used = state.withLock { $0.add(entry, place, clientsMax: limits.clientsMax) }
        if used !== entry { entry.closer.finish() }
        guard let used else { throw .overloaded }
        return ClientLease(self, place, used)
    }

    private func existing(_ place: Place) throws(HTTPFault) -> ClientLease? {
        let hash = place.hash
        let now = ContinuousClock.now
        let (entry, refusal) = state.withLock { state -> (Entry?, HTTPFault?) in
            if state.isClosed { return (nil, .overloaded) }
            if let refusal = state.refused[hash] {
                if refusal.until > now { return (nil, HTTPFault(.refused(refusal.code))) }
                state.refused[hash] = nil
            }
            return (state.use(place), nil)
        }
        if let refusal { throw refusal }
        return entry.map { ClientLease(self, place, $0) }
    }

    private func open(
        _ key: String, on executor: EventLoopExecutor?
    ) async throws(HTTPFault) -> Entry {
        let connection = ConnectionState()
        let configuration = SluiceClient.Configuration(
            brokers: brokers, key: key, trust: trust, onEvent: { connection.note($0) })
        let (closed, closer) = AsyncStream<Void>.makeStream()
        do {
            return try await withCheckedThrowingContinuation { opened in
                Task {
                    do {
                        try await SluiceClient.withClient(
                            configuration, executor: executor
                        ) { client in
                            opened.resume(
                                returning: Entry(
                                    client: client, connection: connection, closer: closer))
                            for await _ in closed {}
                        }
                    } catch {
                        // Only a configuration that cannot work, before the body ran.
                        opened.resume(throwing: error)
                    }
                }
            }
        } catch {
            throw .noBroker
        }
    }

    fileprivate func release(_ place: Place, _ entry: Entry) {
        state.withLock { state in
            // Another client may have taken the place of one whose key was refused.
            guard state.uses[place]?.entry === entry else { return }
            state.uses[place]?.users -= 1
            state.uses[place]?.lastUsed = .now
        }
    }

    /// The broker does not take the key: it is not asked again at once, and its clients, which
    /// would go on trying, are closed.
    fileprivate func refuse(_ hash: [UInt8], _ code: WireCode) {
        let now = ContinuousClock.now
        state.withLock { state in
            for place in state.uses.keys where place.hash == hash {
                state.uses.removeValue(forKey: place)?.entry.closer.finish()
            }
            if state.refused.count >= limits.refusalsMax {
                state.refused = state.refused.filter { $0.value.until > now }
            }
            guard state.refused.count < limits.refusalsMax else { return }
            state.refused[hash] = Refusal(code: code, until: now + limits.refusalTime)
        }
    }

    /// Closes what nobody has used for the idle time.
    package func closeIdle() {
        let now = ContinuousClock.now
        state.withLock { state in
            let idle = state.uses.filter {
                $0.value.users == 0 && now - $0.value.lastUsed >= limits.idleTime
            }
            for place in idle.keys { state.uses.removeValue(forKey: place)?.entry.closer.finish() }
            state.refused = state.refused.filter { $0.value.until > now }
        }
    }

    /// Closes every client; open tasks are cancelled.
    package func close() {
        state.withLock { state in
            state.isClosed = true
            for use in state.uses.values { use.entry.closer.finish() }
            state.uses = [:]
        }
    }
}

extension ClientPool.State {
    /// Counts one more user of the client of this place, if there is one.
    fileprivate mutating func use(_ place: ClientPool.Place) -> ClientPool.Entry? {
        guard let entry = uses[place]?.entry else { return nil }
        uses[place]?.users += 1
        return entry
    }

    /// Takes a new client in and uses it, or the one that another request has added meanwhile; nil
    /// where there is no room, or no more use.
    fileprivate mutating func add(
        _ entry: ClientPool.Entry, _ place: ClientPool.Place, clientsMax: Int
    ) -> ClientPool.Entry? {
        guard !isClosed else { return nil }
        if let earlier = use(place) { return earlier }
        if uses.count >= clientsMax {
            guard let idle = longestIdle else { return nil }
            uses.removeValue(forKey: idle)?.entry.closer.finish()
        }
        uses[place] = ClientPool.Use(entry: entry)
        return use(place)
    }

    fileprivate var longestIdle: ClientPool.Place? {
        uses.filter { $0.value.users == 0 }.min { $0.value.lastUsed < $1.value.lastUsed }?.key
    }
}

/// Whether a client has a connection.
package final class ConnectionState: Sendable {
    private let connected = Atomic(false)

    package var isConnected: Bool { connected.load(ordering: .relaxed) }

    package func note(_ event: SluiceClient.ConnectionEvent) {
        switch event {
        case .connected: connected.store(true, ordering: .relaxed)
        case .disconnected: connected.store(false, ordering: .relaxed)
        }
    }
}

/// The use of one client by one request; its client stays open as long as it is held.
package final class ClientLease: Sendable {
    private let pool: ClientPool
    private let place: ClientPool.Place
    private let entry: ClientPool.Entry

    fileprivate init(_ pool: ClientPool, _ place: ClientPool.Place, _ entry: ClientPool.Entry) {
        (self.pool, self.place, self.entry) = (pool, place, entry)
    }

    deinit {
        pool.release(place, entry)
    }

    /// Of the key.
    package var hash: [UInt8] { place.hash }

    package var client: SluiceClient { entry.client }

    /// Whether the client has a connection now.
    package var isConnected: Bool { entry.connection.isConnected }

    /// The broker refused the key, with this code.
    package func keyWasRefused(_ code: WireCode) {
        pool.refuse(hash, code)
    }
}
