internal import CPostgres
import Glibc

/// One connection to PostgreSQL through libpq: the only Swift that calls it.
///
/// Every call waits at most as long as `Timeouts` says; after a lost or overdue connection every
/// further call throws `connectionLost`, and the owner makes a new one. One thread at a time.
@safe package final class PostgresConnection {
    /// Longest waits, in milliseconds.
    package struct Timeouts: Sendable {
        package var connectMs: Int32 = 5_000
        /// A statement, from sending to its last answer; the server is told to give up before.
        package var statementMs: Int32 = 30_000
        /// The wait for another transaction's lock.
        package var lockMs: Int32 = 10_000

        package init() {}
    }

    private let connection: OpaquePointer
    private let timeouts: Timeouts
    /// Names of prepared statements by text and parameter types.
    private var prepared: [StatementKey: String] = [:]
    private var isLost = false
    package private(set) var isInTransaction = false

    private struct StatementKey: Hashable {
        var sql: String
        var types: [UInt32]
    }

    /// Connects.
    ///
    /// - Parameter address: A `postgresql://` URL or libpq's `key=value` pairs. It may hold a
    ///   password, which is never repeated in an error.
    package init(_ address: String, timeouts: Timeouts = Timeouts()) throws(PostgresError) {
        guard Self.isReadable(address) else { throw .badAddress }
        // SAFETY: libpq copies the string. All fields are set before anything throws, so `deinit`
        // finishes the connection on every way out.
        guard let connection = unsafe PQconnectStart(address) else { throw .unreachable }
        unsafe self.connection = unsafe connection
        self.timeouts = timeouts
        unsafe sluice_pq_silence(connection)
        try unsafe Self.finishConnecting(connection, withinMs: timeouts.connectMs)
        guard unsafe PQsetnonblocking(connection, 1) == 0 else { throw .unreachable }
        try run("SET client_min_messages = error")
        try run("SET statement_timeout = \(max(1, timeouts.statementMs - 1_000))")
        try run("SET lock_timeout = \(timeouts.lockMs)")
        try run("SET idle_in_transaction_session_timeout = 60000")
    }

    deinit {
        // SAFETY: nobody else holds the connection.
        unsafe PQfinish(connection)
    }

    /// Whether the address can be read, without connecting.
    package static func isReadable(_ address: String) -> Bool {
        // SAFETY: the options are freed at once.
        guard let options = unsafe PQconninfoParse(address, nil) else { return false }
        unsafe PQconninfoFree(options)
        return true
    }

    // MARK: Statements

    /// Runs a statement without parameters and drops its rows.
    package func run(_ sql: String) throws(PostgresError) {
        try requireConnection()
        guard unsafe PQsendQuery(connection, sql) == 1 else { throw lost() }
        _ = try finish()
    }

    /// Runs a statement, prepared at its first use, with `$1…` bound to `values`.
    package func query(
        _ sql: String, _ values: [PostgresValue] = []
    ) throws(PostgresError) -> PostgresResult {
        try requireConnection()
        let name = try prepare(sql, types: values.map(\.type))
        var bytes: [UInt8] = []
        var ranges: [Range<Int>?] = []
        for value in values {
            let start = bytes.count
            value.append(to: &bytes)
            ranges.append(value == .null ? nil : start..<bytes.count)
        }
        // A pointer to nothing would mean null: an empty text still needs an address.
        bytes.append(0)
        let count = Int32(values.count)
        // SAFETY: libpq copies all parameters before the call returns; the pointers go into
        // `bytes`, which lives until then.
        let lengths = ranges.map { Int32($0?.count ?? 0) }
        let formats = ranges.map { _ in Int32(1) }
        let isSent = unsafe bytes.withUnsafeBytes { buffer in
            let pointers = unsafe ranges.map { range in
                unsafe range.flatMap { range in
                    unsafe buffer.baseAddress?.advanced(by: range.lowerBound)
                        .assumingMemoryBound(to: CChar.self)
                }
            }
            return unsafe PQsendQueryPrepared(
                connection, name, count, pointers, lengths, formats, 1) == 1
        }
        guard isSent else { throw lost() }
        return try finish()
    }

    /// Runs a statement and says how many rows it inserted, changed or removed.
    @discardableResult
    package func execute(
        _ sql: String, _ values: [PostgresValue] = []
    ) throws(PostgresError) -> Int {
        try query(sql, values).affectedCount
    }

    /// Loads rows into the columns of a table. Gives the number of rows loaded.
    @discardableResult
    package func copy(
        _ rows: PostgresRows, into table: String, columns: [String]
    ) throws(PostgresError) -> Int {
        try requireConnection()
        precondition(columns.count == rows.columnCount)
        let list = columns.joined(separator: ", ")
        let sql = "COPY \(table) (\(list)) FROM STDIN (FORMAT binary)"
        let deadline = Deadline(afterMs: timeouts.statementMs)
        guard unsafe PQsendQuery(connection, sql) == 1 else { throw lost() }
        guard let begun = try nextResult(deadline) else { throw .unexpectedAnswer }
        guard begun.status == PGRES_COPY_IN else {
            let error = failure(of: begun)
            try drain(deadline)
            throw error
        }
        let bytes = rows.sealed
        var offset = 0
        while offset < bytes.count {
            let count = min(65_536, bytes.count - offset)
            // SAFETY: the range lies inside the array for the time of the call.
            let taken = unsafe bytes.withUnsafeBytes { buffer in
                unsafe PQputCopyData(
                    connection,
                    buffer.baseAddress?.advanced(by: offset).assumingMemoryBound(to: CChar.self),
                    Int32(count))
            }
            switch taken {
            case 1: offset += count
            case 0: try wait(for: POLLOUT, deadline)
            default: throw lost()
            }
        }
        while true {
            let ended = unsafe PQputCopyEnd(connection, nil)
            if ended == 1 { break }
            guard ended == 0 else { throw lost() }
            try wait(for: POLLOUT, deadline)
        }
        return try finish(deadline).affectedCount
    }

    // MARK: Transactions

    /// Begins a transaction, with BEGIN and what may follow it.
    package func begin(_ sql: String = "BEGIN") throws(PostgresError) {
        precondition(!isInTransaction)
        try run(sql)
        isInTransaction = true
    }

    /// Commits. `commitUnknown` if the connection was lost on the way; any other error means that
    /// the transaction had no effect.
    package func commit() throws(PostgresError) {
        precondition(isInTransaction)
        isInTransaction = false
        try requireConnection()
        guard unsafe PQtransactionStatus(connection) == PQTRANS_INTRANS else {
            // A statement of it failed: the server would answer COMMIT by a rollback.
            isInTransaction = true
            rollback()
            throw .unexpectedAnswer
        }
        do throws(PostgresError) {
            try run("COMMIT")
        } catch {
            switch error {
            case .connectionLost, .timedOut:
                isLost = true
                throw .commitUnknown
            default: throw error
            }
        }
    }

    /// Ends the transaction without effect. Never throws: a connection that cannot even do this is
    /// lost, and the server ends the transaction.
    package func rollback() {
        guard isInTransaction else { return }
        isInTransaction = false
        guard !isLost else { return }
        do {
            try run("ROLLBACK")
        } catch {
            isLost = true
        }
    }

    // MARK: Waiting

    /// Whether this connection can still be used.
    package var isUsable: Bool { unsafe !isLost && PQstatus(connection) == CONNECTION_OK }

    private func requireConnection() throws(PostgresError) {
        guard isUsable else { throw lost() }
    }

    private func lost() -> PostgresError {
        isLost = true
        return .connectionLost
    }

    private func prepare(_ sql: String, types: [UInt32]) throws(PostgresError) -> String {
        let key = StatementKey(sql: sql, types: types)
        if let name = prepared[key] { return name }
        let name = "s\(prepared.count + 1)"
        guard unsafe PQsendPrepare(connection, name, sql, Int32(types.count), types) == 1 else {
            throw lost()
        }
        _ = try finish()
        prepared[key] = name
        return name
    }

    /// The one result of the statement under way, after everything else it says was read.
    private func finish() throws(PostgresError) -> PostgresResult {
        try finish(Deadline(afterMs: timeouts.statementMs))
    }

    private func finish(_ deadline: Deadline) throws(PostgresError) -> PostgresResult {
        guard let result = try nextResult(deadline) else { throw lost() }
        try drain(deadline)
        switch result.status {
        case PGRES_COMMAND_OK, PGRES_TUPLES_OK: return result
        default: throw failure(of: result)
        }
    }

    private func failure(of result: borrowing PostgresResult) -> PostgresError {
        guard unsafe PQstatus(connection) == CONNECTION_OK else { return lost() }
        let error = PostgresError(sqlState: result.sqlState)
        if error == .connectionLost { isLost = true }
        return error
    }

    private func drain(_ deadline: Deadline) throws(PostgresError) {
        while let more = try nextResult(deadline) { _ = consume more }
    }

    private func nextResult(_ deadline: Deadline) throws(PostgresError) -> PostgresResult? {
        while true {
            let unsent = unsafe PQflush(connection)
            guard unsent >= 0 else { throw lost() }
            if unsent == 0, unsafe PQisBusy(connection) == 0 { break }
            try wait(for: unsent == 1 ? POLLIN | POLLOUT : POLLIN, deadline)
            guard unsafe PQconsumeInput(connection) == 1 else { throw lost() }
        }
        // SAFETY: the result is handed over to its one owner.
        guard let result = unsafe PQgetResult(connection) else { return nil }
        return unsafe PostgresResult(result)
    }

    private func wait(for events: Int32, _ deadline: Deadline) throws(PostgresError) {
        let socket = unsafe PQsocket(connection)
        guard socket >= 0 else { throw lost() }
        guard Self.poll(socket, events, deadline) else {
            // What the server still does with the statement is its own affair: without this
            // connection the transaction ends.
            isLost = true
            throw .timedOut
        }
    }

    private static func finishConnecting(
        _ connection: OpaquePointer, withinMs: Int32
    ) throws(PostgresError) {
        let deadline = Deadline(afterMs: withinMs)
        guard unsafe PQstatus(connection) != CONNECTION_BAD else { throw .unreachable }
        var events = POLLOUT
        while true {
            guard unsafe poll(PQsocket(connection), events, deadline) else { throw .unreachable }
            switch unsafe PQconnectPoll(connection) {
            case PGRES_POLLING_READING: events = POLLIN
            case PGRES_POLLING_WRITING: events = POLLOUT
            case PGRES_POLLING_OK: return
            default:
                // The server answered and said no, or nobody answered.
                let wasAnswered =
                    unsafe PQconnectionNeedsPassword(connection) == 1
                    || PQconnectionUsedPassword(connection) == 1
                throw wasAnswered ? .refused : .unreachable
            }
        }
    }

    /// False when the deadline passed.
    private static func poll(_ socket: Int32, _ events: Int32, _ deadline: Deadline) -> Bool {
        while true {
            var entry = pollfd(fd: socket, events: Int16(events), revents: 0)
            // SAFETY: `entry` is a local that outlives the call.
            let count = unsafe Glibc.poll(&entry, 1, deadline.remainingMs)
            if count > 0 { return true }
            if count == 0 { return false }
            guard errno == EINTR else { return true }
        }
    }
}

/// A moment on the monotonic clock.
private struct Deadline {
    private let endMs: Int64

    init(afterMs: Int32) {
        endMs = Self.nowMs() + Int64(afterMs)
    }

    var remainingMs: Int32 { Int32(max(0, endMs - Self.nowMs())) }

    private static func nowMs() -> Int64 {
        var now = timespec()
        // SAFETY: `now` is a local that outlives the call.
        unsafe clock_gettime(CLOCK_MONOTONIC, &now)
        return Int64(now.tv_sec) * 1_000 + Int64(now.tv_nsec) / 1_000_000
    }
}
