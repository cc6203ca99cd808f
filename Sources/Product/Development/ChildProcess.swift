import Foundation
import Glibc

/// The programs that `sluice dev` runs.
package enum ChildName: String, CaseIterable, Sendable {
    case broker, sidecar, worker, gateway

    var program: String { "sluice-\(rawValue)" }
}

/// What a child told in one JSON line, as far as its supervisor listens.
struct ChildReport: Decodable, Sendable {
    var event: String
    var port: Int?
    var models: [String]?
}

/// Something that happened to the supervisor. `run` numbers the starts of one child, so that the
/// last words of a dead process are not taken for its successor's.
enum SupervisorEvent: Sendable {
    case report(ChildName, run: Int, ChildReport)
    case exited(ChildName, run: Int, status: Int32)
    /// The pause before a restart is over.
    case restartDue(ChildName)
    /// SIGINT or SIGTERM.
    case stopRequested
    /// A limit of time that was set as number `timer` has passed.
    case timedOut(timer: Int)
}

/// One running program: a process group of its own, so that a terminal's Ctrl-C reaches only the
/// supervisor, and a pipe as standard input whose end tells it that the supervisor is gone.
struct ChildProcess {
    /// JSON lines are read from here; everything on standard error also passes through.
    enum Reports {
        case onStandardOutput
        case onStandardError
    }

    let name: ChildName
    let run: Int
    let startedAt: ContinuousClock.Instant
    private let process: Process
    /// Closed by the kernel when the supervisor dies.
    private let lifeline: Pipe

    var pid: Int32 { process.processIdentifier }

    /// Starts a program; its reports and its end go to `events`.
    init(
        _ name: ChildName, run: Int, path: String, arguments: [String], reports: Reports,
        events: AsyncStream<SupervisorEvent>.Continuation
    ) throws(DevelopmentError) {
        guard FileManager.default.isExecutableFile(atPath: path) else {
            throw .programMissing(path)
        }
        let output = Pipe()
        lifeline = Pipe()
        process = Process()
        process.executableURL = URL(fileURLWithPath: path)
        process.arguments = arguments
        process.standardInput = lifeline
        switch reports {
        case .onStandardOutput:
            process.standardOutput = output
            process.standardError = FileHandle.standardError
        case .onStandardError:
            process.standardOutput = FileHandle.standardError
            process.standardError = output
        }
        process.terminationHandler = { ended in
            events.yield(.exited(name, run: run, status: ended.terminationStatus))
        }
        self.name = name
        self.run = run
        startedAt = .now
        do {
            try process.run()
        } catch {
            throw .notStarted(program: name.program, reason: error.localizedDescription)
        }
        let reader = output.fileHandleForReading
        Thread.detachNewThread {
            Self.readLines(reader) { line in
                if case .onStandardError = reports {
                    try? FileHandle.standardError.write(contentsOf: line + [0x0A])
                }
                guard let report = try? JSONDecoder().decode(ChildReport.self, from: line) else {
                    return
                }
                events.yield(.report(name, run: run, report))
            }
        }
    }

    /// Asks the program to end in its own time.
    func terminate() {
        process.terminate()
    }

    /// Ends the program at once.
    func kill() {
        _ = Glibc.kill(pid, SIGKILL)
    }

    /// Calls `body` with every line until the other end is closed. A line above 64 KiB is cut.
    private static func readLines(_ handle: FileHandle, _ body: (Data) -> Void) {
        var line = Data()
        while true {
            let chunk = handle.availableData
            if chunk.isEmpty { return }
            for byte in chunk {
                if byte == 0x0A {
                    body(line)
                    line.removeAll(keepingCapacity: true)
                } else if line.count < 65_536 {
                    line.append(byte)
                }
            }
        }
    }
}
