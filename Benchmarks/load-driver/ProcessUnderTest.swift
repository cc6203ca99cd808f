import CEvents
import Glibc

/// What the kernel knows about the process that is measured.
struct ProcessUnderTest {
    let pid: Int32

    /// Processor time of all its threads.
    var cpuNs: UInt64 {
        threads.reduce(0) { sum, thread in
            let words = readText("/proc/\(pid)/task/\(thread)/schedstat").split(separator: " ")
            return sum + (words.first.flatMap { UInt64($0) } ?? 0)
        }
    }

    /// How often its threads went to sleep by themselves.
    var sleeps: UInt64 {
        threads.reduce(0) { sum, thread in
            sum + field("voluntary_ctxt_switches:", of: "/proc/\(pid)/task/\(thread)/status")
        }
    }

    var residentBytes: UInt64 { field("VmRSS:", of: "/proc/\(pid)/status") * 1_024 }

    private var threads: [String] {
        guard let directory = opendir("/proc/\(pid)/task") else { return [] }
        defer { closedir(directory) }
        var names: [String] = []
        while let entry = readdir(directory) {
            let name = withUnsafePointer(to: &entry.pointee.d_name) {
                $0.withMemoryRebound(to: CChar.self, capacity: 256) { String(cString: $0) }
            }
            if Int32(name) != nil { names.append(name) }
        }
        return names
    }

    private func field(_ name: String, of path: String) -> UInt64 {
        for line in readText(path).split(separator: "\n") where line.hasPrefix(name) {
            let words = line.split(whereSeparator: { $0 == " " || $0 == "\t" })
            return words.count > 1 ? UInt64(words[1]) ?? 0 : 0
        }
        return 0
    }
}

func readText(_ path: String) -> String {
    let descriptor = open(path, O_RDONLY)
    guard descriptor >= 0 else { return "" }
    defer { close(descriptor) }
    var text: [UInt8] = []
    var chunk = [UInt8](repeating: 0, count: 4_096)
    while true {
        let count = read(descriptor, &chunk, chunk.count)
        guard count > 0 else { break }
        text += chunk[..<count]
    }
    return String(decoding: text, as: UTF8.self)
}

func monotonicNs() -> UInt64 { clockNs(CLOCK_MONOTONIC) }
func processorNs() -> UInt64 { clockNs(CLOCK_PROCESS_CPUTIME_ID) }

private func clockNs(_ clock: clockid_t) -> UInt64 {
    var now = timespec()
    clock_gettime(clock, &now)
    return UInt64(now.tv_sec) * 1_000_000_000 + UInt64(now.tv_nsec)
}
