/// The tables that journal records fill. All columns are whole numbers and none is null: what a
/// record does not say keeps the value that the record has for it (`Protocol/Files.md`). SQLite has
/// views of the names `accepted` and `ended`, and its tasks in another shape (`PackedTask`).
extension RecordTable {
    static let accepted = RecordTable(
        name: "accepted",
        columns: [
            "instance", "counter", "day", "accepted_at_us", "account", "key_digest_prefix",
            "model", "operation", "encoding", "priority", "preference", "deadline_ms",
            "body_bytes", "max_input_tokens", "max_output_tokens", "input_price", "output_price",
            "trace_high", "trace_low", "trace_span", "idempotency_digest",
        ], key: ["instance", "counter"])

    static let ended = RecordTable(
        name: "ended",
        columns: [
            "position", "instance", "counter", "day", "status", "code", "finish_reason",
            "input_tokens", "cached_tokens", "output_tokens", "reasoning_tokens",
            "delivered_bytes", "ttft_us", "duration_us", "queue_us", "consumer_cost",
            "supplier_earning", "platform_fee", "supplier", "offer_model", "supply_type",
            "dispatches", "win_reason",
        ], key: ["instance", "counter"])

    /// SQLite's runs of tasks that ended together: the counters `first` to `last` of an instance
    /// have the positions from `position` on.
    static let endedRun = RecordTable(
        name: "ended_run", columns: ["position", "instance", "first", "last"], key: ["position"])

    static let refused = RecordTable(
        name: "refused",
        columns: [
            "instance", "sequence", "day", "account", "refused_at_us", "code", "model", "count",
        ], key: ["instance", "sequence"])

    /// Tasks that have an ACCEPTED and no ENDED.
    static let openTask = RecordTable(
        name: "open_task",
        columns: ["instance", "counter", "accepted_at_us", "account", "is_repeat"],
        key: ["instance", "counter"])

    static let idempotency = RecordTable(
        name: "idempotency", columns: ["account", "digest", "instance", "counter", "at_us"],
        key: ["account", "digest"])

    static let ledgerEntry = RecordTable(
        name: "ledger_entry", columns: ["kind", "high", "low", "at_us"],
        key: ["kind", "high", "low"])

    static let posting = RecordTable(
        name: "posting",
        columns: ["kind", "high", "low", "account_kind", "owner", "amount"],
        key: ["kind", "high", "low", "account_kind", "owner"])

    /// The sum of all postings of each account.
    static let balance = RecordTable(
        name: "balance", columns: ["kind", "owner", "amount"], key: ["kind", "owner"])
}

/// Day of a time, counted from 1970 in UTC: what records are partitioned and kept by.
func day(ofMicroseconds microseconds: UInt64) -> Int64 {
    Int64(microseconds / 86_400_000_000)
}
