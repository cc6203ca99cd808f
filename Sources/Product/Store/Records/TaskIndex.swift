import SluiceWire

/// Where tasks stand in a list, by their identity: two look-ups for each task of a transaction,
/// which a dictionary's hash would cost as much as the row that is written.
///
/// Nobody outside chooses identities, so a hash that can be guessed does no harm.
struct TaskIndex {
    /// Places in the list; below 0 where there is none. A power of 2 of them, at most half full.
    private var slots: [Int32]
    private var shift: UInt64
    private var count = 0

    init(capacity: Int = 8) {
        let bits = Int.bitWidth - max(8, capacity).leadingZeroBitCount + 1
        slots = [Int32](repeating: -1, count: 1 << bits)
        shift = UInt64(64 - bits)
    }

    /// The place of a task among `entries`; nil if there is none.
    func find(_ task: TaskID, in entries: [BatchTasks.Entry]) -> Int? {
        var slot = first(task)
        while slots[slot] >= 0 {
            let place = Int(slots[slot])
            if entries[place].task == task, !entries[place].isKnown { return place }
            slot = (slot + 1) & (slots.count - 1)
        }
        return nil
    }

    /// Adds the place of a task that is not found; `entries` has all that were added before.
    mutating func insert(_ task: TaskID, at place: Int, in entries: [BatchTasks.Entry]) {
        if (count + 1) * 2 > slots.count { grow(entries) }
        count += 1
        put(task, place)
    }

    private mutating func put(_ task: TaskID, _ place: Int) {
        var slot = first(task)
        while slots[slot] >= 0 { slot = (slot + 1) & (slots.count - 1) }
        slots[slot] = Int32(place)
    }

    private mutating func grow(_ entries: [BatchTasks.Entry]) {
        let old = slots
        slots = [Int32](repeating: -1, count: old.count * 2)
        shift -= 1
        for place in old where place >= 0 { put(entries[Int(place)].task, Int(place)) }
    }

    private func first(_ task: TaskID) -> Int {
        let mixed =
            (task.counter ^ task.instance &* 0xC2B2_AE3D_27D4_EB4F)
            &* 0x9E37_79B9_7F4A_7C15
        return Int(mixed >> shift)
    }
}
