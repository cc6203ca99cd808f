/// What a range of seeds came to: each run twice, with equal hashes.
package struct SimulationReport: Sendable {
    package private(set) var seeds = 0
    package private(set) var steps = 0
    package private(set) var failures: [(seed: UInt64, text: String)] = []
    package private(set) var sometimes: [String: Int] = [:]

    /// Stops at the first failing seed.
    package init(seeds range: ClosedRange<UInt64>) {
        for seed in range {
            let result = Simulation(seed: seed).run()
            let again = Simulation(seed: seed).run()
            seeds += 1
            steps += result.steps
            for (name, count) in result.sometimes { sometimes[name, default: 0] += count }
            if !result.failures.isEmpty {
                failures.append((seed, Self.describe(seed)))
                return
            }
            if result.hash != again.hash {
                failures.append((seed, "seed \(seed): two runs differ\n\(result.options)"))
                return
            }
        }
    }

    /// The same for `MoneySimulation`.
    package init(moneySeeds range: ClosedRange<UInt64>) {
        for seed in range {
            let result = MoneySimulation(seed: seed).run()
            let again = MoneySimulation(seed: seed).run()
            seeds += 1
            steps += result.steps
            for (name, count) in result.sometimes { sometimes[name, default: 0] += count }
            if !result.failures.isEmpty {
                failures.append(
                    (seed, "seed \(seed) of the money:\n" + result.failures.joined(separator: "\n"))
                )
                return
            }
            if result.hash != again.hash {
                failures.append((seed, "seed \(seed) of the money: two runs differ"))
                return
            }
        }
    }

    package var isGreen: Bool { failures.isEmpty }

    /// The failing run once more, with its last events.
    private static func describe(_ seed: UInt64) -> String {
        let result = Simulation(seed: seed, keepsEvents: true).run()
        return """
            seed \(seed): \(result.options)
            \(result.failures.joined(separator: "\n"))
            last events:
            \(result.events.suffix(60).joined(separator: "\n"))
            """
    }

    package var text: String {
        var lines = ["\(seeds) seeds, \(steps) steps, \(failures.count) failed"]
        lines += sometimes.sorted { $0.key < $1.key }.map { "  \($0.key): \($0.value)" }
        return (lines + failures.map(\.text)).joined(separator: "\n")
    }

    package var json: String {
        let counters = sometimes.sorted { $0.key < $1.key }
            .map { "\"\($0.key)\":\($0.value)" }.joined(separator: ",")
        let failed = failures.map { "\($0.seed)" }.joined(separator: ",")
        return """
            {"seeds":\(seeds),"steps":\(steps),"failed":[\(failed)],"sometimes":{\(counters)}}
            """
    }
}
