/// Why an offer was chosen: kept with every record (`winReason` in `Protocol/Files.md`).
package enum WinReason: UInt8, Sendable {
    /// Never dispatched.
    case none = 0
    /// No other offer of the model had a free slot.
    case onlyFree = 1
    /// It read a prefix of the same conversation before.
    case affinity = 2
    /// Best for a task that prefers balance, price, latency or throughput.
    case balanced = 3
    case cheapest = 4
    case earliest = 5
    case fastest = 6
    /// Equal to others; it is on the client's own shard.
    case ownShard = 7
    /// Equal to others; drawn.
    case drawn = 8
    /// The task waited, and this was the first slot that it could have.
    case waited = 9
    /// Its supplier's breaker is half-open: this task tries it.
    case probe = 10
}
