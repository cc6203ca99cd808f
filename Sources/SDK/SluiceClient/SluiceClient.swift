import SluiceSession
package import SluiceTransport
import SluiceWire

/// A client of a Sluice deployment: submits tasks and streams their answers.
///
/// A value that any number of tasks may share. It keeps one connection, which carries many tasks
/// at once, and connects again by itself, elsewhere if it must, with back-off and jitter.
public struct SluiceClient: Sendable {
    /// Where to connect and as whom.
    public struct Configuration: Sendable {
        /// Brokers as `host:port`; the first that answers is used.
        public var brokers: [String]
        /// The account's API key, or a certificate.
        public var credential: BrokerCredential
        /// Whose certificates the brokers' certificates may come from.
        public var trust: BrokerTrust
        /// Told of connections for a log; called from any thread, must not block.
        public var onEvent: (@Sendable (ConnectionEvent) -> Void)?

        /// Makes a configuration with an API key.
        public init(
            brokers: [String], key: String, trust: BrokerTrust = .systemRoots,
            onEvent: (@Sendable (ConnectionEvent) -> Void)? = nil
        ) {
            self.init(brokers: brokers, credential: .secret(key), trust: trust, onEvent: onEvent)
        }

        /// Makes a configuration.
        public init(
            brokers: [String], credential: BrokerCredential, trust: BrokerTrust = .systemRoots,
            onEvent: (@Sendable (ConnectionEvent) -> Void)? = nil
        ) {
            self.brokers = brokers
            self.credential = credential
            self.trust = trust
            self.onEvent = onEvent
        }
    }

    /// What happens to a client's connections.
    public enum ConnectionEvent: Hashable, Sendable {
        /// Tasks go to this broker now.
        case connected(broker: String)
        /// A connection was lost or did not come about; another attempt follows.
        case disconnected(broker: String, reason: String)
    }

    /// Largest answer that `perform` puts together.
    public static let resultBytesMax = 64 * 1_024 * 1_024

    static let agent = "sluice-swift/1"

    private let core: ClientCore

    /// Runs `body` with a client, on the actor of the caller. When it returns or throws, open tasks
    /// are cancelled and the connection is closed. Throws `TransportError` for a configuration that
    /// cannot work, and what `body` throws.
    @discardableResult
    public nonisolated(nonsending) static func withClient<Value: Sendable>(
        _ configuration: Configuration,
        _ body: nonisolated(nonsending) (SluiceClient) async throws -> Value
    ) async throws -> Value {
        try await withClient(
            configuration,
            environment: .system(
                trust: configuration.trust, credential: configuration.credential), body)
    }

    /// The same with all work of the connection on an executor of the caller's. Where that is an
    /// event loop's thread, the connection is on that loop.
    @discardableResult
    package nonisolated(nonsending) static func withClient<Value: Sendable>(
        _ configuration: Configuration, executor: (any TaskExecutor)?,
        _ body: nonisolated(nonsending) (SluiceClient) async throws -> Value
    ) async throws -> Value {
        try await withClient(
            configuration,
            environment: .system(
                trust: configuration.trust, credential: configuration.credential),
            executor: executor, body)
    }

    /// The same over a transport and clock of the caller's.
    @discardableResult
    package nonisolated(nonsending) static func withClient<Value: Sendable>(
        _ configuration: Configuration, environment: SessionEnvironment,
        executor: (any TaskExecutor)? = nil,
        _ body: nonisolated(nonsending) (SluiceClient) async throws -> Value
    ) async throws -> Value {
        let core = try ClientCore(configuration, environment: environment)
        let running = Task(executorPreference: executor) { await core.run() }
        func stop() async {
            core.close()
            running.cancel()
            await running.value
        }
        do {
            let value = try await body(SluiceClient(core: core))
            await stop()
            return value
        } catch {
            await stop()
            throw error
        }
    }

    /// Submits a task at once, or as soon as there is a connection, and returns its answer to be
    /// read as it comes. Nothing is sent twice: a task that was under way when the connection was
    /// lost ends with `connectionLost`.
    public func stream(_ request: TaskRequest) -> Answer {
        Answer(lifetime: AnswerLifetime(core.submit(request)))
    }

    /// Submits a task and waits for its whole answer.
    public func perform(_ request: TaskRequest) async throws(SluiceError) -> TaskResult {
        let answer = stream(request)
        let form = answer.lifetime.task.form
        var text: [UInt8] = []
        var events: [[UInt8]] = []
        var body: [UInt8] = []
        var byteCount = 0
        for try await chunk in answer where !chunk.isError {
            byteCount += chunk.bytes.count
            guard byteCount <= Self.resultBytesMax else {
                throw .supplierFailed(.supplierFailed, answer.lifetime.task.receipt)
            }
            switch form {
            case .text: text += chunk.bytes
            case .events: events.append(chunk.bytes)
            case .object: body += chunk.bytes
            }
        }
        return TaskResult(
            text: String(decoding: text, as: UTF8.self), events: events, body: body,
            completion: try await answer.completion())
    }
}
