import NIOSSL
import SluiceClient
import Testing

@Suite("TLS to a broker", .timeLimit(.minutes(1)))
struct SecureConnectorTests {
    private static func withBroker(
        protocols: [String] = ["sluice/1"], newest: TLSVersion = .tlsv13,
        _ body: (LoopbackBroker, TestCertificates) async throws -> Void
    ) async throws {
        let certificates = try TestCertificates()
        defer { certificates.remove() }
        let broker = try await LoopbackBroker(
            certificates, protocols: protocols, newest: newest)
        try await body(broker, certificates)
        try await broker.close()
    }

    /// How a dial ends: nil for a connection.
    private static func dial(
        _ host: String, _ port: Int, _ trust: BrokerTrust
    ) async throws -> TransportError? {
        let connector = try SecureConnector(trust: trust)
        let address = try BrokerAddress("\(host):\(port)")
        do throws(TransportError) {
            let pipe = try await connector.dial(address)
            await pipe.close()
            return nil
        } catch {
            return error
        }
    }

    @Test("a megabyte goes out and comes back whole, on many streams at once")
    func mirror() async throws {
        try await Self.withBroker { broker, certificates in
            let texts = (0..<4).map { String(repeating: "é\($0)", count: 350_000) }
            try await SluiceClient.withClient(
                .init(
                    brokers: ["localhost:\(broker.port)"], key: "k",
                    trust: .file(certificates.authority))
            ) { sluice in
                try await withThrowingTaskGroup(of: Bool.self) { group in
                    for text in texts {
                        group.addTask {
                            try await sluice.perform(.completion("m", text)).text == text
                        }
                    }
                    for try await isSame in group { #expect(isSame) }
                }
            }
        }
    }

    @Test("a certificate from an authority that is not trusted is refused")
    func untrusted() async throws {
        try await Self.withBroker { broker, certificates in
            let other = try TestCertificates()
            defer { other.remove() }
            let refused = try await Self.dial("localhost", broker.port, .file(other.authority))
            #expect(refused == .tlsFailed)
            let system = try await Self.dial("localhost", broker.port, .systemRoots)
            #expect(system == .tlsFailed)
            let taken = try await Self.dial(
                "localhost", broker.port, .file(certificates.authority))
            #expect(taken == nil)
        }
    }

    @Test("the certificate must name the host that was dialled, or the name that was asked for")
    func hostname() async throws {
        try await Self.withBroker { broker, certificates in
            var trust = BrokerTrust.file(certificates.authority)
            let outcome1 = try await Self.dial("127.0.0.1", broker.port, trust)
            #expect(outcome1 == .tlsFailed)
            trust.serverName = "localhost"
            let outcome2 = try await Self.dial("127.0.0.1", broker.port, trust)
            #expect(outcome2 == nil)
            trust.serverName = "other.example"
            let outcome3 = try await Self.dial("localhost", broker.port, trust)
            #expect(outcome3 == .tlsFailed)
        }
    }

    @Test("TLS below 1.3 is refused")
    func oldTLS() async throws {
        try await Self.withBroker(newest: .tlsv12) { broker, certificates in
            let trust = BrokerTrust.file(certificates.authority)
            let outcome4 = try await Self.dial("localhost", broker.port, trust)
            #expect(outcome4 == .tlsFailed)
        }
    }

    @Test("a peer that does not speak sluice/1 is refused", arguments: [[], ["http/1.1"]])
    func otherProtocol(_ protocols: [String]) async throws {
        try await Self.withBroker(protocols: protocols) { broker, certificates in
            let trust = BrokerTrust.file(certificates.authority)
            let error = try await Self.dial("localhost", broker.port, trust)
            #expect(error == .protocolRefused || !protocols.isEmpty && error == .tlsFailed)
        }
    }

    @Test("nothing listening, an unreadable file and a bad address each say so")
    func errors() async throws {
        let outcome5 = try await Self.dial("127.0.0.1", 1, .systemRoots)
        #expect(outcome5 == .unreachable)
        #expect(throws: TransportError.unreadableTrust) {
            try SecureConnector(trust: .file("/nowhere.pem"))
        }
        #expect(throws: TransportError.unreadableTrust) {
            try SecureConnector(trust: .pem([1, 2, 3]))
        }
        for text in ["", "host", "host:", ":1", "host:0", "host:65536", "::1:70", "[]:7"] {
            #expect(throws: TransportError.invalidAddress(text)) { try BrokerAddress(text) }
        }
        #expect(try BrokerAddress("[::1]:7700").host == "::1")
        #expect(try "\(BrokerAddress("[::1]:7700"))" == "[::1]:7700")
    }
}
