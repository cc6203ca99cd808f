import Glibc
package import SluiceRecordFormat
import SluiceWire

/// Follows the directory of credentials: any number of readers, one writer at a time, no locks
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
    /// later entry of a digest replaces an earlier one. Empty as long as there is no directory.
    ///
    /// Where nothing changed this is two `fstat`s. `damaged` means that a snapshot's checksum does
    /// not hold; what was handed out before stays valid and the next call tries again.
    package mutating func poll() throws(InstanceError) -> [DirectoryEntry] {
        var found: [DirectoryEntry] = []
        if changes != nil {
            found = try readChanges()
            guard try isReplaced() else { return found }
        }
        // A snapshot may be replaced while it is being opened; then the next one is there.
        for _ in 0..<8 {
            guard let generation = try DirectoryFiles.latestGeneration(directory) else { break }
            do {
                found += try readGeneration(generation)
                return found + (try readChanges())
            } catch .vanished {
                continue
            }
        }
        return found
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
        let entries = try DirectoryFiles.readSnapshot(directory, generation: generation)
        let file = try LocalFile.open(
            DirectoryFiles.changes(directory, generation), flags: O_RDONLY)
        changes = ChangesFile(file: file, offset: RecordWords.byteCount)
        let new = entries.filter { $0.change > lastChange }
        for entry in new { lastChange = max(lastChange, entry.change) }
        return new
    }

    private mutating func readChanges() throws(InstanceError) -> [DirectoryEntry] {
        guard var changes = changes.take() else { return [] }
        var found: [DirectoryEntry] = []
        do {
            if try changes.file.byteCount() >= changes.offset + RecordWords.byteCount {
                found = try DirectoryFiles.readEntries(changes.file, from: &changes.offset)
            }
        } catch {
            self.changes = consume changes
            throw error
        }
        self.changes = consume changes
        let new = found.filter { $0.change > lastChange }
        for entry in new { lastChange = max(lastChange, entry.change) }
        return new
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

    /// All entries of a snapshot; `damaged` unless header, size and every checksum hold.
    static func readSnapshot(
        _ directory: String, generation: UInt64
    ) throws(InstanceError) -> [DirectoryEntry] {
        let file = try LocalFile.open(snapshot(directory, generation), flags: O_RDONLY)
        let first = try file.read(byteCount: RecordWords.byteCount, at: 0)
        guard let words = RecordWords(first.span), let header = BlockFileHeader(words),
            header.kind == .directorySnapshot, header.number == generation
        else { throw .damaged(.snapshot) }
        var offset = RecordWords.byteCount
        let entries = try readEntries(file, from: &offset)
        guard entries.count == Int(clamping: header.entryCount) else { throw .damaged(.snapshot) }
        return entries
    }

    /// Whole and intact entries from `offset` on, which moves behind them. Stops at the first
    /// block that is not: a writer may be in the middle of it.
    static func readEntries(
        _ file: borrowing LocalFile, from offset: inout Int
    ) throws(InstanceError) -> [DirectoryEntry] {
        var entries: [DirectoryEntry] = []
        while true {
            let bytes = try file.read(byteCount: chunkBytes, at: offset)
            let blocks = bytes.count / RecordWords.byteCount
            for block in 0..<blocks {
                let start = block * RecordWords.byteCount
                let range = start..<start + RecordWords.byteCount
                guard let words = RecordWords(bytes.span.extracting(range)),
                    let entry = DirectoryEntry(words)
                else { return entries }
                entries.append(entry)
                offset += RecordWords.byteCount
            }
            guard bytes.count == chunkBytes else { return entries }
        }
    }
}
