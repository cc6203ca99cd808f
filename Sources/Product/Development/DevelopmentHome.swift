import Foundation
import Glibc
import SluiceWire
package import Store
import TLSEngine

/// Where everything of a set-up on one machine lies: one data directory, and one run directory on
/// tmpfs that is named after it.
package struct DevelopmentHome: Sendable {
    /// The data directory's real path.
    package let path: String

    /// Makes the data directory (mode 0700) if need be.
    package init(_ path: String) throws(DevelopmentError) {
        self.path = try PrivateFile.makeDirectory(path)
    }

    /// Certificates of the development CA; clients trust `ca.pem`.
    package var certificates: CertificateFiles { CertificateFiles(directory: path) }
    /// The keys that `sluice dev` hands out, mode 0600.
    package var secretsPath: String { path + "/dev.json" }
    /// The client key alone, for `--key-file`.
    package var clientKeyPath: String { path + "/client.key" }
    /// The supplier token alone, for `--token-file`.
    package var supplierTokenPath: String { path + "/supplier.token" }
    /// Accounts, keys and records, unless the environment names another store.
    package var databasePath: String { Self.databasePath(in: path) }
    /// Where accounts, keys and records are.
    package var storeLocation: StoreLocation {
        .ofDirectory(path, environment: ProcessInfo.processInfo.environment)
    }
    /// The master key that `sluice dev` makes, mode 0600.
    package var masterKeyPath: String { path + "/master.key" }
    /// That file, unless the environment has the key.
    var masterKeyFile: String? {
        ProcessInfo.processInfo.environment[MasterKeySource.variable] == nil
            ? masterKeyPath : nil
    }
    /// Held by a running `sluice dev`.
    package var lockPath: String { path + "/dev.lock" }
    /// Credentials, as the broker reads them.
    package var directoryPath: String { path + "/directory" }

    /// Makes the master key that is missing.
    func makeMasterKey() throws(DevelopmentError) {
        guard let file = masterKeyFile, !FileManager.default.fileExists(atPath: file) else {
            return
        }
        do throws(SealingError) {
            try MasterKeySource.makeFile(file)
        } catch {
            throw .file(file, reason: error.words)
        }
    }

    /// The database of a data directory that may not exist.
    package static func databasePath(in data: String) -> String { data + "/sluice.sqlite" }

    /// The run directory: on tmpfs, because the broker's pages must never wait for a disk. Falls
    /// back to a folder of the data directory where there is no usable `/dev/shm`.
    package var runDirectory: RunDirectory {
        let shared = "/dev/shm"
        guard FileManager.default.isWritableFile(atPath: shared) else {
            return RunDirectory(path: path + "/run", isOnTmpfs: false)
        }
        let bytes = Array(path.utf8)
        let digest = hexadecimal(sha256(bytes.span).0.byteSwapped)
        return RunDirectory(path: "\(shared)/sluice-\(getuid())-\(digest)", isOnTmpfs: true)
    }
}

/// Where broker instances of one data directory live.
package struct RunDirectory: Sendable {
    package let path: String
    /// False for the fallback in the data directory.
    package let isOnTmpfs: Bool

    package init(path: String, isOnTmpfs: Bool) {
        self.path = path
        self.isOnTmpfs = isOnTmpfs
    }

    /// Removes the directory if no instance in it is left to be read; false if one is.
    package func removeIfDrained() -> Bool {
        let names = (try? FileManager.default.contentsOfDirectory(atPath: path)) ?? []
        guard !names.contains(where: Self.isInstance) else { return false }
        try? FileManager.default.removeItem(atPath: path)
        return true
    }

    /// Instances are named by 16 hexadecimal digits; locks and leftovers are not.
    private static func isInstance(_ name: String) -> Bool {
        name.utf8.count == 16 && UInt64(name, radix: 16) != nil
    }
}
