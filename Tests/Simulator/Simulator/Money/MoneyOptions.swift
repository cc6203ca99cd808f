/// What a run of `MoneySimulation` leaves out, so that a failing one can be made small.
package struct MoneyOptions: Sendable, CustomStringConvertible {
    /// Steps before everything ends.
    package static let stepsMax = 260

    package var steps = MoneyOptions.stepsMax
    /// Steps in which nothing is done. Each has random numbers of its own, so that leaving one out
    /// shifts no other.
    package var skipped: Set<Int> = []

    package init() {}

    /// Changes options by words as a report prints them: `steps=90 skip=3,8`. False at a word that
    /// is none of them.
    package mutating func apply(_ words: String) -> Bool {
        for word in words.split(separator: " ") {
            let parts = word.split(separator: "=")
            guard parts.count == 2 else { return false }
            switch parts[0] {
            case "steps":
                guard let number = Int(parts[1]), (1...Self.stepsMax).contains(number) else {
                    return false
                }
                steps = number
            case "skip":
                for range in parts[1].split(separator: ",") {
                    let ends = range.split(separator: "-").map { Int($0) }
                    guard let first = ends.first ?? nil, let last = ends.last ?? nil,
                        ends.count <= 2, 1...Self.stepsMax ~= first, first <= last,
                        last <= Self.stepsMax
                    else { return false }
                    skipped.formUnion(first...last)
                }
            default: return false
            }
        }
        return true
    }

    /// The words that make these options.
    package var description: String {
        var ranges: [ClosedRange<Int>] = []
        for step in skipped.filter({ $0 <= steps }).sorted() {
            if let last = ranges.last, last.upperBound + 1 == step {
                ranges[ranges.count - 1] = last.lowerBound...step
            } else {
                ranges.append(step...step)
            }
        }
        let skips = ranges.map {
            $0.count == 1 ? "\($0.lowerBound)" : "\($0.lowerBound)-\($0.upperBound)"
        }
        return "steps=\(steps)" + (skips.isEmpty ? "" : " skip=" + skips.joined(separator: ","))
    }
}
