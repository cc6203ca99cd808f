package import SluiceRecordFormat
package import SluiceWire

/// A client certificate that was just made a key of an account.
package struct CertificateKey: Sendable {
    /// What names the key to people: `crt_` and the first hexadecimal digits of the SHA-256.
    package let prefix: String
    /// What the brokers are told of it.
    package let entry: DirectoryCredential
}

extension Store {
    /// Says the kind of a key, as `slc_` and `sls_` do; secrets never begin so.
    private static let certificateMark = "crt_"
    /// Of the SHA-256, so many that two certificates do not share them by chance.
    private static let shownDigits = 16

    /// Makes a client certificate a key of the account of this label, which is made too if need be
    /// (not prepaid). It is valid once a `DirectorySync` has told the directory.
    ///
    /// - Parameter sha256: Of the certificate (DER).
    /// - Throws: `keyExists` for a certificate that is or was one already: revoked is for good.
    package func addCertificate(
        sha256: Digest256, account label: String, role: DirectoryRole, nowUs: UInt64,
        expiresAtMs: UInt64, limits: AccountLimits = AccountLimits(),
        operations: OperationSet = [], by actor: Actor = .machine
    ) throws(StoreError) -> CertificateKey {
        let digest = DirectoryCredential.certificateDigest(sha256)
        let prefix = Self.certificateMark + sha256.hexadecimal.prefix(Self.shownDigits)
        let terms = KeyTerms(
            account: label, role: role, expiresAtMs: expiresAtMs, limits: limits,
            operations: operations)
        return try write { (transaction) throws(StoreError) in
            let known = try transaction.query(
                "SELECT id FROM access_key WHERE digest = $1", [.bytes(digest.bytes)])
            guard known.isEmpty else { throw .keyExists }
            let entry = try transaction.insertKey(
                terms, digest: digest, prefix: prefix, nowUs: nowUs, by: actor)
            return CertificateKey(prefix: prefix, entry: entry)
        }
    }

    /// The SHA-256 of the certificate that a key is; nil for a secret.
    static func certificate(_ prefix: String, digest: [UInt8]) throws(StoreError) -> Digest256? {
        guard prefix.hasPrefix(certificateMark) else { return nil }
        guard let digest = Digest256(digest.span) else { throw .damaged }
        return DirectoryCredential.certificateDigest(digest)
    }
}

extension Digest256 {
    /// 64 hexadecimal digits, the first byte first.
    package var hexadecimal: String {
        bytes.map { byte in
            let digits = String(byte, radix: 16)
            return digits.count == 1 ? "0" + digits : digits
        }.joined()
    }
}
