package import GRDB
internal import GRDBSQLite

extension PackedIntegers {
    /// Makes SQL functions of a connection: `packed_integer(bytes, n)` is the number at `n`, from
    /// 0, and fails as a damaged database does where there is none; `pack_integers(…)` packs its
    /// whole numbers, null as 0.
    ///
    /// SQLite calls them as they stand, without the boxes that GRDB's functions have: a report
    /// reads a dozen numbers of each of a million rows.
    package static func addFunctions(to database: Database) throws {
        // Views may call them, whatever the connection trusts: they have no effects.
        let flags = SQLITE_UTF8 | SQLITE_DETERMINISTIC | SQLITE_INNOCUOUS
        let code = unsafe sqlite3_create_function_v2(
            database.sqliteConnection, "packed_integer", 2, flags, nil, packedInteger, nil, nil,
            nil)
        let other = unsafe sqlite3_create_function_v2(
            database.sqliteConnection, "pack_integers", -1, flags, nil, packIntegers, nil, nil,
            nil)
        guard code == SQLITE_OK && other == SQLITE_OK else {
            throw DatabaseError(
                resultCode: ResultCode(rawValue: code == SQLITE_OK ? other : code))
        }
    }
}

private func packedInteger(
    _ context: OpaquePointer?, _ count: Int32, _ values: UnsafeMutablePointer<OpaquePointer?>?
) {
    // SAFETY: SQLite hands over as many values as the function was made with, and the bytes of one
    // stay until it is asked for another type.
    guard let values = unsafe values, count == 2,
        unsafe sqlite3_value_type(values[0]) == SQLITE_BLOB,
        let bytes = unsafe sqlite3_value_blob(values[0]),
        let reader = unsafe PackedIntegers.Reader(
            UnsafeRawBufferPointer(start: bytes, count: Int(sqlite3_value_bytes(values[0])))),
        let number = unsafe reader.number(Int(sqlite3_value_int64(values[1])))
    else {
        unsafe sqlite3_result_error_code(context, SQLITE_CORRUPT)
        return
    }
    unsafe sqlite3_result_int64(context, number)
}

private func packIntegers(
    _ context: OpaquePointer?, _ count: Int32, _ values: UnsafeMutablePointer<OpaquePointer?>?
) {
    var numbers: [Int64] = []
    for index in 0..<Int(count) {
        // SAFETY: there are `count` values.
        let value = unsafe values?[index]
        let type = unsafe sqlite3_value_type(value)
        guard type == SQLITE_INTEGER || type == SQLITE_NULL, count <= PackedIntegers.countMax else {
            unsafe sqlite3_result_error_code(context, SQLITE_MISMATCH)
            return
        }
        numbers.append(unsafe sqlite3_value_int64(value))
    }
    unsafe withUnsafeTemporaryAllocation(
        byteCount: PackedIntegers.byteCountMax, alignment: 8
    ) { buffer in
        guard let start = buffer.baseAddress else { return }
        let byteCount = unsafe PackedIntegers.pack(numbers.span, into: start)
        // SAFETY: SQLite copies what this destructor's place says is about to go.
        unsafe sqlite3_result_blob(
            context, start, Int32(byteCount), unsafeBitCast(-1, to: sqlite3_destructor_type.self))
    }
}
