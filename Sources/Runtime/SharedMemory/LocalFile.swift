package import Glibc

/// An open descriptor that closes itself, and is never inherited by a child.
package struct LocalFile: ~Copyable {
    private let descriptor: Int32

    private init(descriptor: Int32) {
        self.descriptor = descriptor
    }

    deinit {
        close(descriptor)
    }

    /// Opens `path`; close-on-exec and no-follow are always set. `mode` holds for a new file.
    package static func open(
        _ path: String, flags: Int32, mode: mode_t = 0o600
    ) throws(InstanceError) -> LocalFile {
        while true {
            // SAFETY: the path is a string for the time of the call; so in every call below.
            let descriptor = unsafe Glibc.open(path, flags | O_CLOEXEC | O_NOFOLLOW, mode)
            if descriptor >= 0 { return LocalFile(descriptor: descriptor) }
            switch errno {
            case EINTR: continue
            case ENOENT: throw .vanished
            case ENOSPC: throw .noSpace(neededBytes: 0)
            case let code: throw .system(.open, code: code)
            }
        }
    }

    /// Opens an existing file for reading.
    package static func openForReading(_ path: String) throws(InstanceError) -> LocalFile {
        try open(path, flags: O_RDONLY)
    }

    /// Opens a file for reading and writing; with `create` an empty one is made if need be.
    package static func openForWriting(
        _ path: String, create: Bool
    ) throws(InstanceError) -> LocalFile {
        try open(path, flags: create ? O_RDWR | O_CREAT : O_RDWR)
    }

    /// Opens a directory of this user that nobody else may write to.
    package static func openDirectory(_ path: String) throws(InstanceError) -> LocalFile {
        let file: LocalFile
        do {
            file = try open(path, flags: O_RDONLY | O_DIRECTORY)
        } catch .system(_, let code) where code == ENOTDIR || code == ELOOP {
            throw .unsafeDirectory
        }
        var status = stat()
        // SAFETY: `status` is a local that outlives the call.
        guard unsafe fstat(file.descriptor, &status) == 0 else {
            throw .system(.status, code: errno)
        }
        guard status.st_uid == geteuid(), status.st_mode & 0o022 == 0 else {
            throw .unsafeDirectory
        }
        return file
    }

    /// Size in bytes.
    package func byteCount() throws(InstanceError) -> Int {
        var status = stat()
        // SAFETY: `status` is a local that outlives the call.
        guard unsafe fstat(descriptor, &status) == 0 else {
            throw .system(.status, code: errno)
        }
        return status.st_size
    }

    /// Names that the file has; 0 once it was removed.
    package func linkCount() throws(InstanceError) -> Int {
        var status = stat()
        // SAFETY: `status` is a local that outlives the call.
        guard unsafe fstat(descriptor, &status) == 0 else {
            throw .system(.status, code: errno)
        }
        return Int(status.st_nlink)
    }

    /// Reserves every block of the file, so that a full file system says so here and not by
    /// SIGBUS at the first store to its mapping.
    package func allocate(byteCount: Int) throws(InstanceError) {
        while true {
            switch posix_fallocate(descriptor, 0, byteCount) {
            case 0: return
            case EINTR: continue
            case ENOSPC, EDQUOT, EFBIG: throw .noSpace(neededBytes: byteCount)
            case let code: throw .system(.allocate, code: code)
            }
        }
    }

    /// Takes the exclusive lock; `locked` if another descriptor holds it and `wait` is false.
    package func lock(wait: Bool = false) throws(InstanceError) {
        while flock(descriptor, wait ? LOCK_EX : LOCK_EX | LOCK_NB) != 0 {
            switch errno {
            case EINTR: continue
            case EWOULDBLOCK: throw .locked
            case let code: throw .system(.lock, code: code)
            }
        }
    }

    /// Maps `byteCount` bytes for sharing. `populate` faults every page in now.
    func map(byteCount: Int, populate: Bool) throws(InstanceError) -> UnsafeMutableRawPointer {
        let flags = populate ? MAP_SHARED | 0x8000 /* MAP_POPULATE */ : MAP_SHARED
        // SAFETY: the kernel chooses the address; the caller owns and unmaps the range.
        let base = unsafe mmap(
            nil, byteCount, PROT_READ | PROT_WRITE, flags, descriptor, 0)
        guard let base = unsafe base, unsafe base != MAP_FAILED else {
            throw .system(.map, code: errno)
        }
        return unsafe base
    }

    /// Reads up to `byteCount` bytes at `offset`; fewer at the end of the file.
    package func read(byteCount: Int, at offset: Int) throws(InstanceError) -> [UInt8] {
        var code: Int32 = 0
        let bytes = unsafe [UInt8](unsafeUninitializedCapacity: byteCount) { buffer, count in
            while count < byteCount {
                // SAFETY: the range lies inside `buffer`, whose capacity is `byteCount`.
                let got = unsafe pread(
                    descriptor, buffer.baseAddress?.advanced(by: count), byteCount - count,
                    offset + count)
                if got > 0 {
                    count += got
                } else if got == 0 {
                    return
                } else if errno != EINTR {
                    code = errno
                    return
                }
            }
        }
        guard code == 0 else { throw .system(.read, code: code) }
        return bytes
    }

    /// Writes all of `bytes` at `offset`.
    package func write(_ bytes: [UInt8], at offset: Int) throws(InstanceError) {
        var written = 0
        while written < bytes.count {
            // SAFETY: the range lies inside the array for the time of the call.
            let count = unsafe bytes.withUnsafeBytes { buffer in
                unsafe pwrite(
                    descriptor, buffer.baseAddress?.advanced(by: written),
                    bytes.count - written, offset + written)
            }
            if count > 0 {
                written += count
                continue
            }
            switch count == 0 ? ENOSPC : errno {
            case EINTR: continue
            case ENOSPC, EDQUOT, EFBIG: throw .noSpace(neededBytes: bytes.count)
            case let code: throw .system(.write, code: code)
            }
        }
    }

    /// Waits until the file's data is on its device. A failure is final: the kernel may have
    /// dropped what it could not write, so the same sync must never be tried again.
    package func synchronise() throws(InstanceError) {
        while fdatasync(descriptor) != 0 {
            guard errno == EINTR else { throw .system(.sync, code: errno) }
        }
    }

    /// Cuts the file to `byteCount` bytes.
    package func truncate(byteCount: Int) throws(InstanceError) {
        while ftruncate(descriptor, byteCount) != 0 {
            guard errno == EINTR else { throw .system(.write, code: errno) }
        }
    }
}

/// What the shared files need of a file system besides open descriptors.
package enum LocalFileSystem {
    /// Makes a directory of mode 0700; false if it was there.
    @discardableResult
    package static func makeDirectory(_ path: String) throws(InstanceError) -> Bool {
        if unsafe mkdir(path, 0o700) == 0 { return true }
        switch errno {
        case EEXIST: return false
        case ENOSPC, EDQUOT: throw .noSpace(neededBytes: 0)
        case ENOENT: throw .vanished
        case let code: throw .system(.makeDirectory, code: code)
        }
    }

    /// Renames within one file system, replacing the target.
    package static func rename(_ from: String, to: String) throws(InstanceError) {
        guard unsafe Glibc.rename(from, to) == 0 else {
            throw errno == ENOENT ? .vanished : .system(.rename, code: errno)
        }
    }

    /// Removes a file; one that is gone is no error.
    package static func remove(_ path: String) throws(InstanceError) {
        guard unsafe unlink(path) == 0 || errno == ENOENT else {
            throw .system(.unlink, code: errno)
        }
    }

    /// Removes an empty directory; one that is gone is no error.
    package static func removeDirectory(_ path: String) throws(InstanceError) {
        guard unsafe rmdir(path) == 0 || errno == ENOENT else {
            throw .system(.unlink, code: errno)
        }
    }

    /// Waits until a directory's names are on its device.
    package static func synchronise(directory: String) throws(InstanceError) {
        try LocalFile.open(directory, flags: O_RDONLY | O_DIRECTORY).synchronise()
    }

    /// When the names in a directory last changed.
    static func lastChange(of directory: String) throws(InstanceError) -> FileChange {
        var status = stat()
        // SAFETY: `status` is a local that outlives the call.
        guard unsafe fstatat(AT_FDCWD, directory, &status, 0) == 0 else {
            throw errno == ENOENT ? .vanished : .system(.status, code: errno)
        }
        return FileChange(
            inode: UInt64(status.st_ino),
            atUs: UInt64(max(0, status.st_mtim.tv_sec)) * 1_000_000
                + UInt64(status.st_mtim.tv_nsec) / 1_000,
            nanoseconds: status.st_mtim.tv_nsec % 1_000)
    }

    /// Names in a directory, without `.` and `..`, sorted.
    package static func list(_ path: String) throws(InstanceError) -> [String] {
        // SAFETY: the stream is closed before the function returns; an entry is copied into a
        // String before the next is read.
        guard let stream = unsafe opendir(path) else {
            throw errno == ENOENT ? .vanished : .system(.list, code: errno)
        }
        defer { unsafe closedir(stream) }
        var names: [String] = []
        while let entry = unsafe readdir(stream) {
            let name = unsafe withUnsafePointer(to: &entry.pointee.d_name) { field in
                unsafe field.withMemoryRebound(to: CChar.self, capacity: 256) {
                    unsafe String(cString: $0)
                }
            }
            if name != ".", name != ".." { names.append(name) }
        }
        return names.sorted()
    }

    /// Microseconds on a clock that never goes back.
    package static func monotonicUs() -> UInt64 {
        var now = timespec()
        // SAFETY: `now` is a local that outlives the call.
        unsafe clock_gettime(CLOCK_MONOTONIC, &now)
        return UInt64(now.tv_sec) * 1_000_000 + UInt64(now.tv_nsec) / 1_000
    }

    /// Wall clock, microseconds since 1970.
    package static func wallUs() -> UInt64 {
        var now = timespec()
        // SAFETY: `now` is a local that outlives the call.
        unsafe clock_gettime(CLOCK_REALTIME, &now)
        return UInt64(now.tv_sec) * 1_000_000 + UInt64(now.tv_nsec) / 1_000
    }

    /// Lets the thread sleep.
    package static func sleep(microseconds: UInt32) {
        usleep(microseconds)
    }
}
