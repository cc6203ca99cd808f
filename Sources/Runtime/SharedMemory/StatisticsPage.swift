public import CLinuxIO
public import SluiceRecordFormat

/// The counters of one shard: a handle for that shard's thread, the only writer.
///
/// Valid while its `BrokerInstance` lives. Readers in other processes see each number whole, not
/// several at one moment.
@safe @frozen @usableFromInline
package struct StatisticsPage: @unchecked Sendable {
    @usableFromInline let base: UnsafeMutableRawPointer
    @usableFromInline let shard: Int

    init(base: UnsafeMutableRawPointer, shard: Int) {
        unsafe self.base = base
        self.shard = shard
    }

    /// Adds to a counter.
    @inlinable
    package func add(_ counter: Counter, _ amount: UInt64 = 1) {
        let offset = StatisticsLayout.offset(of: counter, shard: shard)
        // SAFETY: a shard's block lies inside the file, and a counter inside its block.
        unsafe sluice_word_store(base + offset, sluice_word_load(base + offset) &+ amount)
    }

    /// Sets a gauge.
    @inlinable
    package func set(_ counter: Counter, _ value: UInt64) {
        // SAFETY: as in `add`.
        unsafe sluice_word_store(
            base + StatisticsLayout.offset(of: counter, shard: shard), value)
    }

    /// The number as it stands.
    @inlinable
    package func value(_ counter: Counter) -> UInt64 {
        // SAFETY: as in `add`.
        unsafe sluice_word_load(base + StatisticsLayout.offset(of: counter, shard: shard))
    }

    /// Counts a value in a histogram.
    @inlinable
    package func record(_ histogram: Histogram, _ value: UInt64) {
        let offset = StatisticsLayout.offset(
            of: histogram, bucket: HistogramBucket.index(of: value), shard: shard)
        // SAFETY: as in `add`; a bucket is 0…255.
        unsafe sluice_word_store(base + offset, sluice_word_load(base + offset) &+ 1)
    }

    /// Sets all 256 buckets of a histogram, which nobody else records in.
    package func set(_ histogram: Histogram, _ buckets: [UInt64]) {
        precondition(buckets.count == StatisticsLayout.bucketCount)
        for (bucket, count) in buckets.enumerated() {
            let offset = StatisticsLayout.offset(of: histogram, bucket: bucket, shard: shard)
            // SAFETY: as in `add`.
            unsafe sluice_word_store(base + offset, count)
        }
    }
}

/// The statistics of an instance as another process sees them.
package struct StatisticsReader: ~Copyable {
    private let file: MappedFile
    /// Number of shard blocks.
    package let shardCount: Int

    /// Opens the statistics of an instance, alive or dead.
    package init(runDirectory: String, instance: UInt64) throws(InstanceError) {
        file = try MappedFile.open(
            InstanceDirectory.path(runDirectory, instance, .statistics), as: .statistics,
            magic: StatisticsLayout.magic, instance: instance,
            byteCountForCapacity: { ($0 + 1) * StatisticsLayout.blockByteCount })
        shardCount = file.capacity
    }

    /// One shard's counter; `shard` is 0..<`shardCount`.
    package func value(_ counter: Counter, shard: Int) -> UInt64 {
        precondition(shard >= 0 && shard < shardCount)
        return file.load(at: StatisticsLayout.offset(of: counter, shard: shard))
    }

    /// The sum over all shards.
    package func total(_ counter: Counter) -> UInt64 {
        (0..<shardCount).reduce(0) { $0 &+ value(counter, shard: $1) }
    }

    /// The 256 buckets of a histogram, summed over all shards.
    package func buckets(_ histogram: Histogram) -> [UInt64] {
        (0..<StatisticsLayout.bucketCount).map { bucket in
            (0..<shardCount).reduce(0) { sum, shard in
                sum
                    &+ file.load(
                        at: StatisticsLayout.offset(of: histogram, bucket: bucket, shard: shard))
            }
        }
    }
}
