import Testing

import TLSEngine

/// What a server's session says of the certificate that its client showed.
@Suite struct ClientCertificateTests {
    private let authority: CertificateAuthority
    private let server: CertificatePair

    init() throws {
        authority = try CertificateAuthority()
        server = try authority.issue()
    }

    @Test func aVerifiedCertificateIsKnownByItsDigest() throws {
        let pair = try authority.issueClient(name: "alice")
        let facts = try ClientCertificateFacts(pem: pair.certificate)
        #expect(facts.isForClients)
        let found = try #require(try digest(shownBy: pair))
        #expect(found == facts.digest)
        let other = try authority.issueClient(name: "alice")
        #expect(try digest(shownBy: other).map { $0 == facts.digest } == false)
    }

    @Test func whatDoesNotVerifyCountsAsNoneAndTheHandshakeGoesOn() throws {
        #expect(try digest(shownBy: nil) == nil)
        let stranger = try CertificateAuthority().issueClient(name: "alice")
        #expect(try digest(shownBy: stranger) == nil, "another authority's")
        let expired = try authority.issueClient(name: "alice", lifetimeSeconds: -5)
        #expect(try digest(shownBy: expired) == nil, "its time is over")
        #expect(try digest(shownBy: server) == nil, "for servers only")
        #expect(try digest(shownBy: authority.pair) == nil, "the authority's own")
        #expect(!(try ClientCertificateFacts(pem: authority.certificate).isForClients))
        #expect(!(try ClientCertificateFacts(pem: server.certificate).isForClients))
    }

    @Test func aServerThatDoesNotAskKnowsNothing() throws {
        let pair = try authority.issueClient(name: "alice")
        #expect(try digest(shownBy: pair, asking: false) == nil)
    }

    @Test func aChainLongerThanTheLimitEndsTheHandshake() throws {
        let pair = try authority.issueClient(name: "alice")
        var chain = pair.certificate
        for _ in 0..<24 { chain += try authority.issueClient(name: "x").certificate }
        let long = CertificatePair(certificate: chain, privateKey: pair.privateKey)
        #expect(throws: TLSFailure.handshake) { try digest(shownBy: long) }
    }

    @Test func anAuthorityFileWithoutCertificateIsRefused() {
        #expect(throws: TLSSetupError.trustUnreadable) {
            try TLSContext(
                serverCertificate: server.certificate, privateKey: server.privateKey,
                clientAuthorities: "nothing")
        }
    }

    /// Runs a handshake in memory, both ends of which succeed; throws the server's failure.
    private func digest(
        shownBy pair: CertificatePair?, asking: Bool = true
    ) throws -> (UInt64, UInt64, UInt64, UInt64)? {
        let serverContext = try TLSContext(
            serverCertificate: server.certificate, privateKey: server.privateKey,
            clientAuthorities: asking ? authority.certificate : nil)
        let clientContext = try TLSContext(
            clientTrusting: authority.certificate, certificate: pair)
        var server = try TLSSession(context: serverContext)
        var client = try TLSSession(context: clientContext, serverName: "localhost")
        for _ in 0..<10 where !server.isEstablished {
            _ = client.handshake()
            #expect(server.peerCertificateDigest == nil, "not before the handshake is done")
            guard let block = client.takeOutput() else { break }
            server.feed(block.start, count: block.count)
            if case .failed(let failure) = server.handshake() { throw failure }
            server.dropCiphertext()
            guard let answer = server.takeOutput() else { continue }
            client.feed(answer.start, count: answer.count)
            _ = client.handshake()
            client.dropCiphertext()
        }
        #expect(client.isEstablished && server.isEstablished)
        #expect(client.peerCertificateDigest == nil, "a client's session is not asked")
        return server.peerCertificateDigest
    }
}
