import Foundation
import NIOCore
import NIOSSL
import Synchronization

/// The certificate that a gateway's connections are opened with, and how it is replaced while the
/// gateway serves: a connection keeps the one it began with. Any thread.
package final class GatewayCertificate: Sendable {
    private let current: Mutex<NIOSSLContextConfigurationOverride>

    /// Reads PEM files of a certificate chain and its key.
    package init(chainFile: String, keyFile: String) throws(GatewayError) {
        current = Mutex(try Self.read(chainFile, keyFile).pair)
    }

    /// Takes other files over for new connections; answers when their certificate ends, in seconds
    /// since 1970. What cannot be used, or has ended, is refused: the one in use stays.
    package func replace(chainFile: String, keyFile: String) throws(GatewayError) -> Int64 {
        let (next, expiry) = try Self.read(chainFile, keyFile)
        guard expiry > wallClockSeconds() else {
            throw .certificate("it ended at \(expiry), seconds since 1970")
        }
        current.withLock { $0 = next }
        return expiry
    }

    /// A server's settings that ask for the current certificate in each handshake.
    var configuration: TLSConfiguration {
        let first = current.withLock { $0 }
        guard let chain = first.certificateChain, let key = first.privateKey else {
            preconditionFailure("a certificate was read without its key")
        }
        var configuration = TLSConfiguration.makeServerConfiguration(
            certificateChain: chain, privateKey: key)
        configuration.sslContextCallback = { [self] _, promise in
            promise.succeed(current.withLock { $0 })
        }
        return configuration
    }

    private static func read(
        _ chainFile: String, _ keyFile: String
    ) throws(GatewayError) -> (pair: NIOSSLContextConfigurationOverride, expiry: Int64) {
        do {
            let chain = try NIOSSLCertificate.fromPEMFile(chainFile)
            let key = try NIOSSLPrivateKey(file: keyFile, format: .pem)
            guard let leaf = chain.first else { throw GatewayError.certificate("it is empty") }
            var pair = NIOSSLContextConfigurationOverride()
            pair.certificateChain = chain.map { .certificate($0) }
            pair.privateKey = .privateKey(key)
            // Says whether the key is the certificate's.
            _ = try NIOSSLContext(
                configuration: .makeServerConfiguration(
                    certificateChain: chain.map { .certificate($0) }, privateKey: .privateKey(key)))
            return (pair, Int64(leaf.notValidAfter))
        } catch let error as GatewayError {
            throw error
        } catch {
            throw .certificate("\(error)")
        }
    }
}
