public import Synchronization

/// Says whether a consumer sleeps, so that only a sleeper is woken: a wake-up costs a system call
/// and some 20 µs.
///
/// Consumer: `prepare`, look into every queue, then sleep only if all are empty; `wake` afterwards.
/// Producer: publish, then ring the doorbell if `takeSleeper` says so. A full fence on either side
/// between its own store and its look at the other's makes sure that one of them sees the other.
@frozen @usableFromInline
package struct SleepFlag: ~Copyable, Sendable {
    @usableFromInline let isAsleep = Atomic<Bool>(false)

    @inlinable
    package init() {}

    /// The consumer is about to sleep. Look into the queues after this.
    @inlinable
    package func prepare() {
        isAsleep.store(true, ordering: .relaxed)
        atomicMemoryFence(ordering: .sequentiallyConsistent)
    }

    /// The consumer does not sleep, or does no longer.
    @inlinable
    package func wake() {
        isAsleep.store(false, ordering: .relaxed)
    }

    /// Whether the producer, which has just published, must ring. True for one of several.
    @inlinable
    package func takeSleeper() -> Bool {
        atomicMemoryFence(ordering: .sequentiallyConsistent)
        guard isAsleep.load(ordering: .relaxed) else { return false }
        return isAsleep.exchange(false, ordering: .relaxed)
    }
}
