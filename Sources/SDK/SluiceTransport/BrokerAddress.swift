/// Where a broker listens: `host:port`, an IPv6 address in brackets.
package struct BrokerAddress: Hashable, Sendable, CustomStringConvertible {
    package let host: String
    package let port: Int

    /// Reads `host:port` or `[address]:port`, port 1…65,535.
    package init(_ text: String) throws(TransportError) {
        guard let colon = text.lastIndex(of: ":"),
            let port = Int(text[text.index(after: colon)...]), (1...65_535).contains(port)
        else { throw .invalidAddress(text) }
        var host = text[..<colon]
        if host.hasPrefix("["), host.hasSuffix("]") {
            host = host.dropFirst().dropLast()
        } else if host.contains(":") {
            throw .invalidAddress(text)
        }
        guard !host.isEmpty else { throw .invalidAddress(text) }
        self.host = String(host)
        self.port = port
    }

    package var description: String {
        host.contains(":") ? "[\(host)]:\(port)" : "\(host):\(port)"
    }
}

/// Whose certificates a broker's certificate may come from.
public struct BrokerTrust: Hashable, Sendable {
    package enum Roots: Hashable, Sendable {
        case system
        case file(String)
        case pem([UInt8])
    }

    package let roots: Roots
    /// The name that the certificate must carry, where it is not the host that is dialled.
    public var serverName: String?

    /// The system's certificate authorities.
    public static let systemRoots = BrokerTrust(roots: .system)

    /// Only the authorities in a PEM file.
    public static func file(_ path: String) -> BrokerTrust {
        BrokerTrust(roots: .file(path))
    }

    /// Only the authorities in this PEM text.
    public static func pem(_ bytes: [UInt8]) -> BrokerTrust {
        BrokerTrust(roots: .pem(bytes))
    }

    private init(roots: Roots) {
        self.roots = roots
    }
}
