import Foundation
import Glibc
package import LinuxIO
import TLSEngine

/// Where everything of one benchmark lies and runs: throw-away directories, certificates,
/// processors.
package final class Rig {
    /// The folder of the built programs, and of their sources for configurations.
    package let programs: String
    /// Configurations of peers.
    package let configurations: String
    package let targetProcessors: [Int]
    package let generatorProcessors: [Int]
    package let backend: BackendChoice
    /// Shards of the broker; nil: one for each processor that it may use.
    package let shards: Int?

    /// Files of this rig, on the disk and on tmpfs.
    let home: URL
    let fast: URL
    let certificate: String
    let privateKey: String
    private let clientContexts: [Speech: TLSContext]
    private let serverContexts: [Speech: TLSContext]

    let clientKey = "sk-bench"
    let supplierToken = "st-bench"

    package init(
        programs: String, configurations: String, targetProcessors: [Int],
        generatorProcessors: [Int], backend: BackendChoice, shards: Int? = nil
    ) throws {
        self.programs = programs
        self.configurations = configurations
        self.targetProcessors = targetProcessors
        self.generatorProcessors = generatorProcessors
        self.backend = backend
        self.shards = shards
        let name = "sluice-bench-\(getpid())"
        let files = FileManager.default
        home = files.temporaryDirectory.appendingPathComponent(name)
        let tmpfs = "/dev/shm"
        fast =
            files.isWritableFile(atPath: tmpfs)
            ? URL(fileURLWithPath: tmpfs).appendingPathComponent(name)
            : home.appendingPathComponent("run")
        let attributes: [FileAttributeKey: Any] = [.posixPermissions: 0o700]
        for directory in [home, fast] {
            try files.createDirectory(
                at: directory, withIntermediateDirectories: true, attributes: attributes)
        }
        let authority = try CertificateAuthority()
        let pair = try authority.issue()
        certificate = home.appendingPathComponent("cert.pem").path
        privateKey = home.appendingPathComponent("key.pem").path
        try Self.write(pair.certificate, to: certificate)
        try Self.write(pair.privateKey, to: privateKey)
        try Self.write(
            pair.certificate + pair.privateKey, to: home.appendingPathComponent("both.pem").path)
        try Self.write(
            authority.certificate, to: home.appendingPathComponent("authority.pem").path)
        var clients: [Speech: TLSContext] = [:]
        var servers: [Speech: TLSContext] = [:]
        var limits = TLSLimits()
        limits.outputBytesMax = 1 << 20
        for (speech, names) in Self.applicationProtocols {
            // One suite, so that every target does the same work.
            clients[speech] = try TLSContext(
                clientTrusting: authority.certificate, applicationProtocols: names,
                suites: .aes128, limits: limits)
            servers[speech] = try TLSContext(
                serverCertificate: pair.certificate, privateKey: pair.privateKey,
                applicationProtocol: names.first ?? ApplicationProtocol.sluice1, limits: limits)
        }
        clientContexts = clients
        serverContexts = servers
    }

    /// Every speech has its contexts.
    func clientTLS(_ speech: Speech) -> TLSContext {
        guard let context = clientContexts[speech] else { preconditionFailure("no context") }
        return context
    }

    func serverTLS(_ speech: Speech) -> TLSContext {
        guard let context = serverContexts[speech] else { preconditionFailure("no context") }
        return context
    }

    private static let applicationProtocols: [Speech: [String]] = [
        .sluice: [ApplicationProtocol.sluice1], .direct: [ApplicationProtocol.sluice1],
        .nats: [], .http2: [ApplicationProtocol.http2],
    ]

    private static func write(_ text: String, to path: String) throws {
        let isWritten = FileManager.default.createFile(
            atPath: path, contents: Data(text.utf8), attributes: [.posixPermissions: 0o600])
        guard isWritten else { throw BenchError.file("cannot write \(path)") }
    }

    /// Removes what was made.
    package func remove() {
        Self.remove([fast, home])
    }

    /// Ends every process that a rig of this program started and that still runs, and removes
    /// what was made: for a program that is told to stop. Any thread.
    package var cleanUp: @Sendable () -> Void {
        let directories = [fast, home]
        return {
            TargetProcess.killAll()
            Self.remove(directories)
        }
    }

    private static func remove(_ directories: [URL]) {
        for directory in directories { try? FileManager.default.removeItem(at: directory) }
    }

    /// A built program: beside this one, or where `Benchmarks/get` builds peers.
    func program(_ name: String) -> String {
        let paths = [programs, configurations + "/../.build/release"].map { $0 + "/" + name }
        return paths.first { FileManager.default.isExecutableFile(atPath: $0) } ?? paths[0]
    }

    /// A port that is free now.
    func freePort() throws -> UInt16 {
        try ListeningSocket(address: "127.0.0.1", port: 0).port
    }
}
