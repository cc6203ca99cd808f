import PostgresConnection

/// Brings the schema of a PostgreSQL database up to date, and makes partitions and staging tables.
enum PostgresMigration {
    /// Migrations that are missing run in one transaction, under a lock: two sidecars that start
    /// together do not meet. A connection that was just made calls it.
    static func run(on connection: PostgresConnection, lock: Int) throws {
        try connection.begin()
        do {
            try connection.execute("SELECT pg_advisory_xact_lock($1)", [.integer(Int64(lock))])
            try connection.run(
                "CREATE TABLE IF NOT EXISTS store_migration (name TEXT PRIMARY KEY)")
            let result = try connection.query("SELECT name FROM store_migration")
            let known = Schema.migrations.map(\.name)
            var applied: Set<String> = []
            for row in 0..<result.rowCount {
                applied.insert(String(decoding: result.bytes(row, 0) ?? [], as: UTF8.self))
            }
            guard applied.isSubset(of: known) else { throw StoreError.newerSchema }
            for migration in Schema.migrations where !applied.contains(migration.name) {
                try connection.run(migration.sql(.postgres))
                try connection.execute(
                    "INSERT INTO store_migration (name) VALUES ($1)", [.text(migration.name)])
            }
            try connection.commit()
        } catch {
            connection.rollback()
            throw error
        }
        for table in [RecordTable.ended, .refused, .idempotency] {
            try connection.run(
                """
                CREATE TEMPORARY TABLE IF NOT EXISTS staging_\(table.name)
                (row_number BIGINT NOT NULL, \
                \(table.columns.map { "\($0) BIGINT NOT NULL" }.joined(separator: ", ")))
                ON COMMIT DELETE ROWS
                """)
        }
    }
}

extension Schema {
    /// Tables with a partition for each day.
    static let partitioned = [RecordTable.accepted, .ended, .refused]

    /// The statement that makes a day's partition. Rows of days without one go into `…_rest`.
    static func partition(of table: RecordTable, day: Int64) -> String {
        """
        CREATE TABLE \(table.name)_\(day) PARTITION OF \(table.name)
        FOR VALUES FROM (\(day)) TO (\(day + 1))
        """
    }
}
