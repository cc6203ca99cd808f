import BasicContainers

import SluiceWire

/// A waiting task, or the first of a set of them with what they ask at the least.
struct TaskNode: TournamentNode {
    var demand = Demand()
    /// The smallest comes first.
    var order = TaskOrder.last

    static let vacant = TaskNode()

    init() {}

    init(_ demand: Demand, _ order: TaskOrder) {
        self.demand = demand
        self.order = order
    }

    func joined(_ other: TaskNode) -> TaskNode {
        TaskNode(demand.joined(other.demand), other.order < order ? other.order : order)
    }
}

/// Two words, the first of more weight.
struct TaskOrder: Comparable {
    var high: UInt64
    var low: UInt64

    static let last = TaskOrder(high: .max, low: .max)

    /// Inside one account: priority, then deadline, then arrival.
    static func ofTask(priority: UInt8, deadlineUs: UInt64, arrival: UInt64) -> TaskOrder {
        TaskOrder(
            high: UInt64(UInt8.max - priority) << 56 | min(deadlineUs, (1 << 56) - 1),
            low: arrival)
    }

    static func < (left: TaskOrder, right: TaskOrder) -> Bool {
        left.high < right.high || (left.high == right.high && left.low < right.low)
    }
}

/// The tasks that wait for one model.
///
/// Between accounts it is deficit round-robin by charged tokens with the rounds computed instead
/// of walked: each account has the tokens it was charged, and the one that was charged least is
/// next. An account that comes back after a pause starts where the others are, so that it can
/// neither save up turns nor lose them. As a deficit is bounded by a quantum, so is what one
/// account can be ahead of another: differences are halved in time (`fade`). Inside an account the
/// order is `TaskOrder.ofTask`.
///
/// Both levels are tournaments, so the first task that one given offer may run is found without
/// passing over those that it may not: they hold up nobody.
struct FairQueue {
    /// One account's tasks at this model.
    fileprivate struct Flow {
        var account = noIndex
        /// Tokens charged, on the scale of `virtualTokens`.
        var charged: UInt64 = 0
        /// When it was last served; the longest ago is first among equals.
        var turn: UInt64 = 0
        var tasks = Tournament<TaskNode>()
        /// By leaf of `tasks`.
        var members: [TaskIndex] = []
        var idleLeaves: [UInt32] = []
        var queued = 0
        /// Charged tasks whose end will correct the charge.
        var running = 0
        /// How far `charged` was raised while tasks ran: a correction does not give it back.
        var raised: UInt64 = 0
        var isDebtor = false

        fileprivate func look(
            _ search: inout QueueSearch, _ all: borrowing UniqueArray<DispatchTask>
        ) {
            search.look(1, tasks.nodes, capacity: tasks.capacity, members, all)
        }
    }

    /// Where a task waits.
    struct Place {
        var flow: UInt32
        var leaf: UInt32
    }

    /// Differences are halved when the one served has gone on by so many of the largest charges.
    private static let chargesBetweenFades: UInt64 = 16

    /// Accounts that wait for nothing but were charged ahead of the others are remembered as far
    /// as this.
    private static let debtorsMax = 1_024

    /// Flow 0 takes what comes back from a supplier, whoever owns it: it has had its turn.
    fileprivate var flows: [Flow] = []
    private var idleFlows: [UInt32] = []
    private var flowOfAccount: [UInt32: UInt32] = [:]
    private var order = Tournament<TaskNode>()
    /// Flows that wait for nothing and owe tokens, the oldest first from `debtorsHead` on.
    private var debtors: [UInt32] = []
    private var debtorsHead = 0
    private var turns: UInt64 = 0
    private var largestCharge: UInt64 = 1
    private var fadedAtTokens: UInt64 = 0
    private var dispatchesSinceFade = 0

    /// Tasks that wait.
    private(set) var count: UInt32 = 0
    /// The most that an account had been charged when it was served: where newcomers start.
    private(set) var virtualTokens: UInt64 = 0

    /// Puts a task in. `isReturned`: a supplier had it and did not do it, so it goes before all.
    mutating func push(
        _ task: TaskIndex, account: UInt32, isReturned: Bool, _ node: TaskNode
    ) -> Place {
        let index = isReturned ? returnedFlow() : flow(of: account)
        let flow = Int(index)
        if flows[flow].queued == 0, !isReturned {
            comeBack(flow)
        }
        let leaf: UInt32
        if let idle = flows[flow].idleLeaves.popLast() {
            leaf = idle
            flows[flow].members[Int(leaf)] = task
        } else {
            leaf = UInt32(flows[flow].members.count)
            flows[flow].members.append(task)
        }
        flows[flow].tasks.set(Int(leaf), node)
        flows[flow].queued += 1
        count += 1
        refresh(flow)
        return Place(flow: index, leaf: leaf)
    }

    /// A task asks for something else from now on; its turn stays.
    mutating func change(_ place: Place, _ demand: Demand) {
        let flow = Int(place.flow)
        let order = flows[flow].tasks.leaf(Int(place.leaf)).order
        flows[flow].tasks.set(Int(place.leaf), TaskNode(demand, order))
        refresh(flow)
    }

    /// Takes a task out that ended while it waited.
    mutating func remove(_ place: Place) {
        take(place)
        refresh(Int(place.flow))
        retire(place.flow)
    }

    /// Takes a task out that is dispatched, and charges its account. False where it is not to be
    /// charged (again).
    mutating func dispatch(_ place: Place, tokens: UInt64) -> Bool {
        let flow = Int(place.flow)
        take(place)
        guard flow > 0 else {
            refresh(flow)
            return false
        }
        virtualTokens = max(virtualTokens, flows[flow].charged)
        flows[flow].charged += tokens
        flows[flow].turn = nextTurn()
        flows[flow].running += 1
        refresh(flow)
        largestCharge = max(largestCharge, tokens)
        dispatchesSinceFade += 1
        let goneOn = virtualTokens - fadedAtTokens
        if goneOn / Self.chargesBetweenFades >= largestCharge, dispatchesSinceFade >= flows.count {
            fade()
        }
        return true
    }

    /// Halves how far every account is ahead or behind. Between accounts that compete for the same
    /// slots that is a small part of one charge. It matters where offers serve different accounts
    /// at different rates: without it, who comes new or waited for a rare offer could be ahead or
    /// behind by all that was ever served elsewhere. Costs log(accounts) a dispatch in all.
    private mutating func fade() {
        for flow in flows.indices.dropFirst() where flows[flow].account != noIndex {
            let charged = flows[flow].charged
            flows[flow].charged =
                charged < virtualTokens
                ? virtualTokens - (virtualTokens - charged) / 2
                : virtualTokens + (charged - virtualTokens) / 2
            flows[flow].raised /= 2
            if flows[flow].queued > 0 { refresh(flow) }
        }
        largestCharge = max(1, largestCharge / 2)
        fadedAtTokens = virtualTokens
        dispatchesSinceFade = 0
    }

    /// The task is over: its charge becomes what it used.
    mutating func settle(_ index: UInt32, estimatedTokens: UInt64, usedTokens: UInt64) {
        let flow = Int(index)
        precondition(flows[flow].running > 0, "settled twice")
        flows[flow].running -= 1
        if usedTokens >= estimatedTokens {
            flows[flow].charged += usedTokens - estimatedTokens
        } else {
            let refund = estimatedTokens - usedTokens
            let kept = min(refund, flows[flow].raised)
            flows[flow].raised -= kept
            flows[flow].charged -= min(flows[flow].charged, refund - kept)
        }
        if flows[flow].running == 0 { flows[flow].raised = 0 }
        if flows[flow].queued > 0 { refresh(flow) } else { retire(index) }
    }

    private mutating func take(_ place: Place) {
        let flow = Int(place.flow)
        flows[flow].tasks.set(Int(place.leaf), .vacant)
        flows[flow].idleLeaves.append(place.leaf)
        flows[flow].queued -= 1
        count -= 1
    }

    /// Files the flow under what it was charged.
    private mutating func refresh(_ flow: Int) {
        guard flows[flow].queued > 0 else { return order.set(flow, .vacant) }
        var node = flows[flow].tasks.root
        node.order = TaskOrder(high: flows[flow].charged, low: flows[flow].turn)
        order.set(flow, node)
    }

    /// The account waits again after a pause: it starts where the others are.
    private mutating func comeBack(_ flow: Int) {
        flows[flow].turn = nextTurn()
        guard flows[flow].charged < virtualTokens else { return }
        if flows[flow].running > 0 {
            flows[flow].raised += virtualTokens - flows[flow].charged
        }
        flows[flow].charged = virtualTokens
    }

    private mutating func nextTurn() -> UInt64 {
        turns += 1
        return turns
    }

    // MARK: Flows

    private mutating func returnedFlow() -> UInt32 {
        if flows.isEmpty { flows.append(Flow()) }
        return 0
    }

    private mutating func flow(of account: UInt32) -> UInt32 {
        if let known = flowOfAccount[account] { return known }
        forgive()
        let index: UInt32
        if let idle = idleFlows.popLast() {
            index = idle
        } else {
            _ = returnedFlow()
            index = UInt32(flows.count)
            flows.append(Flow())
        }
        flows[Int(index)].account = account
        flows[Int(index)].charged = virtualTokens
        flows[Int(index)].raised = 0
        flowOfAccount[account] = index
        return index
    }

    /// Forgets a flow that waits for nothing, at once or when the others have caught up.
    private mutating func retire(_ index: UInt32) {
        let flow = Int(index)
        guard flow > 0, flows[flow].queued == 0, flows[flow].running == 0 else { return }
        if flows[flow].charged <= virtualTokens { return forget(index) }
        guard !flows[flow].isDebtor else { return }
        flows[flow].isDebtor = true
        debtors.append(index)
    }

    /// Looks at two debtors, so that their number stays within bounds as flows are made.
    private mutating func forgive() {
        for _ in 0..<2 where debtorsHead < debtors.count {
            let index = debtors[debtorsHead]
            debtorsHead += 1
            let flow = Int(index)
            flows[flow].isDebtor = false
            guard flows[flow].account != noIndex, flows[flow].queued == 0,
                flows[flow].running == 0
            else { continue }
            let isForgiven =
                flows[flow].charged <= virtualTokens
                || debtors.count - debtorsHead >= Self.debtorsMax
            if isForgiven { forget(index) } else { retire(index) }
        }
        if debtorsHead > 64, debtorsHead * 2 > debtors.count {
            debtors.removeFirst(debtorsHead)
            debtorsHead = 0
        }
    }

    private mutating func forget(_ index: UInt32) {
        let flow = Int(index)
        guard flows[flow].account != noIndex else { return }
        flowOfAccount[flows[flow].account] = nil
        flows[flow].account = noIndex
        flows[flow].tasks.removeAll()
        flows[flow].members.removeAll(keepingCapacity: true)
        flows[flow].idleLeaves.removeAll(keepingCapacity: true)
        idleFlows.append(index)
    }

    // MARK: Search

    /// The first task in order that this offer may run.
    func first(
        for offer: OfferNode, region: ShortText?, identity: UInt64, nowUs: UInt64,
        _ tasks: borrowing UniqueArray<DispatchTask>
    ) -> TaskIndex? {
        guard count > 0 else { return nil }
        var search = QueueSearch(
            offer: offer, region: region, identity: identity, nowUs: nowUs)
        guard search.canBeFirst(order.root) else { return nil }
        look(1, order.nodes, &search, tasks)
        return search.task == noIndex ? nil : search.task
    }

    /// Below `top` of the accounts, which can come before what was found.
    private func look(
        _ top: Int, _ nodes: [TaskNode], _ search: inout QueueSearch,
        _ tasks: borrowing UniqueArray<DispatchTask>
    ) {
        guard let at = search.goDown(from: top, nodes, capacity: order.capacity) else {
            return climb(from: search.stoppedAt, to: top, nodes, &search, tasks)
        }
        // The order of accounts found the account; the one inside it starts anew.
        var inner = QueueSearch(
            offer: search.offer, region: search.region, identity: search.identity,
            nowUs: search.nowUs)
        flows[at - order.capacity].look(&inner, tasks)
        if inner.task != noIndex {
            search.task = inner.task
            search.best = nodes[at].order
        }
        climb(from: at, to: top, nodes, &search, tasks)
    }

    private func climb(
        from start: Int, to top: Int, _ nodes: [TaskNode], _ search: inout QueueSearch,
        _ tasks: borrowing UniqueArray<DispatchTask>
    ) {
        var at = start
        while at != top {
            if search.canBeFirst(nodes[at ^ 1]) { look(at ^ 1, nodes, &search, tasks) }
            at /= 2
        }
    }
}

/// Looks for the first of waiting tasks, or of the accounts they belong to.
private struct QueueSearch {
    let offer: OfferNode
    let region: ShortText?
    let identity: UInt64
    let nowUs: UInt64
    var task = noIndex
    var best = TaskOrder.last
    /// Where `goDown` found that neither half can be first.
    private(set) var stoppedAt = 0

    init(offer: OfferNode, region: ShortText?, identity: UInt64, nowUs: UInt64) {
        self.offer = offer
        self.region = region
        self.identity = identity
        self.nowUs = nowUs
    }

    func canBeFirst(_ node: TaskNode) -> Bool {
        node.order < best && offer.mayServe(node.demand, nowUs: nowUs)
    }

    /// The leaf below `top` that comes first as far as the summaries tell; nil where none can.
    mutating func goDown(from top: Int, _ nodes: [TaskNode], capacity: Int) -> Int? {
        var at = top
        while at < capacity {
            at *= 2
            if nodes[at + 1].order < nodes[at].order { at += 1 }
            if canBeFirst(nodes[at]) { continue }
            at ^= 1
            if !canBeFirst(nodes[at]) {
                stoppedAt = at
                return nil
            }
        }
        return at
    }

    /// Below `top` of one account's tasks.
    mutating func look(
        _ top: Int, _ nodes: [TaskNode], capacity: Int, _ members: [TaskIndex],
        _ tasks: borrowing UniqueArray<DispatchTask>
    ) {
        let found = goDown(from: top, nodes, capacity: capacity)
        if let found {
            let task = members[found - capacity]
            if isMeant(tasks[Int(task)]) {
                self.task = task
                best = nodes[found].order
            }
        }
        var at = found ?? stoppedAt
        while at != top {
            if canBeFirst(nodes[at ^ 1]) {
                look(at ^ 1, nodes, capacity: capacity, members, tasks)
            }
            at /= 2
        }
    }

    /// What a node does not tell of a single task.
    private func isMeant(_ task: DispatchTask) -> Bool {
        (task.filters.region == nil || task.filters.region == region) && !task.excludes(identity)
    }
}
