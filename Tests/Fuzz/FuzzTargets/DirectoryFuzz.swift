import SharedMemory
import SluiceRecordFormat

/// Any bytes as the pages of a directory that a broker reads: a snapshot, changes behind it, and
/// changes that come while it reads.
package enum DirectoryFuzz {
    /// One input: byte 0 says what is left as a writer makes it, the rest are entries.
    package static func run(_ bytes: [UInt8]) {
        var script = FuzzScript(bytes)
        let flags = script.byte()
        let inSnapshot = Int(script.byte() & 3)
        var blocks: [[UInt8]] = []
        while !script.rest.isEmpty { blocks.append(block(&script, flags)) }
        let folder = FuzzFolder()
        let first = blocks.prefix(inSnapshot)
        folder.write(
            "snapshot-1", header(.directorySnapshot, first.count, flags) + first.flatMap { $0 })
        let later = Array(blocks.dropFirst(inSnapshot))
        let half = later.count / 2
        var changes = header(.directoryChanges, 0, flags)
        changes += later.prefix(half).flatMap { $0 }
        folder.write("changes-1", changes)
        var reader = DirectoryReader(directory: folder.path)
        var seen = poll(&reader)
        // A writer in the middle of an entry, then all of it.
        let rest = later.dropFirst(half).flatMap { $0 }
        folder.write("changes-1", Array(rest.prefix(rest.count / 2)), at: changes.count)
        seen += poll(&reader)
        folder.write("changes-1", rest, at: changes.count)
        seen += poll(&reader)
        precondition(poll(&reader).isEmpty, "an entry comes twice")
        for entry in seen {
            precondition(DirectoryEntry(entry.words) == entry, "an entry changes")
            precondition(entry.change > 0, "an entry without a number")
            _ = entry.key
            _ = entry.staysInSnapshots
        }
        precondition(
            seen.allSatisfy { entry in
                blocks.contains { RecordWords($0.span)?[1] == entry.change }
            }, "an invented entry")
    }

    private static func poll(_ reader: inout DirectoryReader) -> [DirectoryEntry] {
        do throws(InstanceError) {
            return try reader.poll()
        } catch {
            guard error == .damaged(.snapshot) else {
                preconditionFailure("a damaged directory is answered with \(error)")
            }
            return []
        }
    }

    /// The next 128 bytes; by the flags with a checksum that holds, and as a known kind.
    private static func block(_ script: inout FuzzScript, _ flags: UInt8) -> [UInt8] {
        var bytes = script.take(RecordWords.byteCount)
        bytes += [UInt8](repeating: 0, count: RecordWords.byteCount - bytes.count)
        guard flags & 1 == 0, var words = RecordWords(bytes.span) else { return bytes }
        if flags & 2 == 0 {
            words[0] = words[0] & ~0xFFFF | .byte(1, at: 0) | .byte(1 + words[0].byte(1) % 5, at: 1)
        }
        var block: [UInt8] = []
        words.sealed.append(to: &block)
        return block
    }

    private static func header(
        _ kind: BlockFileHeader.Kind, _ count: Int, _ flags: UInt8
    ) -> [UInt8] {
        var header = BlockFileHeader(kind: kind, number: 1, entryCount: UInt64(count))
        if flags & 4 != 0 { header.entryCount = UInt64(flags) &* 0x0101_0101_0101_0101 }
        var bytes: [UInt8] = []
        header.words.append(to: &bytes)
        if flags & 8 != 0 { bytes[Int(flags >> 4) * 8] ^= flags | 1 }
        return bytes
    }
}
