/// Makes a failing run of the money small: fewer steps, then as few of them as the same breach
/// needs.
package struct MoneyShrinker {
    private let sabotage: String?
    private let rule: Substring
    private var runsLeft: Int
    private var best: MoneyResult

    /// The smallest failing run that was found, after at most `runs` runs. `failed` is a run that
    /// failed.
    package static func shrink(
        _ failed: MoneyResult, sabotage: String? = nil, runs: Int = 400
    ) -> MoneyResult {
        var shrinker = MoneyShrinker(failed, sabotage: sabotage, runs: runs)
        shrinker.shorten()
        shrinker.skipSteps()
        return shrinker.best
    }

    private init(_ failed: MoneyResult, sabotage: String?, runs: Int) {
        precondition(!failed.failures.isEmpty, "nothing failed")
        self.sabotage = sabotage
        rule = Self.rule(of: failed)
        runsLeft = runs
        best = failed
    }

    /// What identifies the breach: the rule's name, or the first words without figures.
    package static func rule(of result: MoneyResult) -> Substring {
        let text = result.failures[0]
        // Steps have a number in front, and what the store finds has none.
        let words = text.firstRange(of: ": ").map { text[$0.upperBound...] } ?? text[...]
        if words.hasPrefix("["), let end = words.firstIndex(of: "]") { return words[...end] }
        let plain = words.drop { $0.isNumber }
        return plain.prefix { !$0.isNumber }
    }

    /// Nothing after the step that failed; then by halves.
    private mutating func shorten() {
        var options = best.options
        options.steps = min(options.steps, best.steps)
        _ = attempt(options)
        var least = 0
        while least + 1 < best.options.steps, runsLeft > 0 {
            options = best.options
            options.steps = (least + best.options.steps) / 2
            if !attempt(options) { least = options.steps }
        }
    }

    /// Delta debugging: halves first, then ever smaller parts.
    private mutating func skipSteps() {
        var length = (best.options.steps + 1) / 2
        while length > 0, runsLeft > 0 {
            var helped = false
            let steps = (1...best.options.steps).filter { !best.options.skipped.contains($0) }
            for start in stride(from: 0, to: steps.count, by: length) {
                var options = best.options
                options.skipped.formUnion(steps[start..<min(start + length, steps.count)])
                helped = attempt(options) || helped
            }
            if !helped || length > 1 { length /= 2 }
        }
    }

    private mutating func attempt(_ options: MoneyOptions) -> Bool {
        guard runsLeft > 0 else { return false }
        runsLeft -= 1
        let result = MoneySimulation(seed: best.seed, options: options, sabotage: sabotage).run()
        guard !result.failures.isEmpty, Self.rule(of: result) == rule else { return false }
        best = result
        return true
    }
}
