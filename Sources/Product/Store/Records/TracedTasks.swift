package import SluiceRecordFormat
package import SluiceWire

/// An ended task as a trace shows it: times, counts and names, no content.
package struct TracedTask: Equatable, Sendable {
    /// In the order in which ends were applied; what an exporter remembers.
    package var position: Int64
    package var task: TaskID
    /// Wall clock, microseconds since 1970.
    package var acceptedAtUs: UInt64
    package var operation: TaskOperation
    /// Empty if the NAME is missing.
    package var model: String
    /// What the caller said of its own trace; nil for none.
    package var trace: TraceContext?
    package var status: TaskStatus
    package var code: WireCode
    package var finishReason: FinishReason?
    package var usage: Usage
    /// From the last body fragment in to the first tokens out; nil without output.
    package var ttftUs: UInt64?
    package var durationUs: UInt64
    package var queueUs: UInt64
    /// Identity of the last supplier; 0 = never dispatched.
    package var supplier: UInt64
    package var dispatches: Int

    package init(
        position: Int64, task: TaskID, acceptedAtUs: UInt64, operation: TaskOperation,
        model: String, trace: TraceContext? = nil, status: TaskStatus, code: WireCode,
        finishReason: FinishReason? = nil, usage: Usage = Usage(), ttftUs: UInt64? = nil,
        durationUs: UInt64, queueUs: UInt64 = 0, supplier: UInt64 = 0, dispatches: Int = 0
    ) {
        self.position = position
        self.task = task
        self.acceptedAtUs = acceptedAtUs
        self.operation = operation
        self.model = model
        self.trace = trace
        self.status = status
        self.code = code
        self.finishReason = finishReason
        self.usage = usage
        self.ttftUs = ttftUs
        self.durationUs = durationUs
        self.queueUs = queueUs
        self.supplier = supplier
        self.dispatches = dispatches
    }
}

extension Store {
    /// Position of the task that ended last; 0 for none.
    package func lastPosition() throws(StoreError) -> Int64 {
        try read { (transaction) throws(StoreError) in
            let rows = try transaction.query("SELECT value FROM tally WHERE name = 'position'")
            return try rows.first?.integer(0) ?? 0
        }
    }

    /// Tasks whose ends were applied behind `position`, in that order, at most `count`.
    package func tracedTasks(
        after position: Int64, count: Int
    ) throws(StoreError) -> [TracedTask] {
        try read { (transaction) throws(StoreError) in
            let rows = try transaction.query(
                """
                SELECT e.position, e.instance, e.counter, e.accepted_at_us, e.operation, n.name,
                    e.trace_high, e.trace_low, e.trace_span, e.status, e.code, e.finish_reason,
                    e.input_tokens, e.cached_tokens, e.output_tokens, e.reasoning_tokens,
                    e.ttft_us, e.duration_us, e.queue_us, e.supplier, e.dispatches
                FROM ended_in_order e
                LEFT JOIN model_name n ON n.instance = e.instance AND n.model = e.model
                WHERE e.position > $1\(transaction.dialect.fromRun)
                ORDER BY \(transaction.dialect.endOrder()) LIMIT $2
                """, [.integer(position), .integer(Int64(max(0, count)))])
            var tasks: [TracedTask] = []
            for row in rows { tasks.append(try TracedTask(row)) }
            return tasks
        }
    }
}

extension SQLDialect {
    /// Where SQLite begins to look for what is behind a position: at the run that has it.
    fileprivate var fromRun: String {
        guard self == .sqlite else { return "" }
        return """
             AND e.run >= coalesce(
                (SELECT max(position) FROM ended_run WHERE position <= $1), 0)
            """
    }
}

extension TracedTask {
    fileprivate init(_ row: SQLRow) throws(StoreError) {
        guard
            let operation = TaskOperation(rawValue: UInt8(truncatingIfNeeded: try row.integer(4))),
            let status = TaskStatus(rawValue: UInt8(truncatingIfNeeded: try row.integer(9))),
            let code = WireCode(rawValue: UInt16(truncatingIfNeeded: try row.integer(10)))
        else { throw .damaged }
        let (high, low, span) = (try row.unsigned(6), try row.unsigned(7), try row.unsigned(8))
        let ttftUs = try row.unsigned(16)
        self.init(
            position: try row.integer(0),
            task: TaskID(instance: try row.unsigned(1), counter: try row.unsigned(2)),
            acceptedAtUs: try row.unsigned(3), operation: operation,
            model: row.values[5] == .null ? "" : try row.text(5),
            trace: high | low | span == 0
                ? nil : TraceContext(traceHigh: high, traceLow: low, span: span),
            status: status, code: code,
            finishReason: FinishReason(rawValue: UInt8(truncatingIfNeeded: try row.integer(11))),
            usage: Usage(
                inputTokens: try row.unsigned32(12), outputTokens: try row.unsigned32(14),
                cachedTokens: try row.unsigned32(13), reasoningTokens: try row.unsigned32(15)),
            ttftUs: ttftUs == .max ? nil : ttftUs, durationUs: try row.unsigned(17),
            queueUs: try row.unsigned(18), supplier: try row.unsigned(19),
            dispatches: Int(try row.integer(20)))
    }
}
