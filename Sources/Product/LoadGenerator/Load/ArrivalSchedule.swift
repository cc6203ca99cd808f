/// When the tasks of one stream are meant to start. Decided before anything runs and never moved:
/// a target that stalls finds the tasks of that time waiting, and their latencies count from when
/// they were meant to start.
package struct ArrivalSchedule: Sendable {
    private let periodNs: UInt64
    /// The next task's.
    package private(set) var intendedNs: UInt64
    /// Tokens of the next task.
    package private(set) var tokens: Int
    private let tokensPerTask: Int

    /// Stream `index` of its group's `streamCount`, from `startNs` on.
    ///
    /// Streams start spread over one period of a token (or of a task), and the first task of each
    /// has a length of its own, so that neither tokens nor ends come together.
    package init(_ group: StreamGroup, index: Int, startNs: UInt64) {
        periodNs = group.taskPeriodNs
        tokensPerTask = group.tokensPerTask
        if group.arrivesInBursts {
            intendedNs = startNs
            tokens = group.tokensPerTask
            firstPeriodNs = group.taskPeriodNs
            return
        }
        let spreadNs = group.tasksPerSecond > 0 ? group.taskPeriodNs : group.periodNs
        let count = UInt64(group.streamCount)
        intendedNs = startNs + spreadNs * UInt64(index) / count
        // A stride that shares no factor with the length visits every length once in turn.
        tokens = (index * 7_919) % group.tokensPerTask + 1
        firstPeriodNs =
            group.tasksPerSecond > 0 ? group.taskPeriodNs : group.periodNs * UInt64(tokens)
        if group.tasksPerSecond > 0 { tokens = group.tokensPerTask }
    }

    private var firstPeriodNs: UInt64

    /// The next task was started, on time or late.
    package mutating func advance() {
        intendedNs += firstPeriodNs
        firstPeriodNs = periodNs
        tokens = tokensPerTask
    }
}
