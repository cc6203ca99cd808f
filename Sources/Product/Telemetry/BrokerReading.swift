package import SharedMemory
package import SluiceRecordFormat

/// The numbers of one broker instance at one moment, as its statistics page shows them.
package struct BrokerReading: Equatable, Sendable {
    /// The instance's identity.
    package let instance: UInt64
    /// Counters by shard, in the order of `Counter.allCases`.
    package let shards: [[UInt64]]
    /// Buckets of all shards together, in the order of `Histogram.allCases`.
    package let histograms: [[UInt64]]

    /// `shards` has a value for every counter, `histograms` 256 buckets for every histogram.
    package init(instance: UInt64, shards: [[UInt64]], histograms: [[UInt64]]) {
        precondition(shards.allSatisfy { $0.count == Counter.allCases.count })
        precondition(histograms.count == Histogram.allCases.count)
        self.instance = instance
        self.shards = shards
        self.histograms = histograms
    }

    /// Reads the page of an instance, alive or dead.
    package init(runDirectory: String, instance: UInt64) throws(InstanceError) {
        let reader = try StatisticsReader(runDirectory: runDirectory, instance: instance)
        var shards = (0..<reader.shardCount).map { shard in
            Counter.allCases.map { reader.value($0, shard: shard) }
        }
        // The page has room for more shards than may run; those that never turned say nothing.
        while shards.count > 1, shards.last?[Counter.lastTurnUs.rawValue] == 0 {
            shards.removeLast()
        }
        self.init(
            instance: instance, shards: shards,
            histograms: Histogram.allCases.map { reader.buckets($0) })
    }

    /// A broker reports ten times a second; one that has been silent for so long is gone.
    private static let silenceUs: UInt64 = 10_000_000

    /// All brokers of a run directory that have reported of late, by identity. `nowUs` is the
    /// wall clock. No lock is touched: whoever took one, even for a moment, would seem a living
    /// broker to the one that closes the dead.
    package static func all(
        runDirectory: String, nowUs: UInt64
    ) throws(InstanceError) -> [BrokerReading] {
        var readings: [BrokerReading] = []
        for instance in try InstanceDirectory.findInstances(runDirectory) {
            do {
                let reading = try BrokerReading(runDirectory: runDirectory, instance: instance)
                let last = reading.shards.map { $0[Counter.lastTurnUs.rawValue] }.max() ?? 0
                if last > 0, last &+ silenceUs >= nowUs { readings.append(reading) }
            } catch .vanished {}
        }
        return readings.sorted { $0.instance < $1.instance }
    }

    /// The counters that a broker fills, in the order in which they are shown; times of the clock
    /// are not among them, for no sum of them means anything.
    package static let summed = Metric.all.map(\.counter).filter { $0 != .lastTurnUs }

    /// A counter's sum over all shards.
    package func total(_ counter: Counter) -> UInt64 {
        shards.reduce(0) { $0 &+ $1[counter.rawValue] }
    }

    /// One shard's counter.
    package func value(_ counter: Counter, shard: Int) -> UInt64 {
        shards[shard][counter.rawValue]
    }

    /// The buckets of a histogram, see `HistogramBucket`.
    package func buckets(_ histogram: Histogram) -> [UInt64] { histograms[histogram.rawValue] }
}

/// A distribution in the buckets of the statistics page.
package struct Distribution: Equatable, Sendable {
    private let buckets: [UInt64]

    /// 256 buckets, see `HistogramBucket`.
    package init(_ buckets: [UInt64]) {
        precondition(buckets.count == StatisticsLayout.bucketCount)
        self.buckets = buckets
    }

    /// What came in since `earlier`; a smaller number than then counts from zero again.
    package func since(_ earlier: Distribution) -> Distribution {
        Distribution(
            zip(buckets, earlier.buckets).map { $0 >= $1 ? $0 - $1 : $0 })
    }

    package var count: UInt64 { buckets.reduce(0, &+) }

    /// How many values lie in buckets wholly below `bound`.
    package func count(below bound: UInt64) -> UInt64 {
        var sum: UInt64 = 0
        for (bucket, count) in buckets.enumerated() {
            guard bucket < StatisticsLayout.bucketCount - 1,
                HistogramBucket.lowerBound(of: bucket + 1) <= bound
            else { break }
            sum &+= count
        }
        return sum
    }

    /// The sum of all values, each taken as the middle of its bucket: within 6.25 %.
    package var approximateSum: UInt64 {
        var sum: UInt64 = 0
        for (bucket, count) in buckets.enumerated() where count > 0 {
            let low = HistogramBucket.lowerBound(of: bucket)
            let high =
                bucket + 1 < buckets.count
                ? HistogramBucket.lowerBound(of: bucket + 1) : low + 1
            sum &+= count &* (low + (high - 1 - low) / 2)
        }
        return sum
    }

    /// The value that `fraction` (0…1) of all values do not exceed, to the bucket's upper bound;
    /// nil where there is none.
    package func quantile(_ fraction: Double) -> UInt64? {
        let all = count
        guard all > 0 else { return nil }
        let rank = max(1, UInt64((Double(all) * fraction).rounded(.up)))
        var seen: UInt64 = 0
        for (bucket, count) in buckets.enumerated() {
            seen &+= count
            guard seen >= rank else { continue }
            return bucket + 1 < buckets.count
                ? HistogramBucket.lowerBound(of: bucket + 1) - 1
                : HistogramBucket.lowerBound(of: bucket)
        }
        return nil
    }
}
