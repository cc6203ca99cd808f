import RecordTestSupport
import SluiceLedgerCore
import SluiceRecordFormat
import SluiceWire
import Store
import Testing

@Suite struct HistoryTests {
    private static let acceptedAtUs: UInt64 = 1_792_800_000_000_000
    private static let model = "demo/one"

    /// A market whose supplier ran two tasks of the consumer, and one that ended without output.
    private func market(_ engine: TestEngine) throws -> Market {
        let market = try Market(engine)
        _ = try market.store.topUp(market.consumer.id, 1_000, reference: "p", nowUs: 2)
        var journal = JournalSketch(instance: 9)
        journal.start()
        try journal.name(Self.model)
        for counter in 1...3 as ClosedRange<UInt64> {
            journal.accept(counter, atUs: Self.acceptedAtUs, account: market.consumer.id)
            journal.end(
                counter, ttftUs: counter == 3 ? nil : 5 * counter,
                charge: counter == 3 ? .none : charge(11, 10),
                supplier: counter == 3 ? 0 : market.token.entry.supplier)
        }
        _ = try market.store.applyBatch(journal.records, node: 7)
        return market
    }

    @Test(arguments: TestEngine.allCases)
    func aTasksHistoryNamesWhoRanItAndWhatTheLedgerHasOfIt(_ engine: TestEngine) throws {
        let market = try market(engine)
        let task = TaskID(instance: 9, counter: 1)
        let history = try #require(try market.store.history(of: task))
        #expect(history.accepted.task == task && history.accepted.bodyBytes == 10)
        #expect(history.consumer.label == "consumer" && history.node == 7)
        #expect(history.model == Self.model)
        let end = try #require(history.end)
        #expect(end.status == .completed && end.finishReason == .stop && end.ttftUs == 5)
        #expect(end.supplier?.account?.account == market.supplier)
        #expect(end.supplier?.winReason == .affinity && end.supplier?.dispatches == 1)
        #expect(
            history.postings == [
                Posting(.consumer(market.consumer.id), -11),
                Posting(.supplier(market.supplier), 10),
                Posting(.platformFee, 1),
            ])
        let unpaid = try #require(
            try market.store.history(of: TaskID(instance: 9, counter: 3)))
        #expect(unpaid.postings.isEmpty && unpaid.end?.supplier == nil)
        #expect(try market.store.history(of: TaskID(instance: 9, counter: 4)) == nil)
    }

    @Test(arguments: TestEngine.allCases)
    func theFixedPriceOfItsTimeIsTheOneThatCounts(_ engine: TestEngine) throws {
        let market = try market(engine)
        let name = try #require(ModelName(Self.model))
        let list = PriceList(input: 2_000_000, cached: 1_000_000, output: 3_000_000, reasoning: 0)
        let dispatchedMs = (Self.acceptedAtUs + 7) / 1_000
        for (prices, fromMs) in [(list, dispatchedMs), (.free, dispatchedMs + 1)] {
            try market.store.setPrice(
                DirectoryPrice(model: name, prices: prices, effectiveFromMs: fromMs), nowUs: 1)
        }
        try market.store.setFee(DirectoryFee(basisPoints: 250, effectiveFromMs: 1), nowUs: 1)
        let history = try #require(
            try market.store.history(of: TaskID(instance: 9, counter: 1)))
        #expect(history.fixedPrices == list && history.feeBasisPoints == 250)
        // 2 input, 1 cached, 2 output and 2 reasoning tokens.
        #expect(history.costByFixedPrices == 11)
    }

    @Test(arguments: TestEngine.allCases)
    func usageSumsWhatEndedByEachGrouping(_ engine: TestEngine) throws {
        let market = try market(engine)
        let range = Self.acceptedAtUs..<Self.acceptedAtUs + 1
        for grouping in UsageGrouping.allCases where grouping != .supplier {
            let rows = try market.store.usage(by: grouping, range)
            #expect(rows.count == 1, "\(grouping)")
            let row = try #require(rows.first)
            #expect(row.tasks == 3 && row.completed == 3 && row.outputTokens == 12)
            #expect(row.cost == 22 && row.earning == 20 && row.fee == 2)
            #expect(row.ttftUs == (5 + 10) / 2 && row.queueUs == 7)
            let names = [
                UsageGrouping.account: "consumer", .model: Self.model, .status: "completed",
                .day: "2026-10-24",
            ]
            #expect(row.group == names[grouping])
        }
        let suppliers = try market.store.usage(by: .supplier, range)
        #expect(suppliers.map(\.group) == ["\(market.token.entry.supplier)", ""])
        #expect(suppliers.map(\.tasks) == [2, 1])
        #expect(try market.store.usage(by: .model, account: 99, range).isEmpty)
        #expect(
            try market.store.usage(
                by: .model, Self.acceptedAtUs + 1..<Self.acceptedAtUs + 2
            ).isEmpty)
    }

    @Test(arguments: TestEngine.allCases)
    func tasksAreTracedInTheOrderInWhichTheyEnded(_ engine: TestEngine) throws {
        let market = try market(engine)
        #expect(try market.store.lastPosition() == 3)
        let first = try market.store.tracedTasks(after: 0, count: 2)
        #expect(first.map(\.task.counter) == [1, 2] && first.map(\.position) == [1, 2])
        #expect(first[0].model == Self.model && first[0].ttftUs == 5 && first[0].trace == nil)
        #expect(try market.store.tracedTasks(after: 2, count: 9).map(\.task.counter) == [3])
        #expect(try market.store.tracedTasks(after: 3, count: 9).isEmpty)
    }
}
