/// Why shared files could not be made, opened or used. Closed; holds no path and no text.
package enum InstanceError: Error, Equatable, Sendable {
    /// The directory is missing, is a link, belongs to another user, or others may write to it.
    case unsafeDirectory
    /// The file system has no room, even for the smallest ring.
    case noSpace(neededBytes: Int)
    /// Another process holds the lock.
    case locked
    /// A file's header, size or checksum does not hold.
    case damaged(SharedFile)
    /// The file or directory is gone.
    case vanished
    /// A system call failed.
    case system(SystemCall, code: Int32)
    /// The caller asked to stop (used by tests that end a closing at every step).
    case interrupted

    /// The kernel's error number, 0 where there is none.
    package var systemCode: Int32 {
        if case .system(_, let code) = self { code } else { 0 }
    }
}

/// A file that processes share.
package enum SharedFile: String, Sendable {
    case ring, table, statistics, lock, snapshot, changes
}

/// A system call that can fail for reasons of its own.
package enum SystemCall: String, Sendable {
    case open, makeDirectory, allocate, map, lock, rename, read, write, sync, list, status, unlink
}
