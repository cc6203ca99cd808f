internal import COpenSSL

/// A certificate and its key as PEM texts. The key is secret.
package struct CertificatePair: Sendable {
    package let certificate: String
    package let privateKey: String

    /// A pair that was made before.
    package init(certificate: String, privateKey: String) {
        self.certificate = certificate
        self.privateKey = privateKey
    }
}

/// A certificate authority for development and tests: P-256 keys, 825 days.
///
/// Its key exists only in memory unless the caller writes `pair` somewhere.
package struct CertificateAuthority: Sendable {
    /// The authority's own certificate, which clients trust, and its key.
    package let pair: CertificatePair

    /// The certificate that clients trust, as PEM.
    package var certificate: String { pair.certificate }

    /// Makes a new authority.
    package init(commonName: String = "Sluice development CA") throws(TLSSetupError) {
        let key = try PrivateKey()
        let certificate = try CertificateDraft(
            subject: commonName, publicKey: key, lifetimeSeconds: lifetimeSecondsMax)
        try certificate.setIssuer(commonName)
        try certificate.add(NID_basic_constraints, "critical,CA:TRUE,pathlen:0")
        try certificate.add(NID_key_usage, "critical,keyCertSign,cRLSign")
        try certificate.sign(with: key)
        pair = CertificatePair(certificate: try certificate.pem(), privateKey: try key.pem())
    }

    /// An authority that was made before.
    package init(reopening pair: CertificatePair) {
        self.pair = pair
    }

    /// Makes a server's certificate for `localhost`, `127.0.0.1`, `::1` and `names` (DNS names or
    /// numeric addresses).
    package func issue(names: [String] = []) throws(TLSSetupError) -> CertificatePair {
        let alternatives = ["localhost", "127.0.0.1", "::1"] + names
        guard alternatives.allSatisfy(isPlainName) else { throw .certificateNotMade }
        let list = alternatives.map { (isNumericAddress($0) ? "IP:" : "DNS:") + $0 }
        return try issue(
            subject: "Sluice", use: "serverAuth", names: list.joined(separator: ","),
            lifetimeSeconds: lifetimeSecondsMax)
    }

    /// Makes a client's certificate with `name` as its common name: a plain name of at most 64
    /// characters. It ends so long from now on; below 0 its time is over.
    package func issueClient(
        name: String, lifetimeSeconds: Int = lifetimeSecondsMax
    ) throws(TLSSetupError) -> CertificatePair {
        guard isPlainName(name), name.utf8.count <= 64 else { throw .certificateNotMade }
        return try issue(
            subject: name, use: "clientAuth", names: nil, lifetimeSeconds: lifetimeSeconds)
    }

    private func issue(
        subject: String, use: String, names: String?, lifetimeSeconds: Int
    ) throws(TLSSetupError) -> CertificatePair {
        let authorityKey = try PrivateKey(pem: pair.privateKey)
        let authority = try CertificateList(pem: pair.certificate)
        guard let issuer = unsafe authority.first else { throw .certificateUnreadable }
        let key = try PrivateKey()
        let leaf = try CertificateDraft(
            subject: subject, publicKey: key, lifetimeSeconds: lifetimeSeconds)
        try unsafe leaf.setIssuer(of: issuer)
        try leaf.add(NID_basic_constraints, "critical,CA:FALSE")
        try leaf.add(NID_key_usage, "critical,digitalSignature")
        try leaf.add(NID_ext_key_usage, use)
        if let names { try leaf.add(NID_subject_alt_name, names) }
        try leaf.sign(with: authorityKey)
        return CertificatePair(certificate: try leaf.pem(), privateKey: try key.pem())
    }
}

/// The longest life that every platform accepts of a certificate its user installed.
package let lifetimeSecondsMax = 825 * 86_400 - notBeforeSeconds

/// How long ago a certificate's time began: clocks differ.
private let notBeforeSeconds = 3_600

/// Whether `name` cannot be mistaken for configuration syntax.
private func isPlainName(_ name: String) -> Bool {
    !name.isEmpty && name.utf8.count <= 253
        && name.utf8.allSatisfy { byte in
            switch byte {
            case UInt8(ascii: "a")...UInt8(ascii: "z"), UInt8(ascii: "A")...UInt8(ascii: "Z"),
                UInt8(ascii: "0")...UInt8(ascii: "9"), UInt8(ascii: "."), UInt8(ascii: "-"),
                UInt8(ascii: "_"), UInt8(ascii: ":"), UInt8(ascii: "*"):
                true
            default:
                false
            }
        }
}

private func isNumericAddress(_ name: String) -> Bool {
    name.utf8.contains(UInt8(ascii: ":"))
        || name.utf8.allSatisfy {
            $0 == UInt8(ascii: ".") || ($0 >= UInt8(ascii: "0") && $0 <= UInt8(ascii: "9"))
        }
}

/// A certificate that is being filled in.
@safe
private struct CertificateDraft: ~Copyable {
    /// SAFETY: owned, from `init` to `deinit`.
    private let handle: OpaquePointer

    init(
        subject: String, publicKey: borrowing PrivateKey, lifetimeSeconds: Int
    ) throws(TLSSetupError) {
        guard let certificate = unsafe X509_new() else { throw .library }
        var serial: UInt64 = 0
        for byte in randomBytes(8) { serial = serial << 8 | UInt64(byte) }
        // A positive number of at most 63 bits, never 0.
        serial = serial >> 1 | 1
        let filled =
            unsafe X509_set_version(certificate, 2) == 1
            && ASN1_INTEGER_set_uint64(X509_get_serialNumber(certificate), serial) == 1
            && X509_gmtime_adj(X509_getm_notBefore(certificate), -notBeforeSeconds) != nil
            && X509_gmtime_adj(X509_getm_notAfter(certificate), lifetimeSeconds) != nil
            && X509_set_pubkey(certificate, publicKey.handle) == 1
            && Self.setName(X509_get_subject_name(certificate), subject)
        guard filled else {
            ERR_clear_error()
            unsafe X509_free(certificate)
            throw .certificateNotMade
        }
        unsafe handle = certificate
    }

    deinit {
        unsafe X509_free(handle)
    }

    func setIssuer(_ commonName: String) throws(TLSSetupError) {
        guard unsafe Self.setName(X509_get_issuer_name(handle), commonName) else {
            ERR_clear_error()
            throw .certificateNotMade
        }
    }

    @unsafe
    func setIssuer(of issuer: OpaquePointer) throws(TLSSetupError) {
        let name = unsafe X509_get_subject_name(issuer)
        guard unsafe X509_set_issuer_name(handle, name) == 1 else { throw .certificateNotMade }
    }

    func add(_ identifier: Int32, _ value: String) throws(TLSSetupError) {
        guard let addition = unsafe X509V3_EXT_conf_nid(nil, nil, identifier, value) else {
            ERR_clear_error()
            throw .certificateNotMade
        }
        defer { unsafe X509_EXTENSION_free(addition) }
        guard unsafe X509_add_ext(handle, addition, -1) == 1 else { throw .certificateNotMade }
    }

    func sign(with key: borrowing PrivateKey) throws(TLSSetupError) {
        guard unsafe X509_sign(handle, key.handle, EVP_sha256()) > 0 else {
            ERR_clear_error()
            throw .certificateNotMade
        }
    }

    func pem() throws(TLSSetupError) -> String {
        try unsafe pemText { unsafe PEM_write_bio_X509($0, handle) }
    }

    @unsafe
    private static func setName(_ name: OpaquePointer?, _ commonName: String) -> Bool {
        unsafe X509_NAME_add_entry_by_txt(name, "CN", MBSTRING_UTF8, commonName, -1, -1, 0) == 1
    }
}
