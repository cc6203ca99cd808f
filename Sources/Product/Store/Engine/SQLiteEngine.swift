import Foundation
import GRDB
import SQLiteBinding

/// A store in one SQLite file: the default.
struct SQLiteEngine: StoreEngine {
    private let database: DatabaseQueue

    init(
        path: String, durability: Store.Durability, busyTimeoutSeconds: Double
    ) throws(StoreError) {
        var configuration = Configuration()
        configuration.busyMode = .timeout(busyTimeoutSeconds)
        configuration.journalMode = .wal
        configuration.prepareDatabase { database in
            let synchronous =
                switch durability {
                case .everyTransaction: "FULL"
                case .checkpoint: "NORMAL"
                }
            try database.execute(sql: "PRAGMA synchronous = \(synchronous)")
            try database.execute(sql: "PRAGMA secure_delete = ON")
            // 8 MiB of pages, so that the ends of all tables and indexes stay in memory.
            try database.execute(sql: "PRAGMA cache_size = -8192")
            try PackedIntegers.addFunctions(to: database)
        }
        // SQLite would make it for everyone to read; its other files get the mode of this one.
        if !FileManager.default.fileExists(atPath: path) {
            _ = FileManager.default.createFile(
                atPath: path, contents: nil, attributes: [.posixPermissions: 0o600])
        }
        do {
            database = try DatabaseQueue(path: path, configuration: configuration)
            let migrator = Self.migrator
            if try database.read({ try migrator.hasBeenSuperseded($0) }) {
                throw StoreError.newerSchema
            }
            if try !database.read({ try migrator.hasCompletedMigrations($0) }) {
                try Self.migrate(database, by: migrator)
            }
        } catch {
            throw StoreError(error)
        }
    }

    private static var migrator: DatabaseMigrator {
        var migrator = DatabaseMigrator()
        for migration in Schema.migrations {
            migrator.registerMigration(migration.name) { database in
                try database.execute(sql: migration.sql(.sqlite))
            }
        }
        return migrator
    }

    /// Two processes may find the same old schema: the one that comes second fails to make a table
    /// that is there by then, and finds its work done when it looks again.
    private static func migrate(_ database: DatabaseQueue, by migrator: DatabaseMigrator) throws {
        // What a migration drops are numbers that it has copied: to overwrite the pages as well would
        // more than double what it needs of the disk.
        try database.inDatabase { try $0.execute(sql: "PRAGMA secure_delete = FAST") }
        defer {
            try? database.inDatabase {
                try $0.execute(sql: "PRAGMA secure_delete = ON")
                // As large as all that was moved.
                try $0.execute(sql: "PRAGMA wal_checkpoint(TRUNCATE)")
            }
        }
        for _ in 0..<4 {
            do {
                return try migrator.migrate(database)
            } catch let error as DatabaseError where error.resultCode != .SQLITE_ERROR {
                throw error
            } catch {}
        }
        try migrator.migrate(database)
    }

    func write<Value: Sendable>(
        _ body: (any StoreTransaction) throws(StoreError) -> Value
    ) throws(StoreError) -> Value {
        // Immediate: it waits for another writer before it reads anything.
        try transact(begin: "BEGIN IMMEDIATE TRANSACTION", body)
    }

    /// Not GRDB's own `read`: that sets a pragma around each one, which makes SQLite forget what
    /// it has compiled of every statement.
    func read<Value: Sendable>(
        _ body: (any StoreTransaction) throws(StoreError) -> Value
    ) throws(StoreError) -> Value {
        try transact(begin: "BEGIN DEFERRED TRANSACTION", body)
    }

    /// Runs `body` between statements that stay compiled.
    private func transact<Value: Sendable>(
        begin: String, _ body: (any StoreTransaction) throws(StoreError) -> Value
    ) throws(StoreError) -> Value {
        do {
            return try database.writeWithoutTransaction { database in
                try database.cachedStatement(sql: begin).execute()
                do {
                    let value = try body(SQLiteTransaction(database: database))
                    try database.cachedStatement(sql: "COMMIT TRANSACTION").execute()
                    return value
                } catch {
                    // SQLite may have ended the transaction itself, as it does where a disk is full.
                    if database.isInsideTransaction {
                        try? database.rollback()
                    }
                    throw error
                }
            }
        } catch {
            throw StoreError(error)
        }
    }

    func checkpoint() throws(StoreError) -> Bool { try checkpoint("FULL") }

    /// Pages are zeroed as rows go (`secure_delete`); the log holds them until it is cut.
    func overwriteRemains() throws(StoreError) -> Bool { try checkpoint("TRUNCATE") }

    private func checkpoint(_ mode: String) throws(StoreError) -> Bool {
        do {
            return try database.writeWithoutTransaction { database in
                let row = try Row.fetchOne(database, sql: "PRAGMA wal_checkpoint(\(mode))")
                let busy: Int? = row?[0]
                return busy == 0
            }
        } catch {
            let error = StoreError(error)
            if error == .locked { return false }
            throw error
        }
    }
}

/// A transaction of SQLite, inside the database's turn.
private struct SQLiteTransaction: StoreTransaction {
    private static let rowsPerStatement = 32

    let database: Database
    var dialect: SQLDialect { .sqlite }
    var taskTables: any TaskTables { PackedTaskTables(transaction: self, database: database) }

    func execute(_ sql: String, _ values: [SQLValue]) throws(StoreError) -> Int {
        try wrapped {
            let statement = try database.cachedStatement(sql: sql)
            if statement.columnCount > 0 {
                _ = try Row.fetchAll(statement, arguments: Self.arguments(values))
            } else {
                try statement.execute(arguments: Self.arguments(values))
            }
            return database.changesCount
        }
    }

    func query(_ sql: String, _ values: [SQLValue]) throws(StoreError) -> [SQLRow] {
        try wrapped {
            let statement = try database.cachedStatement(sql: sql)
            return try Row.fetchAll(statement, arguments: Self.arguments(values)).map { row in
                SQLRow(
                    values: try row.databaseValues.map { value in
                        switch value.storage {
                        case .null: .null
                        case .int64(let number): .integer(number)
                        case .string(let text): .text(text)
                        case .blob(let data): .bytes([UInt8](data))
                        case .double: throw StoreError.damaged
                        }
                    })
            }
        }
    }

    func fetch(
        _ columns: [String], from table: String, where key: String, in keys: [Int64],
        and condition: String?
    ) throws(StoreError) -> [Int64] {
        let filter = condition.map { " AND \($0)" } ?? ""
        let sql =
            "SELECT \(columns.joined(separator: ", ")) FROM \(table) WHERE \(key) = ?1\(filter)"
        return try rows(sql, keys, keyCount: 1)
    }

    func fetch(
        _ columns: [String], from table: String, where pair: (String, String), in keys: [Int64]
    ) throws(StoreError) -> [Int64] {
        let sql =
            "SELECT \(columns.joined(separator: ", ")) FROM \(table) "
            + "WHERE \(pair.0) = ?1 AND \(pair.1) = ?2"
        return try rows(sql, keys, keyCount: 2)
    }

    private func rows(
        _ sql: String, _ keys: [Int64], keyCount: Int
    ) throws(StoreError) -> [Int64] {
        try wrapped {
            var found: [Int64] = []
            guard !keys.isEmpty else { return found }
            let statement = try IntegerStatement(database, sql)
            let span = keys.span
            for start in stride(from: 0, to: keys.count, by: keyCount) {
                _ = try statement.fetch(
                    span.extracting(start..<start + keyCount), into: &found)
            }
            return found
        }
    }

    func remove(
        from table: String, where pair: (String, String), in keys: [Int64],
        and condition: String?
    ) throws(StoreError) {
        let filter = condition.map { " AND \($0)" } ?? ""
        try runEach(
            "DELETE FROM \(table) WHERE \(pair.0) = ?1 AND \(pair.1) = ?2\(filter)", keys,
            columnCount: 2
        ) { _, _ in }
    }

    func insert(_ rows: IntegerRows) throws(StoreError) {
        try insertBlocks(of: rows) { _, error in throw error }
    }

    /// Hardly ever is one of them known. So a block is tried whole; SQLite undoes the whole
    /// statement where a key is there already, and then its rows come one by one.
    func insertNew(_ rows: IntegerRows) throws(StoreError) -> [Int] {
        let table = rows.table
        var known: [Int] = []
        let single =
            "INSERT OR IGNORE INTO \(table.name) (\(table.columnList)) "
            + "VALUES (\(table.placeholders))"
        try insertBlocks(of: rows) { block, error in
            guard error.resultCode == .SQLITE_CONSTRAINT else { throw error }
            let statement = try IntegerStatement(database, single)
            let width = table.columns.count
            let span = rows.values.span
            for row in block {
                let isNew = try statement.run(
                    span.extracting(row * width..<(row + 1) * width), in: database)
                if !isNew { known.append(row) }
            }
        }
        return known
    }

    /// Many rows to a statement, since a statement costs more than a row: blocks of equal size,
    /// then what is left row by row. `refused` is told which rows a statement had, none of which
    /// it left in the table, and why.
    private func insertBlocks(
        of rows: IntegerRows,
        refused: (Range<Int>, DatabaseError) throws -> Void
    ) throws(StoreError) {
        let table = rows.table
        let width = table.columns.count
        let row = "(" + Array(repeating: "?", count: width).joined(separator: ", ") + ")"
        try wrapped {
            let span = rows.values.span
            var position = 0
            for size in [Self.rowsPerStatement, 1] where rows.rowCount - position >= size {
                let list = Array(repeating: row, count: size).joined(separator: ", ")
                let statement = try IntegerStatement(
                    database, "INSERT INTO \(table.name) (\(table.columnList)) VALUES \(list)")
                while rows.rowCount - position >= size {
                    let block = position..<position + size
                    position += size
                    do {
                        _ = try statement.run(
                            span.extracting(block.lowerBound * width..<position * width),
                            in: database)
                    } catch let error as DatabaseError {
                        try refused(block, error)
                    }
                }
            }
        }
    }

    func addToBalances(_ rows: IntegerRows) throws(StoreError) {
        try runEach(
            """
            INSERT INTO balance (kind, owner, amount) VALUES (?1, ?2, ?3)
            ON CONFLICT (kind, owner) DO UPDATE SET amount = amount + excluded.amount
            """, rows.values, columnCount: 3
        ) { _, _ in }
    }

    private func runEach(
        _ sql: String, _ values: [Int64], columnCount: Int, _ done: (Int, Bool) -> Void
    ) throws(StoreError) {
        try wrapped {
            guard !values.isEmpty else { return }
            let statement = try IntegerStatement(database, sql)
            let span = values.span
            var row = 0
            for start in stride(from: 0, to: values.count, by: columnCount) {
                let isChanged = try statement.run(
                    span.extracting(start..<start + columnCount), in: database)
                done(row, isChanged)
                row += 1
            }
        }
    }

    private func wrapped<Value>(_ body: () throws -> Value) throws(StoreError) -> Value {
        do {
            return try body()
        } catch {
            throw StoreError(error)
        }
    }

    private static func arguments(_ values: [SQLValue]) -> StatementArguments {
        StatementArguments(
            values.map { value -> (any DatabaseValueConvertible)? in
                switch value {
                case .null: nil
                case .integer(let number): number
                case .text(let text): text
                case .bytes(let bytes): Data(bytes)
                }
            })
    }
}
