import Foundation
import RecordTestSupport
import SluiceRecordFormat
import SluiceWire
import Store
import Testing

/// A new empty store of one engine.
final class TestStore {
    let store: Store
    let location: StoreLocation
    private let scratch = ScratchDirectory()

    /// Fails, and says why, where PostgreSQL is not installed.
    init(_ engine: TestEngine, durability: Store.Durability = .checkpoint) throws {
        location = try engine.newLocation(in: scratch)
        store = try Store(location, durability: durability, busyTimeoutSeconds: 5)
    }

    /// A second connection to the same store, as another process has it.
    func another() throws -> Store {
        try Store(location, durability: .everyTransaction)
    }
}

/// Stands in for SHA-256: the store never computes a digest itself.
func fakeDigest(_ secret: [UInt8]) -> Digest256 {
    var hash = CRC32C()
    hash.update(secret.span)
    return Digest256(UInt64(hash.value), 1, 2, 3)
}

/// A journal as the sidecar hands it over.
struct JournalSketch {
    let instance: UInt64
    private(set) var records: [JournalRecord] = []

    init(instance: UInt64) {
        self.instance = instance
    }

    mutating func append(_ record: JournalRecord) {
        var numbered = record
        numbered.instance = instance
        numbered.sequence = UInt64(records.count + 1)
        records.append(numbered)
    }

    mutating func start() {
        append(
            InstanceStartRecord(startedAtUs: 1_000, ringRecords: 1_024, tableSlots: 64).record)
    }

    mutating func accept(
        _ counter: UInt64, atUs: UInt64 = 1_792_800_000_123_456, account: UInt64 = .max,
        key: UInt64 = 0
    ) {
        var record = AcceptedRecord(
            counter: counter, acceptedAtUs: atUs, account: account, keyDigestPrefix: .max - 1,
            model: 1, operation: .chat, encoding: .text, priority: 128, preference: .balanced,
            deadlineMs: 1_000, bodyBytes: 10)
        record.idempotencyDigest = key
        append(record.record)
    }

    mutating func end(
        _ counter: UInt64, of other: UInt64? = nil, ttftUs: UInt64? = 5,
        charge: TaskCharge = TaskCharge(consumerCost: 11, supplierEarning: 10, platformFee: 1),
        supplier: UInt64 = 6
    ) {
        append(
            EndedRecord(
                task: TaskID(instance: other ?? instance, counter: counter), status: .completed,
                code: .completed, finishReason: .stop,
                usage: Usage(
                    inputTokens: 3, outputTokens: 4, cachedTokens: 1, reasoningTokens: 2),
                deliveredBytes: 40, ttftUs: ttftUs, durationUs: 99, queueUs: 7,
                charge: charge, supplier: supplier, offerModel: 1, supplyType: .community,
                dispatches: 1, winReason: 2
            ).record)
    }

    mutating func lease(
        _ account: UInt64, wanted: Int64, returned: Int64 = 0, atUs: UInt64 = 1_000_000
    ) {
        append(
            LeaseRecord(
                account: account, wanted: MicroUSD(wanted), returned: MicroUSD(returned),
                spent: 0, held: 0, atUs: atUs
            ).record)
    }

    mutating func name(_ text: String = "demo/one") throws {
        append(NameRecord(model: 1, name: try #require(ModelName(text))).record)
    }
}
