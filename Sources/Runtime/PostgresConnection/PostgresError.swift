/// Why PostgreSQL did not do what was asked. Closed; holds no text of server, statement or
/// value.
package enum PostgresError: Error, Equatable, Sendable {
    /// The connection string cannot be read.
    case badAddress
    /// No connection within its time: nobody listens, or the server starts, ends or is full.
    case unreachable
    /// The server does not let this user in, or does not know the database.
    case refused
    /// The connection was lost before the transaction was committed: it had no effect.
    case connectionLost
    /// The connection was lost while committing. Whether the transaction had its effect is not
    /// known; the caller looks at what a new connection shows.
    case commitUnknown
    /// A statement, or the wait for a lock, took longer than it may. The transaction had no
    /// effect.
    case timedOut
    /// Another transaction was in the way (serialization, deadlock): the same may succeed now.
    case conflict
    /// A unique key is taken.
    case duplicateKey
    /// A trigger, check or foreign key refused the change.
    case constraint
    /// The server's disk is full.
    case full
    /// The answer is not what the statement promises.
    case unexpectedAnswer
    /// Any other refusal, by its SQLSTATE read as a number of base 36.
    case failed(state: Int32)

    /// By the five characters of an SQLSTATE; a lost connection is found elsewhere.
    init(sqlState: String) {
        self =
            switch sqlState {
            case "40001", "40P01": .conflict
            case "55P03", "57014": .timedOut
            case "23505": .duplicateKey
            case "53100": .full
            case "53300", "57P03", "57P02", "57P01", "": .connectionLost
            case "3D000": .refused
            case let state where state.hasPrefix("08"): .connectionLost
            case let state where state.hasPrefix("28"): .refused
            case let state where state.hasPrefix("23"): .constraint
            case let state: .failed(state: Int32(truncatingIfNeeded: Int(state, radix: 36) ?? 0))
            }
    }
}
