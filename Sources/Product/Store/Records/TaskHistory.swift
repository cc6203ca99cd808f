package import SluiceLedgerCore
package import SluiceRecordFormat
package import SluiceWire

/// Everything that the store knows of one task: what decides a dispute. No record holds a prompt
/// or an answer, so none of it is here.
package struct TaskHistory: Equatable, Sendable {
    /// The last word about it.
    package struct End: Equatable, Sendable {
        package var status: TaskStatus
        package var code: WireCode
        /// Nil unless the supplier said one.
        package var finishReason: FinishReason?
        package var usage: Usage
        /// Payload bytes sealed to the client.
        package var deliveredBytes: UInt64
        /// From the last body fragment in to the first tokens out; nil without output.
        package var ttftUs: UInt64?
        /// From acceptance to the end.
        package var durationUs: UInt64
        /// From acceptance to the first dispatch.
        package var queueUs: UInt64
        package var charge: TaskCharge
        /// Nil = never dispatched.
        package var supplier: Supplier?
    }

    /// Who ran it last.
    package struct Supplier: Equatable, Sendable {
        /// Identity that its token gives it.
        package var identity: UInt64
        /// Nil if the token is not known to this store.
        package var account: Party?
        package var supplyType: SupplyType?
        /// Suppliers the task was sent to.
        package var dispatches: Int
        /// Nil for a number that a later version wrote.
        package var winReason: WinReason?
    }

    /// An account by number and label.
    package struct Party: Equatable, Sendable {
        package var account: UInt64
        package var label: String
    }

    package var accepted: AcceptedRecord
    package var consumer: Party
    /// Of the broker that accepted it; nil if its start is not recorded.
    package var node: UInt64?
    /// Empty if the NAME is missing.
    package var model: String
    /// Nil while it is open.
    package var end: End?
    /// The operator's fixed list at the time of dispatch; nil = the supplier's ask and the fee
    /// decided.
    package var fixedPrices: PriceList?
    /// Basis points at the time of dispatch.
    package var feeBasisPoints: UInt32
    /// Empty where it cost nothing or is not settled.
    package var postings: [Posting]
    /// The ledger does not take its amounts: nothing is posted for it, for good.
    package var isUnposted: Bool

    /// What its usage costs by the fixed list, to compare with what was charged; nil without such
    /// a list or an end.
    package var costByFixedPrices: MicroUSD? {
        guard let end, let fixedPrices else { return nil }
        return fixedPrices.amount(end.usage, accepted.operation)
    }
}

extension Store {
    /// What the records say of a task; nil for one that they do not know.
    package func history(of task: TaskID) throws(StoreError) -> TaskHistory? {
        try read { (transaction) throws(StoreError) in
            guard let (accepted, model, node) = try transaction.acceptance(of: task) else {
                return nil
            }
            let end = try transaction.end(of: task)
            var book = PriceBook()
            for price in try transaction.prices() { book.apply(price) }
            for fee in try transaction.fees() { book.apply(fee) }
            let dispatchedMs = (accepted.acceptedAtUs &+ (end?.queueUs ?? 0)) / 1_000
            return TaskHistory(
                accepted: accepted, consumer: try transaction.party(accepted.account), node: node,
                model: model, end: end,
                fixedPrices: ModelName(model).flatMap {
                    book.fixedPrices(of: $0, nowMs: dispatchedMs)
                }, feeBasisPoints: book.feeBasisPoints(nowMs: dispatchedMs),
                postings: try transaction.postings(of: task),
                isUnposted: try transaction.isUnposted(task))
        }
    }
}

extension StoreTransaction {
    fileprivate func acceptance(
        of task: TaskID
    ) throws(StoreError) -> (AcceptedRecord, model: String, node: UInt64?)? {
        let columns = RecordTable.accepted.columns.map { "a.\($0)" }.joined(separator: ", ")
        let rows = try query(
            """
            SELECT \(columns), n.name, i.node FROM accepted a
            LEFT JOIN model_name n ON n.instance = a.instance AND n.model = a.model
            LEFT JOIN instance i ON i.instance = a.instance
            WHERE a.instance = $1 AND a.counter = $2
            """, [.integer(signed(task.instance)), .integer(signed(task.counter))])
        guard let row = rows.first else { return nil }
        let width = RecordTable.accepted.columns.count
        return (
            try AcceptedRecord(row),
            model: row.values[width] == .null ? "" : try row.text(width),
            node: try row.optionalInteger(width + 1).map { unsigned($0) }
        )
    }

    fileprivate func end(of task: TaskID) throws(StoreError) -> TaskHistory.End? {
        let rows = try query(
            """
            SELECT status, code, finish_reason, input_tokens, cached_tokens, output_tokens,
                reasoning_tokens, delivered_bytes, ttft_us, duration_us, queue_us,
                consumer_cost, supplier_earning, platform_fee, supplier, supply_type,
                dispatches, win_reason
            FROM ended WHERE instance = $1 AND counter = $2
            """, [.integer(signed(task.instance)), .integer(signed(task.counter))])
        guard let row = rows.first else { return nil }
        guard let status = TaskStatus(rawValue: UInt8(truncatingIfNeeded: try row.integer(0))),
            let code = WireCode(rawValue: UInt16(truncatingIfNeeded: try row.integer(1)))
        else { throw .damaged }
        let ttftUs = try row.unsigned(8)
        var end = TaskHistory.End(
            status: status, code: code,
            finishReason: FinishReason(rawValue: UInt8(truncatingIfNeeded: try row.integer(2))),
            usage: Usage(
                inputTokens: try row.unsigned32(3), outputTokens: try row.unsigned32(5),
                cachedTokens: try row.unsigned32(4), reasoningTokens: try row.unsigned32(6)),
            deliveredBytes: try row.unsigned(7), ttftUs: ttftUs == .max ? nil : ttftUs,
            durationUs: try row.unsigned(9), queueUs: try row.unsigned(10),
            charge: TaskCharge(
                consumerCost: MicroUSD(try row.integer(11)),
                supplierEarning: MicroUSD(try row.integer(12)),
                platformFee: MicroUSD(try row.integer(13))), supplier: nil)
        let identity = try row.unsigned(14)
        guard identity != 0 else { return end }
        end.supplier = TaskHistory.Supplier(
            identity: identity, account: try party(ofSupplier: identity),
            supplyType: SupplyType(rawValue: UInt8(truncatingIfNeeded: try row.integer(15))),
            dispatches: Int(try row.integer(16)),
            winReason: WinReason(rawValue: UInt8(truncatingIfNeeded: try row.integer(17))))
        return end
    }

    private func party(_ account: UInt64, label: String?) -> TaskHistory.Party {
        TaskHistory.Party(account: account, label: label ?? "")
    }

    fileprivate func party(_ account: UInt64) throws(StoreError) -> TaskHistory.Party {
        let rows = try query(
            "SELECT label FROM account WHERE id = $1", [.integer(signed(account))])
        return party(account, label: try rows.first?.text(0))
    }

    private func party(ofSupplier identity: UInt64) throws(StoreError) -> TaskHistory.Party? {
        let rows = try query(
            """
            SELECT a.id, a.label FROM access_key k JOIN account a ON a.id = k.account
            WHERE k.id = $1 AND k.supplier = k.id
            """, [.integer(signed(identity))])
        guard let row = rows.first else { return nil }
        return party(try row.unsigned(0), label: try row.text(1))
    }

    fileprivate func isUnposted(_ task: TaskID) throws(StoreError) -> Bool {
        let key = EntryReference.unpostedTask(task).key
        let rows = try query(
            "SELECT 1 FROM ledger_entry WHERE kind = $1 AND high = $2 AND low = $3",
            [.integer(key.kind), .integer(key.high), .integer(key.low)])
        return !rows.isEmpty
    }

    fileprivate func postings(of task: TaskID) throws(StoreError) -> [Posting] {
        let key = EntryReference.task(task).key
        let rows = try query(
            """
            SELECT account_kind, owner, amount FROM posting
            WHERE kind = $1 AND high = $2 AND low = $3 ORDER BY account_kind, owner
            """, [.integer(key.kind), .integer(key.high), .integer(key.low)])
        var postings: [Posting] = []
        for row in rows {
            guard
                let account = LedgerAccount(kind: try row.integer(0), owner: try row.unsigned(1))
            else { throw .damaged }
            postings.append(Posting(account, MicroUSD(try row.integer(2))))
        }
        return postings
    }
}

extension AcceptedRecord {
    /// A row of `accepted`, its columns in their order.
    fileprivate init(_ row: SQLRow) throws(StoreError) {
        guard
            let operation = TaskOperation(rawValue: UInt8(truncatingIfNeeded: try row.integer(7))),
            let encoding = PayloadEncoding(
                rawValue: UInt8(truncatingIfNeeded: try row.integer(8))),
            let preference = Preference(rawValue: UInt8(truncatingIfNeeded: try row.integer(10)))
        else { throw .damaged }
        self.init(
            counter: try row.unsigned(1), acceptedAtUs: try row.unsigned(3),
            account: try row.unsigned(4), keyDigestPrefix: try row.unsigned(5),
            model: try row.unsigned32(6), operation: operation, encoding: encoding,
            priority: UInt8(truncatingIfNeeded: try row.integer(9)), preference: preference,
            deadlineMs: try row.unsigned32(11), bodyBytes: try row.unsigned32(12))
        instance = try row.unsigned(0)
        maxInputTokens = try row.unsigned32(13)
        maxOutputTokens = try row.unsigned32(14)
        inputPrice = try row.unsigned(15)
        outputPrice = try row.unsigned(16)
        let (high, low, span) = (try row.unsigned(17), try row.unsigned(18), try row.unsigned(19))
        if high | low | span != 0 {
            trace = TraceContext(traceHigh: high, traceLow: low, span: span)
        }
        idempotencyDigest = try row.unsigned(20)
    }
}
