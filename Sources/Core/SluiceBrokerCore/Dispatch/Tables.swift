import SluiceRecordFormat
import SluiceWire

// What the dispatcher knows: peers, accounts, suppliers, offers, models and tasks. All in arrays;
// an index is a name, and nothing iterates a hash table, so that the same events give the same
// actions.

/// An authenticated connection.
struct Peer {
    var isPresent = false
    var reference = ConnectionRef(shard: 0, index: 0, generation: 0)
    var digest = Digest256(0, 0, 0, 0)
    var account: UInt64 = 0
    /// Index in `accounts`, and of its credential in `keys`.
    var accountIndex = noIndex
    var key = noIndex
    /// Index in `suppliers`; `noIndex` for a client.
    var supplier = noIndex
    /// The model it asked for last.
    var model = noIndex
}

/// A supplier across its connections.
struct SupplierIdentity {
    /// 0 = has none; then it is of one connection only.
    var number: UInt64 = 0
    var breaker = Breaker()
    /// Indices in `suppliers`.
    var connections: [UInt32] = []
    /// Tasks it has that are not done.
    var running = 0
    /// When it was last told how it stands; 0 = not yet.
    var reportedMs: UInt64 = 0
}

/// One connection of a supplier identity.
struct Supplier {
    var isPresent = false
    var connection = ConnectionRef(shard: 0, index: 0, generation: 0)
    /// Index in `identities`.
    var identity = noIndex
    /// GRANT of the whole connection.
    var granted: UInt32 = 0
    var inUse: UInt32 = 0
    /// Indices in `offers`, in the order they were made.
    var offers: [UInt32] = []
    /// The position in `offers` that is asked first when a slot of all of them is free.
    var turn = 0

    var isFull: Bool { inUse >= granted }
}

/// Suppliers, their offers and their slots at one moment.
package struct SupplyCount: Equatable, Sendable {
    package var suppliers: UInt64 = 0
    package var offers: UInt64 = 0
    /// Of each supplier what its connection grants, or its offers together if that is less.
    package var slotsGranted: UInt64 = 0
    package var slotsInUse: UInt64 = 0
}

/// One offer of one supplier connection.
struct Offer {
    var isPresent = false
    var isWithdrawn = false
    /// It stands among the free ones of its model.
    var isFree = false
    var supplier = noIndex
    var model: UInt32 = noIndex
    /// Its place among its model's offers, and its leaf in their tournaments.
    var place = noIndex
    var leaf = noIndex
    var group: UInt32 = 0
    var granted: UInt32 = 0
    var inUse: UInt32 = 0
    /// The supplier's identity; 0 = none.
    var identity: UInt64 = 0
    /// Where its tasks are counted for its supplier; `noIndex` = nowhere.
    var row = noIndex
    var region: ShortText?
    /// The supplier's number for it.
    var id = OfferID.connection
    var supplyType = SupplyType.community
    /// Its ask and what the client pays for it now, frozen in each task.
    var prices = TaskPrices.free
    /// The ask is above the operator's price for the model: it serves nothing.
    var isPricedOut = false
    /// Bits of `OperationSet`, whatever the price.
    var operations: UInt8 = 0
    var price = PriceSteps(.free)
    /// What it says of itself, for the tournaments of its model.
    var standing = OfferNode.vacant
    var speed = SpeedEstimate(prior: ModelSpeed())
}

/// A model by its interned name.
struct Model {
    let name: ModelName
    /// Live offers.
    var offers: [UInt32] = []
    var leaves = OfferLeaves()
    /// All that stand, whether free or not, and those with a free slot in their order.
    var standing = Tournament<OfferNode>()
    var free = Tournament<OfferNode>()
    var freeOffers = 0
    /// A leaf of `standing` that served a task lately: most ask the same.
    var servedLeaf = 0
    var queue = FairQueue()
    /// Tokens that its waiting tasks are expected to take.
    var queuedTokens: UInt64 = 0
    /// Admitted and not dispatched yet, and their bodies in whole chunks.
    var waitingTasks = 0
    var waitingBytes = 0
    /// Since when there is no offer; nil with one.
    var absentSinceMs: UInt64?
    var speed = ModelSpeed()
    var served = ServedRate()
    var retries = RetryBudget()
    /// Covers what clients pay for any offer that stands; of the last ones where none does.
    var dearest = PriceList.free
    /// An offer is gone that may have been the dearest.
    var isDearestStale = false
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
    var accountIndex = noIndex
    /// Index in `keys`.
    var key = noIndex
    var keyDigestPrefix: UInt64 = 0
    /// Its idempotency key's place in `idempotency`; `noIndex` = has none.
    var keyPlace = noIndex
    var keyDigest: UInt64 = 0
    var terms = TaskTerms(operation: .chat, encoding: .text, bodyBytes: 0)
    var filters = OfferFilters()
    var affinityKeys = AffinityKeys()
    var trace: TraceContext?
    var model: UInt32 = noIndex
    /// What it asks of an offer.
    var demand = Demand()
    /// Arena bytes held for the body and the answer.
    var bodyArenaBytes = 0
    var answerArenaBytes = 0
    /// It counts among those that wait for the first time.
    var isWaiting = false
    /// The body was whole when it was admitted.
    var isBodyComplete = false

    /// Its account prepays: what is held for it, at which prices, for how many tokens.
    var isPrepaid = false
    var hold = MicroUSD.zero
    var holdPrices = PriceList.free
    var heldTokens: UInt64 = 0
    /// While it is queued and an offer was found that it could not pay: that offer's prices. Until its
    /// account's lease has the money, only offers that it can pay see it.
    var unpaidPrices: PriceList?
    /// Input that is billed at most.
    var inputBound: UInt32 = 0
    /// The most that it may cost; 0 = no bound of its own.
    var budget = MicroUSD.zero

    /// Position among the instance's accepted tasks, from 1.
    var counter: UInt64 = 0
    var acceptedUs: UInt64 = 0
    /// What it is expected to take.
    var estimatedTokens: UInt64 = 0
    /// Where it waits, while queued, and its number among all that were ever queued.
    var arrival: UInt64 = 0
    var place = FairQueue.Place(flow: 0, leaf: 0)
    /// The flow that was charged the estimate; `noIndex` = none.
    var chargedFlow = noIndex

    /// The chosen offer and its supplier's place in `identities`, while running.
    var offer = noIndex
    var identity = noIndex
    /// Its row in the supplier's books; `noIndex` = none.
    var row = noIndex
    /// Its supplier's breaker waits for it.
    var isProbe = false
    var dispatchedUs: UInt64 = 0
    var dispatches: UInt8 = 0
    var queueUs: UInt32 = 0
    var winReason: WinReason = .none
    var supplierIdentity: UInt64 = 0
    var supplyType: SupplyType?
    /// Identities that had the task and did not do it.
    var excluded: (UInt64, UInt64) = (0, 0)
    var prices = TaskPrices.free

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
    /// Tasks that ended because their deadline had passed.
    package var deadlinesPassed: UInt64 = 0
    package var refused: UInt64 = 0
    /// Refusals that the journal had no room for.
    package var refusalsUnwritten: UInt64 = 0
    package var journalFullRefusals: UInt64 = 0
    package var dispatched: UInt64 = 0
    package var dispatchedAgain: UInt64 = 0
    /// Tasks that ended because the retry budget was spent.
    package var retriesRefused: UInt64 = 0
    /// Tasks that found a free slot the moment they were accepted.
    package var matchedAtOnce: UInt64 = 0
    /// Microseconds from acceptance to the first dispatch, all tasks together.
    package var queueUs: UInt64 = 0
    /// Tasks that went where their prefix had been read.
    package var affinityHits: UInt64 = 0
    package var breakersOpened: UInt64 = 0
    /// Tasks refused because their account's lease or wallet had no room.
    package var holdsRefused: UInt64 = 0
    /// Admissions, queued tasks and answers that waited for their account's lease.
    package var leaseWaits: UInt64 = 0
    /// Those of them that were queued, and those of these that got what they waited for.
    package var queuedLeaseWaits: UInt64 = 0
    package var queuedLeaseGrants: UInt64 = 0
    /// Times that a lease was asked to grow.
    package var leaseAsks: UInt64 = 0
    /// Tasks refused by the limits of an account or key.
    package var limitRefusals: UInt64 = 0
    /// Submissions answered with an earlier task of the same idempotency key.
    package var duplicates: UInt64 = 0

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
