import Foundation
import SharedMemory
package import SluiceRecordFormat
package import SluiceWire
package import Store
import TLSEngine

/// The credentials of one data directory: made, listed and revoked here, read by the brokers.
///
/// A change is committed in the store, and from there it reaches the directory that running
/// brokers read: at once by this process, or within a moment by the sidecar if that one writes the
/// directory. Nothing has to be restarted. The store keeps who a key belongs to, the directory
/// what a broker must know; both hold its SHA-256 and never the secret.
package struct KeyBook: Sendable {
    /// How long to wait for the sidecar to tell the directory, in microseconds.
    private static let syncWaitUs: UInt64 = 3_000_000

    /// Accounts, prices and the ledger stand there too.
    package let store: Store
    /// Nil for a store that several machines share: their sidecars tell their directories.
    private let home: DevelopmentHome?

    /// Opens the credentials of a home, making them if need be.
    package init(_ home: DevelopmentHome) throws(DevelopmentError) {
        try self.init(home.storeLocation, home: home)
    }

    /// Opens a store whose directories the sidecars alone write.
    package init(store location: StoreLocation) throws(DevelopmentError) {
        try self.init(location, home: nil)
    }

    private init(
        _ location: StoreLocation, home: DevelopmentHome?
    ) throws(DevelopmentError) {
        self.home = home
        do {
            store = try Store(location, durability: .everyTransaction)
        } catch {
            throw DevelopmentError(error)
        }
    }

    /// Makes a key or token for the account of this label, which is made too if need be.
    ///
    /// - Parameter expiresAtMs: Milliseconds since 1970; 0 = never.
    package func issue(
        _ role: DirectoryRole, account: String, expiresAtMs: UInt64 = 0,
        limits: AccountLimits = AccountLimits(), operations: OperationSet = []
    ) throws(DevelopmentError) -> IssuedKey {
        let key: IssuedKey
        do {
            key = try store.issueKey(
                account: account, role: role, nowUs: LocalFileSystem.wallUs(),
                expiresAtMs: expiresAtMs, limits: limits, operations: operations,
                digest: Self.digest)
        } catch {
            throw DevelopmentError(error)
        }
        try syncDirectory()
        return key
    }

    /// All keys, oldest first.
    package func keys() throws(DevelopmentError) -> [KeyRow] {
        do {
            return try store.keys()
        } catch {
            throw DevelopmentError(error)
        }
    }

    /// Revokes the key that is listed with this prefix, for good. Its connections are cut.
    package func revoke(prefix: String) throws(DevelopmentError) {
        do {
            try store.revokeKey(prefix: prefix, nowUs: LocalFileSystem.wallUs())
        } catch {
            throw DevelopmentError(error)
        }
        try syncDirectory()
    }

    /// Tells the directory what the store has committed, or waits until the sidecar has: until
    /// the directory holds what the store holds, a few seconds at most. A sidecar that takes
    /// longer tells it later; nothing is lost. Without a home nothing is to be done.
    package func syncDirectory() throws(DevelopmentError) {
        guard let home else { return }
        let directory = home.directoryPath
        let deadlineUs = LocalFileSystem.monotonicUs() + Self.syncWaitUs
        do {
            let node = try NodeNumber.openOrMake(dataDirectory: home.path)
            while true {
                do {
                    var sync = try DirectorySync(directory: directory, node: node, wait: false)
                    do throws(DirectorySync.Failure) {
                        try sync.run(store)
                    } catch {
                        throw DevelopmentError(error, directory: directory)
                    }
                    return
                } catch let error as InstanceError where error == .locked {
                    let isTold = try isToldToDirectory(directory, node)
                    guard !isTold, LocalFileSystem.monotonicUs() < deadlineUs else { return }
                    LocalFileSystem.sleep(microseconds: 20_000)
                }
            }
        } catch let error as DevelopmentError {
            throw error
        } catch let error as StoreError {
            throw DevelopmentError(error)
        } catch let error as InstanceError {
            throw .file(directory, reason: PrivateFile.reason(error))
        } catch {
            throw .file(directory, reason: "cannot be written")
        }
    }

    /// Whether the directory holds all that the store does, leases apart: those change all the
    /// time.
    private func isToldToDirectory(_ directory: String, _ node: UInt64) throws -> Bool {
        var reader = DirectoryReader(directory: directory)
        var known: [DirectoryEntry.Key: DirectoryEntry] = [:]
        for var entry in try reader.poll() {
            entry.change = 0
            known[entry.key] = entry
        }
        return try store.directoryEntries(node: node).entries.allSatisfy { entry in
            if case .lease = entry { return true }
            return known[entry.key] == entry
        }
    }

    /// Whether the brokers of this home take this secret now.
    package func isValid(_ secret: String) throws(DevelopmentError) -> Bool {
        guard let directory = home?.directoryPath else { return false }
        let digest = Self.digest(Array(secret.utf8))
        let nowMs = LocalFileSystem.wallUs() / 1_000
        do {
            var reader = DirectoryReader(directory: directory)
            let newest = try reader.poll().last { $0.key == .credential(digest) }
            guard case .credential(let credential) = newest else { return false }
            return credential.isValid(nowMs: nowMs)
        } catch {
            throw .file(directory, reason: PrivateFile.reason(error))
        }
    }

    private static func digest(_ bytes: [UInt8]) -> Digest256 {
        let words = sha256(bytes.span)
        return Digest256(words.0, words.1, words.2, words.3)
    }
}

extension DevelopmentError {
    fileprivate init(_ failure: DirectorySync.Failure, directory: String) {
        self =
            switch failure {
            case .store(let error): DevelopmentError(error)
            case .directory(let error): .file(directory, reason: PrivateFile.reason(error))
            }
    }

    /// What a person should know of a store's error.
    package init(_ error: StoreError) {
        self =
            switch error {
            case .locked: .store(reason: "another process holds the database")
            case .full: .store(reason: "the disk is full")
            case .damaged: .store(reason: "the database is damaged")
            case .unusable: .store(reason: "the database cannot be opened")
            case .unreachable: .store(reason: "PostgreSQL cannot be reached")
            case .refused: .store(reason: "PostgreSQL does not let this user in")
            case .outcomeUnknown:
                .store(reason: "the connection was lost: look whether it was done")
            case .newerSchema: .store(reason: "another version of Sluice has made the database")
            case .failed(let code): .store(reason: "the database failed with code \(code)")
            case .unknownKey: .store(reason: "there is no such key")
            case .keyExists: .store(reason: "the certificate is or was a key already")
            case .unknownAccount: .store(reason: "there is no such account")
            case .accountExists: .store(reason: "there is an account of this label")
            case .unknownPayout: .store(reason: "there is no such payout")
            case .payoutSettled: .store(reason: "the payout was settled otherwise")
            case .insufficientFunds: .store(reason: "there is not so much to take")
            case .referenceUsed:
                .store(reason: "the reference was used for another account or amount")
            case .invalidValue: .store(reason: "a value is outside its range")
            case .overflow: .store(reason: "the amount is too large")
            }
    }
}
