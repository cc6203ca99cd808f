import SluiceBrokerCore
import SluiceInMemory
import SluiceRecordFormat
import SluiceSession
import SluiceTransport
import SluiceWire
import Synchronization

/// A broker in memory and the pipes of those who dialled it. Any thread; one lock, under which
/// bytes, turns and faults happen one after the other.
final class FakeNetwork: Connector {
    static let clientAddress = "client:1"
    static let clientKey = "test key"
    private static let wallUs: UInt64 = 1_790_000_000_000_000

    private struct Line {
        let pipe: MemoryPipe
        /// Number of the supplier; nil for a client.
        let supplier: Int?
        /// Cuts what a supplier sends into frames, so that a loss strikes between two.
        var assembler = FrameAssembler()
    }

    private struct State: ~Copyable {
        var broker: InMemoryBroker
        var lines: [UInt32: Line] = [:]
        var suppliers = 0
        /// Suppliers whose first slots are not granted yet: until then clients wait.
        var awaited: Set<Int> = []
        var held: [(connection: UInt32, bytes: [UInt8])] = []
        /// Cut the supplier that sends this many tokens more.
        var tokensUntilLoss: Int?
    }

    private let state: Mutex<State>
    let clock = FakeClock()

    init() {
        var limits = BrokerLimits()
        limits.connections = 64
        limits.openTasks = 4_096
        let nowMs = clock.nowMs
        let credentials = [
            DirectoryCredential(
                digest: InMemoryBroker.digest(of: Array(Self.clientKey.utf8)), account: 1,
                role: .client)
        ]
        state = Mutex(
            State(
                broker: InMemoryBroker(
                    limits: limits, instance: InMemoryInstance(id: 1, capacity: 65_536),
                    credentials: credentials, seed: 1, nowUs: nowMs * 1_000,
                    wallUs: Self.wallUs)))
    }

    var environment: SessionEnvironment {
        // The shortest of every random wait: a reconnect happens at once.
        SessionEnvironment(connector: self, clock: clock, random: { 0 })
    }

    /// Address and token of another supplier, for which clients wait from now on.
    func addSupplier() -> (address: String, token: String) {
        state.withLock { state in
            state.suppliers += 1
            let token = "supplier \(state.suppliers)"
            state.awaited.insert(state.suppliers)
            state.broker.credentialChanged(
                DirectoryCredential(
                    digest: InMemoryBroker.digest(of: Array(token.utf8)), account: 2,
                    role: .supplier, supplier: UInt64(state.suppliers)),
                wallUs: Self.wallUs)
            return ("supplier:\(state.suppliers)", token)
        }
    }

    // MARK: Connections

    func dial(_ address: BrokerAddress) async throws(TransportError) -> any BytePipe {
        let (near, far) = MemoryPipe.pair()
        let connection = state.withLock { state -> UInt32? in
            guard let connection = state.broker.connect(nowUs: nowUs) else { return nil }
            state.lines[connection] = Line(
                pipe: far, supplier: address.host == "supplier" ? address.port : nil)
            return connection
        }
        guard let connection else { throw .unreachable }
        Task {
            while let bytes = await far.receive() { received(bytes, on: connection, far) }
            gone(connection, far)
        }
        return near
    }

    private func received(_ bytes: [UInt8], on connection: UInt32, _ pipe: MemoryPipe) {
        state.withLock { state in
            guard state.lines[connection]?.pipe === pipe else { return }
            guard let supplier = state.lines[connection]?.supplier else {
                guard state.awaited.isEmpty else {
                    return state.held.append((connection, bytes))
                }
                state.broker.receive(connection, bytes, nowUs: nowUs)
                return turn(&state)
            }
            state.lines[connection]?.assembler.append(bytes)
            while let frame = (try? state.lines[connection]?.assembler.next()) ?? nil {
                deliver(frame, of: supplier, on: connection, &state)
            }
        }
    }

    private func deliver(
        _ frame: ReceivedFrame, of supplier: Int, on connection: UInt32, _ state: inout State
    ) {
        var bytes: [UInt8] = []
        frame.header.encode(into: &bytes)
        state.broker.receive(connection, bytes + frame.payload, nowUs: nowUs)
        turn(&state)
        if frame.header.kind == .grant, state.awaited.remove(supplier) != nil,
            state.awaited.isEmpty
        {
            releaseHeld(&state)
        }
        guard frame.header.kind == .tokens, let left = state.tokensUntilLoss else { return }
        let isLost = left <= Int(frame.header.increment)
        state.tokensUntilLoss = isLost ? nil : left - Int(frame.header.increment)
        if isLost { cut(connection, &state) }
    }

    private func releaseHeld(_ state: inout State) {
        let held = state.held
        state.held = []
        for (connection, bytes) in held where state.lines[connection] != nil {
            state.broker.receive(connection, bytes, nowUs: nowUs)
            turn(&state)
        }
    }

    private func gone(_ connection: UInt32, _ pipe: MemoryPipe) {
        state.withLock { state in
            guard state.lines[connection]?.pipe === pipe else { return }
            cut(connection, &state)
        }
    }

    private func cut(_ connection: UInt32, _ state: inout State) {
        guard let line = state.lines.removeValue(forKey: connection) else { return }
        state.broker.disconnected(connection, nowUs: nowUs)
        line.pipe.shut()
        turn(&state)
    }

    // MARK: Turns

    private var nowUs: UInt64 { clock.nowMs * 1_000 }

    /// Turns of the broker until it has nothing more to say.
    private func turn(_ state: inout State) {
        var isBusy = true
        while isBusy {
            isBusy = false
            state.broker.turn(nowUs: nowUs, wallUs: Self.wallUs + nowUs)
            state.broker.instance.release()
            for connection in state.lines.keys.sorted() {
                let bytes = state.broker.take(connection, atMost: .max)
                if !bytes.isEmpty {
                    isBusy = true
                    // A peer that is gone is noticed by its reader.
                    try? state.lines[connection]?.pipe.sendNow(bytes)
                }
                guard !state.broker.isOpen(connection) else { continue }
                state.lines.removeValue(forKey: connection)?.pipe.shut()
            }
        }
    }

    // MARK: Faults

    func loseSupplier(afterTokens tokens: Int) {
        state.withLock { state in
            state.tokensUntilLoss = tokens
            guard tokens == 0 else { return }
            state.tokensUntilLoss = nil
            for connection in state.lines.keys.sorted()
            where state.lines[connection]?.supplier != nil { cut(connection, &state) }
        }
    }

    func loseClient() {
        state.withLock { state in
            for connection in state.lines.keys.sorted()
            where state.lines[connection]?.supplier == nil { cut(connection, &state) }
        }
    }

    func drain() {
        state.withLock { state in
            state.broker.drain(nowUs: nowUs)
            turn(&state)
        }
    }

    /// Lets time pass in steps, so that everyone acts when it would.
    func advance(_ durationMs: UInt64) async {
        var leftMs = durationMs
        while leftMs > 0 {
            let stepMs = min(leftMs, 100)
            leftMs -= stepMs
            clock.advance(stepMs)
            state.withLock { turn(&$0) }
            for _ in 0..<10 { await Task.yield() }
        }
    }
}
