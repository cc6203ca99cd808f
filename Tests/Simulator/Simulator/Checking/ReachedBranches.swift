/// Rare branches that a thousand seeds must reach: a fault that never strikes proves nothing.
package enum ReachedBranches {
    /// Of `Simulation`.
    package static let world = [
        "breaker opened", "breakers closed again", "broker died", "clock jump", "closed in order",
        "closed twice", "closer died", "commit unknown, done", "commit unknown, lost",
        "disk full", "dispatched again", "drained out", "emptied", "end bodyArenaFull",
        "end bodyTooLarge", "end cancelled", "end deadlineExceeded", "end drained",
        "end draining", "end journalFull", "end modelUnknown", "end noSupplier", "end queueFull",
        "end stalled", "end supplierFailed", "end supplierLost", "end uploadTimeout",
        "end upstreamRefused", "ended as lost", "ended broker_lost", "ended client_lost",
        "error creditExceeded", "error flood", "error keepAliveTimeout", "error unauthenticated",
        "fairness looked at", "half-open link", "instance removed", "late frames", "lease waits",
        "order looked at", "power failure", "probed", "quarantined", "queues looked at", "reset",
        "segment removed", "sidecar died after its commit", "sidecar died before its commit",
        "sidecar died before its release", "sidecar died before its sync",
        "sidecar died before the directory", "sleeping brokers looked at",
        "slow upload completed", "slow upload uploadTimeout", "stall", "stalled readers",
        "store down", "supplier crash", "transaction refused", "upload credit returned",
    ]

    /// Of `MoneySimulation`.
    package static let money = [
        "broker died", "end budgetExhausted", "end duplicate", "end insufficientFunds",
        "end rateLimited", "holds refused", "lease waits", "queued lease grants",
        "queued lease waits", "sidecar died before its commit",
        "sidecar died before the directory",
    ]

    /// Those of `names` that were not reached.
    package static func missing(_ names: [String], in sometimes: [String: Int]) -> [String] {
        names.filter { sometimes[$0, default: 0] == 0 }
    }
}
