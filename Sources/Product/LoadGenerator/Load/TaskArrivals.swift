/// Which stream begins its next task when: the intended times of all streams of one thread, and
/// what to do when a stream is still taken at that time. Pure: the time is an argument.
package struct TaskArrivals: Sendable {
    private struct Slot {
        /// Nil in a closed loop.
        var schedule: ArrivalSchedule?
        var isTaken = false
        /// A task was due while the stream was taken: it begins as soon as that is over.
        var isLate = false
    }

    private var slots: [Slot] = []
    private var queue = DueQueue()

    package init() {}

    /// When the next task is due; nil when none is known.
    package var firstNs: UInt64? { queue.firstNs }

    /// One more stream; its number is the count of those before.
    package mutating func addSlot() { slots.append(Slot()) }

    /// The stream's tasks arrive by `schedule`.
    package mutating func start(_ slot: Int, _ schedule: ArrivalSchedule) {
        slots[slot].schedule = schedule
        queue.push(DueQueue.Entry(ns: schedule.intendedNs, id: Int32(slot)))
    }

    /// The stream is taken by a task that nobody scheduled.
    package mutating func take(_ slot: Int) { slots[slot].isTaken = true }

    /// A task that begins now, under the time it was meant to begin; nil when none can.
    package mutating func next(
        dueAt nowNs: UInt64
    ) -> (slot: Int, tokens: Int, intendedNs: UInt64)? {
        while let entry = queue.pop(dueAt: nowNs) {
            let slot = Int(entry.id)
            guard let schedule = slots[slot].schedule else { continue }
            if slots[slot].isTaken {
                slots[slot].isLate = true
                continue
            }
            slots[slot].isTaken = true
            var following = schedule
            following.advance()
            slots[slot].schedule = following
            queue.push(DueQueue.Entry(ns: following.intendedNs, id: entry.id))
            return (slot, schedule.tokens, schedule.intendedNs)
        }
        return nil
    }

    /// The stream's task is over; true in a closed loop, where the next begins at once.
    package mutating func freed(_ slot: Int) -> Bool {
        slots[slot].isTaken = false
        guard let schedule = slots[slot].schedule else { return true }
        if slots[slot].isLate {
            slots[slot].isLate = false
            queue.push(DueQueue.Entry(ns: schedule.intendedNs, id: Int32(slot)))
        }
        return false
    }

    /// Ends all schedules; every task that was due and has not begun.
    package mutating func stop(at nowNs: UInt64) -> [(slot: Int, intendedNs: UInt64)] {
        var due: [(slot: Int, intendedNs: UInt64)] = []
        for slot in slots.indices {
            while let intendedNs = slots[slot].schedule?.intendedNs, intendedNs <= nowNs {
                due.append((slot, intendedNs))
                slots[slot].schedule?.advance()
            }
            slots[slot].schedule = nil
        }
        queue.removeAll()
        return due
    }
}
