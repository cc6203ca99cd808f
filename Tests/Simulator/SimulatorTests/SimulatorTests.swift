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
        guard let sabotage = entry.sabotage else { return }
        var options = SimulationOptions(seed: entry.seed)
        let isApplied = options.apply(entry.words)
        #expect(isApplied)
        let broken = Simulation(
            seed: entry.seed, options: options, keepsEvents: false, sabotage: sabotage
        ).run()
        #expect(!broken.failures.isEmpty, "\(entry) no longer finds that \(entry.fault)")
    }

    @Test("nor of the money", arguments: MoneyRegressionSeed.all)
    func moneyRegression(_ entry: MoneyRegressionSeed) {
        let report = SimulationReport(moneySeeds: entry.seed...entry.seed, words: entry.words)
        #expect(report.isGreen, "\(entry.fault)\n\(report.text)")
        guard let sabotage = entry.sabotage else { return }
        var options = MoneyOptions()
        let isApplied = options.apply(entry.words)
        #expect(isApplied)
        let broken = MoneySimulation(
            seed: entry.seed, options: options, sabotage: sabotage
        ).run()
        #expect(!broken.failures.isEmpty, "\(entry) no longer finds that \(entry.fault)")
    }

    @Test(
        "a rule of money that is broken is found, and its run made small",
        arguments: MoneySimulation.sabotages)
    func moneySabotage(_ rule: String) throws {
        let failed = try #require(
            (1...40).lazy.map { MoneySimulation(seed: UInt64($0), sabotage: rule).run() }
                .first { !$0.failures.isEmpty })
        let small = MoneyShrinker.shrink(failed, sabotage: rule)
        #expect(MoneyShrinker.rule(of: small) == MoneyShrinker.rule(of: failed))
        #expect(small.options.steps - small.options.skipped.count <= 20)
        // The words that a report prints give the same run.
        var options = MoneyOptions()
        let isApplied = options.apply("\(small.options)")
        #expect(isApplied)
        let again = MoneySimulation(seed: failed.seed, options: options, sabotage: rule).run()
        #expect(again.hash == small.hash && again.failures == small.failures)
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
        #expect(Shrinker.rule(of: failed) == rule.rule)
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
