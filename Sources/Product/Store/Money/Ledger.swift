import SluiceLedgerCore
import SluiceRecordFormat
import SluiceWire

extension Store {
    /// How many tasks of which nothing is posted `ledgerCheck` names.
    package static let unpostedTasksNamed = 100

    /// All balances, by kind and account.
    package func balances() throws(StoreError) -> [LedgerBalance] {
        try read { (transaction) throws(StoreError) in
            var balances: [LedgerBalance] = []
            for row in try transaction.query(
                "SELECT kind, owner, amount FROM balance ORDER BY kind, owner")
            {
                guard
                    let account = LedgerAccount(
                        kind: try row.integer(0), owner: try row.unsigned(1))
                else { throw .damaged }
                balances.append(
                    LedgerBalance(account: account, amount: MicroUSD(try row.integer(2))))
            }
            return balances
        }
    }

    /// Looks through all postings, balances, leases and ended tasks at one moment.
    package func ledgerCheck() throws(StoreError) -> LedgerCheck {
        try read { (transaction) throws(StoreError) in
            func count(_ sql: String) throws(StoreError) -> Int {
                guard let row = try transaction.query(sql).first else { throw .damaged }
                return Int(try row.integer(0))
            }
            let integer = transaction.dialect.integer
            return LedgerCheck(
                sum: MicroUSD(
                    Int64(
                        try count(
                            "SELECT CAST(coalesce(sum(amount), 0) AS \(integer)) FROM posting"))),
                accounts: try count("SELECT count(*) FROM balance"),
                postings: try count("SELECT count(*) FROM posting"),
                tasks: try count("SELECT count(*) FROM ended"),
                unsettled: try count(
                    """
                    SELECT (SELECT count(*) FROM early_end) + (SELECT count(*) FROM ended e
                    LEFT JOIN ledger_entry l ON l.kind IN (1, 6)
                        AND l.high = e.instance AND l.low = e.counter
                    WHERE l.kind IS NULL AND (e.consumer_cost <> 0 OR e.supplier_earning <> 0))
                    """),
                unposted: try count("SELECT count(*) FROM ledger_entry WHERE kind = 6"),
                unpostedTasks: try transaction.unpostedTasks(last: Self.unpostedTasksNamed),
                negativeBalances: try count(
                    """
                    SELECT count(*) FROM balance b WHERE b.amount < 0 AND (b.kind = 2
                        OR b.kind = 1 AND b.owner IN (SELECT id FROM account
                            WHERE is_prepaid <> 0))
                    """),
                contradictions: try count(
                    """
                    SELECT (SELECT count(*) FROM (
                            SELECT account_kind, owner, sum(amount) AS amount FROM posting
                            GROUP BY account_kind, owner) p
                        FULL JOIN balance b ON b.kind = p.account_kind AND b.owner = p.owner
                        WHERE coalesce(p.amount, 0) <> coalesce(b.amount, 0))
                    + (SELECT count(*) FROM (SELECT 1 AS one FROM posting
                        GROUP BY kind, high, low HAVING sum(amount) <> 0) x)
                    + (SELECT count(*) FROM (
                        SELECT account, sum(granted - spent - returned) AS leased FROM lease
                        WHERE is_closed = 0 GROUP BY account) l
                        LEFT JOIN balance b ON b.kind = 1 AND b.owner = l.account
                        WHERE l.leased > coalesce(b.amount, 0))
                    """))
        }
    }

    /// What a consumer's posted tasks cost that were accepted in `range` (wall clock, µs since 1970),
    /// oldest first, from their records alone.
    package func consumerStatement(
        _ account: UInt64, _ range: Range<UInt64>
    ) throws(StoreError) -> Statement {
        try statement("e.account = $3", amount: "e.consumer_cost", account, range)
    }

    /// What the tasks earned that a supplier's account served.
    package func supplierStatement(
        _ account: UInt64, _ range: Range<UInt64>
    ) throws(StoreError) -> Statement {
        try statement(
            "e.supplier <> 0 AND e.supplier IN (SELECT id FROM access_key WHERE account = $3)",
            amount: "e.supplier_earning", account, range)
    }

    private func statement(
        _ condition: String, amount: String, _ account: UInt64, _ range: Range<UInt64>
    ) throws(StoreError) -> Statement {
        try read { (transaction) throws(StoreError) in
            let rows = try transaction.query(
                """
                SELECT e.instance, e.counter, e.accepted_at_us, n.name, e.input_tokens,
                    e.cached_tokens, e.output_tokens, e.reasoning_tokens, \(amount)
                FROM ended_task e
                LEFT JOIN model_name n ON n.instance = e.instance AND n.model = e.model
                WHERE e.accepted_at_us >= $1 AND e.accepted_at_us < $2 AND \(condition)
                    AND \(amount) <> 0 AND NOT EXISTS (SELECT 1 FROM ledger_entry u
                        WHERE u.kind = 6 AND u.high = e.instance AND u.low = e.counter)
                ORDER BY e.accepted_at_us, e.instance, e.counter
                """,
                [
                    .integer(Int64(clamping: range.lowerBound)),
                    .integer(Int64(clamping: range.upperBound)), .integer(signed(account)),
                ])
            var statement = Statement(lines: [], total: 0)
            for row in rows {
                let amount = try row.integer(8)
                statement.lines.append(
                    Statement.Line(
                        task: TaskID(instance: try row.unsigned(0), counter: try row.unsigned(1)),
                        acceptedAtUs: try row.unsigned(2),
                        model: row.values[3] == .null ? "" : try row.text(3),
                        usage: Usage(
                            inputTokens: try row.unsigned32(4),
                            outputTokens: try row.unsigned32(6),
                            cachedTokens: try row.unsigned32(5),
                            reasoningTokens: try row.unsigned32(7)), amount: MicroUSD(amount)))
                statement.total = MicroUSD(try checkedSum(statement.total.rawValue, amount))
            }
            return statement
        }
    }
}

extension StoreTransaction {
    /// The newest tasks of which nothing is posted, newest first.
    fileprivate func unpostedTasks(last count: Int) throws(StoreError) -> [TaskID] {
        try query(
            """
            SELECT high, low FROM ledger_entry WHERE kind = 6
            ORDER BY at_us DESC, high, low LIMIT $1
            """, [.integer(Int64(count))]
        ).map { (row) throws(StoreError) in
            TaskID(instance: try row.unsigned(0), counter: try row.unsigned(1))
        }
    }
}
