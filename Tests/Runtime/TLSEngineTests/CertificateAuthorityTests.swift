import Testing

import TLSEngine

@Suite struct CertificateAuthorityTests {
    @Test func itsCertificateServesAHandshake() throws {
        let authority = try CertificateAuthority()
        let pair = try authority.issue(names: ["broker.example", "10.1.2.3"])
        for name in ["localhost", "broker.example"] {
            #expect(try handshake(pair, trusting: authority.certificate, name: name) == nil)
        }
    }

    @Test func aReopenedAuthorityIssuesForTheSameTrust() throws {
        let authority = try CertificateAuthority()
        let pair = try CertificateAuthority(reopening: authority.pair).issue()
        #expect(try handshake(pair, trusting: authority.certificate, name: "localhost") == nil)
    }

    @Test func anotherAuthorityOrNameIsNotTrusted() throws {
        let authority = try CertificateAuthority()
        let pair = try authority.issue()
        let other = try CertificateAuthority().certificate
        #expect(try handshake(pair, trusting: other, name: "localhost") == .handshake)
        #expect(
            try handshake(pair, trusting: authority.certificate, name: "other.example")
                == .handshake)
    }

    @Test func namesCannotSmuggleConfiguration() throws {
        let authority = try CertificateAuthority()
        #expect(throws: TLSSetupError.certificateNotMade) {
            try authority.issue(names: ["a,URI:http://x"])
        }
    }

    @Test func aKeyOfAnotherCertificateIsRefused() throws {
        let authority = try CertificateAuthority()
        let one = try authority.issue()
        let two = try authority.issue()
        #expect(throws: TLSSetupError.keyMismatch) {
            try TLSContext(serverCertificate: one.certificate, privateKey: two.privateKey)
        }
        #expect(throws: TLSSetupError.privateKeyUnreadable) {
            try TLSContext(serverCertificate: one.certificate, privateKey: "nothing")
        }
        #expect(throws: TLSSetupError.certificateUnreadable) {
            try TLSContext(serverCertificate: "nothing", privateKey: one.privateKey)
        }
    }

    /// Runs a handshake in memory; what the client says of it.
    func handshake(
        _ pair: CertificatePair, trusting trust: String, name: String
    ) throws -> TLSFailure? {
        let serverContext = try TLSContext(
            serverCertificate: pair.certificate, privateKey: pair.privateKey)
        let clientContext = try TLSContext(clientTrusting: trust)
        var server = try TLSSession(context: serverContext)
        var client = try TLSSession(context: clientContext, serverName: name)
        for _ in 0..<10 {
            let progress = client.handshake()
            if case .failed(let failure) = progress { return failure }
            if client.isEstablished, server.isEstablished { return nil }
            move(from: &client, to: &server)
            _ = server.handshake()
            move(from: &server, to: &client)
        }
        return .protocolViolation
    }

    /// Feeds one session's output to the other and lets it use all of it.
    func move(from source: inout TLSSession, to target: inout TLSSession) {
        guard let block = source.takeOutput() else { return }
        target.feed(block.start, count: block.count)
        _ = target.handshake()
        target.dropCiphertext()
    }
}
