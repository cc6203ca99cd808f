import PostgresConnection
import Synchronization

/// A store in a PostgreSQL database, shared by any number of sidecars.
///
/// All writers take one advisory lock until they commit. That makes the numbers of `changes` and
/// the arithmetic of wallets as simple as with one writer: what a reader of `id > last` sees is
/// complete, and no two transactions ever wait for each other's rows.
final class PostgresEngine: StoreEngine {
    /// "sluice" in ASCII: a number that no other program on the database uses.
    private static let writeLock = 0x736C_7569_6365
    private static let migrationLock = writeLock + 1
    /// Days after today for which partitions stand ready.
    static let daysAhead: Int64 = 7

    private let address: String
    private let timeouts: PostgresConnection.Timeouts
    private let state: Mutex<Connected>

    private struct Connected {
        var connection: PostgresConnection?
    }

    /// Connects and brings the schema up to date.
    init(address: String, timeouts: PostgresConnection.Timeouts) throws(StoreError) {
        self.address = address
        self.timeouts = timeouts
        state = Mutex(Connected())
        try state.withLock { (state) throws(StoreError) in
            _ = try Self.connected(&state, address, timeouts)
        }
    }

    func write<Value: Sendable>(
        _ body: (any StoreTransaction) throws(StoreError) -> Value
    ) throws(StoreError) -> Value {
        try transaction("BEGIN") { (transaction) throws(StoreError) in
            try transaction.lock(Self.writeLock)
            return try body(transaction)
        }
    }

    func read<Value: Sendable>(
        _ body: (any StoreTransaction) throws(StoreError) -> Value
    ) throws(StoreError) -> Value {
        try transaction("BEGIN ISOLATION LEVEL REPEATABLE READ, READ ONLY", body)
    }

    /// A commit is on the server's device when it returns.
    func checkpoint() throws(StoreError) -> Bool { true }

    /// Dead rows go with the server's vacuum, its log as that is recycled.
    func overwriteRemains() throws(StoreError) -> Bool { false }

    private func transaction<Value: Sendable>(
        _ begin: String, _ body: (PostgresTransaction) throws(StoreError) -> Value
    ) throws(StoreError) -> Value {
        try state.withLock { (state) throws(StoreError) in
            let connection = try Self.connected(&state, address, timeouts)
            let transaction = PostgresTransaction(connection: connection)
            try transaction.wrapped { () throws(PostgresError) in try connection.begin(begin) }
            let value: Value
            do throws(StoreError) {
                value = try body(transaction)
            } catch {
                connection.rollback()
                throw error
            }
            try transaction.wrapped { () throws(PostgresError) in try connection.commit() }
            return value
        }
    }

    private static func connected(
        _ state: inout Connected, _ address: String, _ timeouts: PostgresConnection.Timeouts
    ) throws(StoreError) -> PostgresConnection {
        if let connection = state.connection, connection.isUsable { return connection }
        state.connection = nil
        do {
            let connection = try PostgresConnection(address, timeouts: timeouts)
            try PostgresMigration.run(on: connection, lock: migrationLock)
            state.connection = connection
            return connection
        } catch let error as StoreError {
            throw error
        } catch {
            throw StoreError(error)
        }
    }
}

/// A transaction of PostgreSQL.
struct PostgresTransaction: StoreTransaction {
    let connection: PostgresConnection
    private let staged = StagedRows()

    init(connection: PostgresConnection) {
        self.connection = connection
    }

    var dialect: SQLDialect { .postgres }
    var taskTables: any TaskTables { WideTaskTables(transaction: self) }

    /// Waits for a lock that lasts until the transaction ends.
    func lock(_ number: Int) throws(StoreError) {
        _ = try execute("SELECT pg_advisory_xact_lock($1)", [.integer(Int64(number))])
    }

    func execute(_ sql: String, _ values: [SQLValue]) throws(StoreError) -> Int {
        try wrapped { () throws(PostgresError) in
            try connection.query(sql, values.map { PostgresValue($0) }).affectedCount
        }
    }

    func query(_ sql: String, _ values: [SQLValue]) throws(StoreError) -> [SQLRow] {
        try wrapped { () throws(PostgresError) in
            let result = try connection.query(sql, values.map { PostgresValue($0) })
            var rows: [SQLRow] = []
            rows.reserveCapacity(result.rowCount)
            for row in 0..<result.rowCount {
                var columns: [SQLValue] = []
                for column in 0..<result.columnCount {
                    columns.append(try SQLValue(result, row, column))
                }
                rows.append(SQLRow(values: columns))
            }
            return rows
        }
    }

    func fetch(
        _ columns: [String], from table: String, where key: String, in keys: [Int64],
        and condition: String?
    ) throws(StoreError) -> [Int64] {
        let filter = condition.map { " AND \($0)" } ?? ""
        return try integers(
            "SELECT \(columns.joined(separator: ", ")) FROM \(table) "
                + "WHERE \(key) = ANY($1)\(filter)", [.integers(keys)])
    }

    func fetch(
        _ columns: [String], from table: String, where pair: (String, String), in keys: [Int64]
    ) throws(StoreError) -> [Int64] {
        guard !keys.isEmpty else { return [] }
        return try integers(
            "SELECT \(columns.joined(separator: ", ")) FROM \(table) "
                + "WHERE (\(pair.0), \(pair.1)) IN (SELECT * FROM unnest($1, $2))",
            Self.columns(keys, count: 2))
    }

    func remove(
        from table: String, where pair: (String, String), in keys: [Int64],
        and condition: String?
    ) throws(StoreError) {
        guard !keys.isEmpty else { return }
        let filter = condition.map { " AND \($0)" } ?? ""
        _ = try wrapped { () throws(PostgresError) in
            try connection.execute(
                "DELETE FROM \(table) "
                    + "WHERE (\(pair.0), \(pair.1)) IN (SELECT * FROM unnest($1, $2))\(filter)",
                Self.columns(keys, count: 2))
        }
    }

    func insert(_ rows: IntegerRows) throws(StoreError) {
        guard !rows.isEmpty else { return }
        _ = try wrapped { () throws(PostgresError) in
            var copied = PostgresRows(
                columnCount: rows.table.columns.count, rowCount: rows.rowCount)
            copied.append(rows.values.span)
            try connection.copy(copied, into: rows.table.name, columns: rows.table.columns)
        }
    }

    /// COPY has no answer to a row that is there already: the rows go through a table of this
    /// connection's own, and the unique key decides about each.
    func insertNew(_ rows: IntegerRows) throws(StoreError) -> [Int] {
        guard !rows.isEmpty else { return [] }
        let table = rows.table
        let first = staged.count(adding: rows.rowCount, to: table.name)
        _ = try wrapped { () throws(PostgresError) in
            var copied = PostgresRows(
                columnCount: table.columns.count + 1, rowCount: rows.rowCount)
            copied.append(rows.values.span, numberedFrom: Int64(first))
            try connection.copy(
                copied, into: "staging_\(table.name)", columns: ["row_number"] + table.columns)
        }
        let isSame = table.key.map { "m.\($0) = s.\($0)" }.joined(separator: " AND ")
        let refused = try integers(
            """
            WITH moved AS (
                INSERT INTO \(table.name) (\(table.columnList))
                SELECT \(table.columnList) FROM staging_\(table.name) WHERE row_number >= $1
                ON CONFLICT DO NOTHING RETURNING \(table.key.joined(separator: ", ")))
            SELECT s.row_number FROM staging_\(table.name) s
            WHERE s.row_number >= $1 AND NOT EXISTS (SELECT 1 FROM moved m WHERE \(isSame))
            ORDER BY s.row_number
            """, [.integer(Int64(first))])
        return refused.map { Int($0) - first }
    }

    func addToBalances(_ rows: IntegerRows) throws(StoreError) {
        guard !rows.isEmpty else { return }
        _ = try wrapped { () throws(PostgresError) in
            try connection.execute(
                """
                INSERT INTO balance (kind, owner, amount) SELECT * FROM unnest($1, $2, $3)
                ON CONFLICT (kind, owner) DO UPDATE SET amount = balance.amount + excluded.amount
                """, Self.columns(rows.values, count: 3))
        }
    }

    private func integers(
        _ sql: String, _ values: [PostgresValue]
    ) throws(StoreError) -> [Int64] {
        try wrapped { () throws(PostgresError) in
            let result = try connection.query(sql, values)
            var found: [Int64] = []
            found.reserveCapacity(result.rowCount * result.columnCount)
            for row in 0..<result.rowCount {
                for column in 0..<result.columnCount {
                    guard let value = result.integer(row, column) else {
                        throw .unexpectedAnswer
                    }
                    found.append(value)
                }
            }
            return found
        }
    }

    func wrapped<Value>(
        _ body: () throws(PostgresError) -> Value
    ) throws(StoreError) -> Value {
        do {
            return try body()
        } catch {
            throw StoreError(error)
        }
    }

    /// Rows side by side as one array a column.
    private static func columns(_ values: [Int64], count: Int) -> [PostgresValue] {
        (0..<count).map { column in
            .integers(stride(from: column, to: values.count, by: count).map { values[$0] })
        }
    }
}

/// Rows that stand in the staging tables of one transaction.
final class StagedRows {
    private var counts: [String: Int] = [:]

    /// Rows that were there before.
    func count(adding count: Int, to table: String) -> Int {
        defer { counts[table, default: 0] += count }
        return counts[table] ?? 0
    }
}

extension PostgresValue {
    fileprivate init(_ value: SQLValue) {
        self =
            switch value {
            case .null: .null
            case .integer(let number): .integer(number)
            case .text(let text): .text(text)
            case .bytes(let bytes): .bytes(bytes)
            }
    }
}

extension SQLValue {
    fileprivate init(
        _ result: borrowing PostgresResult, _ row: Int, _ column: Int
    ) throws(PostgresError) {
        if result.isNull(row, column) {
            self = .null
        } else if result.isText(column) {
            self = .text(String(decoding: result.bytes(row, column) ?? [], as: UTF8.self))
        } else if result.isBytes(column) {
            self = .bytes(result.bytes(row, column) ?? [])
        } else if let number = result.integer(row, column) {
            self = .integer(number)
        } else {
            throw .unexpectedAnswer
        }
    }
}
