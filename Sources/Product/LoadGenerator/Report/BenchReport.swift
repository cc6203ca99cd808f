import Foundation
import LinuxIO

/// Everything that a benchmark has shown, as its JSON file holds it.
package struct BenchReport: Encodable, Sendable {
    package var workload: String
    /// Of the runs: how tasks arrive, see `SideReport.loop`.
    package var loop: String
    /// Each target over all its runs; the measured one first.
    package var sides: [SideReport]
    /// The first side by the second, of what was measured: below 1 the first needs less.
    package var ratios: [String: PairedRatio]
    /// The ratio that the workload is about.
    package var decisive: String
    /// Every run, in the order in which they were made.
    package var runs: [SideReport]
    package var machine: MachineReport

    /// `pairs` holds runs of the same target in order; `runs` all in the order they were made.
    package init(
        workload: Workload, sides: [[RunOutcome]], runs: [RunOutcome], machine: MachineReport
    ) {
        self.workload = workload.name
        loop = workload.isOpenLoop ? "open" : "closed"
        self.sides = sides.map { SideReport($0, workload: workload) }
        self.runs = runs.map { SideReport([$0], workload: workload) }
        decisive = workload.isByTask ? "cpuUsPerTask" : "cpuUsPerToken"
        self.machine = machine
        ratios = sides.count == 2 ? Self.ratios(sides[0], sides[1]) : [:]
    }

    package var isValid: Bool { sides.allSatisfy(\.isValid) }

    private static func ratios(
        _ first: [RunOutcome], _ second: [RunOutcome]
    ) -> [String: PairedRatio] {
        var ratios: [String: PairedRatio] = [:]
        func add(_ name: String, _ value: (RunOutcome) -> Double?) {
            let pairs = zip(first, second).compactMap { pair -> Double? in
                guard let above = value(pair.0), let below = value(pair.1), below > 0 else {
                    return nil
                }
                return rounded(above / below, 4)
            }
            ratios[name] = PairedRatio(pairs)
        }
        func addLatency(
            _ name: String, _ quantile: Double,
            _ histogram: @escaping (RunOutcome) -> LatencyHistogram
        ) {
            add(name) { outcome in
                outcome.areLatenciesVoid
                    ? nil : histogram(outcome).ns(at: quantile).map { Double($0) }
            }
        }
        add("cpuUsPerToken", \.cpuUsPerToken)
        add("cpuUsPerTask", \.cpuUsPerTask)
        add("tokensPerSecond") { $0.tokensPerSecond }
        add("tasksPerSecond") { $0.tasksPerSecond }
        add("rssBytes") { $0.processes.isEmpty ? nil : Double($0.residentBytes) }
        addLatency("hopUsP50", 0.5) { $0.groups[0].hop }
        addLatency("hopUsP99", 0.99) { $0.groups[0].hop }
        addLatency("ttftUsP50", 0.5) { $0.groups[0].ttft }
        addLatency("ttftUsP99", 0.99) { $0.groups[0].ttft }
        addLatency("tokenGapUsP99", 0.99) { $0.groups[0].tokenGap }
        if first.first?.groups.count ?? 0 > 1 {
            addLatency("besideTokenGapUsP99", 0.99) { $0.groups[1].tokenGap }
        }
        return ratios
    }

    /// The JSON text.
    package func json() throws -> String {
        let encoder = JSONEncoder()
        encoder.outputFormatting = [.prettyPrinted, .sortedKeys, .withoutEscapingSlashes]
        return String(decoding: try encoder.encode(self), as: UTF8.self)
    }
}

/// Where it was measured.
package struct MachineReport: Encodable, Equatable, Sendable {
    package var processor: String
    package var processors: Int
    package var kernel: String
    package var targetProcessors: [Int]
    package var generatorProcessors: [Int]
    /// What the generator and the broker use: ring or epoll.
    package var backend: String

    /// Reads it off the system.
    package init(_ rig: Rig) {
        let cpuinfo = (try? String(contentsOfFile: "/proc/cpuinfo", encoding: .utf8)) ?? ""
        let model = cpuinfo.split(separator: "\n").first { $0.hasPrefix("model name") }
        processor =
            model?.split(separator: ":").last.map { $0.trimmingCharacters(in: .whitespaces) }
            ?? "unknown"
        processors = ProcessInfo.processInfo.processorCount
        let release = try? String(contentsOfFile: "/proc/sys/kernel/osrelease", encoding: .utf8)
        kernel = (release ?? "unknown").trimmingCharacters(in: .whitespacesAndNewlines)
        targetProcessors = rig.targetProcessors
        generatorProcessors = rig.generatorProcessors
        backend = rig.backend.resolve().kind.rawValue
    }
}
