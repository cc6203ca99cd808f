import Synchronization

/// Wakes one waiting task. A ring without a waiter is kept for the next `wait`; many rings before
/// it are one. Any thread may ring.
package final class Doorbell: Sendable {
    private enum State {
        case silent
        case rung
        case waiting(CheckedContinuation<Void, Never>)
    }

    private let state = Mutex(State.silent)

    package init() {}

    /// Wakes the waiter, or lets the next one pass.
    package func ring() {
        let waiter = state.withLock { state -> CheckedContinuation<Void, Never>? in
            guard case .waiting(let waiter) = state else {
                state = .rung
                return nil
            }
            state = .silent
            return waiter
        }
        waiter?.resume()
    }

    /// Returns after the next ring, at once if it has been. One caller at a time.
    package func wait() async {
        await withCheckedContinuation { waiter in
            let hasRung = state.withLock { state -> Bool in
                guard case .rung = state else {
                    state = .waiting(waiter)
                    return false
                }
                state = .silent
                return true
            }
            if hasRung { waiter.resume() }
        }
    }
}
