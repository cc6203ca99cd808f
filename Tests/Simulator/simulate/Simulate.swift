#if canImport(Glibc)
    import Glibc
#else
    import Darwin
#endif
import Simulator

/// `simulate --seeds A..B [--money] [--json]`: runs each seed twice and reports. With `--money` it
/// is several brokers on the same wallets. With `--options` it only says what each seed turns on.
@main
struct Simulate {
    static func main() {
        var seeds: ClosedRange<UInt64> = 1...100
        var isJSON = false
        var isMoney = false
        var arguments = CommandLine.arguments.dropFirst().makeIterator()
        while let argument = arguments.next() {
            switch argument {
            case "--seeds":
                let parts = (arguments.next() ?? "").split(separator: ".")
                guard let first = parts.first.flatMap({ UInt64($0) }),
                    let last = parts.last.flatMap({ UInt64($0) }), first <= last
                else { return usage() }
                seeds = first...last
            case "--json": isJSON = true
            case "--money": isMoney = true
            case "--options":
                for seed in seeds { print("seed \(seed): \(SimulationOptions(seed: seed))") }
                return
            default: return usage()
            }
        }
        let report = isMoney ? SimulationReport(moneySeeds: seeds) : SimulationReport(seeds: seeds)
        print(isJSON ? report.json : report.text)
        if !report.isGreen { exit(1) }
    }

    private static func usage() {
        print("simulate --seeds A..B [--money] [--json | --options]")
        exit(2)
    }
}
