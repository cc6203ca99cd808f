import Foundation
import Glibc
import LinuxIO
import SharedMemory
import SluiceRecordFormat
import SluiceWire
import TLSEngine

/// A target that serves, with everything the generator must know of it.
package final class RunningTarget {
    package let name: TargetName
    /// Whose processor time and memory count.
    package private(set) var processes: [MeasuredProcess] = []
    private var started: [TargetProcess] = []
    private(set) var clientPort: UInt16 = 0
    private(set) var supplierPort: UInt16 = 0
    /// Open from the start to the end where the target dials suppliers; each run listens on a
    /// copy.
    private var listener: ListeningDescriptor?
    private let home: URL

    /// Starts a target on a directory of its own and waits until it serves.
    package init(_ name: TargetName, in rig: Rig) throws {
        self.name = name
        home = rig.home.appendingPathComponent(name.rawValue)
        try FileManager.default.createDirectory(at: home, withIntermediateDirectories: true)
        if name.dialsSuppliers { listener = try ListeningDescriptor() }
        do {
            switch name {
            case .sluice: try startSluice(rig)
            case .bare: try startRelay("bare-relay", rig)
            case .nio: try startRelay("nio-relay", rig)
            case .nats: try startNATS(rig)
            case .haproxy: try startHAProxy(rig)
            case .grpcSwift: try startRelay("grpc-relay", rig)
            case .direct: clientPort = listener?.port ?? 0
            }
        } catch {
            stop()
            throw error
        }
    }

    /// Ends its processes in order.
    package func stop() {
        for process in started { process.stop() }
        started.removeAll()
        listener = nil
    }

    /// Throws when one of its processes has ended.
    func check() throws {
        for process in started where !process.isRunning {
            throw BenchError.notStarted(
                target: name.rawValue, reason: "\(process.name) ended: \(process.lastWords)")
        }
    }

    /// How suppliers meet it in the next run.
    var supplierSide: SupplierSide {
        if let listener { .listen(descriptor: listener.copy()) } else { .dial(supplierPort) }
    }

    // MARK: Each target

    private func start(
        _ process: String, _ program: String, _ arguments: [String], _ rig: Rig,
        isMeasured: Bool = true
    ) throws -> TargetProcess {
        let one = try TargetProcess(
            process, target: name, program: program, arguments: arguments, directory: home,
            processors: rig.targetProcessors)
        started.append(one)
        if isMeasured { processes.append(MeasuredProcess(name: process, pid: one.pid)) }
        return one
    }

    /// The real broker and sidecar on throw-away directories. The broker ends first.
    private func startSluice(_ rig: Rig) throws {
        let directory = rig.fast.appendingPathComponent("directory").path
        let run = rig.fast.appendingPathComponent("run").path
        try writeDirectory(directory, rig)
        let sidecar = try start(
            "sidecar", rig.program("sluice-sidecar"),
            ["--data", home.path, "--run", run, "--parent-pipe"], rig)
        _ = try sidecar.awaitPort(target: name)
        let broker = try start(
            "broker", rig.program("sluice-broker"),
            [
                "--run", run, "--directory", directory, "--certificate", rig.certificate,
                "--private-key", rig.privateKey, "--port", "0", "--backend",
                rig.backend == .automatic ? "auto" : rig.backend.rawValue, "--parent-pipe",
            ] + (rig.shards.map { ["--shards", "\($0)"] } ?? []), rig)
        started.reverse()
        processes.reverse()
        clientPort = try broker.awaitPort(target: name)
        supplierPort = clientPort
    }

    private func writeDirectory(_ path: String, _ rig: Rig) throws {
        var writer = try DirectoryWriter(directory: path)
        try writer.upsert([
            .credential(
                DirectoryCredential(
                    digest: Self.digest(rig.clientKey), account: 1, role: .client)),
            .credential(
                DirectoryCredential(
                    digest: Self.digest(rig.supplierToken), account: 2, role: .supplier,
                    supplier: 1)),
        ])
    }

    private static func digest(_ secret: String) -> Digest256 {
        let text = Array(secret.utf8)
        let words = sha256(text.span)
        return Digest256(words.0, words.1, words.2, words.3)
    }

    /// A relay of this package: says its port on standard output. Those that dial suppliers are
    /// told where.
    private func startRelay(_ program: String, _ rig: Rig) throws {
        var arguments = [rig.certificate, rig.privateKey]
        if let listener {
            arguments += [
                rig.home.appendingPathComponent("authority.pem").path, "\(listener.port)",
            ]
        }
        let relay = try start(name.rawValue, rig.program(program), arguments, rig)
        clientPort = try relay.awaitPort(target: name)
        supplierPort = clientPort
    }

    private func startNATS(_ rig: Rig) throws {
        clientPort = try rig.freePort()
        supplierPort = clientPort
        let file = try configuration("nats.conf", rig)
        _ = try start("nats-server", find("nats-server"), ["-c", file], rig)
        try awaitListener()
    }

    private func startHAProxy(_ rig: Rig) throws {
        clientPort = try rig.freePort()
        let file = try configuration("haproxy.cfg", rig)
        _ = try start("haproxy", find("haproxy"), ["-db", "-f", file], rig)
        try awaitListener()
    }

    /// A program of the system.
    private func find(_ program: String) -> String {
        let folders = ["/usr/sbin", "/usr/bin", "/usr/local/sbin", "/usr/local/bin"]
        let paths = folders.map { $0 + "/" + program }
        return paths.first { FileManager.default.isExecutableFile(atPath: $0) } ?? program
    }

    /// A peer's configuration with the places of this rig filled in.
    private func configuration(_ file: String, _ rig: Rig) throws -> String {
        let source = rig.configurations + "/" + file
        guard var text = try? String(contentsOfFile: source, encoding: .utf8) else {
            throw BenchError.file("cannot read \(source); say where it is with --peers")
        }
        let values = [
            "@PORT@": "\(clientPort)", "@SUPPLIER_PORT@": "\(listener?.port ?? 0)",
            "@CERTIFICATE@": rig.certificate, "@KEY@": rig.privateKey,
            "@BOTH@": rig.home.appendingPathComponent("both.pem").path,
        ]
        for (name, value) in values { text = text.replacingOccurrences(of: name, with: value) }
        let path = home.appendingPathComponent(file).path
        guard FileManager.default.createFile(atPath: path, contents: Data(text.utf8)) else {
            throw BenchError.file("cannot write \(path)")
        }
        return path
    }

    /// Waits until the port takes connections.
    private func awaitListener() throws {
        for _ in 0..<500 {
            try check()
            if StreamDescriptor.isServed("127.0.0.1", port: clientPort) { return }
            usleep(20_000)
        }
        throw BenchError.notStarted(target: name.rawValue, reason: "nothing listens on its port")
    }
}

/// A listener that outlives the runs which listen on copies of it.
final class ListeningDescriptor {
    private let socket: ListeningSocket
    var port: UInt16 { socket.port }

    init() throws {
        socket = try ListeningSocket(address: "127.0.0.1", port: 0)
    }

    /// A copy, which whoever gets it closes.
    func copy() -> Int32 { dup(socket.descriptor) }
}
