/// How many answers at once an engine carries, kept current by what its answers show. It moves only
/// where all slots were in use: an engine at rest shows nothing about its limit.
package struct SlotLimit: Sendable {
    /// Slots now, 1…`most`.
    package private(set) var slots: Int
    /// What the probe found, doubled: how far it may grow.
    package let most: Int
    /// Tokens per second below which an answer is too slow.
    private let floorRate: Double
    /// Moving average of answers at full load, from the floor on since `slots` last changed: so no
    /// single answer decides.
    private var rate: Double
    private var samples = 0

    /// Answers at full load before a slot goes, and before one comes.
    private static let samplesToShrink = 8
    private static let samplesToGrow = 32
    /// A slot comes only with so much to spare above the floor.
    private static let spare = 1.25

    /// Begins with what a probe found.
    package init(_ probe: SlotProbe.Result) {
        slots = probe.slots
        most = min(probe.slots * 2, SlotProbe.concurrencyMax)
        floorRate = (probe.single?.tokensPerSecond ?? 0) * SlotProbe.floor
        rate = floorRate
    }

    /// An answer showed its speed while so many ran. True when `slots` changed.
    package mutating func saw(tokensPerSecond: Double, running: Int) -> Bool {
        guard running >= slots, floorRate > 0 else { return false }
        // An eighth of the way.
        rate += (tokensPerSecond - rate) / 8
        samples += 1
        if rate < floorRate, samples >= Self.samplesToShrink, slots > 1 {
            return change(to: slots - 1)
        }
        if rate > floorRate * Self.spare, samples >= Self.samplesToGrow, slots < most {
            return change(to: slots + 1)
        }
        return false
    }

    private mutating func change(to count: Int) -> Bool {
        slots = count
        rate = floorRate
        samples = 0
        return true
    }
}
