internal import CLinuxIO
internal import Glibc

/// Keeps content out of what a dying process leaves behind (DESIGN §5; requirements S1–S3).
package enum ProcessGuard {
    private static let variable = "SWIFT_BACKTRACE"

    /// Makes sure that a crash prints no memory and leaves no core file. Called first thing in
    /// `main`, before any thread exists.
    ///
    /// Swift's crash handler prints bytes behind registers and reads its setting before `main`,
    /// so a process that was started without it starts itself again. Returns false when that was
    /// needed and failed: then the caller must not handle content.
    package static func harden() -> Bool {
        guard isBacktraceOff || startAgainWithoutBacktrace() else { return false }
        var none = rlimit(rlim_cur: 0, rlim_max: 0)
        _ = unsafe setrlimit(__rlimit_resource_t(RLIMIT_CORE.rawValue), &none)
        _ = sluice_prctl(PR_SET_DUMPABLE, 0)
        for signal in [SIGSEGV, SIGBUS, SIGILL, SIGTRAP, SIGFPE, SIGABRT, SIGQUIT] {
            sluice_default_signal(signal)
        }
        sluice_ignore_signal(SIGPIPE)
        return true
    }

    /// Makes the heap overwrite what is freed, for processes that hold content in ordinary memory
    /// (the worker; the broker has an arena that wipes). Costs one pass over each block. False if
    /// the allocator cannot do it.
    package static func wipeFreedMemory() -> Bool {
        sluice_wipe_freed_memory() == 0
    }

    private static var isBacktraceOff: Bool {
        guard let value = unsafe getenv(variable) else { return false }
        return unsafe String(cString: value) == "enable=no"
    }

    /// Only returns when it failed.
    private static func startAgainWithoutBacktrace() -> Bool {
        guard unsafe setenv(variable, "enable=no", 1) == 0 else { return false }
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
