import Foundation

/// A new directory of mode 0700, removed with everything in it when the last reference ends.
package final class ScratchDirectory: Sendable {
    package let path: String

    /// On tmpfs where there is one, as instances are in production.
    package init() {
        let parent = access("/dev/shm", W_OK) == 0 ? "/dev/shm" : "/tmp"
        path = parent + "/sluice-test-\(UUID().uuidString)"
        precondition(mkdir(path, 0o700) == 0)
    }

    deinit {
        try? FileManager.default.removeItem(atPath: path)
    }
}

/// A small tmpfs in a mount namespace of its own, seen through its keeper's `/proc/PID/root`.
package final class SmallFileSystem {
    /// Where the file system's root is seen from here.
    package let path: String
    private let keeper: Process
    private let hold: Pipe
    private let mountPoint: ScratchDirectory

    /// Nil, said aloud, where the machine allows no such namespace.
    package init?(megabytes: Int) {
        mountPoint = ScratchDirectory()
        keeper = Process()
        hold = Pipe()
        let said = Pipe()
        keeper.executableURL = URL(fileURLWithPath: "/usr/bin/unshare")
        keeper.arguments = [
            "-Urm", "sh", "-c",
            "mount -t tmpfs -o size=\(megabytes)m,mode=700 tmpfs \"$0\" && echo ready && cat",
            mountPoint.path,
        ]
        keeper.standardInput = hold
        keeper.standardOutput = said
        keeper.standardError = FileHandle.nullDevice
        guard (try? keeper.run()) != nil,
            let line = try? said.fileHandleForReading.read(upToCount: 6),
            line == Data("ready\n".utf8)
        else {
            print("NOT TESTED: this machine allows no user and mount namespace (unshare -Urm)")
            return nil
        }
        path = "/proc/\(keeper.processIdentifier)/root\(mountPoint.path)"
    }

    /// Writes a file of zeros until the file system is full, less `sparedBytes`.
    package func fill(sparedBytes: Int) {
        let descriptor = open(path + "/filler", O_RDWR | O_CREAT, 0o600)
        precondition(descriptor >= 0)
        let block = [UInt8](repeating: 0, count: 4_096)
        var total = 0
        while true {
            let count = write(descriptor, block, block.count)
            if count <= 0 { break }
            total += count
        }
        precondition(ftruncate(descriptor, max(0, total - sparedBytes)) == 0)
        close(descriptor)
    }

    /// Takes the filler away.
    package func empty() {
        unlink(path + "/filler")
    }

    deinit {
        try? hold.fileHandleForWriting.close()
        keeper.waitUntilExit()
    }
}
