/// The report for a person: one line a side, then the ratios.
package enum BenchTable {
    package static func text(_ report: BenchReport) -> String {
        var lines = [
            "\(report.workload), \(report.loop) loop"
                + (report.loop == "open"
                    ? ": latencies count from intended times"
                    : ": as fast as it goes, latencies are the load's own")
        ]
        lines.append(
            columns([
                "target", "runs", "µs/token", "µs/task", "tokens/s", "tasks/s", "ttft p50",
                "p99", "hop p50", "p99", "gap p99", "MiB", "gen", "errors", "lost",
            ]))
        for side in report.sides { lines.append(row(side)) }
        for side in report.sides where side.latenciesVoid {
            lines.append(
                "\(side.target): the generator was above 80 % busy (\(percent(side.generatorUtilisation))): "
                    + "its latencies are void, its rates are lower bounds")
        }
        for side in report.sides {
            guard let syscalls = side.syscallsPerToken else { continue }
            lines.append("\(side.target): \(text(syscalls, 3)) system calls a token")
        }
        for side in report.sides where side.groups.contains(where: { $0.name == "idle" }) {
            lines.append(
                "\(side.target): \(text(side.rssBytesPerConnection.map { $0 / 1_024 }, 1)) KiB a connection"
            )
        }
        for side in report.sides where side.groups.count > 1 {
            for group in side.groups.dropFirst() where group.tokens > 0 {
                lines.append(
                    "\(side.target), \(group.name): hop p50 \(text(group.hopUs.p50)), p99 "
                        + "\(text(group.hopUs.p99)), gap p99 \(text(group.tokenGapUs.p99)) µs")
            }
        }
        if report.sides.count == 2 {
            let names = "\(report.sides[0].target) / \(report.sides[1].target)"
            for (name, ratio) in report.ratios.sorted(by: { $0.key < $1.key }) {
                let mark = name == report.decisive ? "  <- the ratio of this workload" : ""
                lines.append(
                    "\(names)  \(name): \(text(ratio.median, 3)) [\(text(ratio.low, 3)), "
                        + "\(text(ratio.high, 3))], \(ratio.pairs.count) pairs, "
                        + "\(percent(ratio.confidence))\(mark)")
            }
        }
        if !report.isValid {
            lines.append("NOT VALID: a run with errors or lost tokens shows nothing")
            for side in report.sides where !side.faults.isEmpty {
                lines.append("\(side.target): \(side.faults)")
            }
        }
        return lines.joined(separator: "\n")
    }

    private static func row(_ side: SideReport) -> String {
        columns([
            side.target, "\(side.runs)", text(side.cpuUsPerToken, 3), text(side.cpuUsPerTask, 2),
            text(side.tokensPerSecond, 0), text(side.tasksPerSecond, 0), text(side.ttftUs.p50),
            text(side.ttftUs.p99), text(side.hopUs.p50), text(side.hopUs.p99),
            text(side.tokenGapUs.p99), side.rssBytes.map { "\($0 >> 20)" } ?? "-",
            percent(side.generatorUtilisation), "\(side.errors)", "\(side.lost)",
        ])
    }

    private static func columns(_ words: [String]) -> String {
        words.enumerated().map { index, word in
            let width = index == 0 ? 11 : 9
            let space = String(repeating: " ", count: max(0, width - word.count))
            return index == 0 ? word + space : space + word
        }.joined(separator: " ")
    }

    private static func text(_ value: Double?, _ places: Int = 1) -> String {
        guard let value else { return "-" }
        let shown = rounded(value, places)
        return places == 0 ? "\(Int(shown))" : "\(shown)"
    }

    private static func percent(_ value: Double) -> String { "\(Int((value * 100).rounded())) %" }
}
