internal import CLinuxIO

/// How a thread shares the processors with others.
package enum ThreadSchedule {
    /// The calling thread does work that can wait a moment. When it wakes it takes the processor from
    /// nobody, and gets its full share all the same (sched(7), `SCHED_BATCH`); it needs no right.
    /// Where that is refused, it stays as it was.
    package static func batch() { _ = sluice_schedule_batch() }

    /// Whether the calling thread does.
    package static var isBatch: Bool { sluice_is_batch() == 1 }
}
