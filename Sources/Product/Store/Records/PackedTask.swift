/// The row of a task in SQLite: all that its ACCEPTED and its ENDED say, packed
/// (`PackedIntegers`), and the views in which the rest of the store reads it.
///
///     task (instance, counter, record)            one for each task that has ended
///     open_task (…, record)                       what is open, with its ACCEPTED alone
///     ended_run (position, instance, first, last) the order in which tasks ended
enum PackedTask {
    // What rows hold and a released migration reads: their order is fixed for ever.

    /// Numbers of an ACCEPTED, in their order.
    static let acceptedFields = [
        "accepted_at_us", "account", "key_digest_prefix", "model", "operation", "encoding",
        "priority", "preference", "deadline_ms", "body_bytes", "max_input_tokens",
        "max_output_tokens", "input_price", "output_price", "trace_high", "trace_low",
        "trace_span", "idempotency_digest",
    ]
    /// Those that follow in the row of a task that has ended.
    static let endedFields = [
        "status", "code", "finish_reason", "input_tokens", "cached_tokens", "output_tokens",
        "reasoning_tokens", "delivered_bytes", "ttft_us", "duration_us", "queue_us",
        "consumer_cost", "supplier_earning", "platform_fee", "supplier", "offer_model",
        "supply_type", "dispatches", "win_reason",
    ]
    /// Where the model stands that was asked for.
    static let model = 3

    private static let dayUs = 86_400_000_000
    /// Of those whose microseconds are a whole number to SQLite.
    private static let lastDay = Int.max / dayUs - 1

    /// The statements that move `accepted` and `ended` of earlier versions into `task`.
    static var migration: String {
        let rest = acceptedFields.dropFirst().map { "a.\($0)" }.joined(separator: ", ")
        let ended = endedFields.map { "e.\($0)" }.joined(separator: ", ")
        let zeros = String(repeating: ", 0", count: acceptedFields.count - 2)
        return """
            CREATE TABLE task (
                instance INTEGER NOT NULL,
                counter INTEGER NOT NULL,
                record BLOB NOT NULL,
                PRIMARY KEY (instance, counter)) STRICT, WITHOUT ROWID;
            CREATE TABLE ended_run (
                position INTEGER PRIMARY KEY,
                instance INTEGER NOT NULL,
                first INTEGER NOT NULL,
                last INTEGER NOT NULL) STRICT;
            INSERT INTO task (instance, counter, record)
                SELECT e.instance, e.counter, pack_integers(
                    coalesce(a.accepted_at_us, min(e.day, \(lastDay)) * \(dayUs)),
                    \(rest), \(ended))
                FROM ended e LEFT JOIN accepted a
                    ON a.instance = e.instance AND a.counter = e.counter
                ORDER BY e.instance, e.counter;
            \(runs)
            ALTER TABLE open_task ADD COLUMN record BLOB NOT NULL DEFAULT x'';
            UPDATE open_task SET record = coalesce((
                SELECT pack_integers(a.accepted_at_us, \(rest)) FROM accepted a
                WHERE a.instance = open_task.instance AND a.counter = open_task.counter),
                pack_integers(accepted_at_us, account\(zeros)));
            INSERT INTO open_task (
                instance, counter, accepted_at_us, account, is_repeat, record)
                SELECT a.instance, a.counter, a.accepted_at_us, a.account, 0,
                    pack_integers(a.accepted_at_us, \(rest))
                FROM accepted a WHERE NOT EXISTS (SELECT 1 FROM open_task o
                        WHERE o.instance = a.instance AND o.counter = a.counter)
                    AND NOT EXISTS (SELECT 1 FROM ended e
                        WHERE e.instance = a.instance AND e.counter = a.counter);
            DROP TABLE accepted;
            DROP TABLE ended;
            \(views)
            """
    }

    /// Neighbours in both orders are one run: their counters and their positions go up by one.
    /// A run is no longer than those of a transaction are. A counter that SQLite could not subtract
    /// is one of its own.
    private static let runs = """
        INSERT INTO ended_run (position, instance, first, last)
            SELECT min(position), instance, min(counter), max(counter) FROM (
                SELECT position, instance, counter, lane, alone,
                    row_number() OVER (PARTITION BY instance, lane, alone ORDER BY counter) AS rank
                FROM (
                    SELECT position, instance, counter,
                        CASE WHEN counter BETWEEN 0 AND 1 << 60 THEN position - counter END AS lane,
                        CASE WHEN counter BETWEEN 0 AND 1 << 60 THEN 0 ELSE position END AS alone
                    FROM ended))
            GROUP BY instance, lane, alone,
                CASE WHEN alone = 0 THEN counter - rank END, counter / 4096;
        """

    private static var views: String {
        let day = "packed_integer(record, 0) / \(dayUs) AS day"
        func list(_ fields: [String], from first: Int) -> String {
            fields.enumerated().map { "packed_integer(record, \(first + $0)) AS \($1)" }
                .joined(separator: ", ")
        }
        let accepted = list(acceptedFields, from: 0)
        let ended = list(endedFields, from: acceptedFields.count)
        let all = (acceptedFields + endedFields).map { "t.\($0)" }.joined(separator: ", ")
        return """
            CREATE VIEW accepted AS
                SELECT instance, counter, \(day), \(accepted) FROM task
                UNION ALL SELECT instance, counter, \(day), \(accepted) FROM open_task;
            CREATE VIEW ended AS SELECT instance, counter, \(day), \(ended) FROM task;
            CREATE VIEW ended_task AS
                SELECT instance, counter, \(day), \(accepted), \(ended) FROM task;
            CREATE VIEW ended_in_order AS
                SELECT r.position + (t.counter - r.first) AS position, r.position AS run,
                    t.instance, t.counter, t.day, \(all)
                FROM ended_run r CROSS JOIN ended_task t
                    ON t.instance = r.instance AND t.counter BETWEEN r.first AND r.last;
            """
    }

    /// The views of PostgreSQL, which keeps both tables.
    static var postgresViews: String {
        let columns =
            (["instance", "counter", "day"] + acceptedFields).map { "a.\($0)" }
            + endedFields.map { "e.\($0)" }
        let list = columns.joined(separator: ", ")
        let join = """
            FROM accepted a JOIN ended e
                ON e.instance = a.instance AND e.counter = a.counter AND e.day = a.day;
            """
        return """
            CREATE VIEW ended_task AS SELECT \(list) \(join)
            CREATE VIEW ended_in_order AS SELECT e.position, \(list) \(join)
            """
    }
}

extension SQLDialect {
    /// What `ended_in_order` is sorted by: as SQLite finds it, without sorting.
    func endOrder(_ direction: String = "") -> String {
        self == .sqlite ? "run \(direction), counter \(direction)" : "position \(direction)"
    }
}
