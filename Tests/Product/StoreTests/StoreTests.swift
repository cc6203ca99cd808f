import Foundation
import RecordTestSupport
import SluiceRecordFormat
import SluiceWire
import Store
import Testing

@Suite struct StoreTests {
    @Test(arguments: TestEngine.allCases)
    func aRecordIsPrintedWithTheseKeysInThisOrder(_ engine: TestEngine) throws {
        var journal = JournalSketch(instance: 0xFEDC_BA98_7654_3210)
        try journal.name()
        journal.accept(1)
        journal.end(1)
        journal.accept(2)
        journal.end(2, ttftUs: nil)
        let test = try TestStore(engine)
        let store = test.store
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

    @Test(arguments: TestEngine.allCases)
    func timesAreWrittenAsRFC3339(_ engine: TestEngine) throws {
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
        let test = try TestStore(engine)
        let store = test.store
        _ = try store.applyBatch(journal.records)
        for (record, second) in zip(try store.finalRecords(last: 100), seconds) {
            let expected = formatter.string(
                from: Date(timeIntervalSince1970: TimeInterval(second))
            ).replacingOccurrences(of: "Z", with: ".000000Z")
            #expect(record.json.contains("\"acceptedAt\":\"\(expected)\""))
        }
    }

    @Test(arguments: TestEngine.allCases)
    func applyingTwiceChangesNothing(_ engine: TestEngine) throws {
        var journal = JournalSketch(instance: 9)
        try journal.name()
        for counter in 1...50 as ClosedRange<UInt64> {
            journal.accept(counter)
            journal.end(counter)
            journal.append(
                RefusedRecord(account: 1, refusedAtUs: 2, code: .queueFull, model: 1).record)
        }
        let test = try TestStore(engine)
        let store = test.store
        let first = try store.applyBatch(Array(journal.records.prefix(70)))
        #expect(first.applied == 70)
        let again = try store.applyBatch(journal.records)
        #expect(again.skipped == 70)
        #expect(again.applied == journal.records.count - 70)
        #expect(try store.cursors() == [9: UInt64(journal.records.count)])
        #expect(
            try store.counts() == RecordCounts(accepted: 50, final: 50, open: 0, duplicates: 0))
    }

    @Test(arguments: TestEngine.allCases)
    func aSecondEndOfATaskIsCountedAndDropped(_ engine: TestEngine) throws {
        var journal = JournalSketch(instance: 9)
        journal.accept(1)
        journal.end(1)
        var successor = JournalSketch(instance: 10)
        successor.append(
            EndedRecord(
                task: TaskID(instance: 9, counter: 1), status: .brokerLost, code: .internalFault
            ).record)
        let test = try TestStore(engine)
        let store = test.store
        _ = try store.applyBatch(journal.records)
        let batch = try store.applyBatch(successor.records)
        #expect(batch.duplicates == 1)
        #expect(try store.finalRecords(last: 5).map(\.status) == [.completed])
        #expect(
            try store.counts() == RecordCounts(accepted: 1, final: 1, open: 0, duplicates: 1))
    }

    /// SQLite takes 32 rows to a statement; which of them it knew has to come out all the same.
    @Test(arguments: TestEngine.allCases)
    func tasksThatAreKnownAreDroppedFromTheMidstOfMany(_ engine: TestEngine) throws {
        let known: Set<UInt64> = [1, 17, 31, 32, 33, 64, 99, 100]
        var journal = JournalSketch(instance: 9)
        for counter in known.sorted() {
            journal.accept(counter)
            journal.end(counter)
        }
        let test = try TestStore(engine)
        let store = test.store
        _ = try store.applyBatch(journal.records)
        for counter in 1...100 as ClosedRange<UInt64> {
            journal.accept(counter)
            journal.end(counter)
        }
        let batch = try store.applyBatch(journal.records)
        #expect(batch.duplicates == 2 * known.count)
        #expect(batch.applied == 2 * (100 - known.count))
        #expect(
            try store.counts()
                == RecordCounts(
                    accepted: 100, final: 100, open: 0, duplicates: 2 * known.count))
    }

    @Test(arguments: TestEngine.allCases)
    func whatWasSettledIsCountedByModelStatusAndReason(_ engine: TestEngine) throws {
        var journal = JournalSketch(instance: 9)
        try journal.name()
        func end(_ counter: UInt64, _ status: TaskStatus, offerModel: UInt32) -> JournalRecord {
            EndedRecord(
                task: TaskID(instance: 9, counter: counter), status: status, code: .completed,
                durationUs: counter * 1_000, offerModel: offerModel
            ).record
        }
        for counter in 1...4 as ClosedRange<UInt64> { journal.accept(counter) }
        journal.append(end(1, .completed, offerModel: 2))
        journal.append(end(2, .completed, offerModel: 2))
        // A second end is no task.
        journal.append(end(2, .completed, offerModel: 2))
        let refusal = RefusedRecord(
            account: 1, refusedAtUs: 2, code: .queueFull, model: 1, count: 3)
        journal.append(refusal.record)
        journal.append(refusal.record)
        let test = try TestStore(engine)
        let first = try test.store.applyBatch(journal.records).settled
        let (asked, offered) = (
            NumberedModel(instance: 9, model: 1), NumberedModel(instance: 9, model: 2)
        )
        #expect(first.outcomes == [ModelOutcome(model: offered, status: .completed): 2])
        #expect(first.refusals == [.queueFull: 6])
        #expect(first.names == [asked: "demo/one"])
        #expect(first.oldestEndUs == 1_792_800_000_123_456 + 1_000)
        // In a later batch, of tasks that never had a supplier: by what was asked for.
        journal.append(end(3, .deadlineExceeded, offerModel: 0))
        let second = try test.store.applyBatch(journal.records).settled
        #expect(second.outcomes == [ModelOutcome(model: asked, status: .deadlineExceeded): 1])
        #expect(second.refusals.isEmpty && second.names.isEmpty)
        #expect(try test.store.modelName(asked) == "demo/one")
        #expect(try test.store.modelName(offered) == nil)
    }

    @Test(arguments: TestEngine.allCases)
    func unknownKindsAreSkippedAndTheCursorPasses(_ engine: TestEngine) throws {
        var journal = JournalSketch(instance: 9)
        var strange = JournalRecord(kind: .ended)
        strange.words[0] = strange.words[0] & ~0xFF00 | 0x7700
        journal.append(strange)
        journal.accept(1)
        let test = try TestStore(engine)
        let store = test.store
        let batch = try store.applyBatch(journal.records)
        #expect(batch.unreadable == 1)
        #expect(batch.applied == 1)
        #expect(try store.cursors() == [9: 2])
    }

    @Test(arguments: TestEngine.allCases)
    func whatEndsElsewhereIsJoinedByTask(_ engine: TestEngine) throws {
        var journal = JournalSketch(instance: 9)
        try journal.name()
        journal.accept(1)
        journal.accept(2)
        var successor = JournalSketch(instance: 10)
        successor.end(1, of: 9)
        let test = try TestStore(engine)
        let store = test.store
        _ = try store.applyBatch(journal.records + successor.records)
        let final = try store.finalRecords(last: 5)
        #expect(final.map(\.task) == [TaskID(instance: 9, counter: 1)])
        #expect(final[0].model == "demo/one")
        #expect(try store.counts().open == 1)
        let open = try store.openTasks(acceptedBefore: .max >> 1)
        #expect(open.map(\.task) == [TaskID(instance: 9, counter: 2)])
    }

    @Test(arguments: TestEngine.allCases)
    func lostTasksCostNothingAndKeepAnEarlierEnd(_ engine: TestEngine) throws {
        var journal = JournalSketch(instance: 9)
        journal.accept(1, atUs: 1_000)
        journal.accept(2, atUs: 2_000)
        let test = try TestStore(engine)
        let store = test.store
        _ = try store.applyBatch(journal.records)
        let open = try store.openTasks(acceptedBefore: 1_500)
        #expect(open.map(\.task.counter) == [1])
        let lost = try store.closeAsLost(open, atUs: 5_000)
        #expect(lost.settled.outcomes.map { $0.key.status } == [.lost])
        #expect(lost.settled.outcomes.values.reduce(0, +) == open.count)
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

    @Test(arguments: TestEngine.allCases)
    func aNodeEndsItsOwnTasksAndThoseOfOthersMuchLater(_ engine: TestEngine) throws {
        let test = try TestStore(engine)
        let store = test.store
        for (instance, node) in [(UInt64(9), UInt64(1)), (10, 2)] {
            var journal = JournalSketch(instance: instance)
            journal.start()
            journal.accept(1, atUs: 1_000)
            _ = try store.applyBatch(journal.records, node: node)
        }
        // Its start was lost with the rest of a page: anyone may end what it left open.
        var headless = JournalSketch(instance: 11)
        headless.accept(1, atUs: 1_000)
        _ = try store.applyBatch(headless.records, node: 3)
        func instances(node: UInt64, foreignBefore: UInt64) throws -> [UInt64] {
            try store.openTasks(acceptedBefore: 5_000, node: node, foreignBefore: foreignBefore)
                .map(\.task.instance)
        }
        #expect(try instances(node: 1, foreignBefore: 999) == [9, 11])
        #expect(try instances(node: 2, foreignBefore: 999) == [10, 11])
        #expect(try instances(node: 1, foreignBefore: 1_000) == [9, 10, 11])
    }
}
