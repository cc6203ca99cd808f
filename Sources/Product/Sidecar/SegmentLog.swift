import SharedMemory
import SluiceRecordFormat

/// A place in the journal on disk: a segment's number and a byte offset in it.
struct SegmentPosition: Comparable, Sendable {
    var segment: UInt64
    var offset: Int

    static func < (left: SegmentPosition, right: SegmentPosition) -> Bool {
        (left.segment, left.offset) < (right.segment, right.offset)
    }
}

/// The durable journal: `segment-N` files that hold the records of all instances as they came,
/// each with its CRC-32C. One thread of one process appends.
struct SegmentLog: ~Copyable {
    /// A segment that has grown to this size is followed by the next one.
    static let segmentBytesDefault = 16 * 1_024 * 1_024

    private let directory: String
    private let segmentBytes: Int
    private var current: LocalFile
    /// Behind the last durable record.
    private(set) var end: SegmentPosition
    /// Highest durable sequence of every instance that stands in a segment.
    private(set) var lastSequences: [UInt64: UInt64]
    /// Blocks inside the log whose checksum does not hold; they are passed over.
    private(set) var damagedCount: Int

    /// Opens the log, making the directory if need be. What stands behind the last intact record
    /// of the last segment was never acknowledged and is cut off.
    init(directory: String, segmentBytes: Int = segmentBytesDefault) throws(InstanceError) {
        try LocalFileSystem.makeDirectory(directory)
        _ = try LocalFile.openDirectory(directory)
        var lastSequences: [UInt64: UInt64] = [:]
        var damagedCount = 0
        var numbers = try SegmentFiles.numbers(directory)
        // A segment whose header was not finished holds nothing.
        if let last = numbers.last, try !SegmentFiles.hasHeader(directory, last) {
            try LocalFileSystem.remove(SegmentFiles.path(directory, last))
            numbers.removeLast()
        }
        var tail = RecordWords.byteCount
        for number in numbers {
            let scan = try SegmentFiles.scan(directory, number)
            lastSequences.merge(scan.lastSequences) { max($0, $1) }
            damagedCount += scan.damagedCount
            tail = scan.end
        }
        let number = numbers.last ?? 1
        let current: LocalFile
        if numbers.isEmpty {
            current = try SegmentFiles.create(directory, number)
        } else {
            current = try SegmentFiles.openForAppend(directory, number)
            try current.truncate(byteCount: tail)
        }
        self.directory = directory
        self.segmentBytes = segmentBytes
        self.current = current
        self.lastSequences = lastSequences
        self.damagedCount = damagedCount
        end = SegmentPosition(segment: number, offset: tail)
    }

    /// Appends records and waits until they are on the device. `noSpace` leaves the log as it was;
    /// `system(.sync, _)` is final: the process must end, its successor reads what is there.
    mutating func append(_ records: [JournalRecord]) throws(InstanceError) {
        guard !records.isEmpty else { return }
        if end.offset >= segmentBytes { try rotate() }
        var bytes: [UInt8] = []
        bytes.reserveCapacity(records.count * RecordWords.byteCount)
        for record in records { record.words.sealed.append(to: &bytes) }
        do {
            try current.write(bytes, at: end.offset)
        } catch {
            try current.truncate(byteCount: end.offset)
            throw error
        }
        try current.synchronise()
        end.offset += bytes.count
        for record in records { lastSequences[record.instance] = record.sequence }
    }

    /// Ends the current segment, so that it may be deleted once it is applied.
    mutating func rotate() throws(InstanceError) {
        guard end.offset > RecordWords.byteCount else { return }
        current = try SegmentFiles.create(directory, end.segment + 1)
        end = SegmentPosition(segment: end.segment + 1, offset: RecordWords.byteCount)
    }
}

/// Names and contents of segments, for the thread that appends and the one that reads.
enum SegmentFiles {
    private static let scanBytes = 8_192 * RecordWords.byteCount

    struct Scan {
        var lastSequences: [UInt64: UInt64] = [:]
        var damagedCount = 0
        /// Behind the last intact record.
        var end = RecordWords.byteCount
    }

    static func path(_ directory: String, _ number: UInt64) -> String {
        let digits = String(number)
        return directory + "/segment-" + String(repeating: "0", count: 12 - digits.count) + digits
    }

    /// Segments, oldest first.
    static func numbers(_ directory: String) throws(InstanceError) -> [UInt64] {
        try LocalFileSystem.list(directory).compactMap { name in
            name.hasPrefix("segment-") ? UInt64(name.dropFirst("segment-".count)) : nil
        }.sorted()
    }

    static func create(
        _ directory: String, _ number: UInt64
    ) throws(InstanceError) -> LocalFile {
        let file = try LocalFile.openForWriting(path(directory, number), create: true)
        var header: [UInt8] = []
        BlockFileHeader(kind: .journalSegment, number: number).words.append(to: &header)
        try file.write(header, at: 0)
        try file.synchronise()
        try LocalFileSystem.synchronise(directory: directory)
        return file
    }

    static func openForAppend(
        _ directory: String, _ number: UInt64
    ) throws(InstanceError) -> LocalFile {
        try LocalFile.openForWriting(path(directory, number), create: false)
    }

    static func hasHeader(_ directory: String, _ number: UInt64) throws(InstanceError) -> Bool {
        let file = try LocalFile.openForReading(path(directory, number))
        let bytes = try file.read(byteCount: RecordWords.byteCount, at: 0)
        guard let words = RecordWords(bytes.span), let header = BlockFileHeader(words) else {
            return false
        }
        return header.kind == .journalSegment && header.number == number
    }

    static func byteCount(_ directory: String, _ number: UInt64) throws(InstanceError) -> Int {
        try LocalFile.openForReading(path(directory, number)).byteCount()
    }

    static func scan(_ directory: String, _ number: UInt64) throws(InstanceError) -> Scan {
        var scan = Scan()
        var bad = 0
        var offset = RecordWords.byteCount
        let file = try LocalFile.openForReading(path(directory, number))
        while true {
            let blocks = try readBlocks(file, at: offset, byteCount: scanBytes)
            if blocks.isEmpty { return scan }
            for words in blocks {
                offset += RecordWords.byteCount
                guard words.isIntact else {
                    bad += 1
                    continue
                }
                // Damage counts only when something intact follows: else it is the torn tail.
                scan.damagedCount += bad
                bad = 0
                scan.end = offset
                let record = JournalRecord(words: words)
                scan.lastSequences[record.instance] = max(
                    scan.lastSequences[record.instance] ?? 0, record.sequence)
            }
        }
    }

    /// Intact records of one segment from `offset` on, up to `end`.
    static func records(
        _ directory: String, from position: SegmentPosition, to end: Int
    ) throws(InstanceError) -> [JournalRecord] {
        let file = try LocalFile.openForReading(path(directory, position.segment))
        return try readBlocks(file, at: position.offset, byteCount: end - position.offset)
            .filter { $0.isIntact }.map { words in
                var plain = words
                plain[0] &= 0xFFFF_FFFF
                return JournalRecord(words: plain)
            }
    }

    private static func readBlocks(
        _ file: borrowing LocalFile, at offset: Int, byteCount: Int
    ) throws(InstanceError) -> [RecordWords] {
        let bytes = try file.read(byteCount: byteCount, at: offset)
        let count = bytes.count / RecordWords.byteCount
        return (0..<count).compactMap { block in
            let start = block * RecordWords.byteCount
            return RecordWords(bytes.span.extracting(start..<start + RecordWords.byteCount))
        }
    }
}
