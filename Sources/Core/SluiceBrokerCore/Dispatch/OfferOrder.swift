import BasicContainers

import SluiceRecordFormat
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

    /// An offer as it stands, whatever its load: it rules nothing out and all are equal.
    init(_ frame: OfferFrame, shard: UInt16) {
        keys = OfferKeys(balanced: 0, price: 0, latency: 0, throughput: 0)
        inputPrice = UInt64(frame.prices.input.rawValue)
        outputPrice = UInt64(frame.prices.output.rawValue)
        firstTokenUs = 0
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
    /// `load` is the part of its slots in use in sixteenths, 0…16.
    init(firstTokenUs: UInt64, usPerToken: UInt64, price ask: PriceSteps, load: UInt32) {
        let first = min(Steps.sixteenths(of: firstTokenUs), 1_023)
        let each = min(Steps.sixteenths(of: usPerToken), 1_023)
        balanced = (Steps.sixteenths(of: firstTokenUs + 50_000) + ask.raised) << 4 | load / 2
        price = ask.fine << 10 | first
        latency = first << 22 | ask.fine
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
}

/// What an offer asks, as far as the order needs it: one price, three prompt tokens to one of the
/// answer, as tasks usually are.
struct PriceSteps {
    /// Almost exact.
    let fine: UInt32
    /// Of the price and 5 cents.
    let raised: UInt32

    init(_ prices: PriceList) {
        let sum = 3 * UInt64(prices.input) + UInt64(prices.output)
        fine = Steps.fine(of: sum)
        raised = Steps.sixteenths(of: sum / 4 + 50_000)
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

    /// Goes down into the better half and notes the other in `frontier`, a heap by key; goes on
    /// with the best that is noted whenever that is better than where it is. So it enters only
    /// nodes that are as good as what it finds. `members` names the offer of each leaf.
    mutating func run(
        _ tree: Tournament<OfferNode>, _ members: [UInt32], _ offers: borrowing UniqueArray<Offer>,
        _ frontier: inout Frontier
    ) {
        guard tree.capacity > 0, canServe(tree.root) else { return }
        frontier.removeAll()
        var at = 1
        while true {
            while at < tree.capacity {
                at *= 2
                let left = tree.nodes[at].keys.key(preference)
                let right = tree.nodes[at + 1].keys.key(preference)
                let takesRight = right < left || (left == right && takesRight())
                let near = takesRight ? right : left
                let far = takesRight ? left : right
                if takesRight { at += 1 }
                if far < .max { frontier.push(key: far, node: at ^ 1) }
                guard near < .max, canServe(tree.nodes[at]), near <= frontier.leastKey else {
                    if near < .max { frontier.push(key: near, node: at) }
                    guard let next = nextInFrontier(tree.nodes, &frontier) else { return }
                    at = next
                    continue
                }
            }
            let leaf = at - tree.capacity
            if isMeant(offers[Int(members[leaf])]) {
                self.leaf = leaf
                key = tree.nodes[at].keys.key(preference)
                let tied = frontier.leastKey == key ? nextInFrontier(tree.nodes, &frontier) : nil
                if let tied { isTied = tree.nodes[tied].keys.key(preference) == key }
                return
            }
            guard let next = nextInFrontier(tree.nodes, &frontier) else { return }
            at = next
        }
    }

    /// The best node noted that can serve.
    private func nextInFrontier(_ nodes: [OfferNode], _ frontier: inout Frontier) -> Int? {
        while let node = frontier.pop() {
            if canServe(nodes[node]) { return node }
        }
        return nil
    }

    private func canServe(_ node: OfferNode) -> Bool {
        node.shards & shards != 0 && node.mayServe(demand, nowUs: nowUs)
    }

    /// What a node does not tell of a single offer.
    private func isMeant(_ offer: Offer) -> Bool {
        (region == nil || region == offer.region)
            && (offer.identity == 0
                || (offer.identity != excluded.0 && offer.identity != excluded.1))
    }

    private mutating func takesRight() -> Bool {
        let isRight = coins & 1 != 0
        coins = coins >> 1 | coins << 63
        return isRight
    }
}

/// Nodes that a search may come back to, the best first and among equals the lowest in the tree,
/// which is nearest to an answer: a binary heap that keeps its memory.
struct Frontier {
    /// Key in the high half, in the low one the node's complement.
    private var heap: [UInt64] = []

    /// `.max` = empty.
    var leastKey: UInt32 { heap.isEmpty ? .max : UInt32(truncatingIfNeeded: heap[0] >> 32) }

    mutating func removeAll() {
        heap.removeAll(keepingCapacity: true)
    }

    mutating func push(key: UInt32, node: Int) {
        var child = heap.count
        let entry = UInt64(key) << 32 | UInt64(~UInt32(truncatingIfNeeded: node))
        heap.append(entry)
        while child > 0, heap[(child - 1) / 2] > entry {
            heap[child] = heap[(child - 1) / 2]
            child = (child - 1) / 2
        }
        heap[child] = entry
    }

    mutating func pop() -> Int? {
        guard let least = heap.first, let last = heap.popLast() else { return nil }
        var parent = 0
        while 2 * parent + 1 < heap.count {
            var child = 2 * parent + 1
            if child + 1 < heap.count, heap[child + 1] < heap[child] { child += 1 }
            guard heap[child] < last else { break }
            heap[parent] = heap[child]
            parent = child
        }
        if !heap.isEmpty { heap[parent] = last }
        return Int(~UInt32(truncatingIfNeeded: least))
    }
}
