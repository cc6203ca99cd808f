package import SluiceTransport
public import SluiceWire

/// A supplier of a Sluice deployment: connects out to its brokers, offers models, and runs the
/// tasks that come.
///
///     try await SluiceSupplier(brokers: ["broker:7700"], token: token, offers: [offer]) {
///         task, out in
///         for piece in engine.run(task.payload) { try await out.write(piece, tokens: 1) }
///         return Usage(inputTokens: 12, outputTokens: 3)
///     }.run()
public struct SluiceSupplier: Sendable {
    /// Runs one task: writes the answer to the writer and returns what was used. Cancelled, by
    /// Swift's task cancellation and by the next write, when the broker cancels the task. May
    /// throw `TaskFailure`; any other error ends the task as `supplierFailed`.
    public typealias Handler = @Sendable (SupplierTask, AnswerWriter) async throws -> Usage

    /// How a supplier connects and drains.
    public struct Configuration: Sendable {
        /// Whose certificates the brokers' certificates may come from.
        public var trust: BrokerTrust
        /// Tasks that may run at once over all offers and brokers together, for offers that share
        /// one engine; nil = the sum of the offers' slots.
        public var slots: Int?
        /// How long running tasks may go on once the supplier drains.
        public var drainTime: Duration
        /// Told what happens, for a log; called from any thread, must not block.
        public var onEvent: (@Sendable (SupplierEvent) -> Void)?

        /// Makes a configuration.
        public init(
            trust: BrokerTrust = .systemRoots, slots: Int? = nil,
            drainTime: Duration = .seconds(30),
            onEvent: (@Sendable (SupplierEvent) -> Void)? = nil
        ) {
            self.trust = trust
            self.slots = slots
            self.drainTime = drainTime
            self.onEvent = onEvent
        }
    }

    static let agent = "sluice-swift/1"
    /// Body bytes that may be on their way to one task at once.
    static let bodyCreditBytes: UInt64 = 262_144

    private let core: Result<SupplierCore, TransportError>

    /// Makes a supplier that connects to every one of `brokers` (`host:port`) and splits its slots
    /// over those it reaches.
    public init(
        brokers: [String], token: String, offers: [Offer],
        configuration: Configuration = Configuration(), _ handler: @escaping Handler
    ) {
        self.init(
            brokers: brokers, credential: .secret(token), offers: offers,
            configuration: configuration, handler)
    }

    /// The same with a token or a certificate.
    public init(
        brokers: [String], credential: BrokerCredential, offers: [Offer],
        configuration: Configuration = Configuration(), _ handler: @escaping Handler
    ) {
        core = Self.makeCore(brokers, credential, offers, configuration, handler) {
            () throws(TransportError) in
            try .system(trust: configuration.trust, credential: credential)
        }
    }

    /// The same over a transport and clock of the caller's.
    package init(
        brokers: [String], token: String, offers: [Offer],
        configuration: Configuration = Configuration(), environment: SessionEnvironment,
        _ handler: @escaping Handler
    ) {
        core = Self.makeCore(brokers, .secret(token), offers, configuration, handler) {
            environment
        }
    }

    private static func makeCore(
        _ brokers: [String], _ credential: BrokerCredential, _ offers: [Offer],
        _ configuration: Configuration, _ handler: @escaping Handler,
        environment: () throws(TransportError) -> SessionEnvironment
    ) -> Result<SupplierCore, TransportError> {
        do throws(TransportError) {
            var addresses: [BrokerAddress] = []
            for text in brokers { addresses.append(try BrokerAddress(text)) }
            guard !addresses.isEmpty else { throw .invalidAddress("") }
            return .success(
                SupplierCore(
                    brokers: addresses, credential: credential, offers: offers,
                    configuration: configuration, environment: try environment(),
                    handler: handler))
        } catch {
            return .failure(error)
        }
    }

    /// Serves until the calling task is cancelled or `drain` is called; then lets running tasks
    /// end. Throws at once for a configuration that cannot work. Called once. Fits the `run()` of
    /// a service in swift-service-lifecycle.
    public func run() async throws(TransportError) {
        let core = try core.get()
        await withTaskCancellationHandler {
            await core.run()
        } onCancel: {
            core.drain()
        }
    }

    /// Replaces the offers while the supplier runs; running tasks go on. A supplier whose engine
    /// vanished withdraws by an empty list. An offer with a field out of range is left out and
    /// reported to `onEvent`.
    public func update(offers: [Offer]) async {
        guard case .success(let core) = core else { return }
        core.update(offers)
    }

    /// The same, and how many tasks may run at once over all offers and brokers together from now
    /// on; nil = the sum of the offers' slots.
    public func update(offers: [Offer], slots: Int?) async {
        guard case .success(let core) = core else { return }
        core.update(offers, slots: .some(slots))
    }

    /// Takes no more tasks; `run` returns once the running ones are done, at the latest after
    /// `drainTime`.
    public func drain() {
        guard case .success(let core) = core else { return }
        core.drain()
    }
}
