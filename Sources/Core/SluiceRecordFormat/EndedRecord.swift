package import SluiceWire

/// How an accepted task ended. Closed; the texts are part of the CLI's output.
package enum TaskStatus: UInt8, CaseIterable, Sendable {
    /// The supplier ended it as it should.
    case completed = 1
    /// The client cancelled, or did not read (code `stalled`).
    case cancelled = 2
    /// The client's connection was lost.
    case clientLost = 3
    case deadlineExceeded = 4
    /// The supplier's connection was lost after output had been forwarded, or too often before.
    case supplierLost = 5
    /// The supplier reported that it cannot complete the task.
    case supplierFailed = 6
    /// Budget or wallet used up.
    case budgetExhausted = 7
    /// The broker drained and the task did not end in time.
    case drained = 8
    /// The broker died; a later instance closed the task from the open-task table.
    case brokerLost = 9
    /// The instance vanished (reboot); the sidecar closed the task at no cost.
    case lost = 10

    /// The word that records and the CLI use.
    package var text: String {
        switch self {
        case .completed: "completed"
        case .cancelled: "cancelled"
        case .clientLost: "client_lost"
        case .deadlineExceeded: "deadline_exceeded"
        case .supplierLost: "supplier_lost"
        case .supplierFailed: "supplier_failed"
        case .budgetExhausted: "budget_exhausted"
        case .drained: "drained"
        case .brokerLost: "broker_lost"
        case .lost: "lost"
        }
    }
}

/// An accepted task ended; the last word about it.
package struct EndedRecord: Equatable, Sendable {
    /// The accepting instance's id and counter: not the record's own instance when a later broker
    /// closed a dead one.
    package var task: TaskID
    package var status: TaskStatus
    package var code: WireCode
    /// Nil unless the supplier said one.
    package var finishReason: FinishReason?
    /// What was delivered and is billed.
    package var usage: Usage
    /// Payload bytes sealed to the client.
    package var deliveredBytes: UInt64
    /// From the last body fragment in to the first tokens out; nil without output.
    package var ttftUs: UInt64?
    /// From acceptance to the end.
    package var durationUs: UInt64
    /// From acceptance to the first dispatch, at most 2^32 - 1.
    package var queueUs: UInt32
    package var charge: TaskCharge
    /// Identity of the last supplier; 0 = never dispatched.
    package var supplier: UInt64
    /// Model id of the offer that was chosen; 0 = never dispatched.
    package var offerModel: UInt32
    /// Nil = never dispatched.
    package var supplyType: SupplyType?
    /// Suppliers the task was sent to, 0…255.
    package var dispatches: UInt8
    /// Why the chosen offer won: number in the dispatcher's closed table.
    package var winReason: UInt8

    package init(
        task: TaskID, status: TaskStatus, code: WireCode, finishReason: FinishReason? = nil,
        usage: Usage = Usage(), deliveredBytes: UInt64 = 0, ttftUs: UInt64? = nil,
        durationUs: UInt64 = 0, queueUs: UInt32 = 0, charge: TaskCharge = .none,
        supplier: UInt64 = 0, offerModel: UInt32 = 0, supplyType: SupplyType? = nil,
        dispatches: UInt8 = 0, winReason: UInt8 = 0
    ) {
        self.task = task
        self.status = status
        self.code = code
        self.finishReason = finishReason
        self.usage = usage
        self.deliveredBytes = deliveredBytes
        self.ttftUs = ttftUs
        self.durationUs = durationUs
        self.queueUs = queueUs
        self.charge = charge
        self.supplier = supplier
        self.offerModel = offerModel
        self.supplyType = supplyType
        self.dispatches = dispatches
        self.winReason = winReason
    }

    private static let noFinishReason: UInt8 = 0xFF

    /// Nil for another kind, or a field that names no case of its table.
    package init?(_ record: JournalRecord) {
        let words = record.words
        guard record.kind == .ended,
            let status = TaskStatus(rawValue: words[5].byte(0)),
            let code = WireCode(rawValue: UInt16(truncatingIfNeeded: words[5] >> 16))
        else { return nil }
        let finish = words[5].byte(1)
        let supply = words[5].byte(4)
        guard finish == Self.noFinishReason || FinishReason(rawValue: finish) != nil,
            supply == 0 || SupplyType(rawValue: supply) != nil
        else { return nil }
        self.init(
            task: TaskID(instance: words[3], counter: words[4]), status: status, code: code,
            finishReason: FinishReason(rawValue: finish),
            usage: Usage(
                inputTokens: words[6].low32, outputTokens: words[7].low32,
                cachedTokens: words[6].high32, reasoningTokens: words[7].high32),
            deliveredBytes: words[8], ttftUs: words[14] == .max ? nil : words[14],
            durationUs: words[15], queueUs: words[13].high32,
            charge: TaskCharge(
                consumerCost: MicroUSD(Int64(bitPattern: words[9])),
                supplierEarning: MicroUSD(Int64(bitPattern: words[10])),
                platformFee: MicroUSD(Int64(bitPattern: words[11]))),
            supplier: words[12], offerModel: words[13].low32,
            supplyType: SupplyType(rawValue: supply), dispatches: words[5].byte(5),
            winReason: words[5].byte(6))
    }

    package var record: JournalRecord {
        var record = JournalRecord(kind: .ended)
        record.words[3] = task.instance
        record.words[4] = task.counter
        record.words[5] =
            .byte(status.rawValue, at: 0)
            | .byte(finishReason?.rawValue ?? Self.noFinishReason, at: 1)
            | UInt64(code.rawValue) << 16 | .byte(supplyType?.rawValue ?? 0, at: 4)
            | .byte(dispatches, at: 5) | .byte(winReason, at: 6)
        record.words[6] = UInt64(low: usage.inputTokens, high: usage.cachedTokens)
        record.words[7] = UInt64(low: usage.outputTokens, high: usage.reasoningTokens)
        record.words[8] = deliveredBytes
        record.words[9] = UInt64(bitPattern: charge.consumerCost.rawValue)
        record.words[10] = UInt64(bitPattern: charge.supplierEarning.rawValue)
        record.words[11] = UInt64(bitPattern: charge.platformFee.rawValue)
        record.words[12] = supplier
        record.words[13] = UInt64(low: offerModel, high: queueUs)
        record.words[14] = ttftUs ?? .max
        record.words[15] = durationUs
        return record
    }
}
