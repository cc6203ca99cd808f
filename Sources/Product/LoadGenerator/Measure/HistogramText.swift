import Foundation

/// What the tools around HDR histograms read.
package enum HistogramText {
    /// The percentile distribution (`.hgrm`) in microseconds, as HdrHistogram's plotter reads it.
    package static func percentiles(of histogram: LatencyHistogram) -> String {
        var text = "       Value     Percentile TotalCount 1/(1-Percentile)\n\n"
        var seen: UInt64 = 0
        var sumUs = 0.0
        let total = Double(max(1, histogram.count))
        for (upperNs, count) in histogram.steps {
            seen += count
            let us = Double(upperNs) / 1_000
            sumUs += us * Double(count)
            let share = Double(seen) / total
            text += padded(us, 12, 3) + " " + padded(share, 14, 12) + " "
            text += String(repeating: " ", count: max(0, 10 - String(seen).count)) + String(seen)
            text += seen < histogram.count ? " " + padded(1 / (1 - share), 14, 2) + "\n" : "\n"
        }
        text += "#[Mean = \(padded(sumUs / total, 0, 3)), Total count = \(histogram.count)]\n"
        text += "#[Max = \(padded(Double(histogram.maxNs) / 1_000, 0, 3))]\n"
        return text
    }

    /// Every step that holds something: `upper_ns,count`.
    package static func steps(of histogram: LatencyHistogram) -> String {
        histogram.steps.reduce(into: "upper_ns,count\n") { text, step in
            text += "\(step.upperNs),\(step.count)\n"
        }
    }

    private static func padded(_ value: Double, _ width: Int, _ places: Int) -> String {
        let text = value.formatted(
            .number.grouping(.never).precision(.fractionLength(places))
                .locale(Locale(identifier: "en_US_POSIX")))
        return String(repeating: " ", count: max(0, width - text.count)) + text
    }
}
