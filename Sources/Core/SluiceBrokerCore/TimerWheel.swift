import BasicContainers

/// Deadlines of a fixed set of ids, at a precision of one tick. Scheduling, moving and cancelling
/// cost a few list operations; nothing is allocated after `init` except when the set grows.
///
/// Each id has at most one deadline. An id further away than one turn of the wheel stays in its
/// slot and is looked at once a turn.
package struct TimerWheel: ~Copyable {
    /// Precision in milliseconds: a deadline fires at most this late.
    package static let tickMs: UInt64 = 32
    private static let slotCount = 1_024
    private static let none = UInt32.max

    private var heads: UniqueArray<UInt32>
    private var next = UniqueArray<UInt32>()
    private var previous = UniqueArray<UInt32>()
    private var slotOf = UniqueArray<UInt16>()
    /// `.max` for an id without a deadline.
    private var dueMs = UniqueArray<UInt64>()
    private var tick: UInt64
    /// Ids with a deadline.
    package private(set) var count = 0

    package init(nowMs: UInt64) {
        heads = UniqueArray(repeating: Self.none, count: Self.slotCount)
        tick = nowMs / Self.tickMs
    }

    /// Sets or moves the deadline of `id`.
    package mutating func schedule(_ id: UInt32, atMs: UInt64) {
        let index = Int(id)
        while dueMs.count <= index {
            next.append(Self.none)
            previous.append(Self.none)
            slotOf.append(0)
            dueMs.append(.max)
        }
        if dueMs[index] == atMs { return }
        cancel(id)
        precondition(atMs != .max)
        dueMs[index] = atMs
        let slot = Self.slot(ofTick: max((atMs + Self.tickMs - 1) / Self.tickMs, tick + 1))
        next[index] = heads[slot]
        previous[index] = Self.none
        if heads[slot] != Self.none { previous[Int(heads[slot])] = id }
        heads[slot] = id
        slotOf[index] = UInt16(slot)
        count += 1
    }

    /// Takes the deadline of `id` away, if it has one.
    package mutating func cancel(_ id: UInt32) {
        let index = Int(id)
        guard index < dueMs.count, dueMs[index] != .max else { return }
        unlink(id)
    }

    /// Appends every id whose deadline has passed to `expired`; each has none afterwards.
    package mutating func expire(nowMs: UInt64, into expired: inout [UInt32]) {
        let target = nowMs / Self.tickMs
        guard target > tick else { return }
        let turns = min(target - tick, UInt64(Self.slotCount))
        tick = target
        for step in 0..<turns {
            var id = heads[Self.slot(ofTick: target - step)]
            while id != Self.none {
                let following = next[Int(id)]
                if dueMs[Int(id)] <= nowMs {
                    unlink(id)
                    expired.append(id)
                }
                id = following
            }
        }
    }

    private mutating func unlink(_ id: UInt32) {
        let index = Int(id)
        let after = next[index]
        let before = previous[index]
        if before == Self.none {
            heads[Int(slotOf[index])] = after
        } else {
            next[Int(before)] = after
        }
        if after != Self.none { previous[Int(after)] = before }
        dueMs[index] = .max
        count -= 1
    }

    private static func slot(ofTick tick: UInt64) -> Int {
        Int(tick % UInt64(slotCount))
    }
}
