/// How the first of two targets stands to the second: the ratio of every pair of neighbouring
/// runs, their median, and an interval around it by order statistics. No shape is assumed.
package struct PairedRatio: Encodable, Equatable, Sendable {
    package var median: Double
    package var low: Double
    package var high: Double
    /// How surely the interval holds the median: 0.95 or more from 6 pairs on, less with fewer.
    package var confidence: Double
    package var pairs: [Double]

    /// Nil without pairs.
    package init?(_ ratios: [Double], confidence wanted: Double = 0.95) {
        guard !ratios.isEmpty else { return nil }
        let ordered = ratios.sorted()
        let count = ordered.count
        pairs = ratios
        median = Self.median(ordered)
        (low, high) = (ordered[0], ordered[count - 1])
        let all = (0..<count).reduce(1.0) { ways, _ in 2 * ways }
        confidence = 1 - 2 / all
        // Leaving out k at either end keeps the median unless k or fewer lie on one side of it.
        var ways = 1.0
        var below = 1.0
        for skipped in 1..<max(1, (count + 1) / 2) {
            ways *= Double(count - skipped + 1) / Double(skipped)
            below += ways
            let inside = 1 - 2 * below / all
            guard inside >= wanted else { break }
            (low, high, confidence) = (ordered[skipped], ordered[count - 1 - skipped], inside)
        }
    }

    /// Of values in ascending order, at least one.
    package static func median(_ ordered: [Double]) -> Double {
        let middle = ordered.count / 2
        return ordered.count % 2 == 1
            ? ordered[middle] : (ordered[middle - 1] + ordered[middle]) / 2
    }
}
