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
/// Ciphertext that arrived is lent with `feed`, one piece at a time; ciphertext to send collects
/// in a buffer that `takeOutput` hands over. Owned by one thread; it may move to another.
@safe
package struct TLSSession: ~Copyable, @unchecked Sendable {
    /// SAFETY: owned, from `init` to `deinit`.
    private let handle: OpaquePointer
    /// SAFETY: owned, from `init` to `deinit`; the BIO and the message callback point to it.
    private let pipe: UnsafeMutablePointer<CipherPipe>
    private let recordsPerKey: Int
    private let applicationProtocols: [String]
    private var recordsSealed = 0
    private var recordsOpened = 0

    /// Whether the handshake is complete, ALPN included.
    package private(set) var isEstablished = false

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
        recordsPerKey = context.limits.recordsPerKey
        applicationProtocols = context.applicationProtocols
        unsafe BIO_set_data(bio, pipe)
        unsafe BIO_set_init(bio, 1)
        // One reference serves both directions and is freed with the session.
        unsafe SSL_set_bio(session, bio, bio)
        unsafe sluice_ssl_set_message_argument(session, pipe)
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
        unsafe pipe.pointee.discardOutput()
        unsafe pipe.deinitialize(count: 1)
        unsafe pipe.deallocate()
    }

    /// SHA-256 of the certificate (DER) that the client showed, in the form of `sha256`; nil before
    /// the handshake is complete, and where it showed none or one that did not verify.
    package var peerCertificateDigest: (UInt64, UInt64, UInt64, UInt64)? {
        guard isEstablished, unsafe SSL_is_server(handle) == 1,
            let certificate = unsafe SSL_get0_peer_certificate(handle),
            unsafe sluice_ssl_peer_is_verified(handle) == 1
        else { return nil }
        return unsafe certificateDigest(certificate)
    }

    // MARK: Ciphertext in

    /// Lends the next piece of received ciphertext; the piece before it is used up.
    ///
    /// SAFETY: `bytes` stays valid until `unreadCiphertextBytes` is 0 or the session ends.
    @unsafe
    package mutating func feed(_ bytes: UnsafePointer<UInt8>, count: Int) {
        unsafe precondition(pipe.pointee.inputCount == 0)
        unsafe pipe.pointee.input = bytes
        unsafe pipe.pointee.inputCount = count
    }

    /// Bytes of the lent piece that are not used yet.
    package var unreadCiphertextBytes: Int { unsafe pipe.pointee.inputCount }

    /// `open` may find something: ciphertext is lent, or decrypted bytes wait.
    package var hasInput: Bool { unreadCiphertextBytes > 0 || hasOpenedBytes }

    /// Gives the record buffers back to the heap, which wipes them, unless bytes wait in them. The
    /// next step allocates them again.
    package mutating func releaseBuffers() {
        if unsafe SSL_free_buffers(handle) != 1 { ERR_clear_error() }
    }

    /// Takes back what is lent; nothing is read any more.
    package mutating func dropCiphertext() {
        unsafe pipe.pointee.input = nil
        unsafe pipe.pointee.inputCount = 0
    }

    // MARK: Steps

    /// Goes on with the handshake; `.done(0)` once it is complete.
    package mutating func handshake() -> TLSProgress {
        if isEstablished { return .done(0) }
        let code = unsafe SSL_do_handshake(handle)
        guard code == 1 else {
            return failure(of: code, otherwise: .handshake)
        }
        var name: UnsafePointer<UInt8>?
        var count: UInt32 = 0
        unsafe SSL_get0_alpn_selected(handle, &name, &count)
        let chosen = unsafe UnsafeBufferPointer(start: name, count: Int(count))
        let isAgreed =
            applicationProtocols.isEmpty
            || applicationProtocols.contains { unsafe chosen.elementsEqual($0.utf8) }
        guard isAgreed else { return .failed(.handshake) }
        isEstablished = true
        return .done(0)
    }

    /// Decrypts into `target`; `.done` with the bytes of at most one record, 1...16,384.
    ///
    /// SAFETY: `target` has room for `capacity` bytes, `capacity > 0`.
    @unsafe
    package mutating func open(
        into target: UnsafeMutablePointer<UInt8>, capacity: Int
    ) -> TLSProgress {
        let code = unsafe SSL_read(handle, target, Int32(clamping: min(capacity, 16_384)))
        guard code > 0 else { return failure(of: code, otherwise: .protocolViolation) }
        unsafe pipe.pointee.keyUpdates.applicationData()
        recordsOpened += 1
        if recordsOpened >= recordsPerKey { changeKeys() }
        return .done(Int(code))
    }

    /// Whether decrypted bytes wait inside the session for a next `open`.
    package var hasOpenedBytes: Bool { unsafe SSL_pending(handle) > 0 }

    /// Encrypts `plaintext`, 1...16,384 bytes, as one record at the end of the output.
    ///
    /// False when the session is over or its output is full.
    package mutating func seal(_ plaintext: Span<UInt8>) -> Bool {
        precondition(plaintext.count > 0 && plaintext.count <= 16_384)
        if recordsSealed >= recordsPerKey { changeKeys() }
        let code = unsafe plaintext.withUnsafeBufferPointer { source in
            unsafe SSL_write(handle, source.baseAddress, Int32(truncatingIfNeeded: source.count))
        }
        recordsSealed += 1
        guard code == Int32(plaintext.count) else {
            ERR_clear_error()
            return false
        }
        return true
    }

    /// Asks for new keys in both directions with the next record sealed.
    package mutating func changeKeys() {
        recordsSealed = 0
        recordsOpened = 0
        if unsafe SSL_key_update(handle, SSL_KEY_UPDATE_REQUESTED) != 1 { ERR_clear_error() }
    }

    /// Puts close_notify at the end of the output.
    package mutating func sealGoodbye() {
        if unsafe SSL_shutdown(handle) < 0 { ERR_clear_error() }
    }

    /// KeyUpdates received since the session began, or since `takeKeyUpdates`.
    package var keyUpdatesReceived: Int { unsafe Int(pipe.pointee.keyUpdatesReceived) }

    /// KeyUpdates since the last call, for whoever sums them up over sessions.
    package mutating func takeKeyUpdates() -> (received: UInt64, sent: UInt64) {
        defer {
            unsafe pipe.pointee.keyUpdatesReceived = 0
            unsafe pipe.pointee.keyUpdatesSent = 0
        }
        return unsafe (
            UInt64(pipe.pointee.keyUpdatesReceived), UInt64(pipe.pointee.keyUpdatesSent)
        )
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

    private mutating func failure(of code: Int32, otherwise: TLSFailure) -> TLSProgress {
        let kind = unsafe SSL_get_error(handle, code)
        if kind == SSL_ERROR_WANT_READ { return .needsCiphertext }
        ERR_clear_error()
        if unsafe pipe.pointee.keyUpdatesRefused { return .failed(.tooManyKeyUpdates) }
        if unsafe pipe.pointee.outputRefused { return .failed(.outputOverflow) }
        if kind == SSL_ERROR_ZERO_RETURN { return .failed(.closedByPeer) }
        return .failed(otherwise)
    }
}
