import Foundation

/// Runs one target, or two in interleaved pairs, under the same load.
package struct Comparison {
    package var workload: Workload
    package var targets: [TargetName]
    /// Runs of each target.
    package var pairs: Int
    package var options: RunOptions
    /// One more run of each target, in which `perf` counts system calls.
    package var countsSyscalls = false

    package init(workload: Workload, targets: [TargetName], pairs: Int, options: RunOptions) {
        precondition((1...2).contains(targets.count) && pairs > 0)
        self.workload = workload
        self.targets = targets
        self.pairs = pairs
        self.options = options
    }

    /// Starts the targets, measures A B, B A, A B, …, ends them.
    ///
    /// `progress` gets words for a person, `finished` every run by its number from 1.
    ///
    /// Both are up all the time; the one that is not measured sleeps. Which goes first alternates,
    /// so that what drifts on the machine meets both alike.
    package func run(
        in rig: Rig, progress: @escaping (String) -> Void,
        finished: (Int, RunOutcome) throws -> Void = { _, _ in }
    ) throws -> BenchReport {
        if let fault = workload.fault { throw BenchError.workload(fault) }
        var running: [RunningTarget] = []
        defer { for target in running { target.stop() } }
        for name in targets {
            progress("starting \(name.rawValue)")
            running.append(try RunningTarget(name, in: rig))
        }
        var sides = [[RunOutcome]](repeating: [], count: targets.count)
        var runs: [RunOutcome] = []
        for pair in 0..<pairs {
            let order = Array(running.indices)
            for side in pair % 2 == 0 ? order : order.reversed() {
                let run = LoadRun(
                    target: running[side], rig: rig, workload: workload, options: options
                ) { progress("run \(runs.count + 1) of \(pairs * targets.count): \($0)") }
                let outcome = try run.measure()
                sides[side].append(outcome)
                runs.append(outcome)
                try finished(runs.count, outcome)
            }
        }
        var report = BenchReport(
            workload: workload, sides: sides, runs: runs, machine: MachineReport(rig))
        if countsSyscalls {
            for side in running.indices {
                report.sides[side].syscallsPerToken = try syscallsPerToken(
                    running[side], rig, progress)
            }
        }
        return report
    }

    /// In a run of its own, since counting costs.
    private func syscallsPerToken(
        _ target: RunningTarget, _ rig: Rig, _ progress: @escaping (String) -> Void
    ) throws -> Double? {
        var options = options
        options.countsSyscalls = true
        let run = LoadRun(
            target: target, rig: rig, workload: workload, options: options, progress: progress)
        let outcome = try run.measure()
        guard let syscalls = outcome.syscalls, outcome.tokens > 0 else { return nil }
        return rounded(Double(syscalls) / Double(outcome.tokens), 4)
    }
}
