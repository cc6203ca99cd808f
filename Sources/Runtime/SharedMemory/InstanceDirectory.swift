import Glibc
import SluiceRecordFormat
import SluiceWire

/// Where instances live: a run directory on tmpfs with one directory per instance, named by its
/// id in 16 hexadecimal digits. Anything else in there is ignored.
package enum InstanceDirectory {
    /// The path of an instance's directory.
    package static func path(_ runDirectory: String, _ instance: UInt64) -> String {
        runDirectory + "/" + hexadecimal(instance)
    }

    /// The path of one of its files.
    package static func path(
        _ runDirectory: String, _ instance: UInt64, _ file: SharedFile
    ) -> String {
        path(runDirectory, instance) + "/" + file.rawValue
    }

    /// All instances in a run directory, in no order that means anything. An instance appears
    /// here only when it is complete and locked.
    package static func findInstances(_ runDirectory: String) throws(InstanceError) -> [UInt64] {
        try LocalFileSystem.list(runDirectory).compactMap { identifier($0) }
    }

    /// Takes the lock of a dead instance; nil if the instance lives (or another closer has it).
    package static func lockIfDead(
        _ runDirectory: String, _ instance: UInt64
    ) throws(InstanceError) -> InstanceLock? {
        do {
            return try InstanceLock(path: path(runDirectory, instance, .lock), create: false)
        } catch .locked {
            return nil
        }
    }

    /// Removes an instance's files and directory. The caller holds its lock.
    package static func remove(
        _ runDirectory: String, _ instance: UInt64
    ) throws(InstanceError) {
        // Under another name first, so that nobody finds half an instance.
        let aside = runDirectory + "/.old-" + hexadecimal(instance)
        try LocalFileSystem.rename(path(runDirectory, instance), to: aside)
        try removeTree(aside)
    }

    /// Removes what a broker or sidecar left that died while making or removing an instance. The
    /// caller holds the run directory's lock.
    static func removeLeftovers(_ runDirectory: String) throws(InstanceError) {
        for name in try LocalFileSystem.list(runDirectory)
        where name.hasPrefix(".new-") || name.hasPrefix(".old-") {
            try removeTree(runDirectory + "/" + name)
        }
    }

    private static func removeTree(_ path: String) throws(InstanceError) {
        let names: [String]
        do {
            names = try LocalFileSystem.list(path)
        } catch .vanished {
            return
        }
        for name in names { try LocalFileSystem.remove(path + "/" + name) }
        try LocalFileSystem.removeDirectory(path)
    }

    private static func identifier(_ name: String) -> UInt64? {
        guard name.utf8.count == 16, let value = UInt64(name, radix: 16), value != 0,
            hexadecimal(value) == name
        else { return nil }
        return value
    }
}

/// An exclusive lock on a file, held until this value ends or the process dies.
package struct InstanceLock: ~Copyable {
    private let file: LocalFile

    /// Takes the lock or throws `locked`; with `wait` it waits for it.
    package init(path: String, create: Bool, wait: Bool = false) throws(InstanceError) {
        let file = try LocalFile.open(path, flags: create ? O_RDWR | O_CREAT : O_RDWR)
        try file.lock(wait: wait)
        self.file = file
    }
}
