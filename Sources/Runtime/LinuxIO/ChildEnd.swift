internal import CLinuxIO
internal import Glibc

/// The end of a process that this one started.
package enum ChildEnd {
    /// Whether the child is gone. Reaps it, unless someone else has done so.
    package static func hasCome(_ pid: Int32) -> Bool {
        var status: Int32 = 0
        let result = unsafe waitpid(pid, &status, WNOHANG)
        return result == pid || (result < 0 && sluice_errno() == ECHILD)
    }
}
