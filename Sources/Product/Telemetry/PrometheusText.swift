import SluiceRecordFormat
import SluiceWire
package import Store

/// Readings in the text exposition format of Prometheus, version 0.0.4.
package enum PrometheusText {
    /// The media type of the format.
    package static let contentType = "text/plain; version=0.0.4; charset=utf-8"

    /// All metrics of all brokers, and what the sidecar beside them says. Brokers are told apart by
    /// the label `broker`, shards by `shard`.
    package static func text(
        _ readings: [BrokerReading], settlement: SettlementReport? = nil
    ) -> String {
        var text = ""
        header(&text, "sluice_brokers", "Brokers that live in the run directory.", "gauge")
        text += "sluice_brokers \(readings.count)\n"
        for metric in Metric.all {
            header(&text, metric.name, metric.help, metric.kind.rawValue)
            for reading in readings { add(metric, of: reading, to: &text) }
        }
        for metric in HistogramMetric.all {
            header(&text, metric.name, metric.help, "histogram")
            for reading in readings { add(metric, of: reading, to: &text) }
        }
        add(settlement, to: &text)
        return text
    }

    private static func add(_ settlement: SettlementReport?, to text: inout String) {
        for metric in SettlementMetric.all {
            header(&text, metric.name, metric.help, metric.kind.rawValue)
            for sample in metric.samples(settlement) {
                let labels = sample.labels.map { "\($0)=\"\($1)\"" }.joined(separator: ",")
                let value = number(sample.value, isMicroseconds: metric.isMicroseconds)
                text += "\(metric.name)\(labels.isEmpty ? "" : "{\(labels)}") \(value)\n"
            }
        }
    }

    private static func header(
        _ text: inout String, _ name: String, _ help: String, _ kind: String
    ) {
        text += "# HELP \(name) \(help)\n# TYPE \(name) \(kind)\n"
    }

    private static func add(_ metric: Metric, of reading: BrokerReading, to text: inout String) {
        let broker = hexadecimal(reading.instance)
        for shard in metric.isPerShard ? reading.shards.indices : 0..<1 {
            let labels =
                metric.isPerShard
                ? "{broker=\"\(broker)\",shard=\"\(shard)\"}" : "{broker=\"\(broker)\"}"
            let value = reading.value(metric.counter, shard: shard)
            text +=
                "\(metric.name)\(labels) \(number(value, isMicroseconds: metric.isMicroseconds))\n"
        }
    }

    private static func add(
        _ metric: HistogramMetric, of reading: BrokerReading, to text: inout String
    ) {
        let broker = hexadecimal(reading.instance)
        let distribution = Distribution(reading.buckets(metric.histogram))
        for bound in metric.boundsUs {
            text +=
                "\(metric.name)_bucket{broker=\"\(broker)\",le=\"\(number(bound, isMicroseconds: true))\"} "
                + "\(distribution.count(below: bound))\n"
        }
        text +=
            "\(metric.name)_bucket{broker=\"\(broker)\",le=\"+Inf\"} \(distribution.count)\n"
            + "\(metric.name)_sum{broker=\"\(broker)\"} "
            + "\(number(distribution.approximateSum, isMicroseconds: true))\n"
            + "\(metric.name)_count{broker=\"\(broker)\"} \(distribution.count)\n"
    }

    /// Whole numbers stay whole; the page's microseconds become exact decimals of seconds.
    private static func number(_ value: UInt64, isMicroseconds: Bool) -> String {
        guard isMicroseconds else { return String(value) }
        let fraction = String(value % 1_000_000)
        let padded = String(repeating: "0", count: 6 - fraction.count) + fraction
        return "\(value / 1_000_000).\(padded)"
    }
}
