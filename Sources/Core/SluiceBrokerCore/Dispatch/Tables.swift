import SluiceRecordFormat
import SluiceWire

// What the dispatcher knows: peers, suppliers, offers, models and tasks. All in arrays; an index
// is a name, and nothing iterates a hash table, so that the same events give the same actions.

/// An authenticated connection.
struct Peer {
    var isPresent = false
    var reference = ConnectionRef(shard: 0, index: 0, generation: 0)
    var digest = Digest256(0, 0, 0, 0)
    var account: UInt64 = 0
    /// Index in `suppliers`; `noIndex` for a client.
    var supplier = noIndex
}

/// One connection of a supplier identity.
struct Supplier {
    var isPresent = false
    var connection = ConnectionRef(shard: 0, index: 0, generation: 0)
    /// Who it is, across reconnects.
    var identity: UInt64 = 0
    /// GRANT of the whole connection.
    var granted: UInt32 = 0
    var inUse: UInt32 = 0
    /// Indices in `offers`, in the order they were made.
    var offers: [UInt32] = []
}

/// One offer of one supplier connection.
struct Offer {
    var isPresent = false
    var isWithdrawn = false
    var supplier = noIndex
    var model: UInt32 = noIndex
    var granted: UInt32 = 0
    var inUse: UInt32 = 0
    var frame: OfferFrame?

    var hasFreeSlot: Bool { !isWithdrawn && inUse < granted }
}

/// A model by its interned name.
struct Model {
    let name: ModelName
    /// Live offers, in the order they were made.
    var offers: [UInt32] = []
    /// Tasks that wait, oldest first.
    var queueHead = noIndex
    var queueTail = noIndex
    var queued: UInt32 = 0
    /// Since when there is no offer; nil with one.
    var absentSinceMs: UInt64?
    /// Where the next tie is broken.
    var turn = 0
    var served = ServedRate()
}

/// Tasks a model ended, over the last 10 to 20 seconds.
struct ServedRate {
    private static let windowMs: UInt64 = 10_000
    private var current: UInt64 = 0
    private var previous: UInt64 = 0
    private var startedMs: UInt64 = 0

    mutating func count(nowMs: UInt64) {
        roll(nowMs)
        current += 1
    }

    /// How long `queued` tasks take at the served rate; nil when nothing was served.
    mutating func waitMs(queued: UInt32, nowMs: UInt64) -> UInt64? {
        roll(nowMs)
        let served = current + previous
        guard served > 0 else { return nil }
        let elapsedMs = Self.windowMs + (nowMs - startedMs)
        return UInt64(queued) * elapsedMs / served
    }

    private mutating func roll(_ nowMs: UInt64) {
        guard nowMs >= startedMs + Self.windowMs else { return }
        previous = nowMs < startedMs + 2 * Self.windowMs ? current : 0
        current = 0
        startedMs = nowMs
    }
}

/// One task from its pre-admission to its record. Its index is its slot of the open-task table.
struct DispatchTask {
    enum State: UInt8 {
        case idle
        /// Room is reserved; the body is arriving.
        case admitted
        case queued
        case running
        /// ENDED was written in this turn; the slot is free once that is published.
        case ended
    }

    var state: State = .idle
    var stream = StreamRef(shard: 0, index: 0, generation: 0)
    var account: UInt64 = 0
    var keyDigestPrefix: UInt64 = 0
    var terms = TaskTerms(operation: .chat, encoding: .text, bodyBytes: 0)
    var filters = OfferFilters()
    var trace: TraceContext?
    var model: UInt32 = noIndex
    /// Arena bytes held for the body and the answer.
    var bodyArenaBytes = 0
    var answerArenaBytes = 0

    /// Position among the instance's accepted tasks, from 1.
    var counter: UInt64 = 0
    var acceptedUs: UInt64 = 0
    /// The chosen offer, while running.
    var offer = noIndex
    var dispatches: UInt8 = 0
    var queueUs: UInt32 = 0
    var winReason: WinReason = .none
    var supplierIdentity: UInt64 = 0
    var supplyType: SupplyType?
    /// Identities that had the task and did not do it.
    var excluded: (UInt64, UInt64) = (0, 0)
    var prices = TaskPrices.free

    /// Links of the model's queue.
    var next = noIndex
    var previous = noIndex

    mutating func exclude(_ identity: UInt64) {
        if excluded.0 == 0 { excluded.0 = identity } else { excluded.1 = identity }
    }

    func excludes(_ identity: UInt64) -> Bool {
        identity != 0 && (excluded.0 == identity || excluded.1 == identity)
    }
}

/// Counters of the dispatcher since its start; the shell copies them to the statistics page.
package struct DispatchCounters: Equatable, Sendable {
    package var accepted: UInt64 = 0
    package var ended: UInt64 = 0
    package var completed: UInt64 = 0
    package var refused: UInt64 = 0
    /// Refusals that the journal had no room for.
    package var refusalsUnwritten: UInt64 = 0
    package var journalFullRefusals: UInt64 = 0
    package var dispatched: UInt64 = 0
    package var dispatchedAgain: UInt64 = 0
    /// Tasks that found a free slot the moment they were accepted.
    package var matchedAtOnce: UInt64 = 0

    package init() {}
}

/// The state of a seeded pseudo-random sequence (SplitMix64): jitter must be repeatable.
package struct SplitMix64: Sendable {
    private var state: UInt64

    package init(seed: UInt64) {
        state = seed
    }

    package mutating func next() -> UInt64 {
        state &+= 0x9E37_79B9_7F4A_7C15
        var mixed = state
        mixed = (mixed ^ (mixed >> 30)) &* 0xBF58_476D_1CE4_E5B9
        mixed = (mixed ^ (mixed >> 27)) &* 0x94D0_49BB_1331_11EB
        return mixed ^ (mixed >> 31)
    }

    /// A number in 0..<`bound`; `bound > 0`.
    package mutating func next(below bound: UInt64) -> UInt64 {
        next() % bound
    }
}
