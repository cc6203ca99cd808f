internal import CLinuxIO

/// Which backend an operator wants.
package enum BackendChoice: String, Sendable, CaseIterable {
    /// io_uring where it works, else epoll.
    case automatic
    case ring
    case epoll

    /// What to use, found by making a ring of production size and letting one operation go
    /// through it.
    ///
    /// Call it under the process's final restrictions (seccomp, limits). `ring` is not weakened:
    /// if a ring cannot be made, the program's own attempt says so.
    package func resolve(settings: BackendSettings = BackendSettings()) -> BackendDecision {
        switch self {
        case .ring: return BackendDecision(kind: .ring, refusal: nil)
        case .epoll: return BackendDecision(kind: .epoll, refusal: nil)
        case .automatic:
            do throws(SystemError) {
                try RingBackend.probe(settings: settings)
                return BackendDecision(kind: .ring, refusal: nil)
            } catch {
                return BackendDecision(kind: .epoll, refusal: error)
            }
        }
    }
}

/// A backend.
package enum BackendKind: String, Sendable {
    case ring
    case epoll
}

/// The backend to use and, where io_uring was tried and refused, why.
package struct BackendDecision: Sendable {
    package let kind: BackendKind
    package let refusal: SystemError?
}

extension RingBackend {
    /// Throws unless a ring works here.
    static func probe(settings: BackendSettings) throws(SystemError) {
        var backend = try RingBackend(slotCount: 1, settings: settings)
        let event = try EventDescriptor()
        event.doorbell.ring()
        backend.watch(event)
        let code = backend.enable()
        guard code >= 0 else { throw SystemError(.ringEnable, code: -code) }
        guard backend.wait(timeoutNs: 1_000_000_000, gatherUs: 0, turnBytes: .max) > 0 else {
            throw SystemError(.ringEnter, code: ETIME)
        }
    }
}
