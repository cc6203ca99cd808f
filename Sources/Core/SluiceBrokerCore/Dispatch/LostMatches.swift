/// Why an offer did not get a task of its model.
package enum LossReason: UInt8, CaseIterable, Sendable {
    /// The task had been with its supplier before.
    case excluded
    /// It does not serve the operation or the encoding.
    case capability
    case dataPolicy
    case region
    case supplyType
    case priceCeiling
    /// Its context is too short.
    case context
    /// Its supplier failed too often lately.
    case breakerOpen
    case noFreeSlot
    /// Its first token would come after the deadline.
    case deadline
    /// Another has the prefix of the conversation.
    case affinityElsewhere
    /// The winner was earlier or cheaper, as the task prefers, or equal and drawn.
    case slowerOrDearer
    /// It asks more than the operator's price for the model.
    case price
}

/// How many matches every offer lost, by reason.
///
/// Counting all losers of every match would mean to look at all offers. So where a match has more
/// than two losers, every eighth match is looked at, two of its losers are drawn, and each stands
/// for half of them and for eight matches: estimates, of which none is favoured.
struct LostMatches {
    static let sampling: UInt64 = 8
    private static let reasons = LossReason.allCases.count
    /// By offer, then reason.
    private var counts: [UInt64] = []
    private(set) var totals = [UInt64](repeating: 0, count: reasons)

    func count(offer: UInt32, _ reason: LossReason) -> UInt64 {
        let place = Int(offer) * Self.reasons + Int(reason.rawValue)
        return place < counts.count ? counts[place] : 0
    }

    mutating func add(offer: UInt32, _ reason: LossReason, _ weight: UInt64) {
        let place = Int(offer) * Self.reasons + Int(reason.rawValue)
        while counts.count <= (Int(offer) + 1) * Self.reasons - 1 { counts.append(0) }
        counts[place] += weight
        totals[Int(reason.rawValue)] += weight
    }

    /// The offer is gone; its number will name another.
    mutating func forget(offer: UInt32) {
        let first = Int(offer) * Self.reasons
        guard first < counts.count else { return }
        for place in first..<first + Self.reasons { counts[place] = 0 }
    }
}
