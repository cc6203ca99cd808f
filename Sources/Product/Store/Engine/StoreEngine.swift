/// A value of a column or parameter, as both engines know it.
package enum SQLValue: Equatable, Sendable {
    case null
    case integer(Int64)
    case text(String)
    case bytes([UInt8])
}

/// One row of an answer. A column that is not what the caller takes it for is `damaged`.
struct SQLRow: Sendable {
    var values: [SQLValue]

    func integer(_ column: Int) throws(StoreError) -> Int64 {
        guard case .integer(let value) = values[column] else { throw .damaged }
        return value
    }

    /// A number that stands for an unsigned one with the same bits.
    func unsigned(_ column: Int) throws(StoreError) -> UInt64 {
        UInt64(bitPattern: try integer(column))
    }

    /// A number that fits 32 bits.
    func unsigned32(_ column: Int) throws(StoreError) -> UInt32 {
        guard let value = UInt32(exactly: try integer(column)) else { throw .damaged }
        return value
    }

    func optionalInteger(_ column: Int) throws(StoreError) -> Int64? {
        values[column] == .null ? nil : try integer(column)
    }

    func text(_ column: Int) throws(StoreError) -> String {
        guard case .text(let value) = values[column] else { throw .damaged }
        return value
    }

    func bytes(_ column: Int) throws(StoreError) -> [UInt8] {
        guard case .bytes(let value) = values[column] else { throw .damaged }
        return value
    }
}

/// Rows of whole numbers on their way into a table: the shape in which records are stored.
struct IntegerRows: Sendable {
    let table: RecordTable
    private(set) var values: [Int64] = []

    init(_ table: RecordTable, rowCount: Int = 0) {
        self.table = table
        values.reserveCapacity(rowCount * table.columns.count)
    }

    var rowCount: Int { values.count / table.columns.count }
    var isEmpty: Bool { values.isEmpty }

    /// Appends one row, in the order of the table's columns.
    mutating func append<let count: Int>(_ row: [count of Int64]) {
        precondition(count == table.columns.count)
        for index in 0..<count { values.append(row[index]) }
    }

    /// Appends one row in two parts.
    mutating func append<let first: Int, let second: Int>(
        _ row: [first of Int64], _ rest: [second of Int64]
    ) {
        precondition(first + second == table.columns.count)
        for index in 0..<first { values.append(row[index]) }
        for index in 0..<second { values.append(rest[index]) }
    }

    /// The value in one place.
    subscript(row: Int, column: Int) -> Int64 { values[row * table.columns.count + column] }
}

/// A table whose columns are all whole numbers and which is written in bulk.
struct RecordTable: Sendable {
    var name: String
    var columns: [String]
    /// Columns by which a second row of the same thing is known.
    var key: [String]

    /// One placeholder for each column.
    var placeholders: String {
        (1...columns.count).map { "$\($0)" }.joined(separator: ", ")
    }

    var columnList: String { columns.joined(separator: ", ") }
}

/// What can be done inside one transaction. Parameters are `$1`, `$2`, … in the order of their
/// first use, which both engines number alike.
protocol StoreTransaction {
    var dialect: SQLDialect { get }
    var taskTables: any TaskTables { get }

    /// Runs a statement; gives the rows it inserted, changed or removed.
    @discardableResult
    func execute(_ sql: String, _ values: [SQLValue]) throws(StoreError) -> Int

    /// Runs a statement that gives rows.
    func query(_ sql: String, _ values: [SQLValue]) throws(StoreError) -> [SQLRow]

    /// The whole-number columns of all rows whose column `key` is one of `keys`, row after row.
    func fetch(
        _ columns: [String], from table: String, where key: String, in keys: [Int64],
        and condition: String?
    ) throws(StoreError) -> [Int64]

    /// The same by two columns: `keys` holds pairs.
    func fetch(
        _ columns: [String], from table: String, where pair: (String, String), in keys: [Int64]
    ) throws(StoreError) -> [Int64]

    /// Removes the rows with these pairs of keys for which the condition holds.
    func remove(
        from table: String, where pair: (String, String), in keys: [Int64],
        and condition: String?
    ) throws(StoreError)

    /// Inserts rows of which none may be there.
    func insert(_ rows: IntegerRows) throws(StoreError)

    /// Inserts the rows that are not there yet; gives the positions of the others, ascending.
    func insertNew(_ rows: IntegerRows) throws(StoreError) -> [Int]

    /// Adds `values[n]` to the amount of each row (kind, owner), which is made if need be.
    func addToBalances(_ rows: IntegerRows) throws(StoreError)
}

extension StoreTransaction {
    @discardableResult
    func execute(_ sql: String) throws(StoreError) -> Int { try execute(sql, []) }

    func query(_ sql: String) throws(StoreError) -> [SQLRow] { try query(sql, []) }

    func remove(
        from table: String, where pair: (String, String), in keys: [Int64]
    ) throws(StoreError) {
        try remove(from: table, where: pair, in: keys, and: nil)
    }
}

/// A database that holds a store. Any thread may call it; calls take turns.
protocol StoreEngine: Sendable {
    /// Runs `body` in a transaction of which everything is committed or nothing, and beside which
    /// no other writer of this store runs.
    ///
    /// `outcomeUnknown` where the connection was lost while committing: the caller reads what
    /// there is and goes on from that.
    func write<Value: Sendable>(
        _ body: (any StoreTransaction) throws(StoreError) -> Value
    ) throws(StoreError) -> Value

    /// Runs `body` on what is committed at one moment.
    func read<Value: Sendable>(
        _ body: (any StoreTransaction) throws(StoreError) -> Value
    ) throws(StoreError) -> Value

    /// Brings everything that was committed to the device; false if a reader was in the way.
    func checkpoint() throws(StoreError) -> Bool

    /// Overwrites what removed rows have left in files; false if that comes in its own time.
    func overwriteRemains() throws(StoreError) -> Bool
}

/// Where the two engines' SQL differs.
enum SQLDialect: Sendable {
    case sqlite, postgres

    /// Type of whole numbers.
    var integer: String { self == .sqlite ? "INTEGER" : "BIGINT" }
    /// Type of byte strings.
    var bytes: String { self == .sqlite ? "BLOB" : "BYTEA" }
    /// A number that the engine gives to each new row, ascending.
    var identity: String {
        switch self {
        case .sqlite: "INTEGER PRIMARY KEY AUTOINCREMENT"
        case .postgres: "BIGINT GENERATED BY DEFAULT AS IDENTITY PRIMARY KEY"
        }
    }
    /// End of a table that has a number of its own for each row.
    var end: String { self == .sqlite ? ") STRICT;" : ");" }
    /// End of a table that is kept in the order of its primary key.
    var endByKey: String { self == .sqlite ? ") STRICT, WITHOUT ROWID;" : ");" }
}

/// SQLite and PostgreSQL know signed integers only; the bits stay the same.
func signed(_ value: UInt64) -> Int64 { Int64(bitPattern: value) }

/// The reverse of `signed`.
func unsigned(_ value: Int64) -> UInt64 { UInt64(bitPattern: value) }
