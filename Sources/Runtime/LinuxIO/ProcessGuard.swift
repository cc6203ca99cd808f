internal import CLinuxIO
internal import Glibc

/// Keeps content out of what a dying process leaves behind (DESIGN §5; requirements S1–S3).
package enum ProcessGuard {
    private static let variable = "SWIFT_BACKTRACE"
    private static let tunables = "GLIBC_TUNABLES"
    /// Small blocks that a thread keeps for itself when they are freed are not overwritten.
    private static let noThreadCache = "glibc.malloc.tcache_count=0"

    /// Makes sure that a crash prints no memory and leaves no core file. Called first thing in
    /// `main`, before any thread exists.
    ///
    /// Swift's crash handler prints bytes behind registers and reads its setting before `main`,
    /// so a process that was started without it starts itself again. Returns false when that was
    /// needed and failed: then the caller must not handle content.
    ///
    /// `wipesFreedMemory`: the heap overwrites what is freed, for processes that hold content in
    /// ordinary memory (worker and gateway; the broker has an arena that wipes). Costs one pass
    /// over each block. glibc reads that it shall keep no blocks aside at its start, too.
    package static func harden(wipesFreedMemory: Bool = false) -> Bool {
        guard isStartedRight(wipesFreedMemory) || startAgain(wipesFreedMemory) else { return false }
        guard !wipesFreedMemory || wipeFreedMemory() else { return false }
        var none = rlimit(rlim_cur: 0, rlim_max: 0)
        _ = unsafe setrlimit(__rlimit_resource_t(RLIMIT_CORE.rawValue), &none)
        _ = sluice_prctl(PR_SET_DUMPABLE, 0)
        for signal in [SIGSEGV, SIGBUS, SIGILL, SIGTRAP, SIGFPE, SIGABRT, SIGQUIT] {
            sluice_default_signal(signal)
        }
        sluice_ignore_signal(SIGPIPE)
        return true
    }

    /// Makes the heap overwrite blocks that go back to it. False if the allocator cannot do it.
    package static func wipeFreedMemory() -> Bool {
        sluice_wipe_freed_memory() == 0
    }

    private static func isStartedRight(_ wipesFreedMemory: Bool) -> Bool {
        value(of: variable) == "enable=no"
            && (!wipesFreedMemory || hasNoThreadCache(value(of: tunables) ?? ""))
    }

    private static func hasNoThreadCache(_ tunables: String) -> Bool {
        tunables.split(separator: ":").last { $0.hasPrefix("glibc.malloc.tcache_count=") }
            .map { $0 == noThreadCache } ?? false
    }

    /// What GLIBC_TUNABLES must say: whatever it said before, and no blocks kept aside. Of two
    /// words on one thing glibc takes the last.
    package static func tunables(after earlier: String?) -> String {
        guard let earlier, !earlier.isEmpty else { return noThreadCache }
        return hasNoThreadCache(earlier) ? earlier : earlier + ":" + noThreadCache
    }

    private static func value(of variable: String) -> String? {
        // SAFETY: `getenv` gives a string that ends with 0, or null; it is copied at once.
        guard let value = unsafe getenv(variable) else { return nil }
        return unsafe String(cString: value)
    }

    /// Only returns when it failed.
    private static func startAgain(_ wipesFreedMemory: Bool) -> Bool {
        guard unsafe setenv(variable, "enable=no", 1) == 0 else { return false }
        if wipesFreedMemory {
            let words = tunables(after: value(of: tunables))
            guard unsafe setenv(tunables, words, 1) == 0 else { return false }
        }
        // SAFETY: the argument vector of this process, ended by nil.
        _ = unsafe execv("/proc/self/exe", CommandLine.unsafeArgv)
        return false
    }

    /// Raises SIGTERM when standard input closes: the parent that held its other end is gone.
    package static func stopWithParent() {
        var thread = pthread_t()
        _ = unsafe pthread_create(
            &thread, nil,
            { _ in
                var byte: UInt8 = 0
                while true {
                    let count = unsafe read(STDIN_FILENO, &byte, 1)
                    if count == 0 || (count < 0 && sluice_errno() != EINTR) { break }
                }
                _ = kill(getpid(), SIGTERM)
                return nil
            }, nil)
        _ = pthread_detach(thread)
    }
}

/// Standard output and error, written whole lines at a time.
package enum StandardStream: Int32, Sendable {
    case output = 1
    case error = 2

    /// Writes all of `text`, which holds no content; what the stream does not take is dropped.
    package func write(_ text: String) {
        var text = text
        text.withUTF8 { bytes in
            var done = 0
            while done < bytes.count {
                let count = unsafe Glibc.write(
                    rawValue, bytes.baseAddress.map { unsafe $0 + done }, bytes.count - done)
                if count <= 0 { return }
                done += count
            }
        }
    }
}
