import SluiceWire

/// What the matcher knows of one offer, or of the best of a set of offers. A set that cannot
/// serve a demand holds no offer that can.
struct OfferNode: TournamentNode {
    /// By `Preference`: the smallest is the best. `.max` = none.
    var keys = OfferKeys(balanced: .max, price: .max, latency: .max, throughput: .max)
    /// Micro-USD per million tokens.
    var inputPrice = UInt64.max
    var outputPrice = UInt64.max
    /// Predicted time to the first token; 0 where nothing was seen that could rule it out.
    var firstTokenUs = UInt32.max
    /// `.max` = not stated.
    var contextTokens: UInt32 = 0
    var operations: UInt8 = 0
    var encodings: UInt8 = 0
    var supplyTypes: UInt8 = 0
    var dataPolicy: UInt8 = 0
    /// Bits of `RegionBits`.
    var regions: UInt64 = 0
    /// A bit for the shard, those from 63 on together.
    var shards: UInt64 = 0

    static let vacant = OfferNode()

    private init() {}

    init(_ frame: OfferFrame, keys: OfferKeys, firstTokenUs: UInt32, shard: UInt16) {
        self.keys = keys
        inputPrice = UInt64(frame.prices.input.rawValue)
        outputPrice = UInt64(frame.prices.output.rawValue)
        self.firstTokenUs = firstTokenUs
        contextTokens = frame.contextTokens == 0 ? .max : min(frame.contextTokens, .max - 1)
        operations = frame.operations.rawValue
        encodings = frame.encodings.rawValue
        supplyTypes = SupplyTypeSet(frame.supplyType).rawValue
        dataPolicy = frame.dataPolicy.rawValue
        regions = RegionBits.stated(frame.region)
        shards = Self.bit(ofShard: shard)
    }

    static func bit(ofShard shard: UInt16) -> UInt64 { 1 << UInt64(min(shard, 63)) }

    func joined(_ other: OfferNode) -> OfferNode {
        var both = self
        both.keys = keys.least(other.keys)
        both.inputPrice = min(inputPrice, other.inputPrice)
        both.outputPrice = min(outputPrice, other.outputPrice)
        both.firstTokenUs = min(firstTokenUs, other.firstTokenUs)
        both.contextTokens = max(contextTokens, other.contextTokens)
        both.operations |= other.operations
        both.encodings |= other.encodings
        both.supplyTypes |= other.supplyTypes
        both.dataPolicy = max(dataPolicy, other.dataPolicy)
        both.regions |= other.regions
        both.shards |= other.shards
        return both
    }

    /// Whether an offer of this set may serve a task of that set. Exact for one offer and one
    /// task but for the region's name, which the caller compares.
    func mayServe(_ demand: Demand, nowUs: UInt64) -> Bool {
        operations & demand.operations != 0 && encodings & demand.encodings != 0
            && supplyTypes & demand.supplyTypes != 0 && regions & demand.regions != 0
            && dataPolicy >= demand.dataPolicy && contextTokens >= demand.contextTokens
            && inputPrice <= demand.inputCeiling && outputPrice <= demand.outputCeiling
            && nowUs + UInt64(firstTokenUs) <= demand.deadlineUs
    }
}

/// An offer's rank under each preference; smaller is better, equal is equal.
struct OfferKeys: Equatable {
    var balanced: UInt32
    var price: UInt32
    var latency: UInt32
    var throughput: UInt32

    init(balanced: UInt32, price: UInt32, latency: UInt32, throughput: UInt32) {
        self.balanced = balanced
        self.price = price
        self.latency = latency
        self.throughput = throughput
    }

    /// Times count in steps of a sixteenth of their octave (6 % at most), so that noise does not
    /// part equal offers; prices count almost exactly.
    ///
    /// - price: the cheapest; among equals the earliest.
    /// - latency: the earliest; among equals the cheapest.
    /// - throughput: the least time a token; among equals the earliest.
    /// - balanced: the smallest product of (first token + 50 ms) and (price + 5 cents): below
    ///   those, neither counts for much. Among equals the least loaded.
    ///
    /// `priceMicroUSD` is `blendedPrice`; `loadEighths` the part of its slots in use, 0…8.
    init(
        firstTokenUs: UInt64, usPerToken: UInt64, priceMicroUSD: UInt64, loadEighths: UInt32
    ) {
        let first = min(Steps.sixteenths(of: firstTokenUs), 1_023)
        let each = min(Steps.sixteenths(of: usPerToken), 1_023)
        let product =
            Steps.sixteenths(of: firstTokenUs + 50_000)
            + Steps.sixteenths(of: priceMicroUSD + 50_000)
        balanced = product << 4 | loadEighths
        price = Steps.fine(of: priceMicroUSD) << 10 | first
        latency = first << 22 | Steps.fine(of: priceMicroUSD)
        throughput = each << 10 | first
    }

    func least(_ other: OfferKeys) -> OfferKeys {
        OfferKeys(
            balanced: min(balanced, other.balanced), price: min(price, other.price),
            latency: min(latency, other.latency), throughput: min(throughput, other.throughput))
    }

    func key(_ preference: Preference) -> UInt32 {
        switch preference {
        case .balanced: balanced
        case .price: price
        case .latency: latency
        case .throughput: throughput
        }
    }

    /// One price for the order: three prompt tokens to one of the answer, as tasks usually are.
    static func blendedPrice(_ prices: TokenPrices) -> UInt64 {
        (3 * UInt64(prices.input.rawValue) + UInt64(prices.output.rawValue)) / 4
    }
}

/// Numbers as logarithmic steps: the same order with fewer bits.
enum Steps {
    /// Sixteen steps to the octave; 0…975.
    static func sixteenths(of value: UInt64) -> UInt32 {
        guard value >= 16 else { return UInt32(truncatingIfNeeded: value) }
        let octave = 63 - value.leadingZeroBitCount
        let part = UInt32(truncatingIfNeeded: value >> UInt64(octave - 4)) & 15
        return UInt32(truncatingIfNeeded: octave - 3) << 4 | part
    }

    /// 65,536 steps to the octave, so exact below 131,072; at most 22 bits.
    static func fine(of value: UInt64) -> UInt32 {
        guard value >= 65_536 else { return UInt32(truncatingIfNeeded: value) }
        let octave = 63 - value.leadingZeroBitCount
        let part = UInt32(truncatingIfNeeded: value >> UInt64(octave - 16)) & 65_535
        return UInt32(truncatingIfNeeded: octave - 15) << 16 | part
    }
}

/// Looks for the best offer of a demand among the free ones.
struct OfferSearch {
    let demand: Demand
    let preference: Preference
    let region: ShortText?
    let excluded: (UInt64, UInt64)
    let nowUs: UInt64
    /// Only offers on these shards.
    var shards = UInt64.max
    /// A bit for every tie.
    var coins: UInt64

    private(set) var leaf = -1
    private(set) var key = UInt32.max
    /// Another with the same key was left out.
    private(set) var isTied = false

    init(
        _ demand: Demand, _ preference: Preference, region: ShortText?,
        excluded: (UInt64, UInt64), nowUs: UInt64, coins: UInt64
    ) {
        self.demand = demand
        self.preference = preference
        self.region = region
        self.excluded = excluded
        self.nowUs = nowUs
        self.coins = coins
    }

    /// The same search among the offers of these shards alone.
    func restarted(onShards shards: UInt64) -> OfferSearch {
        var search = OfferSearch(
            demand, preference, region: region, excluded: excluded, nowUs: nowUs, coins: coins)
        search.shards = shards
        return search
    }

    /// Descends into the better half first, and into the other only where it can be better still.
    /// `members` names the offer of each leaf.
    mutating func run(
        _ tree: Tournament<OfferNode>, _ members: [UInt32], _ offers: [Offer]
    ) {
        guard bound(tree.root) < .max else { return }
        descend(1, tree.nodes, capacity: tree.capacity, members, offers)
    }

    private mutating func descend(
        _ at: Int, _ nodes: [OfferNode], capacity: Int, _ members: [UInt32], _ offers: [Offer]
    ) {
        guard at < capacity else {
            let leaf = at - capacity
            let offer = Int(members[leaf])
            guard region == nil || region == offers[offer].region,
                offers[offer].identity == 0
                    || (offers[offer].identity != excluded.0
                        && offers[offer].identity != excluded.1)
            else { return }
            self.leaf = leaf
            key = nodes[at].keys.key(preference)
            return
        }
        let left = bound(nodes[2 * at])
        let right = bound(nodes[2 * at + 1])
        var first = 2 * at
        if left > right || (left == right && takesRight()) { first += 1 }
        if min(left, right) < key {
            descend(first, nodes, capacity: capacity, members, offers)
        }
        let other = max(left, right)
        if other < key {
            descend(first ^ 1, nodes, capacity: capacity, members, offers)
        } else if other == key, other != .max {
            isTied = true
        }
    }

    /// The best key below a node; `.max` where nothing there can serve.
    private func bound(_ node: OfferNode) -> UInt32 {
        guard node.shards & shards != 0, node.mayServe(demand, nowUs: nowUs) else { return .max }
        return node.keys.key(preference)
    }

    private mutating func takesRight() -> Bool {
        let isRight = coins & 1 != 0
        coins = coins >> 1 | coins << 63
        return isRight
    }
}
