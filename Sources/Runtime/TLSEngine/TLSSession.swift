internal import COpenSSL

/// What came of a step of a session.
package enum TLSProgress: Equatable, Sendable {
    /// Done: the handshake is complete, or this many plaintext bytes were read.
    case done(Int)
    /// All ciphertext given so far is used up; more is needed.
    case needsCiphertext
    /// The session is over.
    case failed(TLSFailure)
}

/// One TLS session as bytes in, bytes out: no socket, no thread, no clock but for KeyUpdates.
///
/// OpenSSL leads the handshake and is let go; then the session has a record layer of its own
/// (decision 89). Ciphertext that arrived is lent with `feed`, one piece at a time; ciphertext to
/// send collects in a buffer that `takeOutput` hands over. Owned by one thread; it may move to
/// another.
@safe
package struct TLSSession: ~Copyable, @unchecked Sendable {
    /// SAFETY: owned, from `init` until the handshake is complete, or to `deinit`.
    private var handle: OpaquePointer?
    /// SAFETY: owned, from `init` to `deinit`; the BIO points to it.
    private let pipe: UnsafeMutablePointer<CipherPipe>
    /// SAFETY: owned, from the end of the handshake to `deinit`.
    private var records: UnsafeMutablePointer<RecordLayer>?
    /// What the handshake was made for; nil once it is complete.
    private var context: TLSContext?

    /// SHA-256 of the certificate (DER) that the client showed, in the form of `sha256`; nil before
    /// the handshake is complete, and where it showed none or one that did not verify.
    package private(set) var peerCertificateDigest: (UInt64, UInt64, UInt64, UInt64)?

    /// Whether the handshake is complete, ALPN included.
    package var isEstablished: Bool { unsafe records != nil }

    /// Starts a session in the context's role. A client needs the name that the server's
    /// certificate must carry.
    package init(context: TLSContext, serverName: String? = nil) throws(TLSSetupError) {
        guard let session = unsafe SSL_new(context.handle) else { throw .library }
        guard let bio = unsafe BIO_new(CipherPipe.method) else {
            unsafe SSL_free(session)
            throw .library
        }
        unsafe handle = session
        unsafe pipe = .allocate(capacity: 1)
        unsafe pipe.initialize(to: CipherPipe(limits: context.limits))
        unsafe records = nil
        self.context = context
        unsafe BIO_set_data(bio, pipe)
        unsafe BIO_set_init(bio, 1)
        // One reference serves both directions and is freed with the session.
        unsafe SSL_set_bio(session, bio, bio)
        if context.isServer {
            unsafe SSL_set_accept_state(session)
        } else {
            if let serverName {
                _ = unsafe SSL_set1_host(session, serverName)
                _ = unsafe sluice_ssl_set_server_name(session, serverName)
            }
            unsafe SSL_set_connect_state(session)
        }
    }

    deinit {
        unsafe SSL_free(handle)
        if let records = unsafe records {
            unsafe records.deinitialize(count: 1)
            unsafe records.deallocate()
        }
        unsafe pipe.deinitialize(count: 1)
        unsafe pipe.deallocate()
    }

    // MARK: Ciphertext in

    /// Lends the next piece of received ciphertext; the piece before it is used up.
    ///
    /// SAFETY: `bytes` stays valid until `unreadCiphertextBytes` is 0 or the session ends.
    @unsafe
    package mutating func feed(_ bytes: UnsafePointer<UInt8>, count: Int) {
        unsafe pipe.pointee.lend(bytes, count: count)
    }

    /// Bytes of the lent piece that are not used yet.
    package var unreadCiphertextBytes: Int { unsafe pipe.pointee.inputCount }

    /// `open` may find something: ciphertext is lent, or decrypted bytes wait.
    package var hasInput: Bool { unreadCiphertextBytes > 0 || hasOpenedBytes }

    /// Takes back what is lent; nothing is read any more.
    package mutating func dropCiphertext() {
        unsafe pipe.pointee.dropInput()
    }

    // MARK: Steps

    /// Goes on with the handshake; `.done(0)` once it is complete.
    package mutating func handshake() -> TLSProgress {
        guard !isEstablished, let session = unsafe handle, let context else { return .done(0) }
        let code = unsafe SSL_do_handshake(session)
        guard code == 1 else { return unsafe failure(of: code, session) }
        var name: UnsafePointer<UInt8>?
        var count: UInt32 = 0
        unsafe SSL_get0_alpn_selected(session, &name, &count)
        let chosen = unsafe UnsafeBufferPointer(start: name, count: Int(count))
        let isAgreed =
            context.applicationProtocols.isEmpty
            || context.applicationProtocols.contains { unsafe chosen.elementsEqual($0.utf8) }
        guard isAgreed, unsafe takeOver(session, context) else { return .failed(.handshake) }
        return .done(0)
    }

    /// From here on records are the record layer's: OpenSSL has read none of application data, and
    /// written none, since it sends no tickets.
    @unsafe
    private mutating func takeOver(_ session: OpaquePointer, _ context: TLSContext) -> Bool {
        let isServer = context.isServer
        guard let suite = unsafe RecordSuite(agreedBy: session),
            let sealing = unsafe pipe.pointee.protection(
                suite, ofClient: !isServer, isSealing: true),
            let opening = unsafe pipe.pointee.protection(
                suite, ofClient: isServer, isSealing: false)
        else { return false }
        if isServer, let certificate = unsafe SSL_get0_peer_certificate(session),
            unsafe sluice_ssl_peer_is_verified(session) == 1
        {
            peerCertificateDigest = unsafe certificateDigest(certificate)
        }
        let layer = UnsafeMutablePointer<RecordLayer>.allocate(capacity: 1)
        unsafe layer.initialize(
            to: RecordLayer(
                sealing: sealing, opening: opening, isServer: isServer,
                contentBytesMax: Int(sluice_ssl_content_bytes_max(session)), limits: context.limits)
        )
        unsafe records = layer
        unsafe pipe.pointee.discardSecrets()
        unsafe SSL_free(session)
        unsafe handle = nil
        self.context = nil
        return true
    }

    /// Decrypts into `target`; `.done` with the bytes of at most one record, 1...16,384.
    ///
    /// SAFETY: `target` has room for `capacity` bytes, `capacity > 0`.
    @unsafe
    package mutating func open(
        into target: UnsafeMutablePointer<UInt8>, capacity: Int
    ) -> TLSProgress {
        guard let records = unsafe records else { return .needsCiphertext }
        return unsafe records.pointee.open(into: target, capacity: capacity, &pipe.pointee)
    }

    /// Whether decrypted bytes wait inside the session for a next `open`.
    package var hasOpenedBytes: Bool { unsafe records?.pointee.hasRest ?? false }

    /// Encrypts `plaintext`, 1...16,384 bytes, at the end of the output: as one record, unless the
    /// peer asked for shorter ones.
    ///
    /// False when the session is not established or over, or its output is full.
    package mutating func seal(_ plaintext: Span<UInt8>) -> Bool {
        precondition(plaintext.count > 0 && plaintext.count <= 16_384)
        guard let records = unsafe records else { return false }
        return unsafe plaintext.withUnsafeBufferPointer { source in
            guard let start = source.baseAddress else { return false }
            return unsafe records.pointee.seal(start, count: source.count, &pipe.pointee)
        }
    }

    /// Asks for new keys in both directions with the next record sealed.
    package mutating func changeKeys() {
        unsafe records?.pointee.changeKeys()
    }

    /// Puts close_notify at the end of the output.
    package mutating func sealGoodbye() {
        if let records = unsafe records {
            unsafe records.pointee.sealGoodbye(&pipe.pointee)
        } else if unsafe SSL_shutdown(handle) < 0 {
            ERR_clear_error()
        }
    }

    /// KeyUpdates received since the session began, or since `takeKeyUpdates`.
    package var keyUpdatesReceived: Int { unsafe records?.pointee.updatesReceived ?? 0 }

    /// KeyUpdates since the last call, for whoever sums them up over sessions.
    package mutating func takeKeyUpdates() -> (received: UInt64, sent: UInt64) {
        unsafe records?.pointee.takeKeyUpdates() ?? (0, 0)
    }

    // MARK: Ciphertext out

    /// Bytes of ciphertext that wait to be taken.
    package var outputBytes: Int {
        // In place also where the session is an optional, which would be moved to the stack to be
        // looked at.
        mutating get { unsafe pipe.pointee.outputCount }
    }

    /// Hands over everything that waits, in a block of its own; nil when there is nothing.
    package mutating func takeOutput() -> CiphertextBlock? {
        unsafe pipe.pointee.takeOutput()
    }

    // MARK: Private

    @unsafe
    private mutating func failure(of code: Int32, _ session: OpaquePointer) -> TLSProgress {
        let kind = unsafe SSL_get_error(session, code)
        if kind == SSL_ERROR_WANT_READ { return .needsCiphertext }
        ERR_clear_error()
        if unsafe pipe.pointee.outputRefused { return .failed(.outputOverflow) }
        if kind == SSL_ERROR_ZERO_RETURN { return .failed(.closedByPeer) }
        return .failed(.handshake)
    }
}
