import SluiceRecordFormat
import SluiceWire
import Testing

/// The bytes at `offset`, as the tables of `Protocol/Files.md` count them.
func bytes(_ words: RecordWords, _ range: Range<Int>) -> [UInt8] {
    var all: [UInt8] = []
    words.append(to: &all)
    return Array(all[range])
}

func modelName(_ text: String) -> ModelName {
    guard let name = ModelName(text) else { preconditionFailure("no model name") }
    return name
}

func littleEndian(_ value: UInt64, _ count: Int) -> [UInt8] {
    (0..<count).map { UInt8(truncatingIfNeeded: value >> UInt64($0 * 8)) }
}

@Suite struct RecordTests {
    static func accepted() -> AcceptedRecord {
        var record = AcceptedRecord(
            counter: 0x0102_0304_0506_0708, acceptedAtUs: 0x1112_1314_1516_1718, account: 0x21,
            keyDigestPrefix: 0x31, model: 0x4142_4344, operation: .completion, encoding: .openAI,
            priority: 0x51, preference: .throughput, deadlineMs: 0x6162_6364,
            bodyBytes: 0x7172_7374)
        record.instance = 0x8182
        record.maxInputTokens = 0x91
        record.maxOutputTokens = 0x92
        record.inputPrice = 0xA1
        record.outputPrice = 0xA2
        record.trace = TraceContext(traceHigh: 0xB1, traceLow: 0xB2, span: 0xB3)
        record.idempotencyDigest = 0xC1
        return record
    }

    static func ended() -> EndedRecord {
        EndedRecord(
            task: TaskID(instance: 0x11, counter: 0x22), status: .supplierFailed,
            code: .upstreamRefused, finishReason: .length,
            usage: Usage(
                inputTokens: 0x31, outputTokens: 0x32, cachedTokens: 0x33, reasoningTokens: 0x34),
            deliveredBytes: 0x41, ttftUs: 0x42, durationUs: 0x43, queueUs: 0x44,
            charge: TaskCharge(consumerCost: 10, supplierEarning: 12, platformFee: -2),
            supplier: 0x51, offerModel: 0x52, supplyType: .datacenter, dispatches: 3, winReason: 9)
    }

    @Test func everyRecordRoundTrips() {
        #expect(AcceptedRecord(Self.accepted().record) == Self.accepted())
        #expect(EndedRecord(Self.ended().record) == Self.ended())
        var unknown = Self.ended()
        unknown.ttftUs = nil
        unknown.finishReason = nil
        unknown.supplyType = nil
        #expect(EndedRecord(unknown.record) == unknown)
        let refused = RefusedRecord(
            account: 1, refusedAtUs: 2, code: .journalFull, model: 3, count: 4)
        #expect(RefusedRecord(refused.record) == refused)
        let start = InstanceStartRecord(startedAtUs: 1, ringRecords: 2, tableSlots: 3)
        #expect(InstanceStartRecord(start.record) == start)
        let closed = InstanceClosedRecord(closed: 1, closedAtUs: 2, endedCount: 3)
        #expect(InstanceClosedRecord(closed.record) == closed)
    }

    @Test func aNameOfEveryLengthRoundTrips() throws {
        for count in 1...ModelName.byteCountMax {
            let text = String((0..<count).map { Character(Unicode.Scalar(UInt8(97 + $0 % 26))) })
            let name = NameRecord(model: UInt32(count), name: try #require(ModelName(text)))
            #expect(NameRecord(name.record) == name)
        }
    }

    @Test func aRecordIsReadOnlyAsItsOwnKind() {
        let record = Self.accepted().record
        #expect(EndedRecord(record) == nil)
        #expect(RefusedRecord(record) == nil)
        #expect(NameRecord(record) == nil)
        #expect(InstanceStartRecord(record) == nil)
        #expect(InstanceClosedRecord(record) == nil)
        #expect(AcceptedRecord(Self.ended().record) == nil)
    }

    @Test func acceptedLiesWhereFilesMdSays() {
        var record = Self.accepted().record
        record.sequence = 0x99
        let words = record.words
        #expect(bytes(words, 0..<8) == [1, 1, 128, 0, 0, 0, 0, 0])
        #expect(bytes(words, 8..<16) == littleEndian(0x8182, 8))
        #expect(bytes(words, 16..<24) == littleEndian(0x99, 8))
        #expect(bytes(words, 24..<32) == littleEndian(0x0102_0304_0506_0708, 8))
        #expect(bytes(words, 32..<40) == littleEndian(0x1112_1314_1516_1718, 8))
        #expect(bytes(words, 40..<48) == littleEndian(0x21, 8))
        #expect(bytes(words, 48..<56) == littleEndian(0x31, 8))
        #expect(bytes(words, 56..<60) == littleEndian(0x4142_4344, 4))
        #expect(bytes(words, 60..<64) == [2, 2, 0x51, 3])
        #expect(bytes(words, 64..<68) == littleEndian(0x6162_6364, 4))
        #expect(bytes(words, 68..<72) == littleEndian(0x7172_7374, 4))
        #expect(bytes(words, 72..<80) == [0x91, 0, 0, 0, 0x92, 0, 0, 0])
        #expect(bytes(words, 80..<96) == littleEndian(0xA1, 8) + littleEndian(0xA2, 8))
        #expect(
            bytes(words, 96..<120)
                == littleEndian(0xB1, 8) + littleEndian(0xB2, 8) + littleEndian(0xB3, 8))
        #expect(bytes(words, 120..<128) == littleEndian(0xC1, 8))
    }

    @Test func endedLiesWhereFilesMdSays() {
        let words = Self.ended().record.words
        #expect(bytes(words, 0..<8) == [1, 2, 128, 0, 0, 0, 0, 0])
        #expect(bytes(words, 24..<40) == littleEndian(0x11, 8) + littleEndian(0x22, 8))
        #expect(bytes(words, 40..<48) == [6, 1, 82, 0, 3, 3, 9, 0])
        #expect(bytes(words, 48..<56) == [0x31, 0, 0, 0, 0x33, 0, 0, 0])
        #expect(bytes(words, 56..<64) == [0x32, 0, 0, 0, 0x34, 0, 0, 0])
        #expect(bytes(words, 64..<72) == littleEndian(0x41, 8))
        #expect(bytes(words, 72..<80) == littleEndian(10, 8))
        #expect(bytes(words, 80..<88) == littleEndian(12, 8))
        #expect(bytes(words, 88..<96) == littleEndian(UInt64(bitPattern: -2), 8))
        #expect(bytes(words, 96..<104) == littleEndian(0x51, 8))
        #expect(bytes(words, 104..<112) == [0x52, 0, 0, 0, 0x44, 0, 0, 0])
        #expect(bytes(words, 112..<120) == littleEndian(0x42, 8))
        #expect(bytes(words, 120..<128) == littleEndian(0x43, 8))
        var silent = Self.ended()
        silent.ttftUs = nil
        #expect(
            bytes(silent.record.words, 112..<120) == [UInt8](repeating: 0xFF, count: 8))
    }

    @Test func theSmallRecordsLieWhereFilesMdSays() throws {
        let refused = RefusedRecord(
            account: 0x11, refusedAtUs: 0x22, code: .journalFull, model: 0x33, count: 0x44)
        #expect(bytes(refused.record.words, 1..<2) == [3])
        #expect(
            bytes(refused.record.words, 24..<56)
                == littleEndian(0x11, 8) + littleEndian(0x22, 8) + [0x33, 0, 0, 0, 57, 0, 0, 0]
                + littleEndian(0x44, 8))
        let name = NameRecord(model: 0x55, name: try #require(ModelName("ab/c")))
        #expect(bytes(name.record.words, 1..<2) == [4])
        #expect(bytes(name.record.words, 24..<32) == [0x55, 0, 0, 0, 4, 0, 0, 0])
        #expect(bytes(name.record.words, 32..<37) == [0x61, 0x62, 0x2F, 0x63, 0])
        let start = InstanceStartRecord(startedAtUs: 0x66, ringRecords: 0x77, tableSlots: 0x88)
        #expect(bytes(start.record.words, 1..<2) == [5])
        #expect(
            bytes(start.record.words, 24..<40)
                == littleEndian(0x66, 8) + [0x77, 0, 0, 0, 0x88, 0, 0, 0])
        let closed = InstanceClosedRecord(closed: 0x99, closedAtUs: 0xAA, endedCount: 0xBB)
        #expect(bytes(closed.record.words, 1..<2) == [6])
        #expect(
            bytes(closed.record.words, 24..<48)
                == littleEndian(0x99, 8) + littleEndian(0xAA, 8) + littleEndian(0xBB, 8))
    }

    @Test func unknownKindsAndVersionsHaveNoKind() {
        var record = JournalRecord(kind: .ended)
        record.words[0] = record.words[0] & ~0xFF00 | 0x6300
        #expect(record.kind == nil)
        var later = JournalRecord(kind: .ended)
        later.words[0] = later.words[0] & ~0xFF | 2
        #expect(later.kind == nil)
    }

    @Test func fieldsOutsideTheirTablesAreNoRecord() {
        var ended = Self.ended().record
        ended.words[5] = ended.words[5] & ~0xFF | 11
        #expect(EndedRecord(ended) == nil)
        var accepted = Self.accepted().record
        accepted.words[7] = accepted.words[7] & ~(0xFF << 32)
        #expect(AcceptedRecord(accepted) == nil)
        var name = JournalRecord(kind: .name)
        name.words[3] = 1 | 89 << 32
        #expect(NameRecord(name) == nil)
        name.words[3] = 1 | 1 << 32
        name.words[4] = 0x0A
        #expect(NameRecord(name) == nil)
    }

    /// Requirement S3: no record but NAME can hold text or bytes of any length.
    @Test func onlyANameHoldsText() throws {
        let records: [(any Sendable, Bool)] = [
            (Self.accepted(), false), (Self.ended(), false),
            (RefusedRecord(account: 1, refusedAtUs: 2, code: .draining, model: 3), false),
            (InstanceStartRecord(startedAtUs: 1, ringRecords: 2, tableSlots: 3), false),
            (InstanceClosedRecord(closed: 1, closedAtUs: 2, endedCount: 3), false),
            (
                LeaseRecord(account: 1, wanted: 2, returned: 3, spent: 4, held: 5, atUs: 6),
                false
            ),
            (NameRecord(model: 1, name: try #require(ModelName("m"))), true),
        ]
        #expect(records.count == RecordKind.allCases.count)
        for (record, expected) in records { #expect(holdsText(record) == expected) }
    }

    @Test func aLeaseLiesWhereFilesMdSaysAndIsNeverNegative() {
        let lease = LeaseRecord(
            account: 0x11, wanted: 0x22, returned: 0x33, spent: 0x44, held: 0x55, atUs: 0x66)
        let record = lease.record
        #expect(LeaseRecord(record) == lease)
        #expect(record.words[0].byte(1) == 7)
        #expect(
            (3...8).map { record.words[$0] } == [0x11, 0x22, 0x33, 0x44, 0x55, 0x66])
        #expect((9...15).allSatisfy { record.words[$0] == 0 })
        for word in 4...7 {
            var negative = record
            negative.words[word] = .max
            #expect(LeaseRecord(negative) == nil)
        }
        #expect(LeaseRecord(JournalRecord(kind: .refused)) == nil)
    }

    private func holdsText(_ value: Any) -> Bool {
        if value is String || value is [UInt8] || value is ModelName || value is ShortText {
            return true
        }
        let mirror = Mirror(reflecting: value)
        if mirror.displayStyle == .collection { return true }
        return mirror.children.contains { holdsText($0.value) }
    }

    @Test func statusTextsAreTheClosedList() {
        #expect(
            TaskStatus.allCases.map(\.text) == [
                "completed", "cancelled", "client_lost", "deadline_exceeded", "supplier_lost",
                "supplier_failed", "budget_exhausted", "drained", "broker_lost", "lost",
            ])
    }

    @Test func blocksSurviveBytes() {
        var written: [UInt8] = []
        let words = Self.ended().record.words.sealed
        words.append(to: &written)
        #expect(written.count == 128)
        let read = RecordWords(written.span)
        #expect(read == words)
        #expect(read?.isIntact == true)
        let short = RecordWords(written.span.extracting(0..<127))
        #expect(short == nil)
    }

    @Test func everySingleBitIsCovered() {
        let sealed = Self.ended().record.words.sealed
        for bit in 0..<1_024 {
            var damaged = sealed
            damaged[bit / 64] ^= 1 << UInt64(bit % 64)
            #expect(!damaged.isIntact)
        }
    }

    @Test func checksumIsCRC32C() {
        var byBytes = CRC32C()
        let digits = Array("123456789".utf8)
        byBytes.update(digits.span)
        #expect(byBytes.value == 0xE306_9283)
        var byWords = CRC32C()
        byWords.update(0x3837_3635_3433_3231)
        let last: [UInt8] = [0x39]
        byWords.update(last.span)
        #expect(byWords.value == 0xE306_9283)
    }
}
