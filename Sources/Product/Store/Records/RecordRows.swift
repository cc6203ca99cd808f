import SluiceRecordFormat
import SluiceWire

extension IntegerRows {
    /// A row of `accepted`.
    mutating func append(_ record: AcceptedRecord) {
        append(
            [
                signed(record.instance), signed(record.counter),
                day(ofMicroseconds: record.acceptedAtUs),
            ] as [3 of Int64], record.numbers)
    }

    /// A row of `ended`, for a task of this day.
    mutating func append(_ record: EndedRecord, position: Int64, day: Int64) {
        append(
            [position, signed(record.task.instance), signed(record.task.counter), day]
                as [4 of Int64], record.numbers)
    }

    /// A row of `refused`.
    mutating func append(_ refused: RefusedRecord, of record: JournalRecord) {
        append(
            [
                signed(record.instance), signed(record.sequence),
                day(ofMicroseconds: refused.refusedAtUs), signed(refused.account),
                signed(refused.refusedAtUs), Int64(refused.code.rawValue), Int64(refused.model),
                signed(refused.count),
            ] as [8 of Int64])
    }
}

extension AcceptedRecord {
    /// What it says beside the task and its day, in the order of the columns of `accepted`.
    var numbers: [18 of Int64] {
        [
            signed(acceptedAtUs), signed(account), signed(keyDigestPrefix), Int64(model),
            Int64(operation.rawValue), Int64(encoding.rawValue), Int64(priority),
            Int64(preference.rawValue), Int64(deadlineMs), Int64(bodyBytes),
            Int64(maxInputTokens), Int64(maxOutputTokens), signed(inputPrice),
            signed(outputPrice), signed(trace?.traceHigh ?? 0), signed(trace?.traceLow ?? 0),
            signed(trace?.span ?? 0), signed(idempotencyDigest),
        ]
    }
}

extension EndedRecord {
    /// What it says beside the task, in the order of the columns of `ended`.
    var numbers: [19 of Int64] {
        [
            Int64(status.rawValue), Int64(code.rawValue), Int64(finishReason?.rawValue ?? 255),
            Int64(usage.inputTokens), Int64(usage.cachedTokens), Int64(usage.outputTokens),
            Int64(usage.reasoningTokens), signed(deliveredBytes), signed(ttftUs ?? .max),
            signed(durationUs), Int64(queueUs), charge.consumerCost.rawValue,
            charge.supplierEarning.rawValue, charge.platformFee.rawValue, signed(supplier),
            Int64(offerModel), Int64(supplyType?.rawValue ?? 0), Int64(dispatches),
            Int64(winReason),
        ]
    }
}
