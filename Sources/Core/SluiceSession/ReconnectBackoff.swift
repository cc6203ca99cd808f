/// How long to wait before the next attempt to connect: exponential with full jitter, so that
/// peers that lost one broker do not return at the same moment.
///
/// Attempt n (from 0) waits a random time of 0…min(cap, base · 2ⁿ).
package struct ReconnectBackoff: Sendable {
    package let baseMs: UInt64
    package let capMs: UInt64
    private var attempts: UInt64 = 0

    /// `baseMs` ≥ 1, `capMs` ≥ `baseMs`.
    package init(baseMs: UInt64 = 200, capMs: UInt64 = 30_000) {
        precondition(baseMs >= 1 && capMs >= baseMs)
        self.baseMs = baseMs
        self.capMs = capMs
    }

    /// The largest wait that the next attempt can draw.
    package var ceilingMs: UInt64 {
        attempts >= 32 ? capMs : min(capMs, baseMs << attempts)
    }

    /// The wait before the next attempt. `random` is uniform over all 64-bit numbers.
    package mutating func nextDelayMs(random: UInt64) -> UInt64 {
        let delay = random % (ceilingMs + 1)
        attempts += 1
        return delay
    }

    /// A connection was welcomed: the next loss starts over.
    package mutating func succeeded() {
        attempts = 0
    }
}
