package import SharedMemory
package import SluiceRecordFormat
import TLSEngine

/// A place in the journal on disk: a segment's number and a byte offset in it.
package struct SegmentPosition: Comparable, Sendable {
    package var segment: UInt64
    package var offset: Int

    package init(segment: UInt64, offset: Int) {
        self.segment = segment
        self.offset = offset
    }

    package static func < (left: SegmentPosition, right: SegmentPosition) -> Bool {
        (left.segment, left.offset) < (right.segment, right.offset)
    }
}

/// The durable journal: `segment-N` files that hold the records of all instances as they came:
/// sealed under a data key of each file, or each with its CRC-32C where there is no master key.
/// One thread of one process appends.
package struct SegmentLog: ~Copyable {
    /// A segment that has grown to this size is followed by the next one.
    package static let segmentBytesDefault = 16 * 1_024 * 1_024

    private let files: SegmentFiles
    private let segmentBytes: Int
    private var current: LocalFile
    /// The current segment's data key; nil for one in clear.
    private var key: SealingKey?
    /// Behind the last durable record.
    package private(set) var end: SegmentPosition
    /// Highest durable sequence of every instance that stands in a segment.
    package private(set) var lastSequences: [UInt64: UInt64]
    /// Places inside the log that were changed; they are passed over.
    package private(set) var damagedCount: Int
    /// Bytes written since the log was opened, headers included.
    private(set) var writtenBytes = 0

    /// Opens the log, whose directory exists. What stands behind the last intact record of the
    /// last segment was never acknowledged and is cut off. The keys must have been checked.
    package init(
        _ files: SegmentFiles, segmentBytes: Int = segmentBytesDefault
    ) throws(InstanceError) {
        var lastSequences: [UInt64: UInt64] = [:]
        var damagedCount = 0
        var numbers = try files.numbers()
        // A segment whose header was not finished holds nothing.
        if let last = numbers.last, try files.state(last) == nil,
            try files.byteCount(last) <= RecordWords.byteCount
        {
            try LocalFileSystem.remove(files.path(last))
            numbers.removeLast()
        }
        var tail = RecordWords.byteCount
        for number in numbers {
            let scan = try files.scan(number)
            lastSequences.merge(scan.lastSequences) { max($0, $1) }
            damagedCount += scan.damagedCount
            tail = scan.end
        }
        var number = numbers.last ?? 1
        let state = numbers.isEmpty ? nil : try files.state(number)
        if state != nil {
            let found = try files.openForAppend(number)
            try found.truncate(byteCount: tail)
            // Who wrote it may have died before its sync. From here on all of it counts as
            // durable, and rings are released for it.
            try found.synchronise()
        }
        if let state, state.mayContinue {
            key = state.key
        } else {
            if !numbers.isEmpty { number += 1 }
            key = try files.create(number)
            tail = RecordWords.byteCount
        }
        current = try files.openForAppend(number)
        self.files = files
        self.segmentBytes = segmentBytes
        self.lastSequences = lastSequences
        self.damagedCount = damagedCount
        end = SegmentPosition(segment: number, offset: tail)
    }

    /// Appends records and waits until they are on the device. `noSpace` leaves the log as it was;
    /// `system(.sync, _)` is final: the process must end, its successor reads what is there.
    ///
    /// - Returns: Where each run of at most `SealedBlockHeader.recordCountMax` of them begins; the
    ///   last ends at `end`, all in the same segment.
    @discardableResult
    package mutating func append(
        _ records: [JournalRecord]
    ) throws(InstanceError) -> [SegmentPosition] {
        guard !records.isEmpty else { return [] }
        if end.offset >= segmentBytes { try rotate() }
        var offset = end.offset
        var starts: [SegmentPosition] = []
        do {
            if let key {
                // Each block is durable before the next is written, so that only the last one can
                // be torn.
                var rest = records[...]
                while !rest.isEmpty {
                    starts.append(SegmentPosition(segment: end.segment, offset: offset))
                    let bytes = sealed(
                        rest.prefix(SealedBlockHeader.recordCountMax), at: offset, key)
                    try write(bytes, at: offset)
                    offset += bytes.count
                    rest = rest.dropFirst(SealedBlockHeader.recordCountMax)
                }
            } else {
                var bytes: [UInt8] = []
                bytes.reserveCapacity(records.count * RecordWords.byteCount)
                for record in records { record.words.sealed.append(to: &bytes) }
                try write(bytes, at: offset)
                let runBytes = SealedBlockHeader.recordCountMax * RecordWords.byteCount
                starts = stride(from: offset, to: offset + bytes.count, by: runBytes).map {
                    SegmentPosition(segment: end.segment, offset: $0)
                }
                offset += bytes.count
            }
        } catch {
            if case .system(.sync, _) = error { throw error }
            try current.truncate(byteCount: end.offset)
            throw error
        }
        writtenBytes += offset - end.offset
        end.offset = offset
        for record in records { lastSequences[record.instance] = record.sequence }
        return starts
    }

    /// Ends the current segment, so that it may be deleted once it is applied.
    package mutating func rotate() throws(InstanceError) {
        guard end.offset > RecordWords.byteCount else { return }
        key = try files.create(end.segment + 1)
        current = try files.openForAppend(end.segment + 1)
        end = SegmentPosition(segment: end.segment + 1, offset: RecordWords.byteCount)
        writtenBytes += RecordWords.byteCount
    }

    private func write(_ bytes: [UInt8], at offset: Int) throws(InstanceError) {
        try current.write(bytes, at: offset)
        try current.synchronise()
    }

    /// Header and ciphertext. Each seal draws a nonce of its own, so that a place that is written
    /// again, after a cut or a full disk, is not sealed with the one that it had.
    private func sealed(
        _ records: ArraySlice<JournalRecord>, at offset: Int, _ key: SealingKey
    ) -> [UInt8] {
        var header = SealedBlockHeader(
            segment: end.segment, offset: offset, recordCount: records.count)
        var plain: [UInt8] = []
        plain.reserveCapacity(header.bodyBytes)
        for record in records { record.words.append(to: &plain) }
        let box = key.seal(plain, associated: header.associated)
        header.nonce = Array(box.prefix(SealedBlockHeader.nonceBytes))
        header.tag = Array(box.suffix(SealedBlockHeader.tagBytes))
        var bytes: [UInt8] = []
        bytes.reserveCapacity(RecordWords.byteCount + header.bodyBytes)
        header.words.append(to: &bytes)
        bytes += box[header.nonce.count..<box.count - header.tag.count]
        return bytes
    }
}
