/// Bytes both ways between this process and one broker. A socket under TLS, or two ends of memory
/// in a test.
package protocol BytePipe: Sendable {
    /// All that has arrived since the last call, once there is something; nil when no more comes.
    /// One caller at a time.
    func receive() async -> [UInt8]?
    /// Returns once the bytes have left this process, so that little waits behind them. One
    /// caller at a time.
    func send(_ bytes: [UInt8]) async throws(TransportError)
    /// Ends both directions; `receive` then returns nil. May be called again.
    func close() async
}

/// Opens pipes to brokers.
package protocol Connector: Sendable {
    /// Returns a pipe whose peer speaks `sluice/1` and whose certificate was verified.
    func dial(_ address: BrokerAddress) async throws(TransportError) -> any BytePipe
}

/// Time for sessions and their owners.
package protocol SessionClock: Sendable {
    /// Milliseconds since some fixed moment; never goes back.
    var nowMs: UInt64 { get }
    /// Returns after `durationMs`, or earlier when the calling task is cancelled.
    func sleep(_ durationMs: UInt64) async
}

/// All that a client or supplier takes from outside its own logic. Tests bring their own.
package struct SessionEnvironment: Sendable {
    package let connector: any Connector
    package let clock: any SessionClock
    /// Uniform over all 64-bit numbers.
    package let random: @Sendable () -> UInt64

    package init(
        connector: any Connector, clock: any SessionClock,
        random: @escaping @Sendable () -> UInt64
    ) {
        self.connector = connector
        self.clock = clock
        self.random = random
    }

    /// Sockets under TLS, the system's clock and randomness.
    package static func system(
        trust: BrokerTrust, credential: BrokerCredential
    ) throws(TransportError) -> SessionEnvironment {
        SessionEnvironment(
            connector: try SecureConnector(trust: trust, certificate: credential.certificate),
            clock: SystemClock(),
            random: { UInt64.random(in: .min ... .max) })
    }
}

/// The system's monotonic clock.
package struct SystemClock: SessionClock {
    private let start = ContinuousClock.now

    package init() {}

    package var nowMs: UInt64 {
        let elapsed = start.duration(to: .now).components
        return UInt64(elapsed.seconds) * 1_000
            + UInt64(elapsed.attoseconds / 1_000_000_000_000_000)
    }

    package func sleep(_ durationMs: UInt64) async {
        try? await ContinuousClock().sleep(for: .milliseconds(Int64(clamping: durationMs)))
    }
}

/// Why no connection to a broker came about. Closed.
public enum TransportError: Error, Equatable, Sendable {
    /// Not of the form `host:port`.
    case invalidAddress(String)
    /// The file or text with trusted certificates cannot be read.
    case unreadableTrust
    /// The client certificate or its private key cannot be read, or they are no pair.
    case unreadableCertificate
    /// Nothing answers there.
    case unreachable
    /// TLS failed; most often the certificate is not trusted or names another host.
    case tlsFailed
    /// The peer does not speak `sluice/1`.
    case protocolRefused
    /// The connection was closed.
    case closed
}
