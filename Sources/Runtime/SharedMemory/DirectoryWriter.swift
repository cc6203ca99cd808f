import Glibc
package import SluiceRecordFormat
import SluiceWire

/// Changes the directory. Writers exclude each other by a lock; readers never wait.
package struct DirectoryWriter: ~Copyable {
    /// Changes after which a new generation is made, unless the snapshot is larger.
    private static let changesMin = 1_024

    private let directory: String
    private let lock: InstanceLock
    private var generation: UInt64
    private var changes: LocalFile
    private var changesEnd: Int
    private var lastChange: UInt64
    private var current: [DirectoryEntry.Key: DirectoryEntry]
    /// Intact entries that this version cannot read: a later one wrote them. They are kept.
    private var unknown: [RecordWords]

    /// Opens the directory, making it if need be (mode 0700). While another process writes, it
    /// waits for that one's end, or throws `locked` if `wait` is false. A torn tail that a dead
    /// writer left is cut off.
    package init(directory: String, wait: Bool = true) throws(InstanceError) {
        try LocalFileSystem.makeDirectory(directory)
        _ = try LocalFile.openDirectory(directory)
        let lock = try InstanceLock(path: directory + "/.lock", create: true, wait: wait)
        if try DirectoryFiles.latestGeneration(directory) == nil {
            _ = try Self.writeGeneration(1, of: [], lastChange: 0, in: directory)
        }
        let generation = try DirectoryFiles.latestGeneration(directory) ?? 1
        for old in try DirectoryFiles.generations(directory) where old < generation {
            try Self.removeGeneration(old, in: directory)
        }
        var (entries, snapshotChange) = try DirectoryFiles.readSnapshot(
            directory, generation: generation)
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
        // The last change may have fallen out of the snapshot. The number stands at the same
        // place in every kind.
        lastChange = entries.reduce(snapshotChange) { max($0, $1[1]) }
        current = [:]
        unknown = []
        for words in entries {
            if let entry = DirectoryEntry(words) {
                current[entry.key] = entry
            } else {
                unknown.append(words)
            }
        }
    }

    /// The newest entry of every key, revoked, removed and closed ones too, in the order of their
    /// changes.
    package var entries: [DirectoryEntry] {
        current.values.sorted { $0.change < $1.change }
    }

    /// Adds or replaces entries by their keys; durable when this returns. On an error nothing was
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
        for entry in numbered { current[entry.key] = entry }
        let changeCount = changesEnd / RecordWords.byteCount - 1
        if changeCount > max(Self.changesMin, 2 * (current.count + unknown.count)) { try compact() }
    }

    /// Makes the next generation: a snapshot of what holds now and an empty change log. Closed
    /// leases fall out.
    package mutating func compact() throws(InstanceError) {
        let next = generation + 1
        current = current.filter { $0.value.staysInSnapshots }
        // A reader passes over what it has seen by number: the order is that of the changes.
        let blocks = (entries.map(\.words) + unknown).sorted { $0[1] < $1[1] }
        changes = try Self.writeGeneration(
            next, of: blocks, lastChange: lastChange, in: directory)
        changesEnd = RecordWords.byteCount
        let old = generation
        generation = next
        try Self.removeGeneration(old, in: directory)
    }

    /// The change log first, then the snapshot under another name, then the rename that makes
    /// both count.
    private static func writeGeneration(
        _ generation: UInt64, of entries: [RecordWords], lastChange: UInt64,
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
        for entry in entries { entry.append(to: &bytes) }
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
