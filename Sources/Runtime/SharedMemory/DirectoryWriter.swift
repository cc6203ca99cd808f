import Glibc
package import SluiceRecordFormat
import SluiceWire

/// Changes the directory of credentials. Writers exclude each other by a lock; readers never wait.
package struct DirectoryWriter: ~Copyable {
    /// Changes after which a new generation is made, unless the snapshot is larger.
    private static let changesMin = 1_024

    private let directory: String
    private let lock: InstanceLock
    private var generation: UInt64
    private var changes: LocalFile
    private var changesEnd: Int
    private var lastChange: UInt64
    private var current: [Digest256: DirectoryEntry]

    /// Opens the directory, making it if need be (mode 0700); waits for another writer. A torn
    /// tail that a dead writer left is cut off.
    package init(directory: String) throws(InstanceError) {
        try LocalFileSystem.makeDirectory(directory)
        _ = try LocalFile.openDirectory(directory)
        let lock = try InstanceLock(path: directory + "/.lock", create: true, wait: true)
        if try DirectoryFiles.latestGeneration(directory) == nil {
            _ = try Self.writeGeneration(1, of: [], lastChange: 0, in: directory)
        }
        let generation = try DirectoryFiles.latestGeneration(directory) ?? 1
        for old in try DirectoryFiles.generations(directory) where old < generation {
            try Self.removeGeneration(old, in: directory)
        }
        var entries = try DirectoryFiles.readSnapshot(directory, generation: generation)
        let changes = try LocalFile.open(
            DirectoryFiles.changes(directory, generation), flags: O_RDWR)
        var changesEnd = RecordWords.byteCount
        entries += try DirectoryFiles.readEntries(changes, from: &changesEnd)
        try changes.truncate(byteCount: changesEnd)
        self.directory = directory
        self.lock = lock
        self.changes = changes
        self.changesEnd = changesEnd
        self.generation = generation
        lastChange = entries.reduce(0) { max($0, $1.change) }
        current = [:]
        for entry in entries { current[entry.digest] = entry }
    }

    /// The newest entry of every digest, revoked ones too, in the order of their changes.
    package var entries: [DirectoryEntry] {
        current.values.sorted { $0.change < $1.change }
    }

    /// Adds or replaces entries by digest; durable when this returns. On an error nothing was
    /// changed, or the process should end (`system(.sync, _)`).
    package mutating func upsert(_ entries: [DirectoryEntry]) throws(InstanceError) {
        var bytes: [UInt8] = []
        var numbered: [DirectoryEntry] = []
        for var entry in entries {
            entry.change = lastChange + UInt64(numbered.count) + 1
            entry.words.append(to: &bytes)
            numbered.append(entry)
        }
        do {
            try changes.write(bytes, at: changesEnd)
        } catch {
            try changes.truncate(byteCount: changesEnd)
            throw error
        }
        try changes.synchronise()
        changesEnd += bytes.count
        lastChange += UInt64(numbered.count)
        for entry in numbered { current[entry.digest] = entry }
        let changeCount = changesEnd / RecordWords.byteCount - 1
        if changeCount > max(Self.changesMin, 2 * current.count) { try compact() }
    }

    /// Makes the next generation: a snapshot of what holds now and an empty change log.
    package mutating func compact() throws(InstanceError) {
        let next = generation + 1
        changes = try Self.writeGeneration(
            next, of: entries, lastChange: lastChange, in: directory)
        changesEnd = RecordWords.byteCount
        let old = generation
        generation = next
        try Self.removeGeneration(old, in: directory)
    }

    /// The change log first, then the snapshot under another name, then the rename that makes
    /// both count.
    private static func writeGeneration(
        _ generation: UInt64, of entries: [DirectoryEntry], lastChange: UInt64,
        in directory: String
    ) throws(InstanceError) -> LocalFile {
        let changes = try LocalFile.open(
            DirectoryFiles.changes(directory, generation), flags: O_RDWR | O_CREAT | O_TRUNC)
        var header: [UInt8] = []
        BlockFileHeader(kind: .directoryChanges, number: generation, lastChange: lastChange)
            .words.append(to: &header)
        try changes.write(header, at: 0)
        try changes.synchronise()

        let aside = directory + "/.snapshot"
        let snapshot = try LocalFile.open(aside, flags: O_RDWR | O_CREAT | O_TRUNC)
        var bytes: [UInt8] = []
        bytes.reserveCapacity((entries.count + 1) * RecordWords.byteCount)
        BlockFileHeader(
            kind: .directorySnapshot, number: generation, entryCount: UInt64(entries.count),
            lastChange: lastChange
        ).words.append(to: &bytes)
        for entry in entries { entry.words.append(to: &bytes) }
        try snapshot.write(bytes, at: 0)
        try snapshot.synchronise()
        try LocalFileSystem.rename(aside, to: DirectoryFiles.snapshot(directory, generation))
        try LocalFileSystem.synchronise(directory: directory)
        return changes
    }

    private static func removeGeneration(
        _ generation: UInt64, in directory: String
    ) throws(InstanceError) {
        try LocalFileSystem.remove(DirectoryFiles.snapshot(directory, generation))
        try LocalFileSystem.remove(DirectoryFiles.changes(directory, generation))
    }
}
