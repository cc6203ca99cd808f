import Foundation
import Glibc

/// One process that works for a target.
package struct MeasuredProcess: Equatable, Sendable {
    package var name: String
    package var pid: Int32

    package init(name: String, pid: Int32) {
        self.name = name
        self.pid = pid
    }
}

/// What the system has counted for a process so far.
package struct ProcessSample: Equatable, Sendable {
    /// Processor time of all its threads, kernel included, nanoseconds.
    package var processorNs: UInt64 = 0
    /// Times its threads went to sleep by themselves, and were taken off a processor.
    package var voluntarySwitches: UInt64 = 0
    package var involuntarySwitches: UInt64 = 0
    /// Resident memory, bytes, now.
    package var residentBytes: UInt64 = 0
    package var threads = 0

    package init() {}

    /// Reads `/proc/PID`; nil when there is no such process. A thread that ended between two
    /// samples takes its time with it.
    package init?(pid: Int32) {
        let root = "/proc/\(pid)"
        guard let status = Self.text(root + "/status"),
            let tasks = try? FileManager.default.contentsOfDirectory(atPath: root + "/task")
        else { return nil }
        residentBytes = Self.field("VmRSS:", of: status) * 1_024
        threads = tasks.count
        for task in tasks {
            let thread = "\(root)/task/\(task)"
            processorNs += Self.processorNs(thread)
            guard let status = Self.text(thread + "/status") else { continue }
            voluntarySwitches += Self.field("voluntary_ctxt_switches:", of: status)
            involuntarySwitches += Self.field("nonvoluntary_ctxt_switches:", of: status)
        }
    }

    /// `schedstat` counts nanoseconds; kernels without it have `stat`, in ticks.
    private static func processorNs(_ thread: String) -> UInt64 {
        if let words = text(thread + "/schedstat")?.split(separator: " "),
            let first = words.first, let ns = UInt64(first), ns > 0
        {
            return ns
        }
        guard let stat = text(thread + "/stat"), let end = stat.lastIndex(of: ")") else { return 0 }
        let words = stat[end...].split(separator: " ")
        guard words.count > 13, let user = UInt64(words[12]), let system = UInt64(words[13]) else {
            return 0
        }
        return (user + system) * (1_000_000_000 / UInt64(max(1, sysconf(Int32(_SC_CLK_TCK)))))
    }

    private static func text(_ path: String) -> String? {
        guard let file = FileHandle(forReadingAtPath: path) else { return nil }
        defer { try? file.close() }
        guard let data = try? file.readToEnd() else { return nil }
        return String(decoding: data, as: UTF8.self)
    }

    private static func field(_ name: String, of text: String) -> UInt64 {
        for line in text.split(separator: "\n") where line.hasPrefix(name) {
            let words = line.dropFirst(name.count).split(whereSeparator: { $0 == " " || $0 == "\t" }
            )
            return words.first.flatMap { UInt64($0) } ?? 0
        }
        return 0
    }
}

/// The load average of the machine over the last minute, as other work is seen in results.
func loadAverage() -> Double? {
    guard let file = FileHandle(forReadingAtPath: "/proc/loadavg"),
        let data = try? file.readToEnd()
    else { return nil }
    return String(decoding: data, as: UTF8.self).split(separator: " ").first.flatMap { Double($0) }
}
