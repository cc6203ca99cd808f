import SluiceWire

/// Which offer last read a prefix of a conversation, by account and key: its engine may still
/// have it. A bounded table of sets of four; the one used longest ago makes room. Keys are
/// mixed with their account, so nobody can meet another's, and they are never written down.
struct AffinityTable {
    private struct Entry {
        var tag: UInt64 = 0
        /// Who it was, across reconnects.
        var identity: UInt64 = 0
        /// Where it was found last.
        var offer = noIndex
        var usedAt: UInt32 = 0
    }

    private static let ways = 4
    private var entries: [Entry] = []
    private let setMask: UInt64
    private var clock: UInt32 = 0

    /// `entries`: at least so many, in whole sets, a power of two. Memory is taken at first use.
    init(entries: Int) {
        var sets = 1
        while sets * Self.ways < entries { sets *= 2 }
        setMask = UInt64(sets - 1)
    }

    /// Who has the prefix. `place` is for `move`.
    mutating func find(_ tag: UInt64) -> (identity: UInt64, offer: UInt32, place: Int)? {
        guard !entries.isEmpty else { return nil }
        let set = Int(tag & setMask) * Self.ways
        for place in set..<set + Self.ways where entries[place].tag == tag {
            clock &+= 1
            entries[place].usedAt = clock
            return (entries[place].identity, entries[place].offer, place)
        }
        return nil
    }

    /// The identity is at another offer now.
    mutating func move(_ place: Int, to offer: UInt32) {
        entries[place].offer = offer
    }

    mutating func note(_ tag: UInt64, identity: UInt64, offer: UInt32) {
        if entries.isEmpty {
            entries = [Entry](repeating: Entry(), count: (Int(setMask) + 1) * Self.ways)
        }
        let set = Int(tag & setMask) * Self.ways
        clock &+= 1
        var oldest = set
        for place in set..<set + Self.ways {
            if entries[place].tag == tag || entries[place].tag == 0 {
                oldest = place
                break
            }
            // A difference, so that the clock may wrap.
            let age = clock &- entries[place].usedAt
            if age > clock &- entries[oldest].usedAt { oldest = place }
        }
        entries[oldest] = Entry(tag: tag, identity: identity, offer: offer, usedAt: clock)
    }

    /// Account, model and key as one number; never 0.
    static func tag(account: UInt64, model: UInt32, key: UInt64) -> UInt64 {
        var mixed = key ^ (account &* 0x9E37_79B9_7F4A_7C15) ^ (UInt64(model) << 32)
        mixed = (mixed ^ (mixed >> 30)) &* 0xBF58_476D_1CE4_E5B9
        mixed = (mixed ^ (mixed >> 27)) &* 0x94D0_49BB_1331_11EB
        return max(1, mixed ^ (mixed >> 31))
    }
}
