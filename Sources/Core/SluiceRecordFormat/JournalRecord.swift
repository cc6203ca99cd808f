package import SluiceWire

/// What a journal record tells. A reader skips kinds it does not know.
package enum RecordKind: UInt8, CaseIterable, Sendable {
    /// A task was accepted.
    case accepted = 1
    /// An accepted task ended; exactly one per task.
    case ended = 2
    /// Authenticated tasks were refused.
    case refused = 3
    /// A model id of this instance stands for this name.
    case name = 4
    /// First record of an instance.
    case instanceStart = 5
    /// This instance wrote every missing ENDED of a dead one.
    case instanceClosed = 6
    /// What a broker asks of an account's wallet, and gives back.
    case lease = 7
}

/// One 128-byte record of the journal: three header words, then thirteen words whose meaning
/// depends on the kind.
///
///     0 u8 layout version  1 u8 kind  2 u16 length (128)  4 u32 CRC-32C (0 in the ring)
///     8 u64 instance  16 u64 sequence  24 body
///
/// The writer of the ring fills instance and sequence; until then they are 0.
@frozen @usableFromInline
package struct JournalRecord: Equatable, Sendable {
    /// The layout this code writes.
    package static let layoutVersion: UInt8 = 1
    /// First word that belongs to the kind.
    package static let firstBodyWord = 3

    /// The block as it lies in ring and segment.
    @usableFromInline package var words: RecordWords

    /// A record of `kind` with an empty body, not yet numbered.
    package init(kind: RecordKind) {
        words = RecordWords()
        words[0] =
            .byte(Self.layoutVersion, at: 0) | .byte(kind.rawValue, at: 1)
            | UInt64(RecordWords.byteCount) << 16
    }

    /// A block from ring or segment; nothing is checked.
    @inlinable
    package init(words: RecordWords) {
        self.words = words
    }

    package var layoutVersion: UInt8 { words[0].byte(0) }
    /// Nil for a kind or layout version that this code does not know.
    package var kind: RecordKind? {
        guard layoutVersion == Self.layoutVersion else { return nil }
        return RecordKind(rawValue: words[0].byte(1))
    }
    /// Bytes of the record, 128 in layout version 1.
    package var byteCount: Int { Int(words[0].byte(2)) | Int(words[0].byte(3)) << 8 }

    /// The instance whose journal holds this record. Not always the one that accepted the task.
    @inlinable package var instance: UInt64 {
        get { words[1] }
        set { words[1] = newValue }
    }

    /// Position in that journal, dense, from 1.
    @inlinable package var sequence: UInt64 {
        get { words[2] }
        set { words[2] = newValue }
    }
}

/// A task was accepted. Its identity is (the record's instance, `counter`).
package struct AcceptedRecord: Equatable, Sendable {
    /// Instance that accepted; set by the journal, ignored when written.
    package var instance: UInt64 = 0
    /// Position among that instance's tasks, from 1.
    package var counter: UInt64
    /// Wall clock, microseconds since 1970.
    package var acceptedAtUs: UInt64
    package var account: UInt64
    /// First 8 bytes of the SHA-256 of the key that was used.
    package var keyDigestPrefix: UInt64
    /// Interned by a NAME record of the same instance, before this record.
    package var model: UInt32
    package var operation: TaskOperation
    package var encoding: PayloadEncoding
    package var priority: UInt8
    package var preference: Preference
    package var deadlineMs: UInt32
    package var bodyBytes: UInt32
    /// 0 = no limit.
    package var maxInputTokens: UInt32 = 0
    /// 0 = no limit.
    package var maxOutputTokens: UInt32 = 0
    /// Ceiling the hold was computed with, micro-USD per million input tokens.
    package var inputPrice: UInt64 = 0
    /// Ceiling the hold was computed with, micro-USD per million output tokens.
    package var outputPrice: UInt64 = 0
    package var trace: TraceContext?
    /// First 8 bytes of the SHA-256 of the idempotency key; 0 = none.
    package var idempotencyDigest: UInt64 = 0

    package init(
        counter: UInt64, acceptedAtUs: UInt64, account: UInt64, keyDigestPrefix: UInt64,
        model: UInt32, operation: TaskOperation, encoding: PayloadEncoding, priority: UInt8,
        preference: Preference, deadlineMs: UInt32, bodyBytes: UInt32
    ) {
        self.counter = counter
        self.acceptedAtUs = acceptedAtUs
        self.account = account
        self.keyDigestPrefix = keyDigestPrefix
        self.model = model
        self.operation = operation
        self.encoding = encoding
        self.priority = priority
        self.preference = preference
        self.deadlineMs = deadlineMs
        self.bodyBytes = bodyBytes
    }

    package var task: TaskID { TaskID(instance: instance, counter: counter) }

    /// Nil for another kind, or a field that names no case of its table.
    package init?(_ record: JournalRecord) {
        let words = record.words
        guard record.kind == .accepted,
            let operation = TaskOperation(rawValue: words[7].byte(4)),
            let encoding = PayloadEncoding(rawValue: words[7].byte(5)),
            let preference = Preference(rawValue: words[7].byte(7))
        else { return nil }
        self.init(
            counter: words[3], acceptedAtUs: words[4], account: words[5],
            keyDigestPrefix: words[6], model: words[7].low32, operation: operation,
            encoding: encoding, priority: words[7].byte(6), preference: preference,
            deadlineMs: words[8].low32, bodyBytes: words[8].high32)
        instance = record.instance
        maxInputTokens = words[9].low32
        maxOutputTokens = words[9].high32
        inputPrice = words[10]
        outputPrice = words[11]
        if words[12] | words[13] | words[14] != 0 {
            trace = TraceContext(traceHigh: words[12], traceLow: words[13], span: words[14])
        }
        idempotencyDigest = words[15]
    }

    package var record: JournalRecord {
        var record = JournalRecord(kind: .accepted)
        record.instance = instance
        record.words[3] = counter
        record.words[4] = acceptedAtUs
        record.words[5] = account
        record.words[6] = keyDigestPrefix
        record.words[7] =
            UInt64(model) | .byte(operation.rawValue, at: 4) | .byte(encoding.rawValue, at: 5)
            | .byte(priority, at: 6) | .byte(preference.rawValue, at: 7)
        record.words[8] = UInt64(low: deadlineMs, high: bodyBytes)
        record.words[9] = UInt64(low: maxInputTokens, high: maxOutputTokens)
        record.words[10] = inputPrice
        record.words[11] = outputPrice
        record.words[12] = trace?.traceHigh ?? 0
        record.words[13] = trace?.traceLow ?? 0
        record.words[14] = trace?.span ?? 0
        record.words[15] = idempotencyDigest
        return record
    }
}

/// Tasks of one account were refused before they were accepted: one refusal, or a count of equal
/// ones above the rate at which single records are written.
package struct RefusedRecord: Equatable, Sendable {
    package var account: UInt64
    /// Wall clock of the last refusal counted here, microseconds since 1970.
    package var refusedAtUs: UInt64
    package var code: WireCode
    /// 0 when no known model was named.
    package var model: UInt32
    /// From 1.
    package var count: UInt64

    package init(
        account: UInt64, refusedAtUs: UInt64, code: WireCode, model: UInt32, count: UInt64 = 1
    ) {
        self.account = account
        self.refusedAtUs = refusedAtUs
        self.code = code
        self.model = model
        self.count = count
    }

    /// Nil for another kind or an unknown code.
    package init?(_ record: JournalRecord) {
        let words = record.words
        guard record.kind == .refused,
            let code = WireCode(rawValue: UInt16(truncatingIfNeeded: words[5] >> 32))
        else { return nil }
        self.init(
            account: words[3], refusedAtUs: words[4], code: code, model: words[5].low32,
            count: words[6])
    }

    package var record: JournalRecord {
        var record = JournalRecord(kind: .refused)
        record.words[3] = account
        record.words[4] = refusedAtUs
        record.words[5] = UInt64(model) | UInt64(code.rawValue) << 32
        record.words[6] = count
        return record
    }
}

/// A model id of the record's instance stands for a name: the only text in any record. It comes
/// from an authenticated supplier's OFFER, never from a client.
package struct NameRecord: Equatable, Sendable {
    /// From 1, unique in the instance.
    package var model: UInt32
    package var name: ModelName

    package init(model: UInt32, name: ModelName) {
        self.model = model
        self.name = name
    }

    /// Nil for another kind or bytes that are no model name.
    package init?(_ record: JournalRecord) {
        guard record.kind == .name else { return nil }
        let byteCount = Int(record.words[3].byte(4))
        guard byteCount <= ModelName.byteCountMax else { return nil }
        let bytes = (0..<byteCount).map { record.words[4 + $0 >> 3].byte($0 & 7) }
        guard let name = ModelName(bytes.span) else { return nil }
        self.init(model: record.words[3].low32, name: name)
    }

    package var record: JournalRecord {
        var record = JournalRecord(kind: .name)
        record.words[3] = UInt64(model) | .byte(name.byteCount, at: 4)
        for index in 0..<Int(name.byteCount) {
            record.words[4 + index >> 3] |= .byte(name.byte(at: index), at: index & 7)
        }
        return record
    }
}

/// First record of every instance.
package struct InstanceStartRecord: Equatable, Sendable {
    /// Wall clock, microseconds since 1970.
    package var startedAtUs: UInt64
    package var ringRecords: UInt32
    package var tableSlots: UInt32

    package init(startedAtUs: UInt64, ringRecords: UInt32, tableSlots: UInt32) {
        self.startedAtUs = startedAtUs
        self.ringRecords = ringRecords
        self.tableSlots = tableSlots
    }

    /// Nil for another kind.
    package init?(_ record: JournalRecord) {
        guard record.kind == .instanceStart else { return nil }
        self.init(
            startedAtUs: record.words[3], ringRecords: record.words[4].low32,
            tableSlots: record.words[4].high32)
    }

    package var record: JournalRecord {
        var record = JournalRecord(kind: .instanceStart)
        record.words[3] = startedAtUs
        record.words[4] = UInt64(low: ringRecords, high: tableSlots)
        return record
    }
}

/// Every task of a dead instance has its ENDED; those that were missing stand before this record.
package struct InstanceClosedRecord: Equatable, Sendable {
    /// The dead instance.
    package var closed: UInt64
    /// Wall clock, microseconds since 1970.
    package var closedAtUs: UInt64
    /// ENDED records that this closer wrote for it.
    package var endedCount: UInt32

    package init(closed: UInt64, closedAtUs: UInt64, endedCount: UInt32) {
        self.closed = closed
        self.closedAtUs = closedAtUs
        self.endedCount = endedCount
    }

    /// Nil for another kind.
    package init?(_ record: JournalRecord) {
        guard record.kind == .instanceClosed else { return nil }
        self.init(
            closed: record.words[3], closedAtUs: record.words[4],
            endedCount: record.words[5].low32)
    }

    package var record: JournalRecord {
        var record = JournalRecord(kind: .instanceClosed)
        record.words[3] = closed
        record.words[4] = closedAtUs
        record.words[5] = UInt64(endedCount)
        return record
    }
}

/// What a broker asks of an account's wallet, and gives back (`Protocol/Money.md`). Amounts are
/// totals since the instance began, so that applying a record twice changes nothing. The lease is
/// that of (`account`, the record's instance).
package struct LeaseRecord: Equatable, Sendable {
    package var account: UInt64
    /// Total that the broker asks to have been granted; not above what it has = renew only.
    package var wanted: MicroUSD
    /// Total given back.
    package var returned: MicroUSD
    /// Total charged by ENDED records, for information.
    package var spent: MicroUSD
    /// Held for open tasks now, for information.
    package var held: MicroUSD
    /// Wall clock, microseconds since 1970.
    package var atUs: UInt64
    /// Total that it would like to have been granted, so as to go on while nobody answers; nothing
    /// is recalled for it.
    package var reserve: MicroUSD

    package init(
        account: UInt64, wanted: MicroUSD, returned: MicroUSD, spent: MicroUSD, held: MicroUSD,
        atUs: UInt64, reserve: MicroUSD = 0
    ) {
        self.account = account
        self.wanted = wanted
        self.returned = returned
        self.spent = spent
        self.held = held
        self.atUs = atUs
        self.reserve = reserve
    }

    /// Nil for another kind or a negative amount.
    package init?(_ record: JournalRecord) {
        let words = record.words
        let amounts = [4, 5, 6, 7, 9].map { Int64(bitPattern: words[$0]) }
        guard record.kind == .lease, amounts.allSatisfy({ $0 >= 0 }) else { return nil }
        self.init(
            account: words[3], wanted: MicroUSD(amounts[0]), returned: MicroUSD(amounts[1]),
            spent: MicroUSD(amounts[2]), held: MicroUSD(amounts[3]), atUs: words[8],
            reserve: MicroUSD(amounts[4]))
    }

    package var record: JournalRecord {
        var record = JournalRecord(kind: .lease)
        record.words[3] = account
        record.words[4] = UInt64(bitPattern: wanted.rawValue)
        record.words[5] = UInt64(bitPattern: returned.rawValue)
        record.words[6] = UInt64(bitPattern: spent.rawValue)
        record.words[7] = UInt64(bitPattern: held.rawValue)
        record.words[8] = atUs
        record.words[9] = UInt64(bitPattern: reserve.rawValue)
        return record
    }
}
