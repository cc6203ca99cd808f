/// A bucket that fills evenly to a limit per minute: never more than that in one minute beyond
/// what a pause had saved up, which is at most as much again. 0 = no limit.
struct RateBucket {
    private static let minuteUs: Int64 = 60_000_000
    /// Above it a limit limits nothing; so that no product leaves 63 bits: what two minutes fill,
    /// the largest there is, is then below 2^61.
    private static let limitMax: UInt64 = 10_000_000_000

    /// 0…`limitMax`; 0 = no limit.
    private var perMinute: Int64 = 0
    /// What may be taken now, in parts of 1/`minuteUs`; below 0 after a correction. At most
    /// `perMinute` x `minuteUs`.
    private var level: Int64 = 0
    private var filledUs: UInt64 = 0

    /// Changes the limit; a new one begins full, a lower one cuts what was saved up.
    mutating func set(perMinute limit: UInt64, nowUs: UInt64) {
        let new = Int64(min(limit, Self.limitMax))
        guard new != perMinute else { return }
        fill(nowUs)
        let capacity = new * Self.minuteUs
        level = perMinute == 0 ? capacity : min(level, capacity)
        perMinute = new
        filledUs = nowUs
    }

    /// Milliseconds until `amount` may be taken; 0 = now. An amount above the limit may be taken
    /// from a full bucket.
    mutating func waitMs(_ amount: UInt64, nowUs: UInt64) -> UInt64 {
        guard perMinute > 0 else { return 0 }
        fill(nowUs)
        let wanted = Int64(min(amount, UInt64(perMinute))) * Self.minuteUs
        guard level < wanted else { return 0 }
        // The level is never further below 0 than it can be above it.
        let missing = UInt64(wanted - level)
        return (missing / UInt64(perMinute) + 999) / 1_000
    }

    /// Takes an amount; the level may go below 0.
    mutating func take(_ amount: UInt64) {
        guard perMinute > 0 else { return }
        let capacity = perMinute * Self.minuteUs
        let taken = Int64(min(amount, UInt64(perMinute))) * Self.minuteUs
        level = max(level - taken, -capacity)
    }

    /// More or less was used than was taken for it.
    mutating func correct(taken: UInt64, used: UInt64) {
        if used >= taken { return take(used - taken) }
        guard perMinute > 0 else { return }
        let capacity = perMinute * Self.minuteUs
        let back = Int64(min(taken - used, UInt64(perMinute))) * Self.minuteUs
        level = min(level + back, capacity)
    }

    private mutating func fill(_ nowUs: UInt64) {
        guard nowUs > filledUs else { return }
        let elapsed = Int64(min(nowUs - filledUs, 2 * UInt64(Self.minuteUs)))
        filledUs = nowUs
        guard perMinute > 0 else { return }
        level = min(level + elapsed * perMinute, perMinute * Self.minuteUs)
    }
}

/// The limits of one key or one account and how far they are used: concurrent tasks exactly,
/// requests and tokens by buckets.
struct RateLimits {
    /// 0 = no limit.
    private var concurrentMax: UInt64 = 0
    private var requests = RateBucket()
    private var tokens = RateBucket()
    /// Tasks admitted and not over.
    private(set) var open: UInt64 = 0

    /// `share` of 65,536 is the part that this broker may use: at least one task and one request.
    mutating func set(
        concurrent: UInt32, requestsPerMinute: UInt32, tokensPerMinute: UInt64, share: UInt32,
        nowUs: UInt64
    ) {
        concurrentMax = Self.part(UInt64(concurrent), share)
        requests.set(perMinute: Self.part(UInt64(requestsPerMinute), share), nowUs: nowUs)
        tokens.set(perMinute: Self.part(tokensPerMinute, share), nowUs: nowUs)
    }

    private static func part(_ limit: UInt64, _ share: UInt32) -> UInt64 {
        guard limit > 0 else { return 0 }
        let (high, low) = limit.multipliedFullWidth(by: UInt64(min(share, 65_536)))
        return max(1, high << 48 | low >> 16)
    }

    /// Milliseconds after which a task of so many tokens may be admitted; 0 = now, nil = once
    /// another has ended.
    mutating func waitMs(tokens estimate: UInt64, nowUs: UInt64) -> UInt64? {
        if concurrentMax > 0, open >= concurrentMax { return nil }
        return max(
            requests.waitMs(1, nowUs: nowUs), tokens.waitMs(estimate, nowUs: nowUs))
    }

    mutating func admit(tokens estimate: UInt64) {
        open += 1
        requests.take(1)
        tokens.take(estimate)
    }

    /// A task is over, or was refused after all: then it used nothing.
    mutating func leave(tokens estimate: UInt64, used: UInt64) {
        precondition(open > 0, "a task left its limits twice")
        open -= 1
        tokens.correct(taken: estimate, used: used)
    }
}
