import GRDB
import PostgresConnection

/// Why the store could not do what was asked. Closed; holds no path, text or value.
package enum StoreError: Error, Equatable, Sendable {
    // The database.

    /// Another process holds the database for longer than the timeout, or is in the way: the same
    /// may succeed later.
    case locked
    /// The disk is full.
    case full
    /// The file is no database, or its contents contradict themselves.
    case damaged
    /// The file cannot be opened or made; the address cannot be read.
    case unusable
    /// PostgreSQL cannot be reached, or the connection was lost; nothing was changed.
    case unreachable
    /// PostgreSQL does not let this user in, or has no such database.
    case refused
    /// The connection was lost while committing: what was asked may have happened or not.
    case outcomeUnknown
    /// Another version of Sluice has made or changed the schema.
    case newerSchema
    /// The database failed with this code: SQLite's extended result code, or PostgreSQL's SQLSTATE
    /// read as a number of base 36.
    case failed(code: Int32)

    // What was asked.

    /// Nothing matches the key that was named.
    case unknownKey
    /// The certificate is or was a key already.
    case keyExists
    /// There is no account of this label or number.
    case unknownAccount
    /// There is an account of this label.
    case accountExists
    /// There is no payout of this number.
    case unknownPayout
    /// The payout was paid or has failed.
    case payoutSettled
    /// The wallet's available amount, or what the supplier has earned, is less.
    case insufficientFunds
    /// The reference was used before, for another account or amount.
    case referenceUsed
    /// An amount, label, reference or other value is outside its range.
    case invalidValue
    /// An amount that does not fit 64 bits.
    case overflow

    init(_ error: any Error) {
        switch error {
        case let error as StoreError: self = error
        case let error as PostgresError: self = StoreError(error)
        case let error as DatabaseError: self = StoreError(error)
        default: self = .damaged
        }
    }

    private init(_ error: DatabaseError) {
        self =
            switch error.resultCode.primaryResultCode {
            case .SQLITE_BUSY, .SQLITE_LOCKED: .locked
            case .SQLITE_FULL: .full
            case .SQLITE_CORRUPT, .SQLITE_NOTADB: .damaged
            case .SQLITE_CANTOPEN, .SQLITE_READONLY, .SQLITE_PERM: .unusable
            default: .failed(code: error.extendedResultCode.rawValue)
            }
    }

    private init(_ error: PostgresError) {
        self =
            switch error {
            case .badAddress: .unusable
            case .unreachable, .connectionLost: .unreachable
            case .refused: .refused
            case .commitUnknown: .outcomeUnknown
            case .timedOut, .conflict: .locked
            case .full: .full
            case .unexpectedAnswer: .damaged
            case .duplicateKey: .failed(code: 23_505)
            case .constraint: .failed(code: 23_000)
            case .failed(let state): .failed(code: state)
            }
    }
}
