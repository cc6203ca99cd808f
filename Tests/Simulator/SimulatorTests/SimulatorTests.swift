import Simulator
import Testing

/// The whole under faults. A failing seed prints its options and last events at its smallest, and
/// becomes a `RegressionSeed`.
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
        #expect(ReachedBranches.missing(ReachedBranches.world, in: report.sometimes) == [])
    }

    @Test("several brokers on the same wallets: no overdraft, nothing settled twice, sum zero")
    func money() {
        let report = SimulationReport(moneySeeds: Self.isOptimised ? 1...400 : 1...10)
        #expect(report.isGreen, "\(report.text)")
        guard Self.isOptimised else { return }
        #expect(ReachedBranches.missing(ReachedBranches.money, in: report.sometimes) == [])
    }

    @Test("what failed once does not fail again", arguments: RegressionSeed.all)
    func regression(_ entry: RegressionSeed) {
        let report = SimulationReport(seeds: entry.seed...entry.seed, words: entry.words)
        #expect(report.isGreen, "\(entry.fault)\n\(report.text)")
    }

    @Test("a rule of money that is broken is found", arguments: MoneySimulation.sabotages)
    func moneySabotage(_ rule: String) {
        let isFound = (1...40).contains { seed in
            !MoneySimulation(seed: UInt64(seed), sabotage: rule).run().failures.isEmpty
        }
        #expect(isFound)
    }

    @Test("a broken rule is found, and its run made small", arguments: Sabotage.allCases)
    func sabotage(_ rule: Sabotage) throws {
        let failed = try #require(
            (1...200).lazy.map { seed in
                var options = SimulationOptions(seed: UInt64(seed))
                precondition(options.apply(rule.words))
                return Simulation(
                    seed: UInt64(seed), options: options, keepsEvents: false, sabotage: rule
                ).run()
            }.first { !$0.failures.isEmpty })
        if !rule.rule.isEmpty { #expect(Shrinker.rule(of: failed) == rule.rule) }
        let small = Shrinker.shrink(failed, sabotage: rule, runs: 200)
        #expect(Shrinker.rule(of: small) == Shrinker.rule(of: failed))
        // Options are sound only with a supplier for each broker.
        #expect(small.options.clients <= 2)
        #expect(small.options.suppliers <= max(2, small.options.brokers))
        #expect(small.performedFaults.count <= min(3, failed.performedFaults.count))
        // The words that a report prints give the same run.
        var options = SimulationOptions(seed: failed.seed)
        let isApplied = options.apply(small.options.words(from: options))
        #expect(isApplied)
        let again = Simulation(
            seed: failed.seed, options: options, keepsEvents: false, sabotage: rule
        ).run()
        #expect(again.hash == small.hash)
    }
}
