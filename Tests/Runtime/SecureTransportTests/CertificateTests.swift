import Synchronization
import Testing

import LinuxIO
import SecureTransport
import TLSEngine

@Suite(.serialized) struct CertificateTests {
    @Test(arguments: backends)
    func anEstablishedChannelKnowsTheCertificateOfItsClient(_ kind: BackendKind) throws {
        let authority = try CertificateAuthority()
        let mine = try authority.issueClient(name: "mine")
        let stranger = try CertificateAuthority().issueClient(name: "stranger")
        let expired = try authority.issueClient(name: "expired", lifetimeSeconds: -5)
        let log = try withServer(kind, clientAuthorities: authority.certificate) { port, _ in
            for certificate in [mine, nil, stranger, expired, mine] {
                let context = try TLSContext(
                    clientTrusting: TestTLS.trust, certificate: certificate)
                let client = try TestClient(port: port, context: context)
                try client.handshake()
                try client.send(pattern(1_000))
                #expect(try client.receive(exactly: 1_000) == pattern(1_000))
                try client.sayGoodbye()
                client.close()
            }
        }
        let digest = try ClientCertificateFacts(pem: mine.certificate).digest
        let words = [digest.0, digest.1, digest.2, digest.3]
        #expect(log.content.withLock { $0.certificates } == [words, nil, nil, nil, words])
        #expect(log.counters.handshakes == 5)
        #expect(log.counters.handshakeFailures == 0)
    }

    @Test(arguments: backends)
    func aChainThatIsTooLongCostsItsHandshakeOnly(_ kind: BackendKind) throws {
        let authority = try CertificateAuthority()
        let pair = try authority.issueClient(name: "long")
        var chain = pair.certificate
        for _ in 0..<24 { chain += try authority.issueClient(name: "x").certificate }
        let long = CertificatePair(certificate: chain, privateKey: pair.privateKey)
        let log = try withServer(kind, clientAuthorities: authority.certificate) { port, log in
            let context = try TLSContext(clientTrusting: TestTLS.trust, certificate: long)
            let client = try TestClient(port: port, context: context)
            try client.handshake()
            #expect(client.receiveEnd() != nil)
            client.close()
            #expect(log.reaches { $0.channelCount == 0 && $0.counters.handshakeFailures == 1 })
        }
        #expect(log.closeReasons == [.handshakeFailed])
    }
}
