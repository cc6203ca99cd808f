/// Percentiles of a latency, microseconds; null where nothing was recorded.
package struct LatencyReport: Encodable, Equatable, Sendable {
    @ExplicitNull package var p50: Double?
    @ExplicitNull package var p90: Double?
    @ExplicitNull package var p99: Double?
    @ExplicitNull package var p999: Double?
    @ExplicitNull package var max: Double?
    package var count: UInt64

    package init(_ histogram: LatencyHistogram) {
        func us(_ quantile: Double) -> Double? {
            histogram.ns(at: quantile).map { rounded(Double($0) / 1_000, 1) }
        }
        p50 = us(0.5)
        p90 = us(0.9)
        p99 = us(0.99)
        p999 = us(0.999)
        max = us(1)
        count = histogram.count
    }
}

/// One group of streams of one side.
package struct GroupReport: Encodable, Equatable, Sendable {
    package var name: String
    package var tokens: UInt64
    package var tasks: UInt64
    package var ttftUs: LatencyReport
    package var tokenGapUs: LatencyReport
    package var hopUs: LatencyReport
}

/// What one process of a target spent.
package struct ProcessReport: Encodable, Equatable, Sendable {
    package var name: String
    @ExplicitNull package var cpuUsPerToken: Double?
    @ExplicitNull package var cpuUsPerTask: Double?
    package var rssBytes: UInt64
    package var threads: Int
}

/// One run, or all runs of one target: then numbers are medians, latencies come from all of the
/// runs' samples together, and errors and lost are sums.
package struct SideReport: Encodable, Equatable, Sendable {
    package var workload: String
    package var target: String
    /// How tasks arrive: `open` (at intended times, latencies count from these) or `closed` (the
    /// next when one ends: throughput is the result, latencies are the load's own).
    package var loop: String
    package var runs: Int
    package var seconds: Double
    /// Null for a target without processes.
    @ExplicitNull package var cpuUsPerToken: Double?
    @ExplicitNull package var cpuUsPerTask: Double?
    package var tokensPerSecond: Double
    package var tasksPerSecond: Double
    package var ttftUs: LatencyReport
    package var tokenGapUs: LatencyReport
    package var hopUs: LatencyReport
    @ExplicitNull package var rssBytes: UInt64?
    /// Memory that the target took while the clients of the first run connected, by their number.
    /// Of idle connections with `--idle`; kernel memory is not in it.
    @ExplicitNull package var rssBytesPerConnection: Double?
    /// Of the processors it was given; above 1 with several.
    @ExplicitNull package var targetUtilisation: Double?
    @ExplicitNull package var voluntarySwitchesPerToken: Double?
    @ExplicitNull package var involuntarySwitchesPerToken: Double?
    /// Null unless they were counted (`--syscalls`).
    @ExplicitNull package var syscallsPerToken: Double?
    package var generatorUtilisation: Double
    /// The generator was above 80 % busy in some run: its latencies say more about the generator.
    package var latenciesVoid: Bool
    /// The generator's own lateness, and waits for credit.
    package var sendDelayUs: LatencyReport
    /// From when a connection was meant to be opened to the end of its task, if there is churn.
    package var churnUs: LatencyReport
    package var errors: UInt64
    package var lost: UInt64
    /// Errors by kind, those that occurred.
    package var faults: [String: UInt64]
    package var isValid: Bool
    package var groups: [GroupReport]
    package var processes: [ProcessReport]
    @ExplicitNull package var loadAverage: Double?

    /// The report of several runs of one target; at least one.
    package init(_ outcomes: [RunOutcome], workload: Workload) {
        precondition(!outcomes.isEmpty)
        func median(_ value: (RunOutcome) -> Double?) -> Double? {
            let values = outcomes.compactMap(value).filter(\.isFinite).sorted()
            return values.isEmpty ? nil : PairedRatio.median(values)
        }
        func perToken(_ places: Int, _ value: (RunOutcome) -> UInt64) -> Double? {
            median { $0.processes.isEmpty ? nil : Double(value($0)) / Double($0.tokens) }
                .map { rounded($0, places) }
        }
        self.workload = workload.name
        target = outcomes[0].target.rawValue
        loop = workload.isOpenLoop ? "open" : "closed"
        runs = outcomes.count
        seconds = rounded(outcomes.reduce(0) { $0 + $1.seconds }, 3)
        cpuUsPerToken = median(\.cpuUsPerToken).map { rounded($0, 4) }
        cpuUsPerTask = median(\.cpuUsPerTask).map { rounded($0, 3) }
        tokensPerSecond = rounded(median(\.tokensPerSecond) ?? 0, 0)
        tasksPerSecond = rounded(median(\.tasksPerSecond) ?? 0, 1)
        rssBytes = median { $0.processes.isEmpty ? nil : Double($0.residentBytes) }
            .map { UInt64($0) }
        rssBytesPerConnection = outcomes[0].bytesPerConnection.map { rounded($0, 0) }
        targetUtilisation = median {
            $0.processes.isEmpty ? nil : Double($0.processorNs) / $0.seconds / 1e9
        }.map { rounded($0, 3) }
        voluntarySwitchesPerToken = perToken(5) {
            $0.processes.reduce(0) { $0 + $1.spent.voluntarySwitches }
        }
        involuntarySwitchesPerToken = perToken(5) {
            $0.processes.reduce(0) { $0 + $1.spent.involuntarySwitches }
        }
        generatorUtilisation = rounded(outcomes.map(\.generatorUtilisation).max() ?? 0, 3)
        latenciesVoid = outcomes.contains(where: \.areLatenciesVoid)
        errors = outcomes.reduce(0) { $0 + $1.errors }
        lost = outcomes.reduce(0) { $0 + $1.lost }
        faults = Self.faults(of: outcomes)
        isValid = outcomes.allSatisfy(\.isValid)
        loadAverage = median(\.loadAverage)

        // Runs whose latencies are void count only where there are no others.
        let sound = outcomes.filter { !$0.areLatenciesVoid }
        let counted = sound.isEmpty ? outcomes : sound
        var merged = [GroupMeasures](repeating: GroupMeasures(), count: workload.groups.count)
        var delay = LatencyHistogram()
        var churn = LatencyHistogram()
        for outcome in counted {
            for index in merged.indices { merged[index].add(outcome.groups[index]) }
            delay.add(outcome.sendDelay)
            churn.add(outcome.churn)
        }
        sendDelayUs = LatencyReport(delay)
        churnUs = LatencyReport(churn)
        groups = merged.indices.map { index in
            GroupReport(
                name: workload.groups[index].name, tokens: merged[index].tokens,
                tasks: merged[index].tasks, ttftUs: LatencyReport(merged[index].ttft),
                tokenGapUs: LatencyReport(merged[index].tokenGap),
                hopUs: LatencyReport(merged[index].hop))
        }
        ttftUs = groups[0].ttftUs
        tokenGapUs = groups[0].tokenGapUs
        hopUs = groups[0].hopUs
        processes = outcomes[0].processes.indices.map { index in
            func spent(_ outcome: RunOutcome) -> Double {
                Double(outcome.processes[index].spent.processorNs) / 1_000
            }
            return ProcessReport(
                name: outcomes[0].processes[index].name,
                cpuUsPerToken: median { spent($0) / Double($0.tokens) }.map { rounded($0, 4) },
                cpuUsPerTask: median { spent($0) / Double($0.tasks) }.map { rounded($0, 3) },
                rssBytes: outcomes.map { $0.processes[index].spent.residentBytes }.max() ?? 0,
                threads: outcomes.map { $0.processes[index].spent.threads }.max() ?? 0)
        }
    }

    private static func faults(of outcomes: [RunOutcome]) -> [String: UInt64] {
        var faults: [String: UInt64] = [:]
        for kind in RunFault.allCases {
            let count = outcomes.reduce(0) { $0 + $1.faults[kind.rawValue] }
            if count > 0 { faults["\(kind)"] = count }
        }
        return faults
    }
}

extension RunOutcome {
    /// Processor time of the target by tokens that arrived; nil where it has no processes.
    var cpuUsPerToken: Double? {
        processes.isEmpty || tokens == 0 ? nil : Double(processorNs) / 1_000 / Double(tokens)
    }

    var cpuUsPerTask: Double? {
        processes.isEmpty || tasks == 0 ? nil : Double(processorNs) / 1_000 / Double(tasks)
    }

    var tokensPerSecond: Double { Double(tokens) / seconds }
    var tasksPerSecond: Double { Double(tasks) / seconds }
}

/// To so many decimal places.
func rounded(_ value: Double, _ places: Int) -> Double {
    var scale = 1.0
    for _ in 0..<places { scale *= 10 }
    return (value * scale).rounded() / scale
}
