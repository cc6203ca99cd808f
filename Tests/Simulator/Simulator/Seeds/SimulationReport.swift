/// What a range of seeds came to: each run twice, with equal hashes.
package struct SimulationReport: Sendable {
    package private(set) var seeds = 0
    package private(set) var steps = 0
    package private(set) var simulatedUs: UInt64 = 0
    /// Of all seeds, in order: two reports of the same code and seeds have the same.
    package private(set) var hash = RollingHash()
    package private(set) var failures: [(seed: UInt64, text: String)] = []
    package private(set) var sometimes: [String: Int] = [:]

    /// Runs the seeds, and stops at the first that fails; that one is made small. `words` change
    /// every seed's options, `commit` names the code in the text of a failure.
    package init(
        seeds range: ClosedRange<UInt64>, words: String = "", commit: String = "unknown",
        sabotage: Sabotage? = nil
    ) {
        for seed in range {
            var options = SimulationOptions(seed: seed)
            precondition(options.apply(words), "the words were checked before")
            let result = Self.run(seed, options, sabotage)
            let again = Self.run(seed, options, sabotage)
            add(result.steps, result.simulatedUs, result.hash, result.sometimes)
            if !result.failures.isEmpty {
                let small = Shrinker.shrink(result, sabotage: sabotage)
                let text = Self.describe(result, small: small, commit: commit, sabotage: sabotage)
                failures.append((seed, text))
                return
            }
            if result.hash != again.hash {
                failures.append(
                    (seed, "seed \(seed), commit \(commit): two runs differ\n\(options)"))
                return
            }
        }
    }

    /// The same for `MoneySimulation`.
    package init(
        moneySeeds range: ClosedRange<UInt64>, words: String = "", commit: String = "unknown",
        sabotage: String? = nil
    ) {
        var options = MoneyOptions()
        precondition(options.apply(words), "the words were checked before")
        for seed in range {
            let result = MoneySimulation(seed: seed, options: options, sabotage: sabotage).run()
            let again = MoneySimulation(seed: seed, options: options, sabotage: sabotage).run()
            add(result.steps, result.simulatedUs, result.hash, result.sometimes)
            if !result.failures.isEmpty {
                let small = MoneyShrinker.shrink(result, sabotage: sabotage)
                let text = Self.describe(result, small: small, commit: commit, sabotage: sabotage)
                failures.append((seed, text))
                return
            }
            if result.hash != again.hash {
                failures.append(
                    (seed, "seed \(seed) of the money, commit \(commit): two runs differ"))
                return
            }
        }
    }

    private static func run(
        _ seed: UInt64, _ options: SimulationOptions, _ sabotage: Sabotage?
    ) -> SimulationResult {
        Simulation(seed: seed, options: options, keepsEvents: false, sabotage: sabotage).run()
    }

    private mutating func add(
        _ steps: Int, _ simulatedUs: UInt64, _ hash: UInt64, _ sometimes: [String: Int]
    ) {
        seeds += 1
        self.steps += steps
        self.simulatedUs += simulatedUs
        self.hash.add(hash)
        for (name, count) in sometimes { self.sometimes[name, default: 0] += count }
    }

    package var isGreen: Bool { failures.isEmpty }

    /// The failing run as it was and at its smallest, with the last events of that.
    private static func describe(
        _ failed: SimulationResult, small: SimulationResult, commit: String, sabotage: Sabotage?
    ) -> String {
        let seed = failed.seed
        let words = small.options.words(from: SimulationOptions(seed: seed))
        let broken = sabotage.map { " --sabotage \($0.rawValue)" } ?? ""
        let told = Simulation(
            seed: seed, options: small.options, keepsEvents: true, sabotage: sabotage
        ).run()
        return """
            seed \(seed), commit \(commit): \(failed.options)
            \(failed.failures.joined(separator: "\n"))
            at its smallest: \(small.options), \(small.performedFaults.count) faults
            \(small.failures.joined(separator: "\n"))
            again: Tools/simulate --seed \(seed) --with "\(words)"\(broken) --trace
            last events:
            \(told.events.suffix(60).joined(separator: "\n"))
            """
    }

    private static func describe(
        _ failed: MoneyResult, small: MoneyResult, commit: String, sabotage: String?
    ) -> String {
        let broken = sabotage.map { " --sabotage \($0)" } ?? ""
        let told = MoneySimulation(
            seed: failed.seed, options: small.options, keepsEvents: true, sabotage: sabotage
        ).run()
        return """
            seed \(failed.seed) of the money, commit \(commit):
            \(failed.failures.joined(separator: "\n"))
            at its smallest:
            \(small.failures.joined(separator: "\n"))
            again: Tools/simulate --money --seed \(failed.seed) --with "\(small.options)"\(broken) \
            --trace
            last events:
            \(told.events.suffix(60).joined(separator: "\n"))
            """
    }

    package var text: String {
        var lines = [
            "\(seeds) seeds, \(steps) steps, \(simulatedUs / 3_600_000_000) simulated hours, "
                + "\(failures.count) failed, hash " + String(hash.value, radix: 16)
        ]
        lines += sometimes.sorted { $0.key < $1.key }.map { "  \($0.key): \($0.value)" }
        return (lines + failures.map(\.text)).joined(separator: "\n")
    }

    package var json: String {
        let counters = sometimes.sorted { $0.key < $1.key }
            .map { "\"\($0.key)\":\($0.value)" }.joined(separator: ",")
        let failed = failures.map { "\($0.seed)" }.joined(separator: ",")
        return """
            {"seeds":\(seeds),"steps":\(steps),\
            "simulatedSeconds":\(simulatedUs / 1_000_000),\
            "hash":"\(String(hash.value, radix: 16))",\
            "failed":[\(failed)],"sometimes":{\(counters)}}
            """
    }
}
