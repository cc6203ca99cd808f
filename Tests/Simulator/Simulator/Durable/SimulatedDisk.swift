import SluiceRecordFormat

/// A node's disk with its journal segments: what is written lies in the page cache until it is
/// synced. The death of a process loses nothing of it; a power failure tears what was not synced.
struct SimulatedDisk {
    struct Segment {
        let number: UInt64
        var bytes: [UInt8] = []
        /// So many of them are on the device.
        var durableCount = 0
    }

    private static let sectorBytes = 512
    /// Small, so that runs of a few hundred records change segments.
    private static let segmentBytesMax = 16_384

    /// Oldest first; the last one is being written.
    private(set) var segments = [Segment(number: 1)]
    /// Nothing can be written.
    var isFull = false

    private var last: Int { segments.count - 1 }

    /// False on a full disk, which is left as it was.
    mutating func append(_ bytes: [UInt8]) -> Bool {
        guard !isFull else { return false }
        if segments[last].bytes.count >= Self.segmentBytesMax {
            segments.append(Segment(number: segments[last].number + 1))
        }
        segments[last].bytes += bytes
        return true
    }

    mutating func sync() {
        for index in segments.indices { segments[index].durableCount = segments[index].bytes.count }
    }

    mutating func remove(_ number: UInt64) {
        precondition(number != segments[last].number, "the segment is being written")
        segments.removeAll { $0.number == number }
    }

    /// Of what was not synced some sectors arrived, in any order; the others read as zeros.
    mutating func losePower(_ random: inout RandomStream) {
        for index in segments.indices {
            var segment = segments[index]
            let cached = segment.bytes.count
            let kept = random.pick(segment.durableCount...cached)
            segment.bytes.removeLast(cached - kept)
            var start = segment.durableCount
            while start < kept {
                let end = min(kept, (start / Self.sectorBytes + 1) * Self.sectorBytes)
                if random.chance(30) {
                    for place in start..<end { segment.bytes[place] = 0 }
                }
                start = end
            }
            segment.durableCount = kept
            segments[index] = segment
        }
    }

    /// The intact record at a place of a segment; nil where there is none.
    func record(_ segment: UInt64, at offset: Int) -> JournalRecord? {
        guard let bytes = segments.first(where: { $0.number == segment })?.bytes,
            offset + RecordWords.byteCount <= bytes.count,
            let words = RecordWords(Array(bytes[offset..<offset + RecordWords.byteCount]).span),
            words.isIntact
        else { return nil }
        return JournalRecord(words: words)
    }

    func byteCount(_ segment: UInt64) -> Int {
        segments.first { $0.number == segment }?.bytes.count ?? 0
    }

    /// What a starting reader does: every intact record, in order. What stands behind the last one
    /// was never acknowledged, and is cut off.
    mutating func scan() -> [JournalRecord] {
        var records: [JournalRecord] = []
        for index in segments.indices {
            var intactEnd = 0
            var offset = 0
            while offset + RecordWords.byteCount <= segments[index].bytes.count {
                if let record = record(segments[index].number, at: offset) {
                    records.append(record)
                    intactEnd = offset + RecordWords.byteCount
                }
                offset += RecordWords.byteCount
            }
            if index == last {
                segments[index].bytes.removeLast(segments[index].bytes.count - intactEnd)
                segments[index].durableCount = min(segments[index].durableCount, intactEnd)
            }
        }
        return records
    }
}
