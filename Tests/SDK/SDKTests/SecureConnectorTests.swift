import Foundation
import NIOSSL
import SluiceClient
import Testing

@Suite("TLS to a broker", .timeLimit(.minutes(1)))
struct SecureConnectorTests {
    private static func withBroker(
        protocols: [String] = ["sluice/1"], newest: TLSVersion = .tlsv13,
        requiresCertificate: Bool = false,
        _ body: (LoopbackBroker, TestCertificates) async throws -> Void
    ) async throws {
        let certificates = try TestCertificates()
        defer { certificates.remove() }
        let broker = try await LoopbackBroker(
            certificates, protocols: protocols, newest: newest,
            requiresCertificate: requiresCertificate)
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

    @Test(
        "a client with a certificate shows it, and sends no secret [H11]", arguments: [true, false])
    func clientCertificate(_ fromFiles: Bool) async throws {
        try await Self.withBroker(requiresCertificate: true) { broker, certificates in
            let certificate = try ClientCertificate(certificates, fromFiles: fromFiles)
            try await SluiceClient.withClient(
                .init(
                    brokers: ["localhost:\(broker.port)"], credential: .certificate(certificate),
                    trust: .file(certificates.authority))
            ) { sluice in
                let answer = try await sluice.perform(.completion("m", "text"))
                #expect(answer.text == "text")
            }
        }
    }

    @Test("a certificate or key that cannot be read, or that are no pair, say so")
    func unreadableCertificate() throws {
        let certificates = try TestCertificates()
        let other = try TestCertificates()
        defer {
            certificates.remove()
            other.remove()
        }
        let wrong: [ClientCertificate] = [
            .files(chain: "/nowhere.pem", privateKey: certificates.key),
            .files(chain: certificates.certificate, privateKey: "/nowhere.pem"),
            .files(chain: certificates.key, privateKey: certificates.key),
            .files(chain: certificates.certificate, privateKey: other.key),
            .pem(chain: [1, 2], privateKey: [3]),
        ]
        for certificate in wrong {
            #expect(throws: TransportError.unreadableCertificate) {
                try SecureConnector(trust: .systemRoots, certificate: certificate)
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

extension ClientCertificate {
    /// The test's own certificate stands for a client's too.
    fileprivate init(_ certificates: TestCertificates, fromFiles: Bool) throws {
        func bytes(_ path: String) throws -> [UInt8] {
            Array(try Data(contentsOf: URL(fileURLWithPath: path)))
        }
        self =
            fromFiles
            ? .files(chain: certificates.certificate, privateKey: certificates.key)
            : .pem(
                chain: try bytes(certificates.certificate), privateKey: try bytes(certificates.key))
    }
}
