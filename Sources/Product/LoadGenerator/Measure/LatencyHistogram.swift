/// Counts durations in the layout of an HDR histogram: 256 steps to the octave, so that a reading
/// is at most 0.4 % above what was recorded, from 1 ns to 73 minutes in 72 KiB.
package struct LatencyHistogram: Equatable, Sendable {
    private static let stepBits = 8
    /// Longer ones count as this.
    package static let valueMaxNs: UInt64 = 1 << 42 - 1

    private var counts = [UInt64](repeating: 0, count: index(of: valueMaxNs) + 1)
    /// Durations recorded.
    package private(set) var count: UInt64 = 0
    /// The longest, exactly; 0 when there is none.
    package private(set) var maxNs: UInt64 = 0

    package init() {}

    /// Counts one duration.
    package mutating func record(_ ns: UInt64) {
        counts[Self.index(of: min(ns, Self.valueMaxNs))] += 1
        count += 1
        if ns > maxNs { maxNs = ns }
    }

    /// Adds what another counted.
    package mutating func add(_ other: LatencyHistogram) {
        guard other.count > 0 else { return }
        for index in counts.indices { counts[index] += other.counts[index] }
        count += other.count
        maxNs = max(maxNs, other.maxNs)
    }

    /// The smallest duration that at least `quantile` (0...1) of the recorded ones do not exceed,
    /// nanoseconds; nil when nothing was recorded.
    package func ns(at quantile: Double) -> UInt64? {
        guard count > 0 else { return nil }
        let wanted = max(1, UInt64((Double(count) * min(max(quantile, 0), 1)).rounded(.up)))
        var seen: UInt64 = 0
        for index in counts.indices where counts[index] > 0 {
            seen += counts[index]
            if seen >= wanted { return min(Self.upperNs(of: index), maxNs) }
        }
        return maxNs
    }

    /// The steps that hold something, shortest first: the longest duration of each and how many.
    package var steps: [(upperNs: UInt64, count: UInt64)] {
        counts.indices.lazy.filter { counts[$0] > 0 }.map {
            (min(Self.upperNs(of: $0), maxNs), counts[$0])
        }
    }

    /// Step of a duration up to `valueMaxNs`.
    private static func index(of ns: UInt64) -> Int {
        guard ns >= 1 << stepBits else { return Int(ns) }
        let shift = 63 - ns.leadingZeroBitCount - stepBits
        return shift << stepBits + Int(truncatingIfNeeded: ns >> UInt64(shift))
    }

    private static func upperNs(of index: Int) -> UInt64 {
        guard index >= 2 << stepBits else { return UInt64(index) }
        let shift = index >> stepBits - 1
        return UInt64(index - shift << stepBits + 1) << UInt64(shift) - 1
    }
}
