import Foundation
import Testing

/// A listener that outlives brokers, as a service supervisor keeps one, and what runs behind it:
/// sidecar and worker of a test's own, all told by one configuration file.
final class OperatedBroker {
    let folder: URL
    let port: UInt16
    private let listener: Int32
    private let sidecar: Program
    private(set) var worker: Program?
    let key: String
    private let supplierTokenFile: String

    var authority: String { folder.appendingPathComponent("ca.pem").path }
    var certificate: String { folder.appendingPathComponent("server.pem").path }
    private var data: URL { folder.appendingPathComponent("data") }
    private var configuration: URL { folder.appendingPathComponent("sluice.json") }

    /// Makes everything but a broker and a worker.
    init() async throws {
        let folder = FileManager.default.temporaryDirectory
            .appendingPathComponent("sluice-operated-" + UUID().uuidString)
        self.folder = folder
        let run = "/dev/shm/sluice-operated-" + UUID().uuidString
        try FileManager.default.createDirectory(
            at: folder.appendingPathComponent("data"), withIntermediateDirectories: true,
            attributes: [.posixPermissions: 0o700])
        (listener, port) = try Self.listen()
        let settings: [String: Any] = [
            "run": run, "data": folder.appendingPathComponent("data").path,
            "broker": [
                "certificate": folder.appendingPathComponent("server.pem").path,
                "private-key": folder.appendingPathComponent("server-key.pem").path,
                "shards": 2, "body-memory": 16, "answer-memory": 16,
            ],
        ]
        let file = folder.appendingPathComponent("sluice.json")
        try JSONSerialization.data(withJSONObject: settings).write(to: file)
        let made = try await Program("sluice", ["certs", "--out", folder.path]).finish()
        try Self.check(made)
        let data = folder.appendingPathComponent("data").path
        let issued = try await Program("sluice", ["key", "issue", "--data", data]).finish()
        try Self.check(issued)
        key = issued.objects.first?.text("secret") ?? ""
        let supplier = try await Program(
            "sluice", ["key", "issue", "--data", data, "--supplier", "--account", "supplier"]
        ).finish()
        try Self.check(supplier)
        let token = folder.appendingPathComponent("supplier.token")
        try Data((supplier.objects.first?.text("secret") ?? "").utf8).write(to: token)
        supplierTokenFile = token.path
        let sidecar = try Program("sluice-sidecar", ["--config", file.path])
        self.sidecar = sidecar
        try await until("the sidecar to be ready") { !sidecar.objects.isEmpty }
    }

    deinit {
        for program in [worker, sidecar] where program?.process.isRunning == true {
            program?.send(SIGTERM)
            program?.process.waitUntilExit()
        }
        close(listener)
        if let run = try? JSONSerialization.jsonObject(with: Data(contentsOf: configuration)),
            let path = (run as? [String: Any])?["run"] as? String
        {
            try? FileManager.default.removeItem(atPath: path)
        }
        try? FileManager.default.removeItem(at: folder)
    }

    private static func check(_ result: ProgramResult) throws {
        guard result.status == 0 else { throw SystemTestError(description: result.errors) }
    }

    /// A listener on a free port, at a number that no child has by chance.
    private static func listen() throws -> (Int32, UInt16) {
        let socket = Glibc.socket(AF_INET, Int32(SOCK_STREAM.rawValue), 0)
        var address = sockaddr_in()
        address.sin_family = sa_family_t(AF_INET)
        address.sin_addr.s_addr = inet_addr("127.0.0.1")
        var length = socklen_t(MemoryLayout<sockaddr_in>.size)
        let result = withUnsafeMutablePointer(to: &address) { pointer in
            pointer.withMemoryRebound(to: sockaddr.self, capacity: 1) {
                bind(socket, $0, length) == 0 && Glibc.listen(socket, 512) == 0
                    && getsockname(socket, $0, &length) == 0
            }
        }
        let kept = fcntl(socket, F_DUPFD_CLOEXEC, 100)
        close(socket)
        guard result, kept >= 0 else {
            throw SystemTestError(description: "no listener: errno \(errno)")
        }
        return (kept, UInt16(bigEndian: address.sin_port))
    }

    /// Starts a broker on the listener and waits until it serves.
    func startBroker(_ options: [String] = []) async throws -> SpawnedProgram {
        let program = try SpawnedProgram(
            "sluice-broker", ["--config", configuration.path] + options, listener: listener)
        try await until("a broker to listen") {
            guard program.isRunning else {
                throw SystemTestError(description: "a broker ended: \(program.errors)")
            }
            return program.objects.contains { $0.text("event") == "listening" }
        }
        return program
    }

    /// Starts a worker that gives prompts back, so many tokens a second.
    func startWorker(tokensPerSecond: Int, slots: Int) async throws {
        let worker = try Program(
            "sluice-worker",
            [
                "--broker", "127.0.0.1:\(port)", "--ca", authority, "--token-file",
                supplierTokenFile, "--engine", "echo", "--tokens-per-second",
                String(tokensPerSecond), "--slots", String(slots), "--drain-seconds", "1",
            ])
        self.worker = worker
        try await until("the worker to be connected") {
            JSONObject.lines(worker.errors).contains { $0.text("event") == "connected" }
        }
    }

    /// Replaces the server's certificate by another of the same authority.
    func replaceCertificate() async throws {
        try Self.check(try await Program("sluice", ["certs", "--out", folder.path]).finish())
    }

    /// The serial number of the certificate that a new connection is shown.
    func servedSerial() async throws -> String {
        let process = Process()
        process.executableURL = URL(fileURLWithPath: "/bin/sh")
        process.arguments = [
            "-c",
            "openssl s_client -connect 127.0.0.1:\(port) -alpn sluice/1 </dev/null 2>/dev/null"
                + " | openssl x509 -noout -serial",
        ]
        let output = Pipe()
        process.standardOutput = output
        process.standardError = FileHandle.nullDevice
        try process.run()
        let text = String(
            decoding: output.fileHandleForReading.readDataToEndOfFile(), as: UTF8.self)
        process.waitUntilExit()
        guard text.hasPrefix("serial=") else {
            throw SystemTestError(description: "no certificate was shown")
        }
        return text
    }

    /// Waits until every accepted task is final; answers how many.
    func settledCount() async throws -> Int {
        var last = ""
        for _ in 0..<400 {
            let result = try await Program(
                "sluice", ["records", "--data", data.path, "--counts"]
            ).finish()
            last = result.text
            if let line = result.objects.first, let accepted = line.number("accepted"),
                accepted == line.number("final"), line.number("duplicates") == 0
            {
                return accepted
            }
            try await Task.sleep(for: .milliseconds(50))
        }
        throw SystemTestError(description: "accepted and final did not become equal: \(last)")
    }
}

/// A program that was started with a listener, by the contract of sd_listen_fds(3), which
/// Foundation's `Process` cannot pass.
final class SpawnedProgram {
    let pid: pid_t
    private let outputFile: URL
    private let errorFile: URL
    private var status: Int32?

    init(_ name: String, _ arguments: [String], listener: Int32) throws {
        let base = FileManager.default.temporaryDirectory
            .appendingPathComponent("sluice-test-" + UUID().uuidString)
        outputFile = base.appendingPathExtension("out")
        errorFile = base.appendingPathExtension("err")
        var actions = posix_spawn_file_actions_t()
        posix_spawn_file_actions_init(&actions)
        defer { posix_spawn_file_actions_destroy(&actions) }
        let flags = O_WRONLY | O_CREAT | O_TRUNC
        posix_spawn_file_actions_addopen(&actions, 0, "/dev/null", O_RDONLY, 0)
        posix_spawn_file_actions_addopen(&actions, 1, outputFile.path, flags, 0o600)
        posix_spawn_file_actions_addopen(&actions, 2, errorFile.path, flags, 0o600)
        posix_spawn_file_actions_adddup2(&actions, listener, 3)
        // Only the child knows its own number.
        let words =
            [
                "/bin/sh", "-c", "LISTEN_PID=$$ LISTEN_FDS=1 exec \"$0\" \"$@\"",
                Program.folder.appendingPathComponent(name).path,
            ] + arguments
        var vector: [UnsafeMutablePointer<CChar>?] = words.map { strdup($0) }
        vector.append(nil)
        defer { for word in vector { free(word) } }
        var pid: pid_t = 0
        let code = posix_spawn(&pid, "/bin/sh", &actions, nil, vector, environ)
        guard code == 0 else {
            throw SystemTestError(description: "\(name) was not started: \(code)")
        }
        self.pid = pid
    }

    deinit {
        if isRunning {
            kill(pid, SIGKILL)
            waitpid(pid, nil, 0)
        }
        for file in [outputFile, errorFile] { try? FileManager.default.removeItem(at: file) }
    }

    var isRunning: Bool {
        guard status == nil else { return false }
        var word: Int32 = 0
        guard waitpid(pid, &word, WNOHANG) == pid else { return true }
        status = word
        return false
    }

    private func text(_ file: URL) -> String {
        String(decoding: (try? Data(contentsOf: file)) ?? Data(), as: UTF8.self)
    }

    var objects: [JSONObject] { JSONObject.lines(text(outputFile)) }
    var errors: String { text(errorFile) }

    func logged(_ event: String) -> Int {
        JSONObject.lines(errors).filter { $0.text("event") == event }.count
    }

    /// Waits for the end; answers the exit status, or minus the signal.
    func finish(within seconds: Double = 60) async throws -> Int32 {
        try await until("the end of a broker", seconds) { !isRunning }
        let word = status ?? 0
        return word & 0x7f == 0 ? word >> 8 & 0xff : -(word & 0x7f)
    }
}
