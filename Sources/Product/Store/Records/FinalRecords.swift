package import SluiceRecordFormat
package import SluiceWire

/// One finished task as `sluice records` prints it.
package struct FinalRecord: Equatable, Sendable {
    package var task: TaskID
    /// Wall clock, microseconds since 1970; nil if the ACCEPTED is missing.
    package var acceptedAtUs: UInt64?
    /// Empty if the NAME is missing.
    package var model: String
    package var status: TaskStatus
    package var code: WireCode
    package var finishReason: FinishReason?
    package var usage: Usage
    package var ttftUs: UInt64?
    package var durationUs: UInt64
    package var queueUs: UInt64
    package var charge: TaskCharge
    /// Nil = never dispatched.
    package var supplyType: SupplyType?
    package var dispatches: Int

    /// One JSON object in one line. Names and order of the first eleven keys are fixed; nothing
    /// needs escaping, since a model's name has no quotes, controls or backslashes.
    package var json: String {
        var fields: [(String, String)] = [
            ("taskID", quoted(task.description)),
            ("acceptedAt", acceptedAtUs.map { quoted(rfc3339($0)) } ?? "null"),
            ("model", quoted(model)),
            ("inputTokens", "\(usage.inputTokens)"),
            ("outputTokens", "\(usage.outputTokens)"),
            ("ttftUs", ttftUs.map { "\($0)" } ?? "null"),
            ("durationUs", "\(durationUs)"),
            ("consumerCostMicroUSD", "\(charge.consumerCost.rawValue)"),
            ("supplierEarningMicroUSD", "\(charge.supplierEarning.rawValue)"),
            ("supplyType", quoted(supplyType.map { "\($0)" } ?? "none")),
            ("status", quoted(status.text)),
        ]
        fields += [
            ("platformFeeMicroUSD", "\(charge.platformFee.rawValue)"),
            ("cachedTokens", "\(usage.cachedTokens)"),
            ("reasoningTokens", "\(usage.reasoningTokens)"),
            ("finishReason", finishReason.map { quoted("\($0)") } ?? "null"),
            ("code", quoted("\(code)")),
            ("queueUs", "\(queueUs)"),
            ("dispatches", "\(dispatches)"),
        ]
        return "{" + fields.map { "\"\($0)\":\($1)" }.joined(separator: ",") + "}"
    }

    private func quoted(_ text: String) -> String { "\"" + text + "\"" }
}

/// How many tasks the store knows.
package struct RecordCounts: Equatable, Sendable {
    package var accepted: Int
    package var final: Int
    /// Accepted and not final.
    package var open: Int
    /// Second ACCEPTED or ENDED records of a task; always 0 unless something is wrong.
    package var duplicates: Int

    package init(accepted: Int, final: Int, open: Int, duplicates: Int) {
        self.accepted = accepted
        self.final = final
        self.open = open
        self.duplicates = duplicates
    }

    /// One JSON object in one line.
    package var json: String {
        """
        {"accepted":\(accepted),"final":\(final),"open":\(open),"duplicates":\(duplicates)}
        """
    }
}

extension Store {
    /// The `count` final records that were applied last, oldest first; those of one transaction in
    /// the order of their acceptance.
    package func finalRecords(last count: Int) throws(StoreError) -> [FinalRecord] {
        try read { (transaction) throws(StoreError) in
            let rows = try transaction.query(
                """
                SELECT \(FinalRecord.columns), e.accepted_at_us, n.name
                FROM (SELECT * FROM ended_in_order
                    ORDER BY \(transaction.dialect.endOrder("DESC")) LIMIT $1) e
                LEFT JOIN model_name n ON n.instance = e.instance AND n.model = e.model
                ORDER BY e.position
                """, [.integer(Int64(max(0, count)))])
            var records: [FinalRecord] = []
            for row in rows { records.append(try FinalRecord(row)) }
            return records
        }
    }

    /// What the store counts, at one moment.
    package func counts() throws(StoreError) -> RecordCounts {
        try read { (transaction) throws(StoreError) in
            let rows = try transaction.query(
                """
                SELECT \(transaction.dialect.acceptedCount), (SELECT count(*) FROM ended),
                    (SELECT count(*) FROM open_task),
                    (SELECT value FROM tally WHERE name = 'duplicates')
                """)
            guard let row = rows.first else { throw .damaged }
            return RecordCounts(
                accepted: Int(try row.integer(0)), final: Int(try row.integer(1)),
                open: Int(try row.integer(2)), duplicates: Int(try row.integer(3)))
        }
    }
}

extension SQLDialect {
    /// How many tasks were accepted. In SQLite without looking into any row.
    fileprivate var acceptedCount: String {
        switch self {
        case .sqlite: "(SELECT count(*) FROM task) + (SELECT count(*) FROM open_task)"
        case .postgres: "(SELECT count(*) FROM accepted)"
        }
    }
}

extension FinalRecord {
    fileprivate static let columns = """
        e.instance, e.counter, e.status, e.code, e.finish_reason, e.input_tokens, \
        e.output_tokens, e.cached_tokens, e.reasoning_tokens, e.ttft_us, e.duration_us, \
        e.queue_us, e.consumer_cost, e.supplier_earning, e.platform_fee, e.supply_type, \
        e.dispatches
        """

    fileprivate init(_ row: SQLRow) throws(StoreError) {
        guard let status = TaskStatus(rawValue: UInt8(truncatingIfNeeded: try row.integer(2))),
            let code = WireCode(rawValue: UInt16(truncatingIfNeeded: try row.integer(3)))
        else { throw .damaged }
        let ttftUs = try row.unsigned(9)
        self.init(
            task: TaskID(instance: try row.unsigned(0), counter: try row.unsigned(1)),
            acceptedAtUs: try row.optionalInteger(17).map { unsigned($0) },
            model: row.values[18] == .null ? "" : try row.text(18), status: status, code: code,
            finishReason: FinishReason(rawValue: UInt8(truncatingIfNeeded: try row.integer(4))),
            usage: Usage(
                inputTokens: try row.unsigned32(5), outputTokens: try row.unsigned32(6),
                cachedTokens: try row.unsigned32(7), reasoningTokens: try row.unsigned32(8)),
            ttftUs: ttftUs == .max ? nil : ttftUs, durationUs: try row.unsigned(10),
            queueUs: try row.unsigned(11),
            charge: TaskCharge(
                consumerCost: MicroUSD(try row.integer(12)),
                supplierEarning: MicroUSD(try row.integer(13)),
                platformFee: MicroUSD(try row.integer(14))),
            supplyType: SupplyType(rawValue: UInt8(truncatingIfNeeded: try row.integer(15))),
            dispatches: Int(try row.integer(16)))
    }
}

/// `microseconds` since 1970 as RFC 3339 in UTC with six decimals.
func rfc3339(_ microseconds: UInt64) -> String {
    let seconds = microseconds / 1_000_000
    let (day, second) = (Int(seconds / 86_400), Int(seconds % 86_400))
    // Civil date from days: years begin in March, so that a leap day is a year's last.
    let shifted = day + 719_468
    let era = shifted / 146_097
    let dayOfEra = shifted % 146_097
    let yearOfEra =
        (dayOfEra - dayOfEra / 1_460 + dayOfEra / 36_524 - dayOfEra / 146_096) / 365
    let dayOfYear = dayOfEra - (365 * yearOfEra + yearOfEra / 4 - yearOfEra / 100)
    let monthFromMarch = (5 * dayOfYear + 2) / 153
    let dayOfMonth = dayOfYear - (153 * monthFromMarch + 2) / 5 + 1
    let month = monthFromMarch < 10 ? monthFromMarch + 3 : monthFromMarch - 9
    let year = yearOfEra + era * 400 + (month <= 2 ? 1 : 0)
    let date = "\(padded(year, 4))-\(padded(month, 2))-\(padded(dayOfMonth, 2))"
    let time =
        "\(padded(second / 3_600, 2)):\(padded(second / 60 % 60, 2)):\(padded(second % 60, 2))"
    return "\(date)T\(time).\(padded(Int(microseconds % 1_000_000), 6))Z"
}

private func padded(_ value: Int, _ width: Int) -> String {
    let digits = String(value)
    return String(repeating: "0", count: max(0, width - digits.count)) + digits
}
