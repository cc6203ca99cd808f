internal import COpenSSL

/// Protocol names that both sides must agree on in ALPN.
package enum ApplicationProtocol {
    package static let sluice1 = "sluice/1"
    /// For tools that stand in for HTTP/2 peers.
    package static let http2 = "h2"

    /// What a server's context can be made for.
    static let served = [sluice1, http2]
}

/// The cipher suites that a client offers.
package enum CipherSuites: String, Sendable {
    case all = "TLS_AES_128_GCM_SHA256:TLS_AES_256_GCM_SHA384:TLS_CHACHA20_POLY1305_SHA256"
    /// For measurements, where every server must do the same work.
    case aes128 = "TLS_AES_128_GCM_SHA256"
}

/// What sessions share: role, certificate, trust and the rules of this protocol (TLS 1.3 only,
/// ALPN `sluice/1`, X25519 and P-256, AES-128-GCM first, no tickets, no resumption, no early
/// data, OpenSSL's heap wiped on free).
///
/// Immutable once built, so any thread may start sessions from it; a session keeps what it needs
/// alive. A new certificate is a new context.
@safe
package final class TLSContext: @unchecked Sendable {
    /// SAFETY: one reference to an `SSL_CTX`, from `init` to `deinit`; never changed after `init`.
    let handle: OpaquePointer
    let isServer: Bool
    let limits: TLSLimits
    /// One of them must have been agreed on; none: nothing is asked for.
    let applicationProtocols: [String]

    private init(
        server: Bool, applicationProtocols: [String], suites: CipherSuites, limits: TLSLimits
    ) throws(TLSSetupError) {
        TLSLibrary.prepare()
        let method = unsafe server ? TLS_server_method() : TLS_client_method()
        guard let context = unsafe SSL_CTX_new(method) else { throw .library }
        unsafe handle = context
        isServer = server
        self.limits = limits
        self.applicationProtocols = applicationProtocols
        unsafe sluice_ssl_set_options(context)
        let configured =
            unsafe sluice_ssl_only_tls13(context) == 1
            && SSL_CTX_set_ciphersuites(context, suites.rawValue) == 1
            && sluice_ssl_set_groups(context, "X25519:P-256") == 1
            && SSL_CTX_set_num_tickets(context, 0) == 1
            && SSL_CTX_set_max_early_data(context, 0) == 1
            && SSL_CTX_set_recv_max_early_data(context, 0) == 1
        guard configured else {
            ERR_clear_error()
            throw .library
        }
        unsafe SSL_CTX_set_keylog_callback(context, keepTrafficSecret)
    }

    deinit {
        unsafe SSL_CTX_free(handle)
    }

    /// A server's context from PEM texts: the leaf certificate first, then its chain.
    ///
    /// With `clientAuthorities`, certificates in PEM, clients are asked for a certificate of one of
    /// them; who has none goes on without. `applicationProtocol` is `sluice/1` or `h2`: the one
    /// that every client must offer.
    package convenience init(
        serverCertificate: String, privateKey: String, clientAuthorities: String? = nil,
        applicationProtocol: String = ApplicationProtocol.sluice1, limits: TLSLimits = TLSLimits()
    ) throws(TLSSetupError) {
        guard let served = ApplicationProtocol.served.firstIndex(of: applicationProtocol) else {
            preconditionFailure("not a protocol that is served")
        }
        try self.init(
            server: true, applicationProtocols: [applicationProtocol], suites: .all,
            limits: limits)
        defer { ERR_clear_error() }
        try use(CertificatePair(certificate: serverCertificate, privateKey: privateKey))
        if let clientAuthorities { try askForCertificates(of: clientAuthorities) }
        unsafe SSL_CTX_set_client_hello_cb(handle, requireApplicationProtocol, nil)
        // The argument is no pointer: it says which protocol, and so outlives everything.
        unsafe SSL_CTX_set_alpn_select_cb(
            handle, chooseApplicationProtocol, UnsafeMutableRawPointer(bitPattern: served + 1))
    }

    /// A server's context from PEM files.
    package convenience init(
        serverCertificateFile: String, privateKeyFile: String,
        clientAuthoritiesFile: String? = nil, limits: TLSLimits = TLSLimits()
    ) throws(TLSSetupError) {
        var clientAuthorities: String?
        if let clientAuthoritiesFile {
            do {
                clientAuthorities = try readTextFile(clientAuthoritiesFile)
            } catch {
                throw .trustUnreadable
            }
        }
        try self.init(
            serverCertificate: try readTextFile(serverCertificateFile),
            privateKey: try readTextFile(privateKeyFile), clientAuthorities: clientAuthorities,
            limits: limits)
    }

    /// Shows this certificate and its chain to peers.
    private func use(_ pair: CertificatePair) throws(TLSSetupError) {
        let certificates = try CertificateList(pem: pair.certificate)
        guard let leaf = unsafe certificates.first else { throw .certificateUnreadable }
        guard unsafe SSL_CTX_use_certificate(handle, leaf) == 1 else {
            throw .certificateUnreadable
        }
        for index in 1..<max(1, certificates.count) {
            guard unsafe sluice_add_chain_certificate(handle, certificates[index]) == 1 else {
                throw .certificateUnreadable
            }
        }
        let key = try PrivateKey(pem: pair.privateKey)
        guard unsafe SSL_CTX_use_PrivateKey(handle, key.handle) == 1,
            unsafe SSL_CTX_check_private_key(handle) == 1
        else { throw .keyMismatch }
    }

    /// Asks clients for a certificate of one of these authorities.
    ///
    /// What does not verify does not end the handshake: in TLS 1.3 the client would learn of it
    /// only after its own handshake is done, as a connection that breaks. It counts as no
    /// certificate, and the protocol above says so.
    private func askForCertificates(of authorities: String) throws(TLSSetupError) {
        let certificates = try CertificateList(pem: authorities)
        guard certificates.count > 0 else { throw .trustUnreadable }
        for index in 0..<certificates.count {
            guard unsafe sluice_ssl_trust_clients_of(handle, certificates[index]) == 1 else {
                throw .trustUnreadable
            }
        }
        unsafe sluice_ssl_bound_certificates(
            handle, limits.peerCertificateBytesMax, Int32(limits.peerCertificateDepthMax))
        unsafe SSL_CTX_set_cert_verify_callback(handle, verifyAndGoOn, nil)
        unsafe SSL_CTX_set_verify(handle, SSL_VERIFY_PEER, nil)
    }

    /// When the certificate's time is over, seconds since 1970; nil for a client's context.
    package var certificateExpiry: Int64? {
        guard let leaf = unsafe SSL_CTX_get0_certificate(handle) else { return nil }
        let seconds = unsafe sluice_certificate_expiry(leaf)
        return seconds < 0 ? nil : seconds
    }

    /// A client's context that trusts the certificates of a PEM text and nothing else.
    ///
    /// `certificate` is shown to a server that asks for one. `applicationProtocols` is what it
    /// offers in ALPN, by default `sluice/1`; none sends no ALPN at all. Clients exist for tests
    /// and tools.
    package convenience init(
        clientTrusting trust: String, certificate: CertificatePair? = nil,
        applicationProtocols: [String] = [ApplicationProtocol.sluice1],
        suites: CipherSuites = .all, limits: TLSLimits = TLSLimits()
    ) throws(TLSSetupError) {
        try self.init(
            server: false, applicationProtocols: applicationProtocols, suites: suites,
            limits: limits)
        defer { ERR_clear_error() }
        let certificates = try CertificateList(pem: trust)
        guard certificates.count > 0, let store = unsafe SSL_CTX_get_cert_store(handle) else {
            throw .trustUnreadable
        }
        for index in 0..<certificates.count {
            guard unsafe X509_STORE_add_cert(store, certificates[index]) == 1 else {
                throw .trustUnreadable
            }
        }
        unsafe SSL_CTX_set_verify(handle, SSL_VERIFY_PEER, nil)
        if let certificate { try use(certificate) }
        guard !applicationProtocols.isEmpty else { return }
        var list: [UInt8] = []
        for name in applicationProtocols {
            list.append(UInt8(name.utf8.count))
            list.append(contentsOf: name.utf8)
        }
        // This call alone answers 0 for success.
        guard unsafe SSL_CTX_set_alpn_protos(handle, list, UInt32(list.count)) == 0 else {
            throw .library
        }
    }
}

/// Verifies a client's chain as OpenSSL would, keeps the result, and lets the handshake go on.
private let verifyAndGoOn: @convention(c) (OpaquePointer?, UnsafeMutableRawPointer?) -> Int32 = {
    chain, _ in
    if unsafe X509_verify_cert(chain) != 1 { ERR_clear_error() }
    return 1
}

/// Refuses a ClientHello without ALPN, which OpenSSL would let pass.
private let requireApplicationProtocol:
    @convention(c) (OpaquePointer?, UnsafeMutablePointer<Int32>?, UnsafeMutableRawPointer?)
        -> Int32 = { session, alert, _ in
            var bytes: UnsafePointer<UInt8>?
            var count = 0
            let found = unsafe SSL_client_hello_get0_ext(
                session, SLUICE_EXTENSION_ALPN, &bytes, &count)
            if found == 1 { return SSL_CLIENT_HELLO_SUCCESS }
            unsafe alert?.pointee = SSL_AD_NO_APPLICATION_PROTOCOL
            return SSL_CLIENT_HELLO_ERROR
        }

/// Chooses the context's protocol from the client's list of length-prefixed names, or ends the handshake.
private let chooseApplicationProtocol:
    @convention(c) (
        OpaquePointer?, UnsafeMutablePointer<UnsafePointer<UInt8>?>?, UnsafeMutablePointer<UInt8>?,
        UnsafePointer<UInt8>?, UInt32, UnsafeMutableRawPointer?
    ) -> Int32 = { _, chosen, chosenCount, offered, offeredCount, argument in
        let served = Int(bitPattern: argument) - 1
        guard let offered = unsafe offered, ApplicationProtocol.served.indices.contains(served)
        else { return SSL_TLSEXT_ERR_ALERT_FATAL }
        let list = unsafe UnsafeBufferPointer(start: offered, count: Int(offeredCount))
        let wanted = ApplicationProtocol.served[served].utf8
        var offset = 0
        while offset < list.count {
            let length = unsafe Int(list[offset])
            guard offset + 1 + length <= list.count else { break }
            if unsafe list[(offset + 1)..<(offset + 1 + length)].elementsEqual(wanted) {
                unsafe chosen?.pointee = offered + (offset + 1)
                unsafe chosenCount?.pointee = UInt8(length)
                return SSL_TLSEXT_ERR_OK
            }
            offset += 1 + length
        }
        return SSL_TLSEXT_ERR_ALERT_FATAL
    }

/// OpenSSL's own state, set up once for the process.
package enum TLSLibrary {
    private static let usesWipingHeap: Bool = {
        let taken = sluice_use_wiping_heap() == 1
        _ = OPENSSL_init_ssl(UInt64(OPENSSL_INIT_NO_LOAD_CONFIG), nil)
        return taken
    }()

    /// Gives OpenSSL the heap that wipes on free, before its first allocation, and starts it.
    ///
    /// Every function of this module calls it; programs call it first thing in `main`, so that no
    /// other user of OpenSSL can come before.
    package static func prepare() {
        _ = usesWipingHeap
    }

    /// Whether OpenSSL took the wiping heap: false if something else allocated first.
    package static var heapIsWiped: Bool { usesWipingHeap }
}
