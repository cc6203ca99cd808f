#if canImport(Glibc)
    import Glibc
#else
    import Darwin
#endif
import Simulator

/// Runs seeds of the simulator, each twice, and reports; the first that fails is made small.
@main
struct Simulate {
    private var seeds: ClosedRange<UInt64> = 1...100
    private var isJSON = false
    private var isMoney = false
    private var isTrace = false
    private var saysOptions = false
    private var mustReach = false
    private var words = ""
    private var commit = "unknown"
    /// Of the money, a name that `MoneySimulation` knows.
    private var rule: String?
    private var sabotage: Sabotage? { rule.flatMap { Sabotage(rawValue: $0) } }

    static func main() {
        guard let simulate = Simulate(CommandLine.arguments.dropFirst()) else {
            print(
                """
                simulate --seeds A..B [--money] [--reach] [--json | --options]
                simulate --seed S [--money] [--with WORDS] [--trace]
                  --reach       fail where a rare branch was never reached
                  --with WORDS  change options: "clients=1 stalls=0 skip=3,8", of the money
                                "steps=90 skip=3,8-20"
                  --trace       print every event of the seed
                  --commit REV  what a failure calls the code
                  --sabotage R  break a rule: \
                \(Sabotage.allCases.map(\.rawValue).joined(separator: ", ")); of the money: \
                \(MoneySimulation.sabotages.joined(separator: ", "))
                """)
            exit(2)
        }
        simulate.run()
    }

    private init?(_ given: ArraySlice<String>) {
        var arguments = given.makeIterator()
        while let argument = arguments.next() {
            switch argument {
            case "--seeds":
                let parts = (arguments.next() ?? "").split(separator: ".")
                guard let first = parts.first.flatMap({ UInt64($0) }),
                    let last = parts.last.flatMap({ UInt64($0) }), first <= last
                else { return nil }
                seeds = first...last
            case "--seed":
                guard let seed = UInt64(arguments.next() ?? "") else { return nil }
                seeds = seed...seed
            case "--with": words = arguments.next() ?? ""
            case "--commit": commit = arguments.next() ?? ""
            case "--sabotage": rule = arguments.next() ?? ""
            case "--json": isJSON = true
            case "--money": isMoney = true
            case "--trace": isTrace = true
            case "--reach": mustReach = true
            case "--options": saysOptions = true
            default: return nil
            }
        }
        guard isMoney ? isSoundMoney : isSound else { return nil }
    }

    private var isSound: Bool {
        var options = SimulationOptions(seed: seeds.lowerBound)
        return options.apply(words) && (rule == nil) == (sabotage == nil)
    }

    private var isSoundMoney: Bool {
        var options = MoneyOptions()
        return options.apply(words) && rule.map(MoneySimulation.sabotages.contains) ?? true
    }

    private func run() {
        if saysOptions || isTrace {
            for seed in seeds { isMoney ? tellMoney(seed) : tell(seed) }
            return
        }
        let report =
            isMoney
            ? SimulationReport(moneySeeds: seeds, words: words, commit: commit, sabotage: rule)
            : SimulationReport(seeds: seeds, words: words, commit: commit, sabotage: sabotage)
        print(isJSON ? report.json : report.text)
        if !report.isGreen { exit(1) }
        guard mustReach else { return }
        let missing = ReachedBranches.missing(
            isMoney ? ReachedBranches.money : ReachedBranches.world, in: report.sometimes)
        if !missing.isEmpty {
            print("FAILED: never reached: \(missing.joined(separator: ", "))")
            exit(1)
        }
    }

    /// The same of the money.
    private func tellMoney(_ seed: UInt64) {
        var options = MoneyOptions()
        _ = options.apply(words)
        print("seed \(seed) of the money: \(options)")
        guard isTrace else { return }
        let result = MoneySimulation(
            seed: seed, options: options, keepsEvents: true, sabotage: rule
        ).run()
        for line in result.events + result.failures { print(line) }
        print("\(result.steps) steps, hash \(String(result.hash, radix: 16))")
        if !result.failures.isEmpty { exit(1) }
    }

    /// One seed's options, and with `--trace` what happened.
    private func tell(_ seed: UInt64) {
        var options = SimulationOptions(seed: seed)
        _ = options.apply(words)
        print("seed \(seed): \(options)")
        guard isTrace else { return }
        let result = Simulation(
            seed: seed, options: options, keepsEvents: true, sabotage: sabotage
        ).run()
        for event in result.events { print(event) }
        print("\(result.steps) steps, hash \(String(result.hash, radix: 16))")
        if !result.failures.isEmpty { exit(1) }
    }
}
