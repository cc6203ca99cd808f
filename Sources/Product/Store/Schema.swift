/// The tables, version by version, for both engines. A migration that has been released is never
/// changed.
///
/// 64-bit ids are stored as signed numbers with the same bits. No column holds text from the wire
/// except the names of models, which come from suppliers' offers and operators.
enum Schema {
    struct Migration: Sendable {
        var name: String
        /// Statements of one engine.
        var sql: @Sendable (SQLDialect) -> String
    }

    static let migrations = [
        Migration(name: "1 tasks", sql: records),
        Migration(name: "2 accounts", sql: accounts),
        Migration(name: "3 money", sql: money),
        Migration(name: "4 changes and audit", sql: changes),
        Migration(name: "5 retention", sql: retention),
        Migration(name: "6 packed tasks", sql: packedTasks),
        Migration(name: "7 newest tasks", sql: newestTasks),
    ]

    private static func columns(_ table: RecordTable, _ dialect: SQLDialect) -> String {
        table.columns.map { "\($0) \(dialect.integer) NOT NULL" }.joined(separator: ", ")
    }

    /// In PostgreSQL a table by days, whose unique key has to name the day: a task's day is that
    /// of its ACCEPTED, so the same task always meets the same key.
    private static func byDay(_ table: RecordTable, _ dialect: SQLDialect) -> String {
        let key = table.key.joined(separator: ", ")
        return switch dialect {
        case .sqlite:
            """
            CREATE TABLE \(table.name) (\(columns(table, dialect)),
                PRIMARY KEY (\(key))) STRICT, WITHOUT ROWID;
            """
        case .postgres:
            """
            CREATE TABLE \(table.name) (\(columns(table, dialect)),
                PRIMARY KEY (\(key), day)) PARTITION BY RANGE (day);
            CREATE TABLE \(table.name)_rest PARTITION OF \(table.name) DEFAULT;
            """
        }
    }

    private static func byKey(_ table: RecordTable, _ dialect: SQLDialect) -> String {
        """
        CREATE TABLE \(table.name) (\(columns(table, dialect)),
            PRIMARY KEY (\(table.key.joined(separator: ", "))) \(dialect.endByKey)
        """
    }

    @Sendable private static func records(_ dialect: SQLDialect) -> String {
        let integer = dialect.integer
        // `position` is the order in which tasks were applied: in SQLite the table's own order.
        let ended =
            switch dialect {
            case .sqlite:
                """
                CREATE TABLE ended (
                    position INTEGER PRIMARY KEY,
                    \(RecordTable.ended.columns.dropFirst().map { "\($0) INTEGER NOT NULL" }
                        .joined(separator: ", ")),
                    UNIQUE (instance, counter)) STRICT;
                """
            case .postgres:
                byDay(.ended, dialect)
                    + """

                    CREATE INDEX ended_by_position ON ended (position);
                    CREATE INDEX accepted_by_account ON accepted (account, accepted_at_us);
                    """
            }
        return """
            \(byDay(.accepted, dialect))
            \(ended)
            \(byDay(.refused, dialect))
            \(byKey(.openTask, dialect))
            \(byKey(.idempotency, dialect))
            CREATE TABLE early_end (
                instance \(integer) NOT NULL,
                counter \(integer) NOT NULL,
                record \(dialect.bytes) NOT NULL,
                PRIMARY KEY (instance, counter)
            \(dialect.endByKey)
            CREATE TABLE instance (
                instance \(integer) PRIMARY KEY,
                node \(integer) NOT NULL,
                started_at_us \(integer) NOT NULL,
                closed_at_us \(integer)
            \(dialect.end)
            CREATE TABLE model_name (
                instance \(integer) NOT NULL,
                model \(integer) NOT NULL,
                name TEXT NOT NULL,
                PRIMARY KEY (instance, model)
            \(dialect.endByKey)
            CREATE TABLE journal_cursor (
                instance \(integer) PRIMARY KEY,
                sequence \(integer) NOT NULL
            \(dialect.end)
            CREATE TABLE tally (
                name TEXT PRIMARY KEY,
                value \(integer) NOT NULL
            \(dialect.endByKey)
            INSERT INTO tally (name, value) VALUES
                ('duplicates', 0), ('unreadable', 0), ('position', 0);
            """
    }

    @Sendable private static func accounts(_ dialect: SQLDialect) -> String {
        let integer = dialect.integer
        let bytes = dialect.bytes
        return """
            CREATE TABLE account (
                id \(dialect.identity),
                label TEXT NOT NULL UNIQUE,
                kinds \(integer) NOT NULL,
                is_prepaid \(integer) NOT NULL,
                is_suspended \(integer) NOT NULL,
                concurrent_tasks \(integer) NOT NULL,
                requests_per_minute \(integer) NOT NULL,
                tokens_per_minute \(integer) NOT NULL,
                created_at_us \(integer) NOT NULL
            \(dialect.end)
            CREATE TABLE person (
                account \(integer) PRIMARY KEY REFERENCES account (id),
                wrapped_key \(bytes) NOT NULL
            \(dialect.end)
            CREATE TABLE person_field (
                account \(integer) NOT NULL REFERENCES person (account),
                field \(integer) NOT NULL,
                sealed \(bytes) NOT NULL,
                PRIMARY KEY (account, field)
            \(dialect.endByKey)
            CREATE TABLE access_key (
                id \(dialect.identity),
                account \(integer) NOT NULL REFERENCES account (id),
                role \(integer) NOT NULL,
                digest \(bytes) NOT NULL UNIQUE,
                prefix TEXT NOT NULL,
                supplier \(integer) NOT NULL,
                operations \(integer) NOT NULL,
                concurrent_tasks \(integer) NOT NULL,
                requests_per_minute \(integer) NOT NULL,
                tokens_per_minute \(integer) NOT NULL,
                created_at_us \(integer) NOT NULL,
                expires_at_ms \(integer) NOT NULL,
                revoked_at_us \(integer)
            \(dialect.end)
            CREATE INDEX access_key_by_prefix ON access_key (prefix);
            CREATE INDEX access_key_by_account ON access_key (account);
            CREATE TABLE address_hash (
                generation \(integer) NOT NULL,
                hash \(bytes) NOT NULL,
                account \(integer) NOT NULL,
                seen_at_us \(integer) NOT NULL,
                PRIMARY KEY (generation, hash, account)
            \(dialect.endByKey)
            CREATE TABLE setting (
                name TEXT PRIMARY KEY,
                value TEXT NOT NULL
            \(dialect.endByKey)
            """
    }

    /// Postings have no key of their own: nothing looks for one, and that no entry comes twice is
    /// decided by `ledger_entry`.
    @Sendable private static func money(_ dialect: SQLDialect) -> String {
        let integer = dialect.integer
        return """
            \(byKey(.ledgerEntry, dialect))
            CREATE TABLE posting (\(columns(.posting, dialect)) \(dialect.end)
            \(byKey(.balance, dialect))
            \(appendOnly("ledger_entry", dialect))
            \(appendOnly("posting", dialect))
            CREATE TABLE model_price (
                model TEXT NOT NULL,
                effective_from_ms \(integer) NOT NULL,
                input \(integer) NOT NULL,
                cached \(integer) NOT NULL,
                output \(integer) NOT NULL,
                reasoning \(integer) NOT NULL,
                is_removed \(integer) NOT NULL,
                PRIMARY KEY (model, effective_from_ms)
            \(dialect.endByKey)
            CREATE TABLE fee (
                effective_from_ms \(integer) PRIMARY KEY,
                basis_points \(integer) NOT NULL
            \(dialect.end)
            CREATE TABLE lease (
                account \(integer) NOT NULL,
                instance \(integer) NOT NULL,
                node \(integer) NOT NULL,
                granted \(integer) NOT NULL,
                spent \(integer) NOT NULL,
                returned \(integer) NOT NULL,
                recalled \(integer) NOT NULL,
                wanted \(integer) NOT NULL,
                expires_at_ms \(integer) NOT NULL,
                is_dry \(integer) NOT NULL,
                is_closed \(integer) NOT NULL,
                PRIMARY KEY (account, instance),
                CHECK (spent >= 0 AND returned >= 0 AND spent + returned <= granted)
            \(dialect.endByKey)
            CREATE TABLE wallet_event (
                id \(dialect.identity),
                account \(integer) NOT NULL REFERENCES account (id),
                kind \(integer) NOT NULL,
                amount \(integer) NOT NULL,
                reference TEXT NOT NULL,
                at_us \(integer) NOT NULL,
                UNIQUE (kind, reference)
            \(dialect.end)
            CREATE INDEX wallet_event_by_account ON wallet_event (account, id);
            CREATE TABLE payout (
                id \(dialect.identity),
                account \(integer) NOT NULL REFERENCES account (id),
                amount \(integer) NOT NULL,
                state \(integer) NOT NULL,
                idempotency_key TEXT NOT NULL UNIQUE,
                requested_at_us \(integer) NOT NULL,
                settled_at_us \(integer)
            \(dialect.end)
            CREATE INDEX payout_by_account ON payout (account, id);
            """
    }

    @Sendable private static func changes(_ dialect: SQLDialect) -> String {
        let integer = dialect.integer
        return """
            CREATE TABLE changes (
                id \(dialect.identity),
                node \(integer) NOT NULL,
                block \(dialect.bytes) NOT NULL
            \(dialect.end)
            CREATE TABLE audit (
                id \(dialect.identity),
                at_us \(integer) NOT NULL,
                actor \(integer) NOT NULL,
                action \(integer) NOT NULL,
                subject \(integer) NOT NULL,
                amount \(integer) NOT NULL
            \(dialect.end)
            \(appendOnly("audit", dialect))
            """
    }

    /// When an account was anonymised, and the secrets of address hashes, which only a master key
    /// opens.
    @Sendable private static func retention(_ dialect: SQLDialect) -> String {
        let integer = dialect.integer
        return """
            CREATE TABLE anonymised (
                account \(integer) PRIMARY KEY REFERENCES account (id),
                at_us \(integer) NOT NULL
            \(dialect.end)
            CREATE TABLE address_secret (
                generation \(dialect.identity),
                wrapped_key \(dialect.bytes) NOT NULL,
                made_at_us \(integer) NOT NULL
            \(dialect.end)
            """
    }

    /// One packed row for each task in SQLite. PostgreSQL keeps its tables by days.
    @Sendable private static func packedTasks(_ dialect: SQLDialect) -> String {
        dialect == .sqlite ? PackedTask.migration : PackedTask.postgresViews
    }

    /// The highest counter of an instance's tasks, as the engines compare numbers; 0 before the
    /// first.
    @Sendable private static func newestTasks(_ dialect: SQLDialect) -> String {
        let tables = dialect == .sqlite ? ["task", "open_task"] : ["accepted"]
        let counters = tables.map {
            "SELECT max(counter) AS counter FROM \($0) WHERE instance = journal_cursor.instance"
        }
        return """
            ALTER TABLE journal_cursor
                ADD COLUMN newest_task \(dialect.integer) NOT NULL DEFAULT 0;
            UPDATE journal_cursor SET newest_task = coalesce((
                SELECT max(counter) FROM (\(counters.joined(separator: " UNION ALL "))) c), 0);
            """
    }

    /// Triggers that refuse to change or remove what was written.
    private static func appendOnly(_ table: String, _ dialect: SQLDialect) -> String {
        switch dialect {
        case .sqlite:
            """
            CREATE TRIGGER \(table)_is_not_changed BEFORE UPDATE ON \(table)
            BEGIN SELECT RAISE(ABORT, 'append only'); END;
            CREATE TRIGGER \(table)_is_not_removed BEFORE DELETE ON \(table)
            BEGIN SELECT RAISE(ABORT, 'append only'); END;
            """
        case .postgres:
            """
            CREATE OR REPLACE FUNCTION refuse_change() RETURNS trigger LANGUAGE plpgsql AS
            $$ BEGIN RAISE EXCEPTION 'append only' USING ERRCODE = '23001'; END $$;
            CREATE TRIGGER \(table)_is_not_changed BEFORE UPDATE OR DELETE OR TRUNCATE ON \(table)
            FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();
            """
        }
    }
}
