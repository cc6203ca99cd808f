import SluiceRecordFormat
package import SluiceWire

/// What ended tasks are summed by.
package enum UsageGrouping: String, CaseIterable, Sendable {
    case account, model, supplier, status, day
}

/// The tasks of one group that were accepted in a span of time and have ended.
package struct UsageRow: Equatable, Sendable {
    /// Label of the account, name of the model, identity of the supplier, status, or date; empty
    /// where the records have none.
    package var group: String
    package var tasks: UInt64 = 0
    package var completed: UInt64 = 0
    package var inputTokens: UInt64 = 0
    package var cachedTokens: UInt64 = 0
    package var outputTokens: UInt64 = 0
    package var reasoningTokens: UInt64 = 0
    package var cost = MicroUSD(0)
    package var earning = MicroUSD(0)
    package var fee = MicroUSD(0)
    /// Means over the tasks that have them, microseconds; nil for none.
    package var queueUs: UInt64?
    package var ttftUs: UInt64?
}

extension Store {
    /// Sums of what ended, for tasks accepted in `range` (wall clock, µs since 1970), largest cost
    /// first.
    ///
    /// - Parameters:
    ///   - account: The consumer's; nil = all.
    ///   - count: Rows at most.
    package func usage(
        by grouping: UsageGrouping, account: UInt64? = nil, _ range: Range<UInt64>,
        count: Int = 1_000
    ) throws(StoreError) -> [UsageRow] {
        try read { (transaction) throws(StoreError) in
            let key = grouping.key
            let rows = try transaction.query(
                """
                SELECT \(key.value), \(Self.sums(transaction.dialect))
                FROM ended_task e
                LEFT JOIN ledger_entry u
                    ON u.kind = 6 AND u.high = e.instance AND u.low = e.counter
                \(key.join)
                WHERE e.accepted_at_us >= $1 AND e.accepted_at_us < $2
                    AND ($3 = 0 OR e.account = $4)
                GROUP BY \(key.value)
                ORDER BY 8 DESC, 2 DESC, 1 LIMIT $5
                """,
                [
                    .integer(Int64(clamping: range.lowerBound)),
                    .integer(Int64(clamping: range.upperBound)),
                    .integer(account == nil ? 0 : 1), .integer(signed(account ?? 0)),
                    .integer(Int64(max(0, count))),
                ])
            var usage: [UsageRow] = []
            for row in rows { usage.append(try UsageRow(row, grouping)) }
            return usage
        }
    }

    /// Nobody pays or earns what was not posted; and its sum may not fit.
    private static func posted(_ amount: String) -> String {
        "sum(CASE WHEN u.kind IS NULL THEN \(amount) ELSE 0 END)"
    }

    /// Not those without output, and none that a damaged record made longer than any task runs: the
    /// sum is to fit.
    private static let hasTTFT = "e.ttft_us BETWEEN 0 AND 3600000000"

    /// PostgreSQL sums whole numbers into wider ones.
    private static func sums(_ dialect: SQLDialect) -> String {
        let sums = [
            "count(*)", "sum(CASE e.status WHEN 1 THEN 1 ELSE 0 END)", "sum(e.input_tokens)",
            "sum(e.cached_tokens)", "sum(e.output_tokens)", "sum(e.reasoning_tokens)",
            posted("e.consumer_cost"), posted("e.supplier_earning"), posted("e.platform_fee"),
            "sum(CASE WHEN e.dispatches > 0 THEN e.queue_us ELSE 0 END)",
            "sum(CASE WHEN e.dispatches > 0 THEN 1 ELSE 0 END)",
            "sum(CASE WHEN \(hasTTFT) THEN e.ttft_us ELSE 0 END)",
            "sum(CASE WHEN \(hasTTFT) THEN 1 ELSE 0 END)",
        ]
        return sums.map { "CAST(\($0) AS \(dialect.integer))" }.joined(separator: ", ")
    }
}

extension UsageGrouping {
    /// The expression to group by, and the table that it needs.
    fileprivate var key: (value: String, join: String) {
        switch self {
        case .account: ("acc.label", "LEFT JOIN account acc ON acc.id = e.account")
        case .model:
            ("n.name", "LEFT JOIN model_name n ON n.instance = e.instance AND n.model = e.model")
        case .supplier: ("e.supplier", "")
        case .status: ("e.status", "")
        case .day: ("e.day", "")
        }
    }
}

extension UsageRow {
    fileprivate init(_ row: SQLRow, _ grouping: UsageGrouping) throws(StoreError) {
        self.init(group: try Self.group(row, grouping))
        tasks = try row.unsigned(1)
        completed = try row.unsigned(2)
        inputTokens = try row.unsigned(3)
        cachedTokens = try row.unsigned(4)
        outputTokens = try row.unsigned(5)
        reasoningTokens = try row.unsigned(6)
        cost = MicroUSD(try row.integer(7))
        earning = MicroUSD(try row.integer(8))
        fee = MicroUSD(try row.integer(9))
        queueUs = mean(try row.unsigned(10), try row.unsigned(11))
        ttftUs = mean(try row.unsigned(12), try row.unsigned(13))
    }

    private static func group(
        _ row: SQLRow, _ grouping: UsageGrouping
    ) throws(StoreError) -> String {
        guard row.values[0] != .null else { return "" }
        switch grouping {
        case .account, .model: return try row.text(0)
        case .supplier:
            let identity = try row.unsigned(0)
            return identity == 0 ? "" : String(identity)
        case .status:
            let number = UInt8(truncatingIfNeeded: try row.integer(0))
            guard let status = TaskStatus(rawValue: number) else { throw .damaged }
            return status.text
        case .day: return String(rfc3339(try row.unsigned(0) * 86_400_000_000).prefix(10))
        }
    }
}

private func mean(_ sum: UInt64, _ count: UInt64) -> UInt64? {
    count == 0 ? nil : sum / count
}
