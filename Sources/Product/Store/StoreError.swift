import GRDB

/// Why the database could not do what was asked. Closed; holds no path, text or value.
package enum StoreError: Error, Equatable, Sendable {
    /// Another process holds the database for longer than the busy timeout.
    case locked
    /// The disk is full.
    case full
    /// The file is no database, or its contents contradict themselves.
    case damaged
    /// The file cannot be opened or made.
    case unusable
    /// A later version of Sluice has changed the schema.
    case newerSchema
    /// Nothing matches the key that was named.
    case unknownKey
    /// The directory did not take a key; nothing was stored.
    case notPublished
    /// SQLite failed with this extended result code.
    case failed(code: Int32)

    init(_ error: any Error) {
        if let error = error as? StoreError {
            self = error
            return
        }
        guard let error = error as? DatabaseError else {
            self = .damaged
            return
        }
        switch error.resultCode.primaryResultCode {
        case .SQLITE_BUSY, .SQLITE_LOCKED: self = .locked
        case .SQLITE_FULL: self = .full
        case .SQLITE_CORRUPT, .SQLITE_NOTADB: self = .damaged
        case .SQLITE_CANTOPEN, .SQLITE_READONLY, .SQLITE_PERM: self = .unusable
        default: self = .failed(code: error.extendedResultCode.rawValue)
        }
    }
}
