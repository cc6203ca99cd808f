import GRDB
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
    /// The `count` final records that were applied last, oldest first.
    package func finalRecords(last count: Int) throws(StoreError) -> [FinalRecord] {
        try read { database in
            try Row.fetchAll(
                database,
                sql: """
                    SELECT e.*, a.accepted_at_us AS accepted_at_us, n.name AS name
                    FROM (SELECT * FROM ended ORDER BY id DESC LIMIT ?) e
                    LEFT JOIN accepted a ON a.instance = e.instance AND a.counter = e.counter
                    LEFT JOIN model_name n ON n.instance = a.instance AND n.model = a.model
                    ORDER BY e.id
                    """, arguments: [max(0, count)]
            ).map { try FinalRecord($0) }
        }
    }

    /// What the store counts, at one moment.
    package func counts() throws(StoreError) -> RecordCounts {
        try read { database in
            let row = try Row.fetchOne(
                database,
                sql: """
                    SELECT (SELECT count(*) FROM accepted), (SELECT count(*) FROM ended),
                        (SELECT count(*) FROM accepted a WHERE NOT EXISTS (
                            SELECT 1 FROM ended e
                            WHERE e.instance = a.instance AND e.counter = a.counter)),
                        (SELECT value FROM tally WHERE name = 'duplicates')
                    """)
            guard let row else { throw StoreError.damaged }
            return RecordCounts(
                accepted: row[0], final: row[1], open: row[2], duplicates: row[3])
        }
    }
}

extension FinalRecord {
    fileprivate init(_ row: Row) throws {
        guard let status = TaskStatus(rawValue: row["status"]),
            let code = WireCode(rawValue: row["code"])
        else { throw StoreError.damaged }
        let acceptedAtUs: Int64? = row["accepted_at_us"]
        let ttftUs: Int64? = row["ttft_us"]
        let finishReason: UInt8? = row["finish_reason"]
        self.init(
            task: TaskID(instance: unsigned(row["instance"]), counter: unsigned(row["counter"])),
            acceptedAtUs: acceptedAtUs.map { unsigned($0) }, model: row["name"] ?? "",
            status: status, code: code,
            finishReason: finishReason.flatMap { FinishReason(rawValue: $0) },
            usage: Usage(
                inputTokens: row["input_tokens"], outputTokens: row["output_tokens"],
                cachedTokens: row["cached_tokens"], reasoningTokens: row["reasoning_tokens"]),
            ttftUs: ttftUs.map { unsigned($0) }, durationUs: unsigned(row["duration_us"]),
            queueUs: unsigned(row["queue_us"]),
            charge: TaskCharge(
                consumerCost: MicroUSD(row["consumer_cost"]),
                supplierEarning: MicroUSD(row["supplier_earning"]),
                platformFee: MicroUSD(row["platform_fee"])),
            supplyType: SupplyType(rawValue: row["supply_type"]), dispatches: row["dispatches"])
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
