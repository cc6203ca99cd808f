/// Tokens served over the last 10 s: the current window, and of the one before it the part that
/// still lies within.
struct ServedRate {
    private static let windowMs: UInt64 = 10_000
    private var current: UInt64 = 0
    private var previous: UInt64 = 0
    private var startedMs: UInt64 = 0
    /// Since when anything was counted without a gap of a window.
    private var sinceMs: UInt64 = 0

    mutating func count(_ tokens: UInt64, nowMs: UInt64) {
        roll(nowMs)
        current += tokens
    }

    /// What was counted over the last 10 s.
    mutating func total(nowMs: UInt64) -> UInt64 {
        roll(nowMs)
        return current + previousPart(nowMs)
    }

    /// How long `tokens` take at the served rate; nil when nothing was served.
    mutating func waitMs(tokens: UInt64, nowMs: UInt64) -> UInt64? {
        roll(nowMs)
        let served = current + previousPart(nowMs)
        guard served > 0 else { return nil }
        let spanMs = min(Self.windowMs, max(nowMs - sinceMs, 1))
        return tokens.multipliedReportingOverflow(by: spanMs).overflow
            ? .max : tokens * spanMs / served
    }

    /// Of the window before. Money is counted too, of which a product may pass 64 bits.
    private func previousPart(_ nowMs: UInt64) -> UInt64 {
        let product = previous.multipliedFullWidth(by: Self.windowMs - (nowMs - startedMs))
        return Self.windowMs.dividingFullWidth(product).quotient
    }

    private mutating func roll(_ nowMs: UInt64) {
        guard nowMs >= startedMs + Self.windowMs else { return }
        let isNext = nowMs < startedMs + 2 * Self.windowMs
        previous = isNext ? current : 0
        startedMs = isNext ? startedMs + Self.windowMs : nowMs
        if !isNext { sinceMs = nowMs }
        current = 0
    }
}

/// Bounds what one model's failing suppliers may cost: new dispatches of tasks that came back are
/// at most a part of its first ones, over the last 10 to 20 s, or a few.
struct RetryBudget {
    private static let windowMs: UInt64 = 10_000
    private var firsts: (current: UInt64, previous: UInt64) = (0, 0)
    private var retries: (current: UInt64, previous: UInt64) = (0, 0)
    private var startedMs: UInt64 = 0

    mutating func countFirst(nowMs: UInt64) {
        roll(nowMs)
        firsts.current += 1
    }

    /// Takes one retry; false when the budget is spent.
    mutating func take(nowMs: UInt64, percent: UInt64, floor: UInt64) -> Bool {
        roll(nowMs)
        let allowed = max(floor, (firsts.current + firsts.previous) * percent / 100)
        guard retries.current + retries.previous < allowed else { return false }
        retries.current += 1
        return true
    }

    private mutating func roll(_ nowMs: UInt64) {
        guard nowMs >= startedMs + Self.windowMs else { return }
        let isNext = nowMs < startedMs + 2 * Self.windowMs
        firsts = (0, isNext ? firsts.current : 0)
        retries = (0, isNext ? retries.current : 0)
        startedMs = isNext ? startedMs + Self.windowMs : nowMs
    }
}
