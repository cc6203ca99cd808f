/// Makes a failing run small: fewer kinds of faults, fewer and smaller peers, a shorter time, fewer
/// single faults, as long as the same rule still breaks.
package struct Shrinker {
    private let seed: UInt64
    private let rule: Substring
    private let sabotage: Sabotage?
    private var runsLeft: Int
    private var best: SimulationResult

    /// The smallest failing run that was found, after at most `runs` runs. `failed` is a run that
    /// failed.
    package static func shrink(
        _ failed: SimulationResult, sabotage: Sabotage? = nil, runs: Int = 400
    ) -> SimulationResult {
        var shrinker = Shrinker(failed, sabotage: sabotage, runs: runs)
        while shrinker.pass(), shrinker.runsLeft > 0 {}
        return shrinker.best
    }

    private init(_ failed: SimulationResult, sabotage: Sabotage?, runs: Int) {
        precondition(!failed.failures.isEmpty, "nothing failed")
        seed = failed.seed
        self.sabotage = sabotage
        rule = Self.rule(of: failed)
        runsLeft = runs
        best = failed
    }

    /// What identifies the breach: the rule's name, or the first words without figures.
    package static func rule(of result: SimulationResult) -> Substring {
        let text = result.failures[0].drop { $0 != " " }.dropFirst(5)
        if text.hasPrefix("["), let end = text.firstIndex(of: "]") { return text[...end] }
        return text.prefix { !$0.isNumber }
    }

    /// Every change once; true when one of them helped.
    private mutating func pass() -> Bool {
        var helped = false
        for entry in SimulationOptions.switches where best.options[keyPath: entry.path] {
            var options = best.options
            options[keyPath: entry.path] = false
            helped = attempt(options) || helped
        }
        for entry in SimulationOptions.sizes {
            var options = best.options
            let size = options[keyPath: entry.path]
            for less in [entry.least, (size + entry.least) / 2] where less < size {
                options[keyPath: entry.path] = less
                if attempt(options) {
                    helped = true
                    break
                }
            }
        }
        return skipFaults() || helped
    }

    /// Delta debugging over the faults that were performed: halves first, then ever smaller parts.
    private mutating func skipFaults() -> Bool {
        var helped = false
        var parts = 1
        while runsLeft > 0 {
            let faults = best.performedFaults
            guard !faults.isEmpty else { return helped }
            let length = max(1, (faults.count + parts - 1) / parts)
            var isSmaller = false
            for start in stride(from: 0, to: faults.count, by: length) {
                var options = best.options
                options.skippedFaults.formUnion(faults[start..<min(start + length, faults.count)])
                if attempt(options) {
                    isSmaller = true
                    break
                }
            }
            helped = helped || isSmaller
            if !isSmaller {
                guard length > 1 else { return helped }
                parts *= 2
            }
        }
        return helped
    }

    private mutating func attempt(_ options: SimulationOptions) -> Bool {
        guard runsLeft > 0 else { return false }
        runsLeft -= 1
        var options = options
        options.makeSound()
        let result = Simulation(
            seed: seed, options: options, keepsEvents: false, sabotage: sabotage
        ).run()
        guard !result.failures.isEmpty, Self.rule(of: result) == rule else { return false }
        best = result
        return true
    }
}
