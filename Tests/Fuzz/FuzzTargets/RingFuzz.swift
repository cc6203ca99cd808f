import SharedMemory
import Sidecar
import SluiceRecordFormat
import TLSEngine

/// Any bytes as what the sidecar reads: blocks as records, a ring as another process may have left
/// it, and a journal segment, in clear or sealed, that was damaged after it was written.
package enum RingFuzz {
    private static let instance: UInt64 = 0xA1

    /// One input: byte 0 chooses what it is.
    package static func run(_ bytes: [UInt8]) {
        var script = FuzzScript(bytes)
        switch script.byte() & 3 {
        case 0: records(&script)
        case 1: ring(&script)
        case 2: segment(&script, isSealed: false)
        default: segment(&script, isSealed: true)
        }
    }

    // MARK: Records

    /// Each block as a record of every kind. What is read is written and read again as the same.
    private static func records(_ script: inout FuzzScript) {
        while let words = block(&script) {
            let record = JournalRecord(words: words)
            check(record)
            // Ends are computed from a dead broker's table, whatever stands in it.
            let ended = OpenTaskSlot(words: words)
                .endedAfterLoss(instance: instance, endedAtUs: words[2])
            precondition(EndedRecord(ended.record) == ended, "a computed end changes")
            precondition(ended.charge.isBalanced, "a computed end does not add up")
        }
    }

    private static func check(_ record: JournalRecord) {
        if let known = AcceptedRecord(record) {
            precondition(AcceptedRecord(known.record) == known, "an ACCEPTED changes")
        }
        if let known = EndedRecord(record) {
            _ = known.charge.isBalanced
            precondition(EndedRecord(known.record) == known, "an ENDED changes")
        }
        if let known = RefusedRecord(record) {
            precondition(RefusedRecord(known.record) == known, "a REFUSED changes")
        }
        if let known = NameRecord(record) {
            precondition(NameRecord(known.record) == known, "a NAME changes")
        }
        if let known = InstanceStartRecord(record) {
            precondition(InstanceStartRecord(known.record) == known, "a START changes")
        }
        if let known = InstanceClosedRecord(record) {
            precondition(InstanceClosedRecord(known.record) == known, "a CLOSED changes")
        }
        if let known = LeaseRecord(record) {
            precondition(LeaseRecord(known.record) == known, "a LEASE changes")
        }
    }

    private static func block(_ script: inout FuzzScript) -> RecordWords? {
        RecordWords(script.take(RecordWords.byteCount).span)
    }

    // MARK: The ring

    /// A ring of at most 8 records. Flags keep parts of it as a broker writes them, so that a
    /// reader comes past its first check.
    private static func ring(_ script: inout FuzzScript) {
        let flags = script.byte()
        let capacity = 1 + Int(script.byte() & 7)
        let (tail, head) = (script.number64(), script.number64())
        var file = [UInt8](
            repeating: 0, count: FileHeader.byteCount + capacity * RecordWords.byteCount)
        set(RingLayout.magic, at: FileHeader.magicOffset, in: &file)
        set(UInt64(FileHeader.layoutVersion), at: FileHeader.versionOffset, in: &file)
        set(instance, at: FileHeader.instanceOffset, in: &file)
        set(UInt64(capacity), at: FileHeader.capacityOffset, in: &file)
        let released = flags & 1 == 0 ? head : head & 0xFF
        let published = flags & 2 == 0 ? tail : released &+ tail & 7
        set(published, at: RingLayout.tailOffset, in: &file)
        set(released, at: RingLayout.headOffset, in: &file)
        for place in 0..<capacity {
            var bytes = script.take(RecordWords.byteCount)
            bytes += [UInt8](repeating: 0, count: RecordWords.byteCount - bytes.count)
            let start = FileHeader.byteCount + place * RecordWords.byteCount
            file.replaceSubrange(start..<start + RecordWords.byteCount, with: bytes)
            guard flags & 4 != 0 else { continue }
            set(instance, at: start + 8, in: &file)
            let lap = released - released % UInt64(capacity)
            let sequence = lap &+ UInt64(place) &+ 1
            set(
                sequence > released ? sequence : sequence &+ UInt64(capacity), at: start + 16,
                in: &file)
        }
        // A few bytes elsewhere, the header among them.
        while flags & 8 != 0, !script.rest.isEmpty {
            let place = script.number16() % file.count
            file[place] ^= script.byte()
        }
        readRing(file)
    }

    private static func set(_ value: UInt64, at offset: Int, in bytes: inout [UInt8]) {
        for index in 0..<8 {
            bytes[offset + index] = UInt8(truncatingIfNeeded: value >> UInt64(index * 8))
        }
    }

    /// As the sidecar does: what follows the last released record, in parts, each released.
    private static func readRing(_ file: [UInt8]) {
        let folder = FuzzFolder()
        let path = InstanceDirectory.path(folder.path, instance)
        folder.makeFolder(String(path.dropFirst(folder.path.utf8.count + 1)))
        let ring = InstanceDirectory.path(folder.path, instance, .ring)
        folder.write(String(ring.dropFirst(folder.path.utf8.count + 1)), file)
        do throws(InstanceError) {
            let reader = try JournalReader(runDirectory: folder.path, instance: instance)
            precondition(reader.releasedSequence <= reader.publishedSequence, "a head before all")
            var next = reader.releasedSequence + 1
            while true {
                let records = try reader.read(from: next, count: 3)
                guard let last = records.last else { break }
                precondition(last.sequence == next + UInt64(records.count) - 1, "a gap")
                for record in records { check(record) }
                reader.release(through: last.sequence)
                next = last.sequence + 1
            }
            precondition(next == reader.publishedSequence + 1, "published records stay")
        } catch {
            guard case .damaged(.ring) = error else {
                preconditionFailure("a damaged ring is answered with \(error)")
            }
        }
    }

    // MARK: Segments

    /// A log of a few records that is damaged at places the script names, and opened again.
    private static func segment(_ script: inout FuzzScript, isSealed: Bool) {
        let folder = FuzzFolder()
        let key = [UInt8](repeating: 7, count: SealingKey.byteCount)
        let files = SegmentFiles(
            directory: folder.path,
            masterKeys: isSealed ? MasterKeys(SealingKey(key.span)) : nil)
        do throws(InstanceError) {
            var written: [JournalRecord] = []
            var log = try SegmentLog(files)
            for _ in 0...script.byte() & 3 {
                let batch = (0..<1 + Int(script.byte() & 3)).map { index in
                    var record = InstanceStartRecord(
                        startedAtUs: script.number64(), ringRecords: 1, tableSlots: 1
                    ).record
                    record.instance = instance
                    record.sequence = UInt64(written.count + index + 1)
                    return record
                }
                try log.append(batch)
                written += batch
            }
            let name = String(files.path(1).dropFirst(folder.path.utf8.count + 1))
            let whole = folder.read(name)
            let changed = damage(whole, &script)
            folder.write(name, changed)
            let found = try records(of: files)
            // A checksum can be met by chance and by a fuzzer; the tag of a sealed block cannot.
            if isSealed {
                precondition(found.allSatisfy { written.contains($0) }, "an invented record")
            }
            if changed == whole { precondition(found == written, "a lost record") }
            try append(to: files, behind: found)
        } catch {
            preconditionFailure("a damaged segment is answered with \(error)")
        }
    }

    /// Single bytes changed, wherever they stand.
    private static func damage(_ whole: [UInt8], _ script: inout FuzzScript) -> [UInt8] {
        var bytes = whole
        while !script.rest.isEmpty {
            let place = script.number16() % bytes.count
            bytes[place] ^= script.byte()
        }
        return bytes
    }

    private static func records(of files: SegmentFiles) throws(InstanceError) -> [JournalRecord] {
        var found: [JournalRecord] = []
        for number in try files.numbers() {
            let end = try files.byteCount(number)
            var position = SegmentPosition(segment: number, offset: RecordWords.byteCount)
            while position.offset < end {
                let (records, next) = try files.records(from: position, before: end)
                precondition(next > position.offset, "a reading that stands still")
                found += records
                position.offset = next
            }
        }
        return found
    }

    /// A sidecar that starts on it cuts the torn tail, goes on behind it, and loses nothing.
    private static func append(
        to files: SegmentFiles, behind found: [JournalRecord]
    ) throws(InstanceError) {
        var log = try SegmentLog(files)
        var record = InstanceStartRecord(startedAtUs: 1, ringRecords: 2, tableSlots: 3).record
        record.instance = instance
        record.sequence = 1_000
        try log.append([record])
        let again = try records(of: files)
        precondition(again == found + [record], "a record that does not follow")
    }
}
