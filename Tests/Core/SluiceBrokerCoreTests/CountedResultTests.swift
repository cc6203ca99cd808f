import SluiceBrokerCore
import SluiceInMemory
import SluiceLedgerCore
import SluiceRecordFormat
import SluiceSession
import SluiceWire
import Testing

@Suite("Embeddings and images: tasks whose results are counted") struct CountedResultTests {
    /// A supplier of both.
    private func supply(_ rig: inout Rig) -> UInt32 {
        rig.supplier {
            $0.operations = [OperationSet(.embedding), OperationSet(.image)]
            $0.prices.input = 1_000_000
            $0.prices.output = 4
        }
    }

    private func submit(
        _ rig: inout Rig, _ client: UInt32, _ operation: TaskOperation, _ count: UInt32,
        encoding: PayloadEncoding = .openAI, budget: MicroUSD = 0
    ) {
        rig.submit(client) {
            $0.terms.operation = operation
            $0.terms.encoding = encoding
            $0.terms.maxOutputTokens = count
            $0.terms.maxInputTokens = 10
            $0.budget = budget
        }
    }

    @Test(
        "[Q8] without a count they are invalid_request, as text unsupported",
        arguments: [TaskOperation.embedding, .image])
    func refusals(_ operation: TaskOperation) {
        var rig = Rig()
        _ = supply(&rig)
        let client = rig.client()
        submit(&rig, client, operation, 0)
        #expect(rig.hear(client).first?.end?.code == .invalidRequest)
        submit(&rig, client, operation, 1, encoding: .text)
        #expect(rig.hear(client).first?.end?.code == .unsupported)
        #expect(rig.accepted.isEmpty)
    }

    @Test(
        "[D2] only an offer with the operation runs it",
        arguments: [TaskOperation.embedding, .image])
    func matching(_ operation: TaskOperation) {
        var rig = Rig()
        _ = rig.supplier { $0.operations = [OperationSet(.chat), OperationSet(.completion)] }
        let client = rig.client()
        submit(&rig, client, operation, 1)
        #expect(rig.hear(client).first?.end?.code == .noSupplier)
    }

    @Test("[S13] the answer passes as it is; images cost by the image, embeddings by the million")
    func exchange() throws {
        for operation in [TaskOperation.embedding, .image] {
            var rig = Rig()
            let supplier = supply(&rig)
            let client = rig.client()
            submit(&rig, client, operation, 2)
            let assign = try #require(rig.hear(supplier).first?.assign)
            #expect(assign.terms.operation == operation)
            #expect(assign.terms.maxOutputTokens == 2)
            let large = [UInt8](repeating: 7, count: 5_000)
            rig.tokens(supplier, large, tokens: 0)
            rig.tokens(supplier, large, tokens: 1)
            rig.tokens(supplier, [9], tokens: 1)
            rig.tokens(supplier, [8], tokens: 0)
            rig.end(supplier, usage: Usage(inputTokens: 3, outputTokens: 2))
            let frames = rig.hear(client)
            #expect(
                frames.flatMap { $0.kind == .tokens ? $0.payload : [] } == large + large + [9, 8])
            let end = try #require(frames.last?.end)
            #expect(end.code == .completed)
            #expect(end.usage == Usage(inputTokens: 3, outputTokens: 2))
            // 3 tokens at 1 each, and 2 images at 4 each; 8 millionths of embeddings round to 0.
            #expect(end.cost == (operation == .image ? 11 : 3))
            #expect(rig.ended.last?.charge.consumerCost == end.cost)
        }
    }

    @Test("[E4] one byte can carry one result, and no more are billed than bytes")
    func fewBytes() {
        var rig = Rig()
        let supplier = supply(&rig)
        let client = rig.client()
        submit(&rig, client, .image, 10)
        _ = rig.hear(supplier)
        rig.tokens(supplier, [1, 2, 3], tokens: 9)
        rig.end(supplier, usage: Usage(inputTokens: 3, outputTokens: 9))
        #expect(rig.hear(client).last?.end?.usage.outputTokens == 3)
    }

    @Test("[K10] more results than were asked for are not forwarded nor billed, prepaid or not")
    func tooMany() throws {
        for isPrepaid in [false, true] {
            var rig = Rig()
            let supplier = supply(&rig)
            let client = rig.client()
            if isPrepaid {
                rig.prepay()
                rig.lease(1_000)
            }
            submit(&rig, client, .image, 2)
            _ = rig.hear(supplier)
            rig.tokens(supplier, [1, 2, 3, 4], tokens: 1)
            // The frame that reaches the bound may exceed it, unbilled.
            rig.tokens(supplier, [5, 6, 7, 8], tokens: 7)
            rig.tokens(supplier, [9], tokens: 1)
            rig.end(supplier, usage: Usage(inputTokens: 3, outputTokens: 9))
            let frames = rig.hear(client)
            #expect(frames.map(\.kind) == [.queued, .tokens, .tokens, .end])
            let end = try #require(frames.last?.end)
            #expect(end.code == .budgetExhausted)
            #expect(end.usage == Usage(inputTokens: 3, outputTokens: 2))
            #expect(rig.ended.last?.charge.consumerCost == 11)
        }
    }

    @Test("[Q16] where not all results can be paid, none is begun", arguments: [17, 18])
    func allOrNothing(_ budget: Int64) {
        var rig = Rig()
        let supplier = supply(&rig)
        let client = rig.client()
        rig.prepay()
        rig.lease(1_000)
        // 10 tokens at 1 each, and 2 images at 4 each.
        submit(&rig, client, .image, 2, budget: MicroUSD(budget))
        let end = rig.hear(client).last?.end
        #expect(end?.code == (budget < 18 ? .insufficientFunds : nil))
        #expect(rig.hear(supplier).isEmpty == (budget < 18))
    }

    @Test("a broker's loss bills no more results than were asked for")
    func loss() {
        var rig = Rig()
        let supplier = supply(&rig)
        let client = rig.client()
        submit(&rig, client, .image, 2)
        _ = rig.hear(supplier)
        rig.tokens(supplier, [1, 2, 3, 4, 5, 6, 7, 8], tokens: 7)
        _ = rig.hear(client)
        let slot = rig.broker.instance.slots.first { $0.acceptSequence != 0 }
        #expect(slot?.deliveredTokens == 2)
    }
}
