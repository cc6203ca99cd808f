import LinuxIO
import LockFree
import SluiceBrokerCore
import Synchronization

/// The dispatcher on a thread of its own: for brokers of many shards, where shard 0 would have no
/// time for its connections.
struct DispatchThread: ~Copyable {
    /// What wakes it.
    final class Bell: Sendable {
        private let event: EventDescriptor

        init() throws(SystemError) {
            event = try EventDescriptor()
        }

        var doorbell: Doorbell { event.doorbell }

        func wait(timeoutMs: Int) { event.wait(timeoutMs: timeoutMs) }
    }

    private final class State: Sendable {
        let seat: Mutex<DispatchSeat?>
        let isOver = Atomic<Bool>(false)

        init(_ seat: consuming sending DispatchSeat) {
            self.seat = Mutex(seat)
        }
    }

    private let state: State
    private let bell: Bell
    private let thread: KernelThread

    init(
        _ seat: consuming sending DispatchSeat, _ bell: Bell, links: ShardLinks
    ) throws(SystemError) {
        let state = State(seat)
        self.state = state
        self.bell = bell
        thread = try KernelThread { Self.run(state, bell, links) }
    }

    /// Ends the instance in order. Every shard has ended before.
    consuming func stop() {
        state.isOver.store(true, ordering: .sequentiallyConsistent)
        bell.doorbell.ring()
        thread.join()
    }

    private static func run(_ state: State, _ bell: Bell, _ links: ShardLinks) {
        guard var seat = state.seat.withLock({ $0.take() }) else { return }
        let sleep = links.dispatcherGauge
        while !state.isOver.load(ordering: .acquiring) {
            sleep.sleep.prepare()
            let timeoutMs = seat.hasWaiting ? 1 : seat.isLeaseAwaited ? 5 : 100
            if !seat.hasRequests { bell.wait(timeoutMs: timeoutMs) }
            sleep.sleep.wake()
            let nowUs = MonotonicClock.nowUs
            let wallUs = WallClock.nowUs
            seat.begin()
            seat.poll(nowUs: nowUs, wallUs: wallUs)
            seat.answerShards(nowUs: nowUs, wallUs: wallUs)
            seat.flush()
        }
        seat.close(wallUs: WallClock.nowUs)
    }
}
