package import GRDB
internal import GRDBSQLite

/// A prepared statement whose parameters and results are whole numbers, run without a box around
/// each of them: what a sidecar does several times for every task.
///
/// It belongs to the connection that prepared it and is used inside that connection's turn.
package struct IntegerStatement {
    private let statement: Statement

    /// Takes the statement that `database` keeps prepared for `sql`.
    package init(_ database: Database, _ sql: String) throws {
        statement = try database.cachedStatement(sql: sql)
    }

    /// Binds `values` to `?1…`, runs to the end and forgets them. True if rows were inserted,
    /// changed or removed.
    package func run(_ values: Span<Int64>, in database: Database) throws -> Bool {
        let raw = unsafe statement.sqliteStatement
        defer { unsafe sqlite3_reset(raw) }
        unsafe try bind(raw, values)
        return unsafe try step(raw, in: database)
    }

    /// The same with parameters that `bind` gives it, whose memory it does not use afterwards.
    func run(in database: Database, bind: (OpaquePointer) -> Int32) throws -> Bool {
        let raw = unsafe statement.sqliteStatement
        defer {
            unsafe sqlite3_reset(raw)
            unsafe sqlite3_clear_bindings(raw)
        }
        let code = unsafe bind(raw)
        guard code == SQLITE_OK else {
            throw DatabaseError(resultCode: ResultCode(rawValue: code))
        }
        return unsafe try step(raw, in: database)
    }

    private func step(_ raw: OpaquePointer, in database: Database) throws -> Bool {
        // SAFETY: statement and connection are those of `database`, whose turn this is.
        let code = unsafe sqlite3_step(raw)
        guard code == SQLITE_DONE || code == SQLITE_ROW else {
            throw DatabaseError(resultCode: ResultCode(rawValue: code))
        }
        return unsafe sqlite3_changes(database.sqliteConnection) > 0
    }

    /// Binds `values` and appends every row's columns to `rows`, nulls as 0; with `packedCount` the
    /// last one holds so many packed numbers, which are appended instead of it: zeros where it is
    /// damaged, so that one row stops nobody. Gives the number of rows.
    package func fetch(
        _ values: Span<Int64>, packedCount: Int? = nil, into rows: inout [Int64]
    ) throws -> Int {
        let raw = unsafe statement.sqliteStatement
        defer { unsafe sqlite3_reset(raw) }
        unsafe try bind(raw, values)
        var count = 0
        while true {
            // SAFETY: the caller holds the turn of the connection that prepared the statement.
            let code = unsafe sqlite3_step(raw)
            if code == SQLITE_DONE { return count }
            guard code == SQLITE_ROW else {
                throw DatabaseError(resultCode: ResultCode(rawValue: code))
            }
            count += 1
            let columnCount = unsafe sqlite3_column_count(raw) - (packedCount == nil ? 0 : 1)
            for column in 0..<columnCount {
                rows.append(unsafe sqlite3_column_int64(raw, column))
            }
            guard let packedCount else { continue }
            let numbers = unsafe packed(raw, columnCount) ?? []
            rows +=
                numbers.count == packedCount
                ? numbers : [Int64](repeating: 0, count: packedCount)
        }
    }

    private func packed(_ raw: OpaquePointer, _ column: Int32) -> [Int64]? {
        guard unsafe sqlite3_column_type(raw, column) == SQLITE_BLOB,
            let bytes = unsafe sqlite3_column_blob(raw, column)
        else { return nil }
        // SAFETY: the row's bytes stay until the statement goes on.
        return unsafe PackedIntegers.Reader(
            UnsafeRawBufferPointer(
                start: bytes, count: Int(sqlite3_column_bytes(raw, column))))?.all()
    }

    private func bind(_ raw: OpaquePointer, _ values: Span<Int64>) throws {
        precondition(Int(unsafe sqlite3_bind_parameter_count(raw)) == values.count)
        for index in 0..<values.count {
            let code = unsafe sqlite3_bind_int64(raw, Int32(index + 1), values[index])
            guard code == SQLITE_OK else {
                throw DatabaseError(resultCode: ResultCode(rawValue: code))
            }
        }
    }
}
