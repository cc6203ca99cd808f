import SluiceBrokerCore
import SluiceInMemory
import SluiceRecordFormat
import SluiceSession
import SluiceWire
import Testing

@Suite("Connections") struct ConnectionTests {
    private func hello(
        role: PeerRole = .client, kind: CredentialKind = .apiKey,
        credential: [UInt8] = Rig.clientKey, versions: ClosedRange<UInt16> = 1...1
    ) -> [UInt8] {
        var bytes: [UInt8] = []
        HelloFrame.encode(
            role: role, kind: kind, credential: credential, versions: versions, into: &bytes)
        return bytes
    }

    @Test("[H8] WELCOME is the answer to HELLO, and the first frame")
    func welcome() throws {
        var rig = Rig()
        let connection = rig.connect()
        rig.say(connection, hello())
        let frames = rig.hear(connection)
        #expect(frames.map(\.kind) == [.welcome])
        let welcome = try #require(frames[0].welcome)
        #expect(welcome.instance == 5)
        #expect(welcome.maxStreams == 1_024)
    }

    @Test("[H2] another first frame is unexpected")
    func firstFrame() {
        var rig = Rig()
        let connection = rig.connect()
        rig.say(connection) { PingFrame(value: 1).encode(as: .ping, into: &$0) }
        #expect(rig.error(connection) == .unexpectedFrame)
    }

    @Test("[H2] a second HELLO is unexpected")
    func secondHello() {
        var rig = Rig()
        let connection = rig.client()
        rig.say(connection, hello())
        #expect(rig.error(connection) == .unexpectedFrame)
    }

    @Test("[H4] no common version")
    func version() {
        var rig = Rig()
        let connection = rig.connect()
        rig.say(connection, hello(versions: 2...9))
        #expect(rig.error(connection) == .versionMismatch)
    }

    @Test("[H6] unknown credential, wrong role")
    func credentials() {
        var rig = Rig()
        var connection = rig.connect()
        rig.say(connection, hello(credential: [1, 2]))
        #expect(rig.error(connection) == .unauthenticated)
        connection = rig.connect()
        rig.say(connection, hello(role: .supplier, kind: .supplierToken))
        #expect(rig.error(connection) == .forbidden)
        connection = rig.connect()
        rig.say(connection, hello(kind: .supplierToken))
        #expect(rig.error(connection) == .forbidden)
    }

    // MARK: Certificates

    private static let certificate = Digest256(1, 2, 3, .max)

    private func certificateKey(
        _ role: DirectoryRole = .client, isRevoked: Bool = false, expiresAtMs: UInt64 = 0
    ) -> DirectoryCredential {
        DirectoryCredential(
            digest: DirectoryCredential.certificateDigest(Self.certificate), account: 7,
            role: role, isRevoked: isRevoked, expiresAtMs: expiresAtMs)
    }

    /// What is answered to HELLO with kind 3.
    private func answer(
        _ rig: inout Rig, _ certificate: Digest256?, role: PeerRole = .client,
        credential: [UInt8] = []
    ) -> (connection: UInt32, kind: FrameKind?, error: WireCode?) {
        let connection = rig.connect(certificate: certificate)
        rig.say(
            connection, hello(role: role, kind: .clientCertificate, credential: credential))
        let last = rig.hear(connection).last
        return (connection, last?.kind, last?.error?.code)
    }

    @Test("[H11] a verified certificate that is a key is taken for its role")
    func certificateTaken() {
        for (role, other) in [(PeerRole.client, PeerRole.supplier), (.supplier, .client)] {
            var rig = Rig()
            let directoryRole = role == .client ? DirectoryRole.client : .supplier
            rig.broker.credentialChanged(certificateKey(directoryRole), wallUs: Rig.wallUs)
            #expect(answer(&rig, Self.certificate, role: role).kind == .welcome)
            #expect(answer(&rig, Self.certificate, role: other).error == .forbidden)
        }
    }

    @Test("[H11] without certificate, with one that is no key, or with a secret beside it")
    func certificateNotTaken() {
        var rig = Rig()
        rig.broker.credentialChanged(certificateKey(), wallUs: Rig.wallUs)
        #expect(answer(&rig, nil).error == .unauthenticated)
        #expect(answer(&rig, Digest256(1, 2, 3, 4)).error == .unauthenticated)
        #expect(
            answer(&rig, Self.certificate, credential: Rig.clientKey).error == .unauthenticated)
        #expect(answer(&rig, nil, credential: Rig.clientKey).error == .unauthenticated)
    }

    @Test("[H11] a secret whose hash is a certificate's is none, and the reverse")
    func certificateKindsApart() {
        var rig = Rig()
        let secret = Array("a certificate as it is sent".utf8)
        let digest = InMemoryBroker.digest(of: secret)
        rig.broker.credentialChanged(
            DirectoryCredential(
                digest: DirectoryCredential.certificateDigest(digest), account: 7, role: .both),
            wallUs: Rig.wallUs)
        #expect(answer(&rig, digest).kind == .welcome)
        for kind in [CredentialKind.apiKey, .supplierToken] {
            let connection = rig.connect(certificate: digest)
            rig.say(
                connection,
                hello(
                    role: kind == .apiKey ? .client : .supplier, kind: kind, credential: secret))
            #expect(rig.error(connection) == .unauthenticated)
        }
        // A key's secret is no certificate, even where somebody could make one of its hash.
        #expect(
            answer(&rig, InMemoryBroker.digest(of: Rig.clientKey)).error == .unauthenticated)
    }

    @Test("[H11] a peer with a certificate may send a key")
    func keyBesideCertificate() {
        var rig = Rig()
        let connection = rig.connect(certificate: Self.certificate)
        rig.say(connection, hello())
        #expect(rig.hear(connection).map(\.kind) == [.welcome])
    }

    @Test("[H6] a certificate's connection ends when it is revoked, and when its time is over")
    func certificateEnds() {
        var rig = Rig()
        rig.broker.credentialChanged(certificateKey(), wallUs: Rig.wallUs)
        let first = answer(&rig, Self.certificate)
        #expect(first.kind == .welcome)
        rig.broker.credentialChanged(
            certificateKey(expiresAtMs: (Rig.wallUs + rig.nowUs) / 1_000 + 500),
            wallUs: Rig.wallUs)
        #expect(rig.hear(first.connection).isEmpty)
        rig.pass(ms: 2_000)
        #expect(rig.error(first.connection) == .unauthenticated)
        #expect(answer(&rig, Self.certificate).error == .unauthenticated)

        rig.broker.credentialChanged(certificateKey(), wallUs: Rig.wallUs)
        let second = answer(&rig, Self.certificate)
        #expect(second.kind == .welcome)
        rig.broker.credentialChanged(certificateKey(isRevoked: true), wallUs: Rig.wallUs)
        rig.turn()
        #expect(rig.error(second.connection) == .unauthenticated)
        #expect(answer(&rig, Self.certificate).error == .unauthenticated)
    }

    @Test("[H1] HELLO in time")
    func handshakeTimeout() {
        var rig = Rig()
        let connection = rig.connect()
        rig.pass(ms: 4_900)
        #expect(rig.hear(connection).isEmpty)
        rig.pass(ms: 200)
        #expect(rig.error(connection) == .handshakeTimeout)
    }

    @Test("[H6] a revoked credential ends its connections")
    func revocation() {
        var rig = Rig()
        let client = rig.client()
        let other = rig.supplier()
        rig.broker.credentialChanged(
            DirectoryCredential(
                digest: InMemoryBroker.digest(of: Rig.clientKey), account: 7, role: .client,
                isRevoked: true), wallUs: Rig.wallUs)
        rig.turn()
        #expect(rig.error(client) == .unauthenticated)
        #expect(rig.hear(other).isEmpty)
    }

    @Test("[L1] PONG returns PING's value at once")
    func ping() {
        var rig = Rig()
        let client = rig.client()
        rig.say(client) { PingFrame(value: 77).encode(as: .ping, into: &$0) }
        let frames = rig.hear(client)
        #expect(frames.map(\.pong) == [77])
    }

    @Test("[L2] a silent peer is asked, then cut")
    func keepAlive() {
        var rig = Rig()
        let client = rig.client()
        rig.pass(ms: 15_100)
        #expect(rig.hear(client).map(\.kind) == [.ping])
        rig.pass(ms: 15_100)
        #expect(rig.error(client) == .keepAliveTimeout)
    }

    @Test("[L2] any byte is a sign of life")
    func signOfLife() {
        var rig = Rig()
        let client = rig.client()
        for _ in 0..<5 {
            rig.pass(ms: 10_000)
            // Half a header is enough.
            rig.broker.receive(client, [8], nowUs: rig.nowUs)
        }
        #expect(rig.hear(client).isEmpty)
    }

    @Test("[L5] who receives ERROR closes and does not answer")
    func errorIsFinal() {
        var rig = Rig()
        let client = rig.client()
        rig.say(client) { ErrorFrame(code: .internalFault).encode(into: &$0) }
        rig.turn()
        #expect(rig.hear(client).isEmpty)
        let isOpen = rig.broker.isOpen(client)
        #expect(!isOpen)
    }

    @Test("[L10] a thousand unproductive frames, regained by time and by ENDs")
    func flood() {
        var rig = Rig()
        let client = rig.client()
        func pings(_ count: Int) -> [UInt8] {
            var bytes: [UInt8] = []
            for value in 0..<UInt64(count) {
                PingFrame(value: value).encode(as: .ping, into: &bytes)
            }
            return bytes
        }
        rig.say(client, pings(1_000))
        #expect(rig.hear(client).count == 1_000)
        rig.pass(ms: 1_000)
        rig.say(client, pings(100))
        #expect(rig.hear(client).count == 100)
        rig.say(client, pings(1))
        #expect(rig.error(client) == .flood)
    }

    @Test("[F1] a larger payload is refused from the header alone")
    func tooLarge() {
        var rig = Rig()
        let client = rig.client()
        rig.say(client, [0xF5, 0x3F, 0, 0, 0x21, 0, 0, 0, 1, 0, 0, 0])
        #expect(rig.error(client) == .frameTooLarge)
    }

    @Test("[V3] unknown kinds: skipped with the ignorable flag, else refused")
    func unknownKinds() {
        var rig = Rig()
        let client = rig.client()
        rig.say(client, [1, 0, 0, 0, 0x77, 0x80, 0, 0, 9, 9, 9, 9, 0xFF])
        #expect(rig.hear(client).isEmpty)
        rig.say(client, [0, 0, 0, 0, 0x2F, 0, 0, 0, 1, 0, 0, 0])
        #expect(rig.error(client) == .unknownKind)
    }

    @Test("[F6] streams out of range, connection kinds on task streams")
    func streamRange() {
        var rig = Rig()
        var client = rig.client()
        rig.credit(client, stream: 0, 5)
        #expect(rig.error(client) == .streamOutOfRange)
        client = rig.client()
        rig.cancel(client, stream: 1_025)
        #expect(rig.error(client) == .streamOutOfRange)
        client = rig.client()
        rig.say(client, [8, 0, 0, 0, 3, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0])
        #expect(rig.error(client) == .unexpectedFrame)
    }

    @Test("[F4] a payload of another length is malformed")
    func malformed() {
        var rig = Rig()
        let client = rig.client()
        rig.say(client, [7, 0, 0, 0, 3, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0])
        #expect(rig.error(client) == .malformedPayload)
    }

    @Test("[F5] kinds of the other role are unexpected")
    func wrongRole() {
        var rig = Rig()
        let client = rig.client()
        rig.tokens(client, [1])
        #expect(rig.error(client) == .unexpectedFrame)
        let supplier = rig.supplier()
        rig.submit(supplier)
        #expect(rig.error(supplier) == .unexpectedFrame)
    }

    @Test("[M2] nothing after a fault is acted on")
    func nothingAfterFault() {
        var rig = Rig()
        let client = rig.client()
        var bytes: [UInt8] = [0, 0, 0, 0, 0x2F, 0, 0, 0, 1, 0, 0, 0]
        PingFrame(value: 1).encode(as: .ping, into: &bytes)
        rig.say(client, bytes)
        #expect(rig.hear(client).map(\.kind) == [.error])
    }
}
