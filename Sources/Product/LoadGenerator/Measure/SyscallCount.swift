import Foundation

/// Has `perf` count the system calls of a target's processes.
final class SyscallCount {
    private let process = Process()
    private let output = Pipe()

    /// Counts from now on, for `seconds`; nil where there is no `perf` or nothing to count.
    init?(_ processes: [MeasuredProcess], _ seconds: Double) {
        let perf = "/usr/bin/perf"
        guard !processes.isEmpty, FileManager.default.isExecutableFile(atPath: perf) else {
            return nil
        }
        let pids = processes.map { "\($0.pid)" }.joined(separator: ",")
        process.executableURL = URL(fileURLWithPath: perf)
        process.arguments = [
            "stat", "-x", ",", "-e", "raw_syscalls:sys_enter", "-p", pids, "--", "sleep",
            "\(seconds)",
        ]
        process.standardError = output
        process.standardOutput = FileHandle.nullDevice
        guard (try? process.run()) != nil else { return nil }
    }

    /// The count, which is complete by now; nil where the kernel does not let it be counted.
    func finish() -> UInt64? {
        let text = output.fileHandleForReading.readDataToEndOfFile()
        process.waitUntilExit()
        let line = String(decoding: text, as: UTF8.self).split(separator: "\n")
            .first { $0.contains("raw_syscalls") }
        return line?.split(separator: ",").first.flatMap { UInt64($0) }
    }
}
