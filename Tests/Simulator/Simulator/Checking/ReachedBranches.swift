/// Rare branches that a thousand seeds must reach: a fault that never strikes proves nothing.
package enum ReachedBranches {
    /// Of `Simulation`.
    package static let world = [
        "broker died", "clock jump", "closed in order", "closed twice", "closer died",
        "commit unknown, done", "commit unknown, lost", "disk full", "dispatched again",
        "drained out",
        "end bodyArenaFull", "end bodyTooLarge", "end cancelled", "end deadlineExceeded",
        "end drained", "end draining", "ended as lost",
        "end journalFull", "end modelUnknown", "end noSupplier",
        "end queueFull", "end stalled", "end supplierFailed", "end supplierLost",
        "end uploadTimeout", "end upstreamRefused", "ended broker_lost", "ended client_lost",
        "error creditExceeded", "error flood", "error keepAliveTimeout", "error unauthenticated",
        "half-open link", "instance removed", "late frames",
        "lease waits", "power failure", "segment removed", "sidecar died after its commit",
        "sidecar died before its commit", "sidecar died before its release",
        "sidecar died before its sync", "sidecar died before the directory", "store down",
        "transaction refused", "probed", "quarantined", "reset", "stall",
        "stalled readers", "supplier crash",
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
