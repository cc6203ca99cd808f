/// What a node of a `Tournament` keeps of the leaves below it: enough to say that none of them
/// can be meant, or which of two subtrees to look into first.
protocol TournamentNode {
    /// Stands for no leaf.
    static var vacant: Self { get }

    /// Stands for the leaves of both.
    func joined(_ other: Self) -> Self
}

/// A complete binary tree over numbered leaves, in one array: node 1 is the root, the children of
/// node n are 2n and 2n + 1, and leaf i is node `capacity` + i.
///
/// Changing a leaf joins its log2(capacity) ancestors again. A search descends from the root and
/// leaves out every subtree whose summary says that nothing there fits or is better; what it finds
/// is exact, whatever it left out.
struct Tournament<Node: TournamentNode> {
    private(set) var nodes: [Node] = []
    /// Leaves that fit: 0 or a power of two.
    private(set) var capacity = 0

    /// All leaves together.
    var root: Node { capacity == 0 ? .vacant : nodes[1] }

    func leaf(_ leaf: Int) -> Node { nodes[capacity + leaf] }

    /// Replaces a leaf. `.vacant` removes it.
    mutating func set(_ leaf: Int, _ node: Node) {
        if leaf >= capacity { grow(toFit: leaf) }
        var at = capacity + leaf
        nodes[at] = node
        at >>= 1
        while at >= 1 {
            nodes[at] = nodes[2 * at].joined(nodes[2 * at + 1])
            at >>= 1
        }
    }

    /// Forgets every leaf; keeps room for few.
    mutating func removeAll() {
        nodes.removeAll(keepingCapacity: capacity <= 16)
        capacity = 0
    }

    private mutating func grow(toFit leaf: Int) {
        var grown = max(capacity, 1)
        while grown <= leaf { grown *= 2 }
        var fresh = [Node](repeating: .vacant, count: 2 * grown)
        for index in 0..<capacity { fresh[grown + index] = nodes[capacity + index] }
        for at in stride(from: grown - 1, through: 1, by: -1) {
            fresh[at] = fresh[2 * at].joined(fresh[2 * at + 1])
        }
        nodes = fresh
        capacity = grown
    }
}
