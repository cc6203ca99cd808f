import Foundation
import GRDB
import RecordTestSupport
import SluiceRecordFormat
import SluiceWire
import Store
import Testing

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

    mutating func accept(_ counter: UInt64, atUs: UInt64 = 1_792_800_000_123_456) {
        append(
            AcceptedRecord(
                counter: counter, acceptedAtUs: atUs, account: .max, keyDigestPrefix: .max - 1,
                model: 1, operation: .chat, encoding: .text, priority: 128,
                preference: .balanced, deadlineMs: 1_000, bodyBytes: 10
            ).record)
    }

    mutating func end(_ counter: UInt64, of other: UInt64? = nil, ttftUs: UInt64? = 5) {
        append(
            EndedRecord(
                task: TaskID(instance: other ?? instance, counter: counter), status: .completed,
                code: .completed, finishReason: .stop,
                usage: Usage(
                    inputTokens: 3, outputTokens: 4, cachedTokens: 1, reasoningTokens: 2),
                deliveredBytes: 40, ttftUs: ttftUs, durationUs: 99, queueUs: 7,
                charge: TaskCharge(consumerCost: 11, supplierEarning: 10, platformFee: 1),
                supplier: 6, offerModel: 1, supplyType: .community, dispatches: 1, winReason: 2
            ).record)
    }
}

@Suite struct StoreTests {
    let scratch = ScratchDirectory()
    var path: String { scratch.path + "/sluice.sqlite" }

    private func open() throws -> Store {
        try Store(path: path, durability: .checkpoint, busyTimeoutSeconds: 0.05)
    }

    private func name() throws -> JournalRecord {
        NameRecord(model: 1, name: try #require(ModelName("demo/one"))).record
    }

    @Test func aRecordIsPrintedWithTheseKeysInThisOrder() throws {
        var journal = JournalSketch(instance: 0xFEDC_BA98_7654_3210)
        journal.append(try name())
        journal.accept(1)
        journal.end(1)
        journal.accept(2)
        journal.end(2, ttftUs: nil)
        let store = try open()
        _ = try store.applyBatch(journal.records)
        let lines = try store.finalRecords(last: 10).map(\.json)
        #expect(
            lines[0]
                == """
                {"taskID":"fedcba98765432100000000000000001",\
                "acceptedAt":"2026-10-24T00:00:00.123456Z",\
                "model":"demo/one","inputTokens":3,"outputTokens":4,"ttftUs":5,"durationUs":99,\
                "consumerCostMicroUSD":11,"supplierEarningMicroUSD":10,\
                "supplyType":"community","status":"completed","platformFeeMicroUSD":1,\
                "cachedTokens":1,"reasoningTokens":2,"finishReason":"stop","code":"completed",\
                "queueUs":7,"dispatches":1}
                """)
        #expect(lines[1].contains("\"ttftUs\":null"))
        for line in lines { _ = try JSONSerialization.jsonObject(with: Data(line.utf8)) }
        #expect(try store.finalRecords(last: 1).map(\.task.counter) == [2])
    }

    @Test func timesAreWrittenAsRFC3339() throws {
        let formatter = ISO8601DateFormatter()
        formatter.formatOptions = [.withInternetDateTime]
        formatter.timeZone = TimeZone(secondsFromGMT: 0)
        var journal = JournalSketch(instance: 1)
        let seconds: [UInt64] = [
            0, 951_782_399, 951_782_400, 951_868_800, 1_709_164_800, 1_709_251_200, 4_102_444_799,
            4_107_542_400,
        ]
        for (index, second) in seconds.enumerated() {
            journal.accept(UInt64(index + 1), atUs: second * 1_000_000)
            journal.end(UInt64(index + 1))
        }
        let store = try open()
        _ = try store.applyBatch(journal.records)
        for (record, second) in zip(try store.finalRecords(last: 100), seconds) {
            let expected = formatter.string(
                from: Date(timeIntervalSince1970: TimeInterval(second))
            ).replacingOccurrences(of: "Z", with: ".000000Z")
            #expect(record.json.contains("\"acceptedAt\":\"\(expected)\""))
        }
    }

    @Test func applyingTwiceChangesNothing() throws {
        var journal = JournalSketch(instance: 9)
        journal.append(try name())
        for counter in 1...50 as ClosedRange<UInt64> {
            journal.accept(counter)
            journal.end(counter)
            journal.append(
                RefusedRecord(account: 1, refusedAtUs: 2, code: .queueFull, model: 1).record)
        }
        let store = try open()
        let first = try store.applyBatch(Array(journal.records.prefix(70)))
        #expect(first.applied == 70)
        let again = try store.applyBatch(journal.records)
        #expect(again.skipped == 70)
        #expect(again.applied == journal.records.count - 70)
        #expect(try store.cursors() == [9: UInt64(journal.records.count)])
        #expect(
            try store.counts() == RecordCounts(accepted: 50, final: 50, open: 0, duplicates: 0))
    }

    @Test func aSecondEndOfATaskIsCountedAndDropped() throws {
        var journal = JournalSketch(instance: 9)
        journal.accept(1)
        journal.end(1)
        var successor = JournalSketch(instance: 10)
        successor.append(
            EndedRecord(
                task: TaskID(instance: 9, counter: 1), status: .brokerLost, code: .internalFault
            ).record)
        let store = try open()
        _ = try store.applyBatch(journal.records)
        let batch = try store.applyBatch(successor.records)
        #expect(batch.duplicates == 1)
        #expect(try store.finalRecords(last: 5).map(\.status) == [.completed])
        #expect(
            try store.counts() == RecordCounts(accepted: 1, final: 1, open: 0, duplicates: 1))
    }

    @Test func unknownKindsAreSkippedAndTheCursorPasses() throws {
        var journal = JournalSketch(instance: 9)
        var strange = JournalRecord(kind: .ended)
        strange.words[0] = strange.words[0] & ~0xFF00 | 0x7700
        journal.append(strange)
        journal.accept(1)
        let store = try open()
        let batch = try store.applyBatch(journal.records)
        #expect(batch.unreadable == 1)
        #expect(batch.applied == 1)
        #expect(try store.cursors() == [9: 2])
    }

    @Test func whatEndsElsewhereIsJoinedByTask() throws {
        var journal = JournalSketch(instance: 9)
        journal.append(try name())
        journal.accept(1)
        journal.accept(2)
        var successor = JournalSketch(instance: 10)
        successor.end(1, of: 9)
        let store = try open()
        _ = try store.applyBatch(journal.records + successor.records)
        let final = try store.finalRecords(last: 5)
        #expect(final.map(\.task) == [TaskID(instance: 9, counter: 1)])
        #expect(final[0].model == "demo/one")
        #expect(try store.counts().open == 1)
        let open = try store.openTasks(acceptedBefore: .max >> 1)
        #expect(open.map(\.task) == [TaskID(instance: 9, counter: 2)])
    }

    @Test func lostTasksCostNothingAndKeepAnEarlierEnd() throws {
        var journal = JournalSketch(instance: 9)
        journal.accept(1, atUs: 1_000)
        journal.accept(2, atUs: 2_000)
        let store = try open()
        _ = try store.applyBatch(journal.records)
        let open = try store.openTasks(acceptedBefore: 1_500)
        #expect(open.map(\.task.counter) == [1])
        try store.closeAsLost(open, atUs: 5_000)
        try store.closeAsLost(open, atUs: 6_000)
        let final = try store.finalRecords(last: 5)
        #expect(final.count == 1)
        #expect(final[0].status == .lost)
        #expect(final[0].charge == .none)
        #expect(final[0].supplyType == nil)
        #expect(final[0].durationUs == 4_000)
        #expect(final[0].json.contains("\"supplyType\":\"none\",\"status\":\"lost\""))
        #expect(try store.counts().open == 1)
    }

    @Test func aLockedDatabaseIsSaidAndNothingIsHalfDone() throws {
        var journal = JournalSketch(instance: 9)
        journal.accept(1)
        let store = try open()
        let other = try DatabaseQueue(path: path)
        try other.writeWithoutTransaction { database in
            try database.execute(sql: "BEGIN IMMEDIATE")
            #expect(throws: StoreError.locked) { _ = try store.applyBatch(journal.records) }
            try database.execute(sql: "ROLLBACK")
        }
        #expect(try store.cursors().isEmpty)
        #expect(try store.applyBatch(journal.records).applied == 1)
    }

    @Test func nobodyElseMayReadTheFiles() throws {
        let store = try open()
        var journal = JournalSketch(instance: 7)
        journal.accept(1)
        _ = try store.applyBatch(journal.records)
        let folder = (path as NSString).deletingLastPathComponent
        let files = try FileManager.default.contentsOfDirectory(atPath: folder)
            .filter { $0.hasPrefix((path as NSString).lastPathComponent) }
        #expect(files.count >= 2, "the database and its log: \(files)")
        for file in files {
            let attributes = try FileManager.default.attributesOfItem(
                atPath: folder + "/" + file)
            #expect(attributes[.posixPermissions] as? Int == 0o600, "\(file)")
        }
    }

    @Test func whatIsNoDatabaseIsRefused() throws {
        try Data(repeating: 0x41, count: 8_192).write(to: URL(fileURLWithPath: path))
        #expect(throws: StoreError.damaged) { _ = try open() }
        let bytes = try Data(contentsOf: URL(fileURLWithPath: path))
        #expect(bytes == Data(repeating: 0x41, count: 8_192))
    }

    @Test func aNewerSchemaIsRefused() throws {
        _ = try open()
        let other = try DatabaseQueue(path: path)
        try other.write { database in
            try database.execute(
                sql: "INSERT INTO grdb_migrations (identifier) VALUES ('99 from the future')")
        }
        #expect(throws: StoreError.newerSchema) { _ = try open() }
    }

    @Test func checkpointIsRefusedWhileAReaderLooks() throws {
        let store = try open()
        var journal = JournalSketch(instance: 9)
        let other = try DatabaseQueue(path: path)
        try other.inDatabase { database in
            try database.execute(sql: "BEGIN")
            _ = try Row.fetchAll(database, sql: "SELECT * FROM accepted")
            journal.accept(1)
            _ = try store.applyBatch(journal.records)
            #expect(try store.checkpoint() == false)
            try database.execute(sql: "COMMIT")
        }
        #expect(try store.checkpoint() == true)
    }
}

@Suite struct KeyTests {
    let scratch = ScratchDirectory()

    private func open() throws -> Store {
        try Store(path: scratch.path + "/sluice.sqlite", durability: .everyTransaction)
    }

    @Test func aKeyIsShownOnceAndStoredAsDigestOnly() throws {
        let store = try open()
        var published: [DirectoryCredential] = []
        let client = try store.issueKey(
            account: "alice", role: .client, nowUs: 5, digest: fakeDigest,
            publish: { published.append($0) })
        let supplier = try store.issueKey(
            account: "alice", role: .supplier, nowUs: 6, digest: fakeDigest,
            publish: { published.append($0) })
        #expect(client.secret.hasPrefix("slc_"))
        #expect(supplier.secret.hasPrefix("sls_"))
        // 40 random bytes, six bits a character.
        #expect(client.secret.utf8.count == 4 + 54)
        #expect(client.account == supplier.account)
        #expect(
            published.map(\.digest) == [client, supplier].map { fakeDigest(Array($0.secret.utf8)) })
        #expect(published[0].supplier == 0)
        #expect(published[1].supplier != 0)
        #expect(try store.keys().map(\.prefix) == [client.prefix, supplier.prefix])
        _ = try store.checkpoint()
        for name in try FileManager.default.contentsOfDirectory(atPath: scratch.path) {
            let file = try Data(contentsOf: URL(fileURLWithPath: scratch.path + "/" + name))
            #expect(
                file.range(of: Data(client.prefix.utf8)) != nil || name.hasSuffix("-shm")
                    || name.hasSuffix("-wal"))
            for start in stride(from: 10, to: 50, by: 4) {
                let part = Array(client.secret.utf8)[start..<start + 8]
                #expect(file.range(of: Data(part)) == nil)
            }
        }
    }

    @Test func noTwoKeysAreAlike() throws {
        let store = try open()
        let secrets = try (0..<50).map { _ in
            try store.issueKey(
                account: "a", role: .client, nowUs: 1, digest: fakeDigest, publish: { _ in }
            ).secret
        }
        #expect(Set(secrets).count == 50)
    }

    @Test func aKeyThatTheDirectoryDoesNotTakeIsNotStored() throws {
        struct Refusal: Error {}
        let store = try open()
        #expect(throws: StoreError.notPublished) {
            _ = try store.issueKey(
                account: "a", role: .client, nowUs: 1, digest: fakeDigest,
                publish: { _ in throw Refusal() })
        }
        #expect(try store.keys().isEmpty)
    }

    @Test func revokingTellsTheDirectory() throws {
        let store = try open()
        let key = try store.issueKey(
            account: "a", role: .both, nowUs: 1, digest: fakeDigest, publish: { _ in })
        var published: [DirectoryCredential] = []
        try store.revokeKey(prefix: key.prefix, nowUs: 2, publish: { published.append($0) })
        #expect(published.map(\.digest) == [key.entry.digest])
        #expect(published[0].isRevoked)
        #expect(published[0].role == .both)
        #expect(try store.keys().map(\.isRevoked) == [true])
        #expect(throws: StoreError.unknownKey) {
            try store.revokeKey(prefix: "slc_nobody", nowUs: 2, publish: { _ in })
        }
    }

    @Test func settingsAreKept() throws {
        let store = try open()
        #expect(try store.setting("fee") == nil)
        try store.setSetting("fee", "1")
        try store.setSetting("fee", "2")
        #expect(try store.setting("fee") == "2")
    }
}
