/// How fast one offer was lately: moving averages of what its tasks showed.
///
/// An offer of which nothing is known gets half of what the others need, so that it is tried; and
/// it is never ruled out by a deadline, because nothing speaks against it.
struct SpeedEstimate {
    /// After so long without a sample what was seen no longer rules an offer out.
    static let staleUs: UInt64 = 30_000_000
    /// Where no offer of the model has shown anything yet.
    static let priorFirstTokenUs: UInt64 = 100_000
    static let priorUsPerToken: UInt64 = 20_000
    private static let firstTokenUsMax: UInt64 = 600_000_000

    /// From its dispatch to a task's first token, without its time in the queue.
    private(set) var firstTokenUs: UInt64
    private(set) var usPerToken: UInt64
    /// What was seen lately may rule it out.
    private(set) var isFresh = false
    /// When something was last seen, or what was seen last lost weight; 0 = nothing was.
    private var sampledUs: UInt64 = 0

    init(prior: ModelSpeed) {
        firstTokenUs = prior.firstTokenUs / 2
        usPerToken = prior.usPerToken
    }

    /// A first token came after so long.
    mutating func sawFirstToken(afterUs: UInt64, nowUs: UInt64) {
        let seen = min(afterUs, Self.firstTokenUsMax)
        firstTokenUs = sampledUs == 0 ? seen : Self.moved(firstTokenUs, towards: seen)
        sampledUs = max(nowUs, 1)
        isFresh = true
    }

    /// None had come after so long: it takes at least that.
    mutating func sawNoToken(forUs: UInt64, nowUs: UInt64) {
        guard forUs > firstTokenUs else { return }
        sawFirstToken(afterUs: forUs, nowUs: nowUs)
    }

    mutating func sawTokens(usPerToken seen: UInt64) {
        usPerToken = Self.moved(usPerToken, towards: min(seen, Self.firstTokenUsMax))
    }

    /// What was seen long ago counts half, again and again, and rules nothing out. True when it
    /// changed.
    mutating func age(prior: ModelSpeed, nowUs: UInt64) -> Bool {
        guard sampledUs != 0, nowUs >= sampledUs + Self.staleUs else { return false }
        sampledUs = nowUs
        let faded = (firstTokenUs + prior.firstTokenUs / 2) / 2
        defer {
            firstTokenUs = faded
            isFresh = false
        }
        return isFresh || faded != firstTokenUs
    }

    /// An eighth of the way.
    private static func moved(_ value: UInt64, towards seen: UInt64) -> UInt64 {
        value - value / 8 + seen / 8
    }
}

/// What the offers of one model show together: where a new one starts, and what an answer takes.
struct ModelSpeed {
    private(set) var firstTokenUs = SpeedEstimate.priorFirstTokenUs
    private(set) var usPerToken = SpeedEstimate.priorUsPerToken
    /// Answer tokens of a task that ended as it should.
    private(set) var answerTokens: UInt64 = 256

    mutating func sawFirstToken(afterUs: UInt64) {
        firstTokenUs = Self.moved(firstTokenUs, towards: min(afterUs, 600_000_000))
    }

    mutating func sawTokens(usPerToken seen: UInt64) {
        usPerToken = Self.moved(usPerToken, towards: min(seen, 600_000_000))
    }

    mutating func sawAnswer(tokens: UInt64) {
        answerTokens = max(1, Self.moved(answerTokens, towards: tokens))
    }

    /// A sixteenth of the way, in steps that do not stop short of it.
    private static func moved(_ value: UInt64, towards seen: UInt64) -> UInt64 {
        seen >= value ? value + (seen - value + 15) / 16 : value - (value - seen + 15) / 16
    }
}
