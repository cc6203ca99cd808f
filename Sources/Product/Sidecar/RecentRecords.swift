package import SluiceRecordFormat

/// What was made durable last and is not applied yet, in memory: while the applying thread keeps
/// up, it does not read back from the segments what this process has just written there. It is
/// bounded, and whatever it does not hold stands in the segments.
package struct RecentRecords: Sendable {
    /// Records that it holds at most, two full passes: 8 MiB.
    package static let recordsMax = 65_536

    private struct Block: Sendable {
        var start: SegmentPosition
        /// Behind the last record, in the same segment.
        var end: SegmentPosition
        var records: [JournalRecord]
    }

    /// Oldest first, each of them behind the one before.
    private var blocks: [Block] = []
    private var recordCount = 0

    package init() {}

    /// Notes records that stand durably from `start` to `end`. The oldest ones make room.
    package mutating func append(
        _ records: [JournalRecord], from start: SegmentPosition, to end: SegmentPosition
    ) {
        precondition(start.segment == end.segment, "one append goes to one segment")
        blocks.append(Block(start: start, end: end, records: records))
        recordCount += records.count
        while recordCount > Self.recordsMax, let oldest = blocks.first {
            recordCount -= oldest.records.count
            blocks.removeFirst()
        }
    }

    /// The same for what one append of the log has written, run by run, so that nobody must take all
    /// of it at once.
    package mutating func append(
        _ records: [JournalRecord], inRunsFrom starts: [SegmentPosition], to end: SegmentPosition
    ) {
        var rest = records[...]
        for (number, start) in starts.enumerated() {
            let run = rest.prefix(SealedBlockHeader.recordCountMax)
            rest = rest.dropFirst(run.count)
            let next = number + 1 < starts.count ? starts[number + 1] : end
            append(Array(run), from: start, to: next)
        }
    }

    /// Takes what stands from `position` on without a gap, `count` records at most, but for a
    /// single block that is larger; nil where the segments must be read. What lies before
    /// `position` is forgotten.
    package mutating func take(
        from position: SegmentPosition, count: Int
    ) -> (records: [JournalRecord], end: SegmentPosition)? {
        var (taken, end): ([JournalRecord], SegmentPosition) = ([], position)
        while let block = blocks.first {
            let isNext = block.start == end
            guard isNext || block.start < end else { break }
            if isNext, !taken.isEmpty, taken.count + block.records.count > count { break }
            blocks.removeFirst()
            recordCount -= block.records.count
            guard isNext else { continue }
            if taken.isEmpty { taken = block.records } else { taken += block.records }
            end = block.end
        }
        return taken.isEmpty ? nil : (taken, end)
    }
}
