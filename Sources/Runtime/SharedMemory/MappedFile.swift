import CLinuxIO
import Glibc
import SluiceRecordFormat

/// A file of an instance, mapped whole, unmapped when this value ends.
///
/// Its size never changes after it was made, so a load or store inside it cannot fault.
@safe struct MappedFile: ~Copyable {
    /// First byte. Handles that are copied from it are valid as long as this value lives.
    let base: UnsafeMutableRawPointer
    /// Size in bytes.
    let byteCount: Int
    /// Records, slots or blocks, as the header says.
    let capacity: Int

    private init(base: UnsafeMutableRawPointer, byteCount: Int, capacity: Int) {
        unsafe self.base = base
        self.byteCount = byteCount
        self.capacity = capacity
    }

    deinit {
        // SAFETY: this value owns the mapping.
        unsafe munmap(base, byteCount)
    }

    /// Makes the file, reserves all its blocks, then maps it and writes its header. On failure
    /// the file is removed.
    static func create(
        _ path: String, byteCount: Int, magic: UInt64, instance: UInt64, capacity: Int
    ) throws(InstanceError) -> MappedFile {
        let descriptor = try LocalFile.open(path, flags: O_RDWR | O_CREAT | O_EXCL)
        do {
            try descriptor.allocate(byteCount: byteCount)
        } catch {
            try LocalFileSystem.remove(path)
            throw error
        }
        let base = unsafe try descriptor.map(byteCount: byteCount, populate: true)
        let file = unsafe MappedFile(base: base, byteCount: byteCount, capacity: capacity)
        file.store(UInt64(FileHeader.layoutVersion), at: FileHeader.versionOffset)
        file.store(instance, at: FileHeader.instanceOffset)
        file.store(UInt64(capacity), at: FileHeader.capacityOffset)
        file.storeRelease(magic, at: FileHeader.magicOffset)
        return file
    }

    /// Maps an existing file after checking that its header fits its size.
    static func open(
        _ path: String, as name: SharedFile, magic: UInt64, instance: UInt64,
        byteCountForCapacity: (Int) -> Int
    ) throws(InstanceError) -> MappedFile {
        let descriptor = try LocalFile.open(path, flags: O_RDWR)
        let byteCount = try descriptor.byteCount()
        guard byteCount >= FileHeader.byteCount else { throw .damaged(name) }
        let base = unsafe try descriptor.map(byteCount: byteCount, populate: false)
        // SAFETY: the first word of the header is inside the range that was just mapped.
        let capacity = unsafe sluice_word_load(base + FileHeader.capacityOffset)
        let file = unsafe MappedFile(
            base: base, byteCount: byteCount, capacity: Int(clamping: capacity))
        guard file.loadAcquire(at: FileHeader.magicOffset) == magic,
            file.load(at: FileHeader.versionOffset) == UInt64(FileHeader.layoutVersion),
            file.load(at: FileHeader.instanceOffset) == instance,
            file.capacity >= 1, file.capacity <= byteCount,
            byteCountForCapacity(file.capacity) <= byteCount
        else { throw .damaged(name) }
        return file
    }

    /// The word at byte `offset`, a multiple of 8 inside the file.
    func load(at offset: Int) -> UInt64 {
        check(offset)
        // SAFETY: `check` keeps the aligned word inside the mapping.
        return unsafe sluice_word_load(base + offset)
    }

    func loadAcquire(at offset: Int) -> UInt64 {
        check(offset)
        // SAFETY: as above.
        return unsafe sluice_word_load_acquire(base + offset)
    }

    func store(_ value: UInt64, at offset: Int) {
        check(offset)
        // SAFETY: as above.
        unsafe sluice_word_store(base + offset, value)
    }

    func storeRelease(_ value: UInt64, at offset: Int) {
        check(offset)
        // SAFETY: as above.
        unsafe sluice_word_store_release(base + offset, value)
    }

    private func check(_ offset: Int) {
        precondition(offset >= 0 && offset & 7 == 0 && offset + 8 <= byteCount)
    }
}
