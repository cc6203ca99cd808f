import Glibc
package import SluiceRecordFormat
import SluiceWire

/// Follows the directory: any number of readers, one writer at a time, no locks
/// between them.
package struct DirectoryReader: ~Copyable {
    private let directory: String
    private var changes: ChangesFile?
    /// Number of the last change that was handed out.
    package private(set) var lastChange: UInt64 = 0

    /// A reader of `directory`, which need not exist yet.
    package init(directory: String) {
        self.directory = directory
    }

    /// What is new since the last call: everything on the first, in the order it was written. A
    /// later entry of a key replaces an earlier one. Empty as long as there is no directory.
    /// Entries of kinds that this version does not know are passed over.
    ///
    /// Where nothing changed this is two `fstat`s. `damaged` means that a snapshot's checksum does
    /// not hold; what was handed out before stays valid and the next call tries again.
    package mutating func poll() throws(InstanceError) -> [DirectoryEntry] {
        var found: [DirectoryEntry] = []
        do {
            try poll(into: &found)
        } catch {
            // What was read counts as seen: it is handed out. The next call meets the error again.
            guard !found.isEmpty else { throw error }
        }
        return found
    }

    private mutating func poll(into found: inout [DirectoryEntry]) throws(InstanceError) {
        if changes != nil {
            found += try readChanges()
            guard try isReplaced() else { return }
            // What was written between the two need not stand in the next snapshot.
            found += try readChanges()
        }
        // A snapshot may be replaced while it is being opened; then the next one is there.
        for _ in 0..<8 {
            guard let generation = try DirectoryFiles.latestGeneration(directory) else { return }
            do {
                found += try readGeneration(generation)
                found += try readChanges()
                return
            } catch .vanished {
                continue
            }
        }
    }

    /// The writer removes a generation's files when the next one stands.
    private func isReplaced() throws(InstanceError) -> Bool {
        switch changes {
        case .some(let changes): try changes.file.linkCount() == 0
        case .none: true
        }
    }

    private mutating func readGeneration(
        _ generation: UInt64
    ) throws(InstanceError) -> [DirectoryEntry] {
        let (entries, _) = try DirectoryFiles.readSnapshot(directory, generation: generation)
        let file = try LocalFile.open(
            DirectoryFiles.changes(directory, generation), flags: O_RDONLY)
        changes = ChangesFile(file: file, offset: RecordWords.byteCount)
        return unseen(entries)
    }

    /// The entries that were not handed out yet; now they are.
    private mutating func unseen(_ blocks: [RecordWords]) -> [DirectoryEntry] {
        let new = blocks.compactMap { DirectoryEntry($0) }.filter { $0.change > lastChange }
        for entry in new { lastChange = max(lastChange, entry.change) }
        return new
    }

    private mutating func readChanges() throws(InstanceError) -> [DirectoryEntry] {
        guard var changes = changes.take() else { return [] }
        var found: [RecordWords] = []
        do {
            if try changes.file.byteCount() >= changes.offset + RecordWords.byteCount {
                found = try DirectoryFiles.readEntries(changes.file, from: &changes.offset)
            }
        } catch {
            self.changes = consume changes
            throw error
        }
        self.changes = consume changes
        return unseen(found)
    }
}

/// An open change log and how far it was read.
private struct ChangesFile: ~Copyable {
    let file: LocalFile
    var offset: Int

    init(file: consuming LocalFile, offset: Int) {
        self.file = file
        self.offset = offset
    }
}

/// Names and contents of the directory's files.
enum DirectoryFiles {
    private static let chunkBytes = 8_192 * RecordWords.byteCount

    static func snapshot(_ directory: String, _ generation: UInt64) -> String {
        directory + "/snapshot-\(generation)"
    }

    static func changes(_ directory: String, _ generation: UInt64) -> String {
        directory + "/changes-\(generation)"
    }

    /// Highest generation whose snapshot stands; nil without a directory or snapshot.
    static func latestGeneration(_ directory: String) throws(InstanceError) -> UInt64? {
        do {
            return try generations(directory).max()
        } catch .vanished {
            return nil
        }
    }

    static func generations(_ directory: String) throws(InstanceError) -> [UInt64] {
        try LocalFileSystem.list(directory).compactMap { name in
            name.hasPrefix("snapshot-") ? UInt64(name.dropFirst("snapshot-".count)) : nil
        }
    }

    /// All entries of a snapshot, of whatever kind, and the last change that went into it;
    /// `damaged` unless header, size and every checksum hold.
    static func readSnapshot(
        _ directory: String, generation: UInt64
    ) throws(InstanceError) -> (entries: [RecordWords], lastChange: UInt64) {
        let file = try LocalFile.open(snapshot(directory, generation), flags: O_RDONLY)
        let first = try file.read(byteCount: RecordWords.byteCount, at: 0)
        guard let words = RecordWords(first.span), let header = BlockFileHeader(words),
            header.kind == .directorySnapshot, header.number == generation
        else { throw .damaged(.snapshot) }
        var offset = RecordWords.byteCount
        let entries = try readEntries(file, from: &offset)
        guard entries.count == Int(clamping: header.entryCount) else { throw .damaged(.snapshot) }
        return (entries, header.lastChange)
    }

    /// Whole and intact entries from `offset` on, which moves behind them. Stops at the first
    /// block that is not: a writer may be in the middle of it.
    static func readEntries(
        _ file: borrowing LocalFile, from offset: inout Int
    ) throws(InstanceError) -> [RecordWords] {
        var entries: [RecordWords] = []
        while true {
            let bytes = try file.read(byteCount: chunkBytes, at: offset)
            let blocks = bytes.count / RecordWords.byteCount
            for block in 0..<blocks {
                let start = block * RecordWords.byteCount
                let range = start..<start + RecordWords.byteCount
                guard let words = RecordWords(bytes.span.extracting(range)), words.isIntact
                else { return entries }
                entries.append(words)
                offset += RecordWords.byteCount
            }
            guard bytes.count == chunkBytes else { return entries }
        }
    }
}
