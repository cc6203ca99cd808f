import SluiceTransport
import Synchronization

/// Time that stands still until a test lets it pass. Any thread.
final class FakeClock: SessionClock {
    private struct Sleeper {
        let id: UInt64
        let dueMs: UInt64
        let continuation: CheckedContinuation<Void, Never>
    }

    private struct State {
        var nowMs: UInt64 = 1_000_000
        var sleepers: [Sleeper] = []
        var cancelled: Set<UInt64> = []
        var nextID: UInt64 = 0
        /// The test is over: nobody waits for time any more.
        var isReleased = false
    }

    private let state = Mutex(State())

    var nowMs: UInt64 { state.withLock(\.nowMs) }

    func sleep(_ durationMs: UInt64) async {
        let id = state.withLock { state in
            state.nextID += 1
            return state.nextID
        }
        await withTaskCancellationHandler {
            await withCheckedContinuation { continuation in
                let mayGoOn = state.withLock { state in
                    if state.isReleased { state.nowMs += durationMs }
                    guard durationMs > 0, !state.isReleased,
                        state.cancelled.remove(id) == nil
                    else { return true }
                    state.sleepers.append(
                        Sleeper(
                            id: id, dueMs: state.nowMs + durationMs, continuation: continuation))
                    return false
                }
                if mayGoOn { continuation.resume() }
            }
        } onCancel: {
            wake {
                $0.id == id
            } orElse: {
                $0.cancelled.insert(id)
            }
        }
        await Task.yield()
    }

    /// Lets `durationMs` pass and wakes who waited for it.
    func advance(_ durationMs: UInt64) {
        let nowMs = state.withLock { state in
            state.nowMs += durationMs
            return state.nowMs
        }
        wake {
            $0.dueMs <= nowMs
        } orElse: { _ in
        }
    }

    /// From now on every wait is over at once.
    func release() {
        state.withLock { $0.isReleased = true }
        wake { _ in
            true
        } orElse: { _ in
        }
    }

    private func wake(
        _ isMeant: (Sleeper) -> Bool, orElse: (inout State) -> Void
    ) {
        let woken = state.withLock { state in
            let woken = state.sleepers.filter(isMeant)
            state.sleepers.removeAll(where: isMeant)
            if woken.isEmpty { orElse(&state) }
            return woken
        }
        for sleeper in woken { sleeper.continuation.resume() }
    }
}
