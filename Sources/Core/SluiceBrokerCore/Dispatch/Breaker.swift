/// How a supplier did with one task, as far as that is its doing.
enum SupplierOutcome: Equatable {
    /// It answered.
    case success
    /// It failed, did not answer CANCEL, or sent no token for far too long.
    case failure
    /// Its connection was lost. Those of one connection come together and count once.
    case lost
    /// Says nothing about it: declined, refused by the engine, cancelled early.
    case neutral
}

/// Keeps tasks from a supplier identity that fails. It belongs to the identity, so a new
/// connection does not close it.
///
///     closed ──half of the recent tasks failed──▶ open ──back-off over──▶ half-open
///        ▲                                          ▲                        │ one task
///        └──────────────success──────────────── probing ◀────────────────────┘
///                                     failure: open, twice as long; else half-open again
struct Breaker {
    enum State: Equatable {
        case closed
        /// No task until then.
        case open(untilUs: UInt64)
        /// One task may try.
        case halfOpen
        /// It is trying.
        case probing
    }

    /// Of 1,024: the failures among about the last six tasks.
    private static let openShare: UInt32 = 512
    private static let outcomesMin: UInt32 = 5
    /// Losses so close together are one connection's.
    private static let lossWindowUs: UInt64 = 100_000

    private(set) var state = State.closed
    private var failureShare: UInt32 = 0
    private var outcomes: UInt32 = 0
    private var backoffMs: UInt64 = 0
    private var lastLossUs: UInt64 = 0

    /// A task may go there now.
    var admits: Bool { state == .closed || state == .halfOpen }
    /// Nothing worth remembering.
    var isClean: Bool { state == .closed && failureShare == 0 }

    /// A task goes there. True when it is the probe.
    mutating func dispatched() -> Bool {
        guard state == .halfOpen else { return false }
        state = .probing
        return true
    }

    /// Time passes. True when the breaker became half-open.
    mutating func advance(nowUs: UInt64) -> Bool {
        guard case .open(let untilUs) = state, nowUs >= untilUs else { return false }
        state = .halfOpen
        return true
    }

    /// A task is over. True when `admits` changed.
    mutating func record(
        _ outcome: SupplierOutcome, isProbe: Bool, nowUs: UInt64, limits: BrokerLimits,
        random: inout SplitMix64
    ) -> Bool {
        if isProbe, state == .probing {
            switch outcome {
            case .success:
                self = Breaker()
            case .failure, .lost:
                open(nowUs: nowUs, limits: limits, random: &random)
                return false
            case .neutral:
                state = .halfOpen
            }
            return true
        }
        // What was dispatched before it opened says nothing new.
        guard state == .closed, outcome != .neutral else { return false }
        if outcome == .lost {
            defer { lastLossUs = nowUs }
            if lastLossUs != 0, nowUs < lastLossUs + Self.lossWindowUs { return false }
        }
        outcomes = min(outcomes + 1, 1_000)
        failureShare -= failureShare / 6
        guard outcome != .success else { return false }
        failureShare += 1_024 / 6
        guard outcomes >= Self.outcomesMin, failureShare >= Self.openShare else { return false }
        open(nowUs: nowUs, limits: limits, random: &random)
        return true
    }

    private mutating func open(nowUs: UInt64, limits: BrokerLimits, random: inout SplitMix64) {
        backoffMs =
            backoffMs == 0
            ? limits.breakerBackoffMs : min(backoffMs * 2, limits.breakerBackoffMaxMs)
        let extraMs = random.next(below: backoffMs / 4 + 1)
        state = .open(untilUs: nowUs + (backoffMs + extraMs) * 1_000)
    }
}
