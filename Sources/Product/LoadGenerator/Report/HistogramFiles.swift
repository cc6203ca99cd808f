import Foundation

/// Raw latencies of runs, for those who plot them.
package enum HistogramFiles {
    /// Writes three latencies of every group, and what else there is, of one run.
    package static func write(
        _ outcome: RunOutcome, of workload: Workload, number: Int, to directory: String
    ) throws {
        let folder = URL(fileURLWithPath: directory)
        try FileManager.default.createDirectory(at: folder, withIntermediateDirectories: true)
        func file(_ name: String, _ histogram: LatencyHistogram) throws {
            guard histogram.count > 0 else { return }
            let stem =
                "\(workload.name)-\(outcome.target.rawValue)-\(number)-\(name)"
                + (outcome.areLatenciesVoid ? "-void" : "")
            let base = folder.appendingPathComponent(stem)
            try Data(HistogramText.percentiles(of: histogram).utf8)
                .write(to: base.appendingPathExtension("hgrm"))
            try Data(HistogramText.steps(of: histogram).utf8)
                .write(to: base.appendingPathExtension("csv"))
        }
        for (index, group) in outcome.groups.enumerated() {
            let prefix = workload.groups.count > 1 ? workload.groups[index].name + "-" : ""
            try file(prefix + "ttft", group.ttft)
            try file(prefix + "token-gap", group.tokenGap)
            try file(prefix + "hop", group.hop)
        }
        try file("send-delay", outcome.sendDelay)
        try file("churn", outcome.churn)
    }
}
