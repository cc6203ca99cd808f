import SluiceWire

/// What filters tell offers apart by, in steps.
struct OfferKind: Equatable {
    let region: ShortText?
    let supplyType: SupplyType
    let dataPolicy: DataPolicy
    let operations: OperationSet
    let encodings: EncodingSet
    /// Octaves.
    let context: Int
    let price: Int

    init(_ frame: OfferFrame) {
        region = frame.region
        supplyType = frame.supplyType
        dataPolicy = frame.dataPolicy
        operations = frame.operations
        encodings = frame.encodings
        context = frame.contextTokens.leadingZeroBitCount
        price = frame.prices.output.rawValue.leadingZeroBitCount
    }
}

/// Which leaf of its model's tournaments an offer has.
///
/// Where there are many, those of one kind lie together, in aligned blocks of eight. So a task
/// whose kind of offers is scarce passes over the others a block at a time, however well they
/// rank; without it, it would look into each that ranks better than its own.
struct OfferLeaves {
    private static let blockLeaves = 8
    /// Below so many it is not worth the gaps.
    private static let orderedFrom = 64
    private static let kindsMax = 64

    private struct Group {
        var kind: OfferKind?
        /// Numbers of blocks; all but the last are full.
        var blocks: [UInt32] = []
        var count = 0
    }

    /// The offer of each leaf; `noIndex` = none.
    private(set) var members: [UInt32] = []
    /// The first takes all that have no group of their own.
    private var groups = [Group()]
    private var idleBlocks: [UInt32] = []
    private var count = 0

    mutating func add(_ offer: UInt32, _ kind: OfferKind) -> (leaf: UInt32, group: UInt32) {
        let group = self.group(of: kind)
        let place = groups[group].count
        if place % Self.blockLeaves == 0 { groups[group].blocks.append(takeBlock()) }
        let leaf = self.leaf(at: place, of: group)
        members[leaf] = offer
        groups[group].count += 1
        count += 1
        return (UInt32(leaf), UInt32(group))
    }

    /// Closes the gap with the last of the group: says which offer moved, and from which leaf.
    /// That leaf, or else the removed one, is vacant now.
    mutating func remove(_ leaf: UInt32, group index: UInt32) -> (offer: UInt32, leaf: UInt32)? {
        let group = Int(index)
        groups[group].count -= 1
        count -= 1
        let place = groups[group].count
        let last = self.leaf(at: place, of: group)
        let moved = members[last]
        members[Int(leaf)] = moved
        members[last] = noIndex
        if place % Self.blockLeaves == 0, let block = groups[group].blocks.popLast() {
            idleBlocks.append(block)
        }
        return last == Int(leaf) ? nil : (moved, UInt32(last))
    }

    private func leaf(at place: Int, of group: Int) -> Int {
        Int(groups[group].blocks[place / Self.blockLeaves]) * Self.blockLeaves
            + place % Self.blockLeaves
    }

    private mutating func group(of kind: OfferKind) -> Int {
        guard count >= Self.orderedFrom else { return 0 }
        if let known = groups.firstIndex(where: { $0.kind == kind }) { return known }
        if let empty = groups.indices.dropFirst().first(where: { groups[$0].count == 0 }) {
            groups[empty].kind = kind
            return empty
        }
        guard groups.count < Self.kindsMax else { return 0 }
        groups.append(Group(kind: kind))
        return groups.count - 1
    }

    private mutating func takeBlock() -> UInt32 {
        if let idle = idleBlocks.popLast() { return idle }
        let block = UInt32(members.count / Self.blockLeaves)
        members.append(contentsOf: repeatElement(noIndex, count: Self.blockLeaves))
        return block
    }
}
