package import SluiceSession
package import SluiceWire

/// With what a client or supplier proves to brokers who it is.
public enum BrokerCredential: Hashable, Sendable {
    /// An API key of a client, or a supplier's token.
    case secret(String)
    /// A certificate that the deployment has made a key, shown in the TLS handshake.
    case certificate(ClientCertificate)

    var certificate: ClientCertificate? {
        switch self {
        case .secret: nil
        case .certificate(let certificate): certificate
        }
    }

    /// What HELLO says with it.
    package func handshake(
        _ role: PeerRole, agent: String, bodyCreditBytes: UInt64 = 0
    ) -> Handshake {
        switch self {
        case .secret(let secret):
            Handshake(
                role: role, credentialKind: role == .client ? .apiKey : .supplierToken,
                credential: Array(secret.utf8), agent: agent, bodyCreditBytes: bodyCreditBytes)
        case .certificate:
            Handshake(
                role: role, credentialKind: .clientCertificate, credential: [], agent: agent,
                bodyCreditBytes: bodyCreditBytes)
        }
    }
}

/// A certificate with its chain, and its private key: PEM, the certificate first, the key without a
/// pass phrase.
public struct ClientCertificate: Hashable, Sendable {
    package enum Source: Hashable, Sendable {
        case file(String)
        case pem([UInt8])
    }

    package let chain: Source
    package let privateKey: Source

    /// From two files, which are read once.
    public static func files(chain: String, privateKey: String) -> ClientCertificate {
        ClientCertificate(chain: .file(chain), privateKey: .file(privateKey))
    }

    /// From two PEM texts.
    public static func pem(chain: [UInt8], privateKey: [UInt8]) -> ClientCertificate {
        ClientCertificate(chain: .pem(chain), privateKey: .pem(privateKey))
    }
}
