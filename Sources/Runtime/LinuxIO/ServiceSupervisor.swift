internal import CLinuxIO
internal import Glibc

/// What a supervisor such as systemd hands to a service that it starts, and wants to hear from it:
/// listening sockets (sd_listen_fds(3)) and readiness (sd_notify(3)).
package enum ServiceSupervisor {
    /// The first descriptor that is passed, by that contract.
    private static let firstDescriptor: Int32 = 3

    /// How many listeners were passed to this process. What another process was meant to get, as
    /// after a fork, is not counted.
    package static var listenerCount: Int {
        guard number("LISTEN_PID") == Int(getpid()) else { return 0 }
        return max(0, number("LISTEN_FDS") ?? 0)
    }

    /// Takes the only listener that was passed. Called once, when `listenerCount` is 1.
    package static func takeListener() throws(SystemError) -> ListeningSocket {
        precondition(listenerCount == 1)
        defer {
            _ = unsafe unsetenv("LISTEN_PID")
            _ = unsafe unsetenv("LISTEN_FDS")
        }
        return try ListeningSocket(adopting: firstDescriptor)
    }

    /// What a service says of itself.
    package enum State: String, Sendable {
        /// It serves.
        case ready = "READY=1"
        /// It has begun to end.
        case stopping = "STOPPING=1"
    }

    /// The signal by which a service is asked to read its configuration again.
    package static let reloadSignal: Int32 = SIGHUP

    /// Tells the supervisor, if there is one that listens. It is no failure when there is none.
    package static func notify(_ state: State) {
        guard let path = unsafe getenv("NOTIFY_SOCKET") else { return }
        _ = unsafe sluice_notify(path, state.rawValue)
    }

    private static func number(_ name: String) -> Int? {
        guard let value = unsafe getenv(name) else { return nil }
        return unsafe Int(String(cString: value))
    }
}
