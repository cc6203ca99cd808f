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
