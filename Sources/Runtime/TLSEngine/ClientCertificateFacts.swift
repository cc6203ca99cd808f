internal import COpenSSL

/// What a broker's credential needs to know of a client's certificate.
package struct ClientCertificateFacts: Sendable {
    /// SHA-256 of the certificate (DER), in the form of `sha256`: what `openssl x509 -fingerprint
    /// -sha256` shows.
    package let digest: (UInt64, UInt64, UInt64, UInt64)
    /// When its time is over, seconds since 1970.
    package let expiry: Int64
    /// It may stand for a client (its key usages say so or nothing) and is no authority's.
    package let isForClients: Bool

    /// Of the first certificate of a PEM text.
    package init(pem: String) throws(TLSSetupError) {
        let certificates = try CertificateList(pem: pem)
        guard let leaf = unsafe certificates.first else { throw .certificateUnreadable }
        unsafe digest = certificateDigest(leaf)
        unsafe expiry = sluice_certificate_expiry(leaf)
        unsafe isForClients = sluice_certificate_is_for_clients(leaf) == 1
        guard expiry >= 0 else { throw .certificateUnreadable }
    }

    /// Of the first certificate of a PEM file.
    package init(file: String) throws(TLSSetupError) {
        try self.init(pem: try readTextFile(file))
    }
}
