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

    /// The broker reads 1 MiB more than a client's SUBMIT and CREDIT allow.
    case creditMisread
    /// The broker reads one slot more than a supplier grants.
    case grantMisread
    /// The broker reads one slot less than a supplier grants.
    case grantUnheard
    /// The broker reads one token less than a supplier's END claims.
    case usageMisread
    /// The broker relays answers with a byte changed.
    case answerAltered
    /// The broker takes one account's body for another's.
    case bodiesCrossed
    /// The broker does not read a supplier's END that answers its CANCEL.
    case endUnheard

    /// The broker takes the least urgent tasks for the most urgent.
    case orderMisread
    /// A broker's records say that one account was served when all others had been.
    case accountStarved

    /// The broker gives a task that one supplier runs to a second one.
    case assignedTwice
    /// The broker gives a task again that a supplier was through with.
    case assignedAgain
    /// The broker sends TOKENS twice.
    case tokensTwice
    /// The broker says QUEUED twice.
    case queuedTwice
    /// The broker ends a client's stream twice.
    case endSaidTwice
    /// The broker gives a supplier credit that raises nothing.
    case creditRepeated
    /// The broker sends a supplier each piece of a body twice.
    case bodyTwice
    /// The broker says another usage in END than in ENDED.
    case usageDiffers
    /// The broker does not give back the credit of bodies.
    case uploadKept

    /// A broker has a larger arena for bodies than its limits say.
    case arenaTooLarge
    /// Once a connection was reset, a broker keeps content when all its tasks have ended.
    case contentKept
    /// Who is not connected when everything heals stays so.
    case neverReconnected
    /// A broker that has work left after a turn is not woken.
    case wakeUpLost
    /// A broker is not woken by what arrives.
    case arrivalUnnoticed

    /// Frames of honest peers are changed before the broker reads them.
    var isOfWhatBrokerReads: Bool {
        switch self {
        case .creditMisread, .grantMisread, .grantUnheard, .usageMisread, .answerAltered,
            .bodiesCrossed, .endUnheard, .orderMisread:
            true
        default: false
        }
    }

    /// The broker's frames are changed before the wire's rules are checked.
    var isOfWhatBrokerSays: Bool {
        switch self {
        case .assignedTwice, .assignedAgain, .tokensTwice, .queuedTwice, .endSaidTwice,
            .creditRepeated, .bodyTwice, .usageDiffers, .uploadKept:
            true
        default: false
        }
    }

    /// What breaks first, as a failure names it.
    package var rule: String {
        switch self {
        case .creditMisread: "[C8]"
        case .grantMisread: "[S7]"
        case .grantUnheard, .orderMisread, .accountStarved: "[L2]"
        case .usageMisread, .usageDiffers: "[E4]"
        case .answerAltered: "[I6]"
        case .bodiesCrossed: "[I7]"
        case .endUnheard: "[I12]"
        case .assignedTwice: "[I4]"
        case .assignedAgain: "[D8]"
        case .tokensTwice: "[C5]"
        case .queuedTwice: "[Q3]"
        case .endSaidTwice: "[E1]"
        case .creditRepeated: "[C3]"
        case .bodyTwice: "body beyond its size"
        case .neverReconnected: "[L1]"
        case .uploadKept: "[I3]"
        case .arenaTooLarge: "[I11]"
        case .contentKept: "[I10]"
        case .wakeUpLost, .arrivalUnnoticed: "[L3]"
        case .endedTwice: "[I1]"
        case .releasedEarly, .notSyncedAtStart: "[I13]"
        case .cursorForgotten, .foreignTasksLost: "[I9]"
        case .neverClosed: "[L5]"
        }
    }

    /// Options without which the breach is rare.
    package var words: String {
        switch self {
        case .foreignTasksLost: "clockJumps=1 prepaid=0 brokers=2"
        case .notSyncedAtStart: "clients=2 sidecarCrashes=1"
        case .endUnheard: "cancels=1 brokers=1 models=1 stubborn=0"
        case .arenaTooLarge: "tinyArena=1 body=120000 clients=4"
        case .uploadKept: "tinyArena=1 body=30000"
        case .wakeUpLost: "shards=3"
        case .bodyTwice: "body=120000"
        case .neverReconnected: "resets=1"
        case .orderMisread: "bursts=1 priorities=1 models=1 prepaid=0"
        case .accountStarved: "clients=2 accounts=2 models=1 brokers=1 prepaid=0"
        case .assignedAgain, .assignedTwice: "brokers=1 suppliers=3"
        default: ""
        }
    }
}
