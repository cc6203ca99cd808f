import Glibc

/// The process that holds an instance's lock: its broker.
///
/// Found in the kernel's list of locks, because to try the lock would make a dead broker look alive
/// to the one that closes it. The number means something at the moment of the call only.
package enum InstanceHolder {
    /// Nil if nobody holds it, or a process that this one cannot see (another PID namespace).
    package static func processID(
        _ runDirectory: String, _ instance: UInt64
    ) throws(InstanceError) -> Int32? {
        let path = InstanceDirectory.path(runDirectory, instance, .lock)
        var status = stat()
        guard unsafe stat(path, &status) == 0 else {
            throw errno == ENOENT ? .vanished : .system(.open, code: errno)
        }
        let file = LockedFile(device: UInt64(status.st_dev), inode: UInt64(status.st_ino))
        let locks = try LocalFile.openForReading("/proc/locks")
        // A file of /proc has no size: it is read until it ends.
        var text: [UInt8] = []
        while true {
            let part = try locks.read(byteCount: 4_096, at: text.count)
            if part.isEmpty { break }
            text += part
        }
        return holder(of: file, in: String(decoding: text, as: UTF8.self))
    }

    /// A file as the list names it.
    package struct LockedFile: Equatable {
        var major: UInt32
        var minor: UInt32
        var inode: UInt64

        package init(major: UInt32, minor: UInt32, inode: UInt64) {
            (self.major, self.minor, self.inode) = (major, minor, inode)
        }

        /// From a device number as Linux's C library encodes it (makedev(3)).
        package init(device: UInt64, inode: UInt64) {
            self.init(
                major: UInt32(device >> 8 & 0xFFF) | UInt32(device >> 32 & 0xFFFF_F000),
                minor: UInt32(device & 0xFF) | UInt32(device >> 12 & 0xFFFF_FF00), inode: inode)
        }
    }

    /// Looks for a lock that is held (`1: FLOCK ADVISORY WRITE 123 fe:00:77 0 EOF`), not waited
    /// for (`1: -> FLOCK …`).
    package static func holder(of file: LockedFile, in locks: String) -> Int32? {
        for line in locks.split(separator: "\n") {
            let words = line.split(separator: " ")
            guard words.count >= 6, words[1] == "FLOCK", let process = Int32(words[4]),
                process > 0
            else { continue }
            let place = words[5].split(separator: ":")
            guard place.count == 3, let major = UInt32(place[0], radix: 16),
                let minor = UInt32(place[1], radix: 16), let inode = UInt64(place[2])
            else { continue }
            if LockedFile(major: major, minor: minor, inode: inode) == file { return process }
        }
        return nil
    }
}
