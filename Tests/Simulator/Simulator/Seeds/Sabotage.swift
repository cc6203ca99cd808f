/// A rule that the simulated world breaks on purpose, to show that the checks find it.
package enum Sabotage: String, CaseIterable, Sendable {
    /// Once a connection was reset, the reader of the journal hears every ENDED twice.
    case endedTwice
    /// The sidecar releases the ring before its segment is synced.
    case releasedEarly
    /// A starting sidecar takes what it finds in the page cache for durable.
    case notSyncedAtStart
    /// A transaction whose outcome stays unknown moves no cursor.
    case cursorForgotten
    /// What brokers' deaths left open is never ended.
    case neverClosed
    /// A node's sidecar ends other nodes' tasks as lost, whose instances it cannot see.
    case foreignTasksLost

    /// Options without which the breach is rare.
    package var words: String {
        self == .foreignTasksLost ? "clockJumps=1 prepaid=0 brokers=2" : ""
    }
}
