import SluiceRecordFormat
import SluiceWire

extension IntegerRows {
    /// A row of `accepted`.
    mutating func append(_ record: AcceptedRecord) {
        append(
            [
                signed(record.instance), signed(record.counter),
                day(ofMicroseconds: record.acceptedAtUs), signed(record.acceptedAtUs),
                signed(record.account), signed(record.keyDigestPrefix), Int64(record.model),
                Int64(record.operation.rawValue), Int64(record.encoding.rawValue),
                Int64(record.priority), Int64(record.preference.rawValue),
                Int64(record.deadlineMs), Int64(record.bodyBytes), Int64(record.maxInputTokens),
                Int64(record.maxOutputTokens), signed(record.inputPrice),
                signed(record.outputPrice), signed(record.trace?.traceHigh ?? 0),
                signed(record.trace?.traceLow ?? 0), signed(record.trace?.span ?? 0),
                signed(record.idempotencyDigest),
            ] as [21 of Int64])
    }

    /// A row of `ended`, for a task of this day.
    mutating func append(_ record: EndedRecord, position: Int64, day: Int64) {
        append(
            [
                position, signed(record.task.instance), signed(record.task.counter), day,
                Int64(record.status.rawValue), Int64(record.code.rawValue),
                Int64(record.finishReason?.rawValue ?? 255), Int64(record.usage.inputTokens),
                Int64(record.usage.cachedTokens), Int64(record.usage.outputTokens),
                Int64(record.usage.reasoningTokens), signed(record.deliveredBytes),
                signed(record.ttftUs ?? .max), signed(record.durationUs), Int64(record.queueUs),
                record.charge.consumerCost.rawValue, record.charge.supplierEarning.rawValue,
                record.charge.platformFee.rawValue, signed(record.supplier),
                Int64(record.offerModel), Int64(record.supplyType?.rawValue ?? 0),
                Int64(record.dispatches), Int64(record.winReason),
            ] as [23 of Int64])
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
