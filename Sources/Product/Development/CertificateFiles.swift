import Foundation
import TLSEngine

/// The files of a development CA and of one server certificate that it issued.
package struct CertificateFiles: Sendable {
    package let directory: String

    /// What clients and workers trust.
    package var authority: String { directory + "/ca.pem" }
    /// The CA's key, mode 0600: whoever has it can stand in for any broker its clients know.
    package var authorityKey: String { directory + "/ca-key.pem" }
    /// The broker's certificate.
    package var server: String { directory + "/server.pem" }
    /// The broker's key, mode 0600.
    package var serverKey: String { directory + "/server-key.pem" }

    /// The certificate of a client or supplier of this name.
    package func client(_ name: String) -> String { directory + "/\(name).pem" }
    /// Its key, mode 0600.
    package func clientKey(_ name: String) -> String { directory + "/\(name)-key.pem" }

    /// Files in `directory`, which exists.
    package init(directory: String) {
        self.directory = directory
    }

    /// Makes what is missing: a CA if there is none, and a server certificate for `localhost`,
    /// `127.0.0.1`, `::1` and `names`. An existing CA is kept; an existing server certificate
    /// only if `replace` is false.
    package func make(names: [String], replace: Bool) throws(DevelopmentError) {
        do {
            let authority = try openOrMakeAuthority()
            let files = FileManager.default
            let isComplete =
                files.fileExists(atPath: server) && files.fileExists(atPath: serverKey)
            if isComplete, !replace { return }
            let pair = try authority.issue(names: names)
            try PrivateFile.write(pair.privateKey, to: serverKey)
            try PrivateFile.write(pair.certificate, to: server)
        } catch let error as DevelopmentError {
            throw error
        } catch {
            throw .certificate(reason: "\(error)")
        }
    }

    /// Makes a certificate and key for a client or supplier of this name, and a CA if there is
    /// none. Replaces those of the same name.
    ///
    /// - Parameter name: A file's name of letters, digits, `-` and `_`, and none of the other
    ///   files'.
    package func makeClient(_ name: String, days: Int) throws(DevelopmentError) {
        do {
            let pair = try openOrMakeAuthority().issueClient(
                name: name, lifetimeSeconds: days * 86_400)
            try PrivateFile.write(pair.privateKey, to: clientKey(name))
            try PrivateFile.write(pair.certificate, to: client(name))
        } catch let error as DevelopmentError {
            throw error
        } catch {
            throw .certificate(reason: "\(error)")
        }
    }

    private func openOrMakeAuthority() throws -> CertificateAuthority {
        if let certificate = try PrivateFile.read(authority),
            let key = try PrivateFile.read(authorityKey)
        {
            return CertificateAuthority(
                reopening: CertificatePair(certificate: certificate, privateKey: key))
        }
        let made = try CertificateAuthority()
        try PrivateFile.write(made.pair.privateKey, to: authorityKey)
        try PrivateFile.write(made.pair.certificate, to: authority)
        // A certificate of another authority would be refused by everyone.
        for path in [server, serverKey] { try? FileManager.default.removeItem(atPath: path) }
        return made
    }
}
