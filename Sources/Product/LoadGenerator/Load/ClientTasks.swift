/// What went wrong in a run. Any of these makes it invalid.
package enum RunFault: Int, CaseIterable, Sendable {
    /// A token on no task, or before the task was accepted.
    case tokenOutOfPlace
    /// A token whose position is not the next.
    case tokenOutOfOrder
    /// An end on no task, other than complete, or before it was accepted.
    case badEnd
    /// A usage that is not what arrived.
    case wrongUsage
    /// A connection that was lost or could not be made.
    case connectionLost
    /// Bytes that are no frame of the protocol, or a frame that may not come.
    case badFrame
}

/// When samples count: those of tasks and tokens that were meant to start within it.
package struct MeasuringWindow: Equatable, Sendable {
    package var fromNs: UInt64 = .max
    package var untilNs: UInt64 = .max

    package init() {}

    @inline(__always)
    func contains(_ ns: UInt64) -> Bool { ns >= fromNs && ns < untilNs }
}

/// What was measured on one group of streams.
package struct GroupMeasures: Sendable {
    /// From when a task was meant to start to its first token.
    package var ttft = LatencyHistogram()
    /// Between two tokens of one task.
    package var tokenGap = LatencyHistogram()
    /// From when a token was meant to be sent to its arrival.
    package var hop = LatencyHistogram()
    /// Tokens and tasks that arrived and ended within the window.
    package var tokens: UInt64 = 0
    package var tasks: UInt64 = 0

    package init() {}

    package mutating func add(_ other: GroupMeasures) {
        ttft.add(other.ttft)
        tokenGap.add(other.tokenGap)
        hop.add(other.hop)
        tokens += other.tokens
        tasks += other.tasks
    }
}

/// The tasks of the mock clients of one thread: checks everything that arrives, and measures it.
/// Pure: the time is an argument.
package struct ClientTasks: Sendable {
    private struct Task {
        var isOpen = false
        var isAccepted = false
        var asked: UInt32 = 0
        var tokens: UInt32 = 0
        var intendedNs: UInt64 = 0
        var lastNs: UInt64 = 0
    }

    /// By slot: one for each stream of each connection.
    private var tasks: [Task] = []
    private var groupOfSlot: [UInt8] = []
    package var window = MeasuringWindow()
    package private(set) var measures: [GroupMeasures]
    /// Tasks are cut short while this holds, so their length is not checked.
    package var isDraining = false

    package private(set) var tokensReceived: UInt64 = 0
    package private(set) var submitted: UInt64 = 0
    package private(set) var ended: UInt64 = 0
    package private(set) var faults = [UInt64](repeating: 0, count: RunFault.allCases.count)
    /// Slots whose task ended since the caller last emptied it.
    package var freed: [Int32] = []

    package init(groupCount: Int) {
        measures = [GroupMeasures](repeating: GroupMeasures(), count: groupCount)
    }

    /// Makes `count` slots of a group; the number of the first.
    package mutating func addSlots(_ count: Int, group: Int) -> Int {
        tasks += [Task](repeating: Task(), count: count)
        groupOfSlot += [UInt8](repeating: UInt8(group), count: count)
        return tasks.count - count
    }

    package func isOpen(_ slot: Int) -> Bool { tasks[slot].isOpen }

    /// A task goes out. `isAccepted`: the protocol has no word of acceptance to wait for.
    package mutating func begin(
        _ slot: Int, asked: Int, intendedNs: UInt64, isAccepted: Bool
    ) {
        precondition(!tasks[slot].isOpen)
        tasks[slot] = Task(
            isOpen: true, isAccepted: isAccepted, asked: UInt32(asked), intendedNs: intendedNs)
        submitted += 1
    }

    package mutating func accepted(_ slot: Int) {
        if !tasks[slot].isOpen || tasks[slot].isAccepted { fault(.badFrame) }
        tasks[slot].isAccepted = true
    }

    @inline(__always)
    package mutating func token(
        _ slot: Int, position: UInt32, intendedNs: UInt64, nowNs: UInt64
    ) {
        tokensReceived += 1
        guard tasks[slot].isAccepted else { return fault(.tokenOutOfPlace) }
        if tasks[slot].tokens != position { fault(.tokenOutOfOrder) }
        tasks[slot].tokens = position &+ 1
        let lastNs = tasks[slot].lastNs
        tasks[slot].lastNs = nowNs
        guard window.fromNs != .max else { return }
        let group = Int(groupOfSlot[slot])
        if window.contains(intendedNs) {
            measures[group].hop.record(nowNs > intendedNs ? nowNs - intendedNs : 0)
        }
        if window.contains(nowNs) {
            measures[group].tokens += 1
            if lastNs != 0 { measures[group].tokenGap.record(nowNs - lastNs) }
        }
        if lastNs == 0, window.contains(tasks[slot].intendedNs) {
            measures[group].ttft.record(nowNs - tasks[slot].intendedNs)
        }
    }

    /// The last word on a task. `usage` is what the target says was delivered, where it says so.
    package mutating func ended(
        _ slot: Int, isComplete: Bool, usage: UInt32?, nowNs: UInt64
    ) {
        guard tasks[slot].isOpen else { return fault(.badEnd) }
        let task = tasks[slot]
        if !isComplete || !task.isAccepted {
            fault(.badEnd)
        } else if (usage ?? task.tokens) != task.tokens
            || (task.tokens != task.asked && !(isDraining && task.tokens < task.asked))
        {
            fault(.wrongUsage)
        }
        tasks[slot] = Task()
        ended += 1
        if window.contains(nowNs) { measures[Int(groupOfSlot[slot])].tasks += 1 }
        freed.append(Int32(slot))
    }

    /// A task was meant to start and has not by the end: it counts with the time it has waited.
    package mutating func neverStarted(_ slot: Int, intendedNs: UInt64, nowNs: UInt64) {
        guard window.contains(intendedNs) else { return }
        measures[Int(groupOfSlot[slot])].ttft.record(nowNs - intendedNs)
    }

    package mutating func fault(_ fault: RunFault) {
        faults[fault.rawValue] += 1
    }
}
