package import SharedMemory
package import SluiceRecordFormat
package import TLSEngine

/// Names and contents of segments, for the thread that appends and the one that reads.
package struct SegmentFiles: Sendable {
    /// Records that one reading gives at most, so that it needs bounded memory.
    static let recordsPerReading = SealedBlockHeader.recordCountMax

    /// Why a segment cannot be opened with the keys that were given.
    package struct KeyFailure: Error {
        package var segment: UInt64
        package var reason: SealingError
    }

    struct Scan {
        var lastSequences: [UInt64: UInt64] = [:]
        var damagedCount = 0
        /// Behind the last intact record.
        var end = RecordWords.byteCount
    }

    let directory: String
    /// Nil: segments are written in clear, and sealed ones cannot be opened.
    let masterKeys: MasterKeys?

    package init(directory: String, masterKeys: MasterKeys?) {
        self.directory = directory
        self.masterKeys = masterKeys
    }

    package func path(_ number: UInt64) -> String {
        let digits = String(number)
        return directory + "/segment-" + String(repeating: "0", count: 12 - digits.count) + digits
    }

    /// Segments, oldest first.
    package func numbers() throws(InstanceError) -> [UInt64] {
        try LocalFileSystem.list(directory).compactMap { name in
            name.hasPrefix("segment-") ? UInt64(name.dropFirst("segment-".count)) : nil
        }.sorted()
    }

    package func byteCount(_ number: UInt64) throws(InstanceError) -> Int {
        try LocalFile.openForReading(path(number)).byteCount()
    }

    /// Makes sure that every segment can be opened, before any is taken for damaged.
    package func checkKeys() throws {
        for number in try numbers() {
            guard let header = try sealedHeader(number) else { continue }
            do throws(SealingError) {
                _ = try dataKey(header)
            } catch {
                throw KeyFailure(segment: number, reason: error)
            }
        }
    }

    /// Makes a segment, and gives the data key that it is sealed under: a new one, or nil where
    /// there is no master key.
    func create(_ number: UInt64) throws(InstanceError) -> SealingKey? {
        let file = try LocalFile.openForWriting(path(number), create: true)
        var header: [UInt8] = []
        var key: SealingKey?
        if let masterKeys {
            let new = SealingKey.random()
            let owner = SealedSegmentHeader.keyOwner(number: number)
            SealedSegmentHeader(number: number, wrappedKey: masterKeys.wrap(new, owner: owner))
                .words.append(to: &header)
            key = new
        } else {
            BlockFileHeader(kind: .journalSegment, number: number).words.append(to: &header)
        }
        try file.write(header, at: 0)
        try file.synchronise()
        try LocalFileSystem.synchronise(directory: directory)
        return key
    }

    func openForAppend(_ number: UInt64) throws(InstanceError) -> LocalFile {
        try LocalFile.openForWriting(path(number), create: false)
    }

    /// Whether a segment's first block holds: nil if it does not. A segment is continued only in
    /// the form that a new one would have, and under the current master key.
    func state(_ number: UInt64) throws(InstanceError) -> (mayContinue: Bool, key: SealingKey?)? {
        guard let words = try firstBlock(number), let header = BlockFileHeader(words),
            header.number == number
        else { return nil }
        guard let sealed = SealedSegmentHeader(words) else {
            return (header.kind == .journalSegment && masterKeys == nil, nil)
        }
        guard let key = try? dataKey(sealed) else { return (false, nil) }
        let rewrapped = try? masterKeys?.rewrap(
            sealed.wrappedKey, owner: SealedSegmentHeader.keyOwner(number: number))
        return (rewrapped == nil, key)
    }

    func scan(_ number: UInt64) throws(InstanceError) -> Scan {
        let segment = try open(number)
        var scan = Scan()
        var bad = 0
        var position = RecordWords.byteCount
        let size = try segment.byteCount()
        while position < size {
            let part = try segment.read(at: position, before: size)
            position = part.end
            for piece in part.pieces {
                guard case .records(let records, let end) = piece else {
                    bad += 1
                    continue
                }
                // Damage counts only when something intact follows: else it is the torn tail.
                scan.damagedCount += bad
                bad = 0
                scan.end = end
                for record in records {
                    scan.lastSequences[record.instance] = max(
                        scan.lastSequences[record.instance] ?? 0, record.sequence)
                }
            }
        }
        return scan
    }

    /// Intact records of one segment from an offset on, `recordsPerReading` at most and none
    /// behind `end`; and the offset to go on from, which is `end` when there is no more.
    package func records(
        from position: SegmentPosition, before end: Int
    ) throws(InstanceError) -> (records: [JournalRecord], next: Int) {
        let part = try open(position.segment).read(at: position.offset, before: end)
        let records = part.pieces.flatMap { piece -> [JournalRecord] in
            if case .records(let records, _) = piece { records } else { [] }
        }
        return (records, part.end)
    }

    private func open(_ number: UInt64) throws(InstanceError) -> SegmentReader {
        // What was given for another number, or has no intact header, is read as if in clear:
        // no block of a sealed segment is taken for a record.
        var key: SealingKey?
        if let header = try sealedHeader(number) { key = try? dataKey(header) }
        return SegmentReader(
            number: number, file: try LocalFile.openForReading(path(number)), key: key)
    }

    private func sealedHeader(_ number: UInt64) throws(InstanceError) -> SealedSegmentHeader? {
        guard let words = try firstBlock(number), let header = SealedSegmentHeader(words),
            header.number == number
        else { return nil }
        return header
    }

    private func firstBlock(_ number: UInt64) throws(InstanceError) -> RecordWords? {
        let file = try LocalFile.openForReading(path(number))
        let bytes = try file.read(byteCount: RecordWords.byteCount, at: 0)
        return RecordWords(bytes.span)
    }

    private func dataKey(_ header: SealedSegmentHeader) throws(SealingError) -> SealingKey {
        guard let masterKeys else { throw .keyMissing }
        return try masterKeys.unwrap(
            header.wrappedKey, owner: SealedSegmentHeader.keyOwner(number: header.number))
    }
}

/// One segment that is being read, in clear or sealed.
struct SegmentReader: ~Copyable {
    /// What stands at one place.
    enum Piece {
        /// Intact records that follow each other, and where they end.
        case records([JournalRecord], end: Int)
        case damaged
    }

    let number: UInt64
    private let file: LocalFile
    /// Nil for one in clear.
    private let key: SealingKey?

    init(number: UInt64, file: consuming LocalFile, key: SealingKey?) {
        self.number = number
        self.file = file
        self.key = key
    }

    func byteCount() throws(InstanceError) -> Int { try file.byteCount() }

    /// What stands from `offset` on, in pieces, and where to go on: `limit` when all was read.
    /// At most `SegmentFiles.recordsPerReading` records or places.
    func read(
        at offset: Int, before limit: Int
    ) throws(InstanceError) -> (pieces: [Piece], end: Int) {
        guard let key else { return try readClear(at: offset, before: limit) }
        var pieces: [Piece] = []
        var (position, count) = (offset, 0)
        while position < limit, count < SegmentFiles.recordsPerReading {
            let header = try header(at: position, before: limit)
            guard let header else {
                pieces.append(.damaged)
                count += 1
                position = min(limit, position + RecordWords.byteCount)
                continue
            }
            guard count == 0 || count + header.recordCount <= SegmentFiles.recordsPerReading else {
                break
            }
            let body = try file.read(
                byteCount: header.bodyBytes, at: position + RecordWords.byteCount)
            // Whatever is wrong inside, nothing else stands there: the header was written whole.
            position += RecordWords.byteCount + header.bodyBytes
            count += header.recordCount
            if let plain = try? key.open(
                header.nonce + body + header.tag, associated: header.associated)
            {
                pieces.append(.records(Self.blocks(plain).map(JournalRecord.init), end: position))
            } else {
                pieces.append(.damaged)
            }
        }
        return (pieces, position)
    }

    /// The header at a place, nil where there is none or what it announces is not all there.
    private func header(
        at offset: Int, before limit: Int
    ) throws(InstanceError) -> SealedBlockHeader? {
        let bytes = try file.read(byteCount: RecordWords.byteCount, at: offset)
        guard let words = RecordWords(bytes.span),
            let header = SealedBlockHeader(words, segment: number, offset: offset),
            header.bodyBytes <= limit - offset - RecordWords.byteCount
        else { return nil }
        return header
    }

    private func readClear(
        at offset: Int, before limit: Int
    ) throws(InstanceError) -> (pieces: [Piece], end: Int) {
        let byteCount = min(
            limit - offset, SegmentFiles.recordsPerReading * RecordWords.byteCount)
        let bytes = try file.read(byteCount: byteCount, at: offset)
        var (pieces, position) = ([Piece](), offset)
        var run: [JournalRecord] = []
        for words in Self.blocks(bytes) {
            if words.isIntact, !SealedBlockHeader.isOne(words) {
                var plain = words
                plain[0] &= 0xFFFF_FFFF
                run.append(JournalRecord(words: plain))
            } else {
                if !run.isEmpty { pieces.append(.records(run, end: position)) }
                run = []
                pieces.append(.damaged)
            }
            position += RecordWords.byteCount
        }
        if !run.isEmpty { pieces.append(.records(run, end: position)) }
        return (pieces, offset + byteCount)
    }

    /// Whole blocks; what is left over is none.
    private static func blocks(_ bytes: [UInt8]) -> [RecordWords] {
        (0..<bytes.count / RecordWords.byteCount).compactMap { block in
            let start = block * RecordWords.byteCount
            return RecordWords(bytes.span.extracting(start..<start + RecordWords.byteCount))
        }
    }
}
