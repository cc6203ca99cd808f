package import SluiceRecordFormat
package import SluiceWire

/// What is true of every task, kept apart from the broker: who submitted it, what was sent for it,
/// what the journal says. Records the first breach of a rule and what led to it.
package final class Oracle {
    /// One supplier's turn at a task.
    package struct Attempt {
        package let mark: UInt64
        package var sentBytes = 0
        package var sentTokens = 0
        package var endCode: WireCode?
        package var claimedTokens: UInt32?
    }

    package struct Task {
        package var account: UInt64?
        package var attempts: [Attempt] = []
        package var acceptedRecords = 0
        package var ended: EndedRecord?
        /// When its ACCEPTED was written, by the clock that does not jump.
        var acceptedUs: UInt64?
        /// When its ENDED was.
        var endedUs: UInt64?
        /// What the client asked for, once the broker has told it that the task is accepted.
        var wish: Wish?
        /// A power failure may have taken its ACCEPTED.
        package var isForgiven = false
        /// A power failure took its ENDED, or the slot from which that would have been written.
        package var isCutOff = false
    }

    /// Accounts from here on send bodies that say nothing.
    package static let unmarkedAccount: UInt64 = 700

    package var tasks: [TaskID: Task] = [:]
    package private(set) var failures: [String] = []
    package private(set) var events: [String] = []
    package var sometimes: [String: Int] = [:]
    package var hash = RollingHash()
    /// When connections of suppliers ended.
    var supplierLossesUs: [UInt64] = []
    package var nowUs: UInt64 = 0
    private var nextAttempt: UInt64 = 0
    private var closedInstances: Set<UInt64> = []
    /// Everything is kept for a failure's last lines; off in bulk runs.
    package let keepsEvents: Bool

    package init(keepsEvents: Bool) {
        self.keepsEvents = keepsEvents
    }

    package func note(_ event: @autoclosure () -> String) {
        guard keepsEvents else { return }
        events.append("\(nowUs / 1_000) ms  \(event())")
        if events.count > 400_000 { events.removeFirst(200_000) }
    }

    package func fail(_ text: String) {
        failures.append("\(nowUs / 1_000) ms  \(text)")
        note("FAILED: \(text)")
    }

    package func check(_ holds: Bool, _ text: @autoclosure () -> String) {
        if !holds { fail(text()) }
    }

    package func count(_ name: String, _ times: Int = 1) {
        if times > 0 { sometimes[name, default: 0] += times }
    }

    // MARK: Suppliers

    /// A supplier has the task; returns the attempt's place.
    package func assigned(_ task: TaskID, body: [UInt8]) -> Int {
        if let owner = MarkedContent.owner(ofBody: body) {
            let known = tasks[task]?.account
            check(known == nil || known == owner.account, "[I7] body of another account at \(task)")
            tasks[task, default: Task()].account = owner.account
        } else {
            let isMarked = tasks[task]?.account.map { $0 < Self.unmarkedAccount } ?? true
            check(body.count < 16 || !isMarked, "body of \(task) is damaged")
        }
        nextAttempt += 1
        tasks[task, default: Task()].attempts.append(
            Attempt(
                mark: task.instance &* 0x51_7C &+ task.counter &* 0x2545_F491 &+ nextAttempt << 40))
        return (tasks[task]?.attempts.count ?? 1) - 1
    }

    /// The next bytes of the attempt's answer.
    package func produce(_ task: TaskID, _ attempt: Int, byteCount: Int, tokens: Int) -> [UInt8] {
        guard let state = tasks[task]?.attempts[attempt] else { return [] }
        tasks[task]?.attempts[attempt].sentBytes += byteCount
        tasks[task]?.attempts[attempt].sentTokens += tokens
        return MarkedContent.bytes(mark: state.mark, offset: state.sentBytes, count: byteCount)
    }

    package func ended(_ task: TaskID, _ attempt: Int, _ code: WireCode, tokens: UInt32) {
        tasks[task]?.attempts[attempt].endCode = code
        tasks[task]?.attempts[attempt].claimedTokens = tokens
    }

    // MARK: Clients

    /// True when `payload` at `offset` continues the answer of attempt `attempt`, as far as that
    /// supplier has sent it.
    package func matches(
        _ task: TaskID, attempt: Int, offset: Int, payload: [UInt8]
    ) -> Bool {
        guard let state = tasks[task]?.attempts[attempt] else { return false }
        guard offset + payload.count <= state.sentBytes else { return false }
        return MarkedContent.bytes(mark: state.mark, offset: offset, count: payload.count)
            == payload
    }

    package func attemptCount(_ task: TaskID) -> Int { tasks[task]?.attempts.count ?? 0 }

    // MARK: Power failures

    /// What a power failure leaves of a task: its ACCEPTED, and an ENDED.
    package func powerFailed(_ task: TaskID, isKept: Bool, isEnded: Bool) {
        if !isKept { tasks[task]?.isForgiven = true }
        if isEnded { return }
        tasks[task]?.isCutOff = true
    }

    // MARK: Journal

    /// One published record, written at `atUs`.
    package func published(_ record: JournalRecord, atUs: UInt64) {
        switch record.kind {
        case .accepted:
            guard let accepted = AcceptedRecord(record) else { return fail("ACCEPTED is damaged") }
            tasks[accepted.task, default: Task()].acceptedRecords += 1
            check(
                tasks[accepted.task]?.acceptedRecords == 1, "[I1] \(accepted.task) accepted twice")
            let known = tasks[accepted.task]?.account
            check(
                known == nil || known == accepted.account,
                "[I7] \(accepted.task) recorded for another account")
            tasks[accepted.task]?.account = accepted.account
            tasks[accepted.task]?.acceptedUs = atUs
        case .ended:
            guard let ended = EndedRecord(record) else { return fail("ENDED is damaged") }
            check(tasks[ended.task]?.acceptedRecords == 1, "ENDED of \(ended.task) before ACCEPTED")
            check(tasks[ended.task]?.ended == nil, "[I1] \(ended.task) ended twice")
            check(ended.charge.isBalanced, "\(ended.task) is not balanced")
            tasks[ended.task]?.ended = ended
            tasks[ended.task]?.endedUs = atUs
            count("ended \(ended.status.text)")
        case .refused:
            count("refused record")
        case .instanceClosed:
            guard let record = InstanceClosedRecord(record) else {
                return fail("INSTANCE_CLOSED is damaged")
            }
            closed(record.closed)
        default: break
        }
    }

    /// Whoever says that an instance is closed has ended all its tasks before.
    private func closed(_ instance: UInt64) {
        guard closedInstances.insert(instance).inserted else { return count("closed twice") }
        for (task, state) in tasks where task.instance == instance && state.acceptedRecords > 0 {
            check(state.ended != nil, "[I1] \(instance) is closed, and \(task) has not ended")
        }
    }
}
