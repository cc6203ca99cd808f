import Foundation
import SharedMemory
package import SluiceRecordFormat
import SluiceWire
package import Store
import TLSEngine

/// The credentials of one data directory: made, listed and revoked here, read by the brokers.
///
/// A change counts for every running broker within a moment; nothing has to be restarted. The
/// database keeps who a key belongs to, the directory what a broker must know; both hold its
/// SHA-256 and never the secret.
package struct KeyBook: Sendable {
    private let store: Store
    private let directory: String

    /// Opens the credentials of a home, making them if need be.
    package init(_ home: DevelopmentHome) throws(DevelopmentError) {
        directory = home.directoryPath
        do {
            store = try Store(path: home.databasePath, durability: .everyTransaction)
        } catch {
            throw DevelopmentError(error)
        }
    }

    /// Makes a key or token for the account of this label, which is made too if need be.
    ///
    /// - Parameter expiresAtMs: Milliseconds since 1970; 0 = never.
    package func issue(
        _ role: DirectoryRole, account: String, expiresAtMs: UInt64 = 0
    ) throws(DevelopmentError) -> IssuedKey {
        do {
            return try store.issueKey(
                account: account, role: role, nowUs: LocalFileSystem.wallUs(),
                expiresAtMs: expiresAtMs, digest: Self.digest, publish: publish)
        } catch {
            throw DevelopmentError(error)
        }
    }

    /// All keys, oldest first.
    package func keys() throws(DevelopmentError) -> [KeyRow] {
        do {
            return try store.keys()
        } catch {
            throw DevelopmentError(error)
        }
    }

    /// Revokes the key that begins with this prefix of ten characters, for good. Tasks that run
    /// go on; a new connection is refused.
    package func revoke(prefix: String) throws(DevelopmentError) {
        do {
            try store.revokeKey(
                prefix: prefix, nowUs: LocalFileSystem.wallUs(), publish: publish)
        } catch {
            throw DevelopmentError(error)
        }
    }

    /// Whether brokers take this secret now.
    package func isValid(_ secret: String) throws(DevelopmentError) -> Bool {
        let digest = Self.digest(Array(secret.utf8))
        let nowMs = LocalFileSystem.wallUs() / 1_000
        do {
            let writer = try DirectoryWriter(directory: directory)
            return writer.entries.contains { entry in
                guard case .credential(let credential) = entry else { return false }
                return credential.digest == digest && credential.isValid(nowMs: nowMs)
            }
        } catch {
            throw .file(directory, reason: PrivateFile.reason(error))
        }
    }

    private func publish(_ credential: DirectoryCredential) throws {
        var writer = try DirectoryWriter(directory: directory)
        try writer.upsert([.credential(credential)])
    }

    private static func digest(_ bytes: [UInt8]) -> Digest256 {
        let words = sha256(bytes.span)
        return Digest256(words.0, words.1, words.2, words.3)
    }
}

extension DevelopmentError {
    /// What a person should know of a store's error.
    package init(_ error: StoreError) {
        self =
            switch error {
            case .locked: .store(reason: "another process holds the database")
            case .full: .store(reason: "the disk is full")
            case .damaged: .store(reason: "the database is damaged")
            case .unusable: .store(reason: "the database cannot be opened")
            case .newerSchema: .store(reason: "a later version of Sluice has changed the database")
            case .unknownKey: .store(reason: "there is no such key")
            case .notPublished: .store(reason: "the directory of credentials did not take the key")
            case .failed(let code): .store(reason: "SQLite failed with code \(code)")
            }
    }
}
