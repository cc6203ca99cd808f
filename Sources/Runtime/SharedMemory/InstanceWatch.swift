/// The instances of a run directory, listed anew only when the directory has changed: looking for
/// a change is one `stat`, listing costs some twenty system calls and as many strings. One thread
/// owns it.
///
/// A directory's time of change is as coarse as the kernel's tick, so a second change within the
/// same tick does not move it. A listing is therefore trusted only if it was taken well after the
/// change that it shows; until then every poll lists again.
package struct InstanceWatch {
    /// More than any tick (10 ms at 100 Hz).
    private static let settledUs: UInt64 = 50_000

    private let runDirectory: String
    /// The change that the trusted listing shows; nil while none is trusted.
    private var trustedChange: FileChange?

    /// The first `poll` lists.
    package init(runDirectory: String) {
        self.runDirectory = runDirectory
    }

    /// All instances, like `InstanceDirectory.findInstances`; nil if they are those of the last
    /// poll that listed.
    package mutating func poll() throws(InstanceError) -> [UInt64]? {
        let change = try LocalFileSystem.lastChange(of: runDirectory)
        if change == trustedChange { return nil }
        let nowUs = LocalFileSystem.wallUs()
        let isSettled =
            nowUs > change.atUs && nowUs - change.atUs > Self.settledUs
        let found = try InstanceDirectory.findInstances(runDirectory)
        // The change was read before the listing: what came in between moves it again.
        trustedChange = isSettled ? change : nil
        return found
    }
}

/// When a directory's names last changed, and which directory it was.
struct FileChange: Equatable {
    var inode: UInt64
    /// Wall clock, microseconds since 1970.
    var atUs: UInt64
    /// The rest of that time below a microsecond.
    var nanoseconds: Int
}
