import SluiceClient
import SluiceSupplier
import SluiceTesting
import SluiceWire
import Testing

@Suite("FakeBroker", .timeLimit(.minutes(1))) struct FakeBrokerTests {
    @Test("a task runs through the real core to its end")
    func completes() async throws {
        try await FakeBroker.run { broker in
            broker.supply("m") { task, out in
                try await out.write("one ", tokens: 1)
                try await out.write("two", tokens: 2)
                return Usage(inputTokens: 5, outputTokens: 3)
            }
            let answer = broker.client.stream(.chat("m", "x"))
            var text = ""
            for try await chunk in answer { text += chunk.text ?? "" }
            #expect(text == "one two")
            let completion = try await answer.completion()
            #expect(completion.usage == Usage(inputTokens: 5, outputTokens: 3))
        }
    }

    @Test("embeddings and images come as the one JSON object that their supplier wrote")
    func results() async throws {
        try await FakeBroker.run { broker in
            var offer = Offer(model: "v", slots: 1, inputPrice: 1_000_000, outputPrice: 0)
            offer.operations = [.embedding, .image]
            offer.encodings = [.openAI]
            broker.supply([offer]) { task, out in
                guard case .openAI(let request) = task.payload else {
                    throw TaskFailure(code: .upstreamRefused)
                }
                for number in 1...task.maxOutputTokens {
                    try await out.write(part: request + [UInt8(number)], results: 1)
                }
                return Usage(inputTokens: 5, outputTokens: task.maxOutputTokens)
            }
            for request in [
                TaskRequest.embeddings("v", request: [7], count: 2),
                TaskRequest.images("v", request: [7], count: 2),
            ] {
                let result = try await broker.client.perform(request)
                #expect(result.body == [7, 1, 7, 2])
                #expect(result.events.isEmpty)
                #expect(result.text.isEmpty)
                #expect(result.completion.usage == Usage(inputTokens: 5, outputTokens: 2))
            }
        }
    }

    @Test(
        "an event of 1 byte to 1 MiB comes whole, any other length gives the answer up [P18]",
        arguments: [(0, false), (1, true), (1 << 20, true), (1 << 20 + 1, false)])
    func eventLengths(_ byteCount: Int, _ isTaken: Bool) async throws {
        try await FakeBroker.run { broker in
            var offer = Offer(model: "m", slots: 1, inputPrice: 1_000_000, outputPrice: 1_000_000)
            offer.encodings = [.openAI]
            broker.supply([offer]) { _, out in
                try await out.write(
                    event: [UInt8](repeating: 0x20, count: byteCount), tokens: 1)
                return Usage(inputTokens: 1, outputTokens: 1)
            }
            let request = TaskRequest(.chat, model: "m", payload: .openAI(Array("{}".utf8)))
            var byteCounts: [Int] = []
            do throws(SluiceError) {
                for try await chunk in broker.client.stream(request) {
                    byteCounts.append(chunk.bytes.count)
                }
                #expect(isTaken)
            } catch {
                #expect(!isTaken)
                #expect(error.code == .supplierFailed)
            }
            #expect(byteCounts == (isTaken ? [byteCount] : []))
        }
    }

    @Test("what is written has the form of its task")
    func forms() async throws {
        try await FakeBroker.run { broker in
            broker.supply("m") { _, out in
                await #expect(throws: SupplierError.wrongEncoding) {
                    try await out.write(part: [1], results: 1)
                }
                await #expect(throws: SupplierError.wrongEncoding) {
                    try await out.write(event: [1], tokens: 1)
                }
                try await out.write("hi", tokens: 1)
                return Usage(outputTokens: 1)
            }
            let result = try await broker.client.perform(.chat("m", "x"))
            #expect(result.text == "hi")
        }
    }

    @Test("a supplier lost after output ends the task with exact usage, and comes back")
    func supplierLost() async throws {
        try await FakeBroker.run { broker in
            broker.supply("m") { _, out in
                try await out.write("hi", tokens: 1)
                try await out.write(" there", tokens: 1)
                return Usage(inputTokens: 1, outputTokens: 2)
            }
            broker.loseSupplier(afterTokens: 1)
            var delivered: UInt32?
            do {
                for try await _ in broker.client.stream(.chat("m", "x")) {}
            } catch SluiceError.supplierLost(let receipt) {
                delivered = receipt.usage.outputTokens
            }
            #expect(delivered == 1 || delivered == 2)
            let again = try await broker.client.perform(.chat("m", "x"))
            #expect(again.text == "hi there")
        }
    }

    @Test("a deadline passes when the test lets time pass")
    func deadline() async throws {
        try await FakeBroker.run { broker in
            broker.supply("m") { _, out in
                try await out.write("hi", tokens: 1)
                try await Task.sleep(for: .seconds(3_600))
                return Usage()
            }
            let answer = broker.client.stream(.chat("m", "x") { $0.deadline = .seconds(5) })
            var iterator = answer.makeAsyncIterator()
            let first = try await iterator.next()
            #expect(first?.text == "hi")
            await broker.advance(by: .seconds(8))
            do {
                while try await iterator.next() != nil {}
                Issue.record("no deadline")
            } catch let error as SluiceError {
                #expect(error.code == .deadlineExceeded)
            }
        }
    }

    @Test("an unknown model is rejected")
    func rejections() async throws {
        try await FakeBroker.run { broker in
            broker.supply("m") { _, _ in Usage() }
            do {
                _ = try await broker.client.perform(.chat("other", "x"))
                Issue.record("taken")
            } catch let error as SluiceError {
                #expect(error.code == .modelUnknown)
            }
        }
    }

    @Test("a repeated idempotency key is told the first task, its usage and its cost")
    func duplicate() async throws {
        try await FakeBroker.run { broker in
            broker.supply("m") { _, out in
                try await out.write("hi", tokens: 2)
                return Usage(inputTokens: 1, outputTokens: 2)
            }
            let request = TaskRequest.chat("m", "x") { $0.idempotencyKey = "once" }
            let first = try await broker.client.perform(request)
            do {
                _ = try await broker.client.perform(request)
                Issue.record("ran twice")
            } catch SluiceError.duplicate(let receipt) {
                #expect(receipt.task == first.completion.task)
                #expect(receipt.usage == first.completion.usage)
                #expect(receipt.cost == first.completion.cost)
            }
        }
    }

    @Test("a lost client connection ends its tasks and is made again")
    func clientLost() async throws {
        try await FakeBroker.run { broker in
            broker.supply("m") { _, out in
                try await out.write("hi", tokens: 1)
                return Usage(outputTokens: 1)
            }
            _ = try await broker.client.perform(.chat("m", "x"))
            broker.loseClient()
            let again = try await broker.client.perform(.chat("m", "x"))
            #expect(again.text == "hi")
        }
    }
}
