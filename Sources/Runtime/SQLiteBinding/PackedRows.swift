package import GRDB
internal import GRDBSQLite

/// Rows on their way into a table of some whole-number columns and, as the last one, whole numbers
/// packed into bytes. All of them share one buffer, which SQLite reads from.
@safe
package struct PackedRows: ~Copyable {
    private let columnCount: Int
    private var columns: [Int64] = []
    /// Where each row's bytes end; the next row's begin there.
    private var ends: [Int] = []
    private var bytes: UnsafeMutableRawPointer
    private var capacity: Int

    /// Rows of `columnCount` numbers and the packed column; with room for `rowCount` of them.
    package init(columnCount: Int, rowCount: Int) {
        self.columnCount = columnCount
        columns.reserveCapacity(columnCount * rowCount)
        ends.reserveCapacity(rowCount)
        capacity = 128 * rowCount + PackedIntegers.byteCountMax
        unsafe bytes = UnsafeMutableRawPointer.allocate(byteCount: capacity, alignment: 8)
    }

    deinit {
        unsafe bytes.deallocate()
    }

    package var rowCount: Int { ends.count }

    /// Appends a row.
    package mutating func append(_ row: Span<Int64>, packed numbers: Span<Int64>) {
        precondition(row.count == columnCount)
        for index in 0..<columnCount { columns.append(row[index]) }
        let start = ends.last ?? 0
        if start + PackedIntegers.byteCountMax > capacity { grow(keeping: start) }
        // SAFETY: the longest string has room behind what is used.
        let byteCount = unsafe PackedIntegers.pack(numbers, into: bytes + start)
        ends.append(start + byteCount)
    }

    private mutating func grow(keeping used: Int) {
        let size = capacity * 2
        let grown = UnsafeMutableRawPointer.allocate(byteCount: size, alignment: 8)
        unsafe grown.copyMemory(from: bytes, byteCount: used)
        unsafe bytes.deallocate()
        unsafe bytes = unsafe grown
        capacity = size
    }

    /// Runs a statement that takes these rows' columns, row after row, as its parameters. True if
    /// rows were inserted, changed or removed.
    package borrowing func run(
        _ statement: IntegerStatement, rows: Range<Int>, in database: Database
    ) throws -> Bool {
        try unsafe statement.run(in: database) { raw in
            var parameter: Int32 = 0
            for row in rows {
                for column in row * columnCount..<(row + 1) * columnCount {
                    parameter += 1
                    let code = unsafe sqlite3_bind_int64(raw, parameter, columns[column])
                    guard code == SQLITE_OK else { return code }
                }
                let start = row == 0 ? 0 : ends[row - 1]
                parameter += 1
                // SAFETY: the buffer stays as it is until the statement has run; then it forgets
                // the bytes.
                let code = unsafe sqlite3_bind_blob(
                    raw, parameter, bytes + start, Int32(ends[row] - start), nil)
                guard code == SQLITE_OK else { return code }
            }
            precondition(unsafe sqlite3_bind_parameter_count(raw) == parameter)
            return SQLITE_OK
        }
    }
}
