import Foundation
import Glibc
import LinuxIO
import Synchronization

/// One program of a target, running on the target's processors.
final class TargetProcess {
    let name: String
    private let process = Process()
    private let log: URL
    private let lifeline = Pipe()
    private let output = Pipe()

    var pid: Int32 { process.processIdentifier }

    /// Starts `program` with its errors in `log`. `processors` hold for all that it starts.
    init(
        _ name: String, target: TargetName, program: String, arguments: [String],
        directory: URL, processors: [Int]
    ) throws {
        guard FileManager.default.isExecutableFile(atPath: program) else {
            throw BenchError.notInstalled(
                target: target.rawValue, program: (program as NSString).lastPathComponent,
                remedy: target.remedy)
        }
        self.name = name
        log = directory.appendingPathComponent(name + ".log")
        _ = FileManager.default.createFile(atPath: log.path, contents: nil)
        process.executableURL = URL(fileURLWithPath: program)
        process.arguments = arguments
        process.currentDirectoryURL = directory
        process.standardInput = lifeline
        process.standardOutput = output
        process.standardError = try FileHandle(forWritingTo: log)
        // A process inherits the processors of the thread that starts it.
        let own = ProcessorPlacement.allowed
        try ProcessorPlacement.restrict(to: processors)
        defer { try? ProcessorPlacement.restrict(to: own) }
        try process.run()
        Self.running.withLock { _ = $0.insert(process.processIdentifier) }
    }

    var isRunning: Bool { process.isRunning }

    /// The last lines of what it wrote on standard error.
    var lastWords: String {
        let text = (try? String(contentsOf: log, encoding: .utf8)) ?? ""
        return text.split(separator: "\n").suffix(3).joined(separator: "; ")
    }

    /// Waits for the line in which it says that it listens, and gives its port.
    func awaitPort(target: TargetName) throws -> UInt16 {
        var text = Data()
        while !text.contains(0x0A) {
            let chunk = output.fileHandleForReading.availableData
            guard !chunk.isEmpty else {
                throw BenchError.notStarted(target: target.rawValue, reason: lastWords)
            }
            text += chunk
        }
        struct Ready: Decodable { var port: UInt16? }
        let line = text.prefix { $0 != 0x0A }
        let ready = try? JSONDecoder().decode(Ready.self, from: Data(line))
        return ready?.port ?? 0
    }

    /// Ends it: in its own time, and at once after 10 s.
    ///
    /// Asks the kernel for its end: `Process` learns of it through a run loop of its own, which was
    /// seen to miss one.
    func stop() {
        let pid = process.processIdentifier
        _ = kill(pid, SIGTERM)
        var tensOfMs = 0
        while !ChildEnd.hasCome(pid) {
            usleep(10_000)
            tensOfMs += 1
            if tensOfMs == 1_000 { _ = kill(pid, SIGKILL) }
        }
        Self.running.withLock { _ = $0.remove(pid) }
    }

    /// Processes that were started and not ended.
    private static let running = Mutex<Set<Int32>>([])

    /// Ends all that still run, for a program that is told to stop.
    static func killAll() {
        for pid in running.withLock({ $0 }) { _ = kill(pid, SIGKILL) }
    }
}
