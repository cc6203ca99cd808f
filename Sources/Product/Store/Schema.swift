import GRDB

/// The tables, version by version. A migration that has been released is never changed.
///
/// 64-bit ids are stored as SQLite's signed integers with the same bits. No column holds text from
/// a client; model names come from suppliers' offers.
enum Schema {
    static var migrator: DatabaseMigrator {
        var migrator = DatabaseMigrator()
        migrator.registerMigration("1 records") { database in
            try database.execute(sql: records)
        }
        migrator.registerMigration("2 accounts and keys") { database in
            try database.execute(sql: accounts)
        }
        return migrator
    }

    private static let records = """
        CREATE TABLE accepted (
            id INTEGER PRIMARY KEY,
            instance INTEGER NOT NULL,
            counter INTEGER NOT NULL,
            accepted_at_us INTEGER NOT NULL,
            account INTEGER NOT NULL,
            key_digest_prefix INTEGER NOT NULL,
            model INTEGER NOT NULL,
            operation INTEGER NOT NULL,
            encoding INTEGER NOT NULL,
            priority INTEGER NOT NULL,
            preference INTEGER NOT NULL,
            deadline_ms INTEGER NOT NULL,
            body_bytes INTEGER NOT NULL,
            max_input_tokens INTEGER NOT NULL,
            max_output_tokens INTEGER NOT NULL,
            input_price INTEGER NOT NULL,
            output_price INTEGER NOT NULL,
            trace_high INTEGER,
            trace_low INTEGER,
            trace_span INTEGER,
            idempotency_digest INTEGER NOT NULL,
            UNIQUE (instance, counter)
        ) STRICT;
        CREATE INDEX accepted_by_account ON accepted (account, accepted_at_us);
        CREATE TABLE ended (
            id INTEGER PRIMARY KEY,
            instance INTEGER NOT NULL,
            counter INTEGER NOT NULL,
            status INTEGER NOT NULL,
            code INTEGER NOT NULL,
            finish_reason INTEGER,
            input_tokens INTEGER NOT NULL,
            cached_tokens INTEGER NOT NULL,
            output_tokens INTEGER NOT NULL,
            reasoning_tokens INTEGER NOT NULL,
            delivered_bytes INTEGER NOT NULL,
            ttft_us INTEGER,
            duration_us INTEGER NOT NULL,
            queue_us INTEGER NOT NULL,
            consumer_cost INTEGER NOT NULL,
            supplier_earning INTEGER NOT NULL,
            platform_fee INTEGER NOT NULL,
            supplier INTEGER NOT NULL,
            offer_model INTEGER NOT NULL,
            supply_type INTEGER NOT NULL,
            dispatches INTEGER NOT NULL,
            win_reason INTEGER NOT NULL,
            UNIQUE (instance, counter)
        ) STRICT;
        CREATE TABLE refused (
            id INTEGER PRIMARY KEY,
            instance INTEGER NOT NULL,
            sequence INTEGER NOT NULL,
            account INTEGER NOT NULL,
            refused_at_us INTEGER NOT NULL,
            code INTEGER NOT NULL,
            model INTEGER NOT NULL,
            count INTEGER NOT NULL,
            UNIQUE (instance, sequence)
        ) STRICT;
        CREATE TABLE model_name (
            instance INTEGER NOT NULL,
            model INTEGER NOT NULL,
            name TEXT NOT NULL,
            PRIMARY KEY (instance, model)
        ) STRICT, WITHOUT ROWID;
        CREATE TABLE journal_cursor (
            instance INTEGER PRIMARY KEY,
            sequence INTEGER NOT NULL
        ) STRICT;
        CREATE TABLE tally (
            name TEXT PRIMARY KEY,
            value INTEGER NOT NULL
        ) STRICT, WITHOUT ROWID;
        INSERT INTO tally (name, value) VALUES ('duplicates', 0), ('unreadable', 0);
        """

    private static let accounts = """
        CREATE TABLE account (
            id INTEGER PRIMARY KEY AUTOINCREMENT,
            label TEXT NOT NULL UNIQUE,
            created_at_us INTEGER NOT NULL
        ) STRICT;
        CREATE TABLE access_key (
            id INTEGER PRIMARY KEY AUTOINCREMENT,
            account INTEGER NOT NULL REFERENCES account (id),
            role INTEGER NOT NULL,
            digest BLOB NOT NULL UNIQUE,
            prefix TEXT NOT NULL,
            supplier INTEGER NOT NULL,
            created_at_us INTEGER NOT NULL,
            expires_at_ms INTEGER NOT NULL,
            revoked_at_us INTEGER
        ) STRICT;
        CREATE TABLE setting (
            name TEXT PRIMARY KEY,
            value TEXT NOT NULL
        ) STRICT, WITHOUT ROWID;
        """
}
