public import SluiceClient
public import SluiceSupplier
import Synchronization

/// A whole deployment inside a test: the real broker core, the real client and real suppliers over
/// pipes in memory. No socket, no certificate, and no time but what the test lets pass.
///
///     try await FakeBroker.run { broker in
///         broker.supply("m") { task, out in
///             try await out.write("hi", tokens: 1)
///             return Usage(inputTokens: 1, outputTokens: 1)
///         }
///         broker.loseSupplier(afterTokens: 1)
///         for try await chunk in broker.client.stream(.chat("m", "x")) {}  // throws supplierLost
///     }
///
/// What holds here holds in production, because the rules are the same code. Any thread may use it.
public final class FakeBroker: Sendable {
    /// A client of this broker.
    public let client: SluiceClient

    private let network: FakeNetwork
    private let suppliers = Mutex<[Task<Void, Never>]>([])

    private init(client: SluiceClient, network: FakeNetwork) {
        self.client = client
        self.network = network
    }

    /// Runs `body` with a new broker, on the actor of the caller. When it returns or throws,
    /// everything is stopped: open tasks are cancelled, and handlers with them. Throws what `body`
    /// throws.
    @discardableResult
    public nonisolated(nonsending) static func run<Value: Sendable>(
        _ body: nonisolated(nonsending) (FakeBroker) async throws -> Value
    ) async throws -> Value {
        let network = FakeNetwork()
        return try await SluiceClient.withClient(
            .init(brokers: [FakeNetwork.clientAddress], key: FakeNetwork.clientKey),
            environment: network.environment
        ) { client in
            let broker = FakeBroker(client: client, network: network)
            do {
                let value = try await body(broker)
                await broker.stop()
                return value
            } catch {
                await broker.stop()
                throw error
            }
        }
    }

    private func stop() async {
        network.clock.release()
        let running = suppliers.withLock { $0 }
        for supplier in running { supplier.cancel() }
        for supplier in running { await supplier.value }
    }

    // MARK: Supply

    /// Adds a supplier of one model with `slots` slots. Tasks submitted after this find it.
    public func supply(
        _ model: String, slots: Int = 8, _ handler: @escaping SluiceSupplier.Handler
    ) {
        supply([Offer(model: model, slots: slots)], handler)
    }

    /// Adds a supplier with these offers, each valid and with at least one slot. Tasks submitted
    /// after this find it.
    public func supply(_ offers: [Offer], _ handler: @escaping SluiceSupplier.Handler) {
        precondition(!offers.isEmpty, "a supplier offers something")
        let (address, token) = network.addSupplier()
        let supplier = SluiceSupplier(
            brokers: [address], token: token, offers: offers, environment: network.environment,
            handler)
        let running = Task { [supplier] in
            do {
                try await supplier.run()
            } catch {
                preconditionFailure("an address in memory is valid")
            }
        }
        suppliers.withLock { $0.append(running) }
    }

    // MARK: Faults

    /// The connection of a supplier is lost once suppliers have sent this many tokens from now on;
    /// those tokens still reach the client. With 0 all suppliers are lost at once. A lost
    /// supplier connects again by itself.
    public func loseSupplier(afterTokens tokens: Int = 0) {
        precondition(tokens >= 0)
        network.loseSupplier(afterTokens: tokens)
    }

    /// The client's connection is lost at once. It connects again by itself.
    public func loseClient() {
        network.loseClient()
    }

    /// The broker drains: it takes no new tasks, and ends what still runs after 30 s.
    public func drain() {
        network.drain()
    }

    // MARK: Time

    /// Lets time pass for broker, client and suppliers: deadlines, stalls and keep-alives strike.
    public func advance(by duration: Duration) async {
        let parts = duration.components
        let milliseconds =
            parts.seconds * 1_000 + parts.attoseconds / 1_000_000_000_000_000
        await network.advance(UInt64(max(0, milliseconds)))
    }
}
