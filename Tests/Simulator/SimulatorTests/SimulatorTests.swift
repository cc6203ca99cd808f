import Simulator
import Testing

/// The broker's core under faults. A failing seed prints its options and last events, and becomes
/// a test of its own here.
@Suite("Simulator") struct SimulatorTests {
    /// In release a thousand seeds; unoptimised code takes as long for a few.
    static let seeds: ClosedRange<UInt64> = isOptimised ? 1...1_000 : 1...25

    static var isOptimised: Bool {
        var isDebug = false
        // The argument of `assert` is evaluated in unoptimised builds alone.
        assert(
            {
                isDebug = true; return true
            }())
        return !isDebug
    }

    @Test("every seed keeps every rule, twice the same, and rare branches are reached")
    func seeds() {
        let report = SimulationReport(seeds: Self.seeds)
        #expect(report.isGreen, "\(report.text)")
        guard Self.isOptimised else { return }
        let rare = [
            "dispatched again", "quarantined", "end stalled", "end uploadTimeout",
            "ended broker_lost", "ended client_lost", "closer died", "end deadlineExceeded",
            "end supplierLost", "end supplierFailed", "end upstreamRefused", "end queueFull",
            "end journalFull", "end bodyArenaFull", "end modelUnknown", "end noSupplier",
            "end drained", "end draining", "error creditExceeded", "error flood",
            "error keepAliveTimeout", "error unauthenticated", "probed",
        ]
        for name in rare { #expect(report.sometimes[name, default: 0] > 0, "never: \(name)") }
    }

    @Test("several brokers on the same wallets: no overdraft, nothing settled twice, sum zero")
    func money() {
        let report = SimulationReport(moneySeeds: Self.isOptimised ? 1...400 : 1...10)
        #expect(report.isGreen, "\(report.text)")
        guard Self.isOptimised else { return }
        let rare = [
            "broker died", "sidecar died before its commit", "sidecar died before the directory",
            "end budgetExhausted", "end insufficientFunds", "end rateLimited", "end duplicate",
            "lease waits", "holds refused",
        ]
        for name in rare { #expect(report.sometimes[name, default: 0] > 0, "never: \(name)") }
    }

    @Test("a rule of money that is broken is found", arguments: MoneySimulation.sabotages)
    func sabotage(_ rule: String) {
        let isFound = (1...40).contains { seed in
            !MoneySimulation(seed: UInt64(seed), sabotage: rule).run().failures.isEmpty
        }
        #expect(isFound)
    }
}
