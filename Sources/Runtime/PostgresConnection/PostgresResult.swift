internal import CPostgres
import Glibc

/// What a statement gave: rows in binary. Owns libpq's memory; one thread uses it.
@safe package struct PostgresResult: ~Copyable {
    private let result: OpaquePointer

    /// Takes over a result that libpq handed out.
    init(_ result: OpaquePointer) {
        unsafe self.result = unsafe result
    }

    deinit {
        // SAFETY: this value is the only owner and ends here.
        unsafe PQclear(result)
    }

    var status: ExecStatusType { unsafe PQresultStatus(result) }

    /// Five characters, or nothing where the server said nothing.
    var sqlState: String {
        // SAFETY: the field lives as long as the result and is copied.
        guard let field = unsafe PQresultErrorField(result, SLUICE_PQ_SQLSTATE) else { return "" }
        return unsafe String(cString: field)
    }

    /// Rows that the statement gave.
    package var rowCount: Int { Int(unsafe PQntuples(result)) }
    /// Columns of a row.
    package var columnCount: Int { Int(unsafe PQnfields(result)) }

    /// Rows that the statement inserted, changed or removed.
    package var affectedCount: Int {
        // SAFETY: the text lives as long as the result and is parsed at once.
        unsafe Int(atoll(PQcmdTuples(result)))
    }

    package func isNull(_ row: Int, _ column: Int) -> Bool {
        unsafe PQgetisnull(result, Int32(row), Int32(column)) == 1
    }

    /// A whole number of 8, 4, 2 bytes or a truth value; nil for null or another width.
    package func integer(_ row: Int, _ column: Int) -> Int64? {
        guard !isNull(row, column), let value = unsafe PQgetvalue(result, Int32(row), Int32(column))
        else { return nil }
        let raw = UnsafeRawPointer(value)
        // SAFETY: libpq keeps `PQgetlength` bytes at `value` for as long as the result lives.
        switch unsafe PQgetlength(result, Int32(row), Int32(column)) {
        case 8: return unsafe Int64(bigEndian: raw.loadUnaligned(as: Int64.self))
        case 4: return Int64(unsafe Int32(bigEndian: raw.loadUnaligned(as: Int32.self)))
        case 2: return Int64(unsafe Int16(bigEndian: raw.loadUnaligned(as: Int16.self)))
        case 1: return Int64(unsafe raw.load(as: UInt8.self))
        default: return nil
        }
    }

    /// The bytes of a text or `bytea`; nil for null.
    package func bytes(_ row: Int, _ column: Int) -> [UInt8]? {
        guard !isNull(row, column), let value = unsafe PQgetvalue(result, Int32(row), Int32(column))
        else { return nil }
        let count = Int(unsafe PQgetlength(result, Int32(row), Int32(column)))
        // SAFETY: libpq keeps `count` bytes at `value` for as long as the result lives.
        return unsafe Array(UnsafeRawBufferPointer(start: value, count: count))
    }

    /// Whether the column is `text` (and not a number or bytes).
    package func isText(_ column: Int) -> Bool {
        [25, 1043, 19].contains(unsafe PQftype(result, Int32(column)))
    }

    /// Whether the column is `bytea`.
    package func isBytes(_ column: Int) -> Bool { unsafe PQftype(result, Int32(column)) == 17 }
}
