import SluiceClient
import SluiceSupplier
import SluiceTesting
import Synchronization
import Testing

/// What the articles of the SDKs' documentation show. Their code is taken from here.
@Suite("What the articles show", .timeLimit(.minutes(1))) struct ConceptTests {
    @Test("an engine is never further ahead of its reader than the piece in hand and the window")
    func credit() async throws {
        try await FakeBroker.run { broker in
            let written = Mutex(0)
            broker.supply("demo") { _, out in
                let line = String(repeating: "x", count: 1_000)
                for _ in 0..<200 {
                    try await out.write(line, tokens: 1)
                    written.withLock { $0 += line.utf8.count }
                }
                return Usage(outputTokens: 200)
            }
            let sluice = broker.client
            var shown = 0
            var aheadMax = 0
            func show(_ text: String) async {
                await broker.advance(by: .milliseconds(10))  // all that can be sent is sent
                aheadMax = max(aheadMax, written.withLock { $0 } - shown)
                shown += text.utf8.count
            }

            let answer = sluice.stream(.chat("demo", "Count.") { $0.windowBytes = 16_384 })
            for try await chunk in answer {
                await show(chunk.text ?? "")  // a slow reader slows the engine down
            }

            #expect(shown == 200_000)
            // The piece in hand, the window, and one write of the supplier that waits for room.
            #expect(aheadMax <= 2 * 16_384 + 2_000, "\(aheadMax)")
        }
    }

    @Test("who leaves the loop stops the engine")
    func leaving() async throws {
        try await FakeBroker.run { broker in
            let isStopped = AsyncStream.makeStream(of: Bool.self)
            broker.supply("demo") { _, out in
                defer { isStopped.continuation.yield(true) }
                while true { try await out.write("More. ", tokens: 1) }
            }
            let sluice = broker.client
            var text = ""

            for try await chunk in sluice.stream(.chat("demo", "Talk.")) {
                text += chunk.text ?? ""
                if text.count > 100 { break }  // lets go of the answer: the engine stops
            }

            for await stopped in isStopped.stream {
                #expect(stopped)
                break
            }
        }
    }

    @Test("who cancels by hand learns what the answer cost until then")
    func cancelling() async throws {
        try await FakeBroker.run { broker in
            broker.supply("demo") { _, out in
                while true { try await out.write("More. ", tokens: 1) }
            }
            let sluice = broker.client
            var delivered: UInt32 = 0

            let answer = sluice.stream(.chat("demo", "Talk."))
            var pieces = answer.makeAsyncIterator()
            _ = try await pieces.next()
            answer.cancel()
            do {
                _ = try await answer.completion()
            } catch SluiceError.cancelled(let receipt) {
                delivered = receipt.usage.outputTokens  // what was delivered is what is charged
            }

            #expect(delivered > 0)
        }
    }

    @Test("a task of an app ends with the Swift task that reads it")
    func structuredCancellation() async throws {
        try await FakeBroker.run { broker in
            let hasBegun = AsyncStream.makeStream(of: Void.self)
            broker.supply("demo") { _, out in
                hasBegun.continuation.yield()
                while true { try await out.write("More. ", tokens: 1) }
            }
            let sluice = broker.client

            let reading = Task {
                for try await _ in sluice.stream(.chat("demo", "Talk.")) {}
            }
            for await _ in hasBegun.stream { break }
            reading.cancel()  // reaches the engine

            await #expect(throws: SluiceError.self) { try await reading.value }
        }
    }

    @Test("money is bounded before, and known after")
    func money() async throws {
        try await FakeBroker.run { broker in
            let offer = Offer(
                model: "demo", slots: 4, inputPrice: 200_000, outputPrice: 600_000)
            broker.supply([offer]) { _, out in
                try await out.started(inputTokens: 1_000)
                // A piece is never billed as more tokens than it has bytes.
                try await out.write(String(repeating: "word ", count: 500), tokens: 500)
                return Usage(inputTokens: 1_000, outputTokens: 500)
            }
            let sluice = broker.client

            let request = TaskRequest.chat("demo", "Explain.") {
                $0.maxInputTokens = 2_000
                $0.maxOutputTokens = 1_000
                $0.outputPriceCeiling = 800_000  // 80 cents per million tokens
                $0.preference = .price
            }
            let result = try await sluice.perform(request)
            let cost = result.completion.cost

            #expect(cost == 500)  // 1,000 × 0.2 + 500 × 0.6 millionths of a dollar
        }
    }

    @Test("a ceiling below every offer is refused, not exceeded")
    func ceiling() async throws {
        try await FakeBroker.run { broker in
            let offer = Offer(
                model: "demo", slots: 4, inputPrice: 200_000, outputPrice: 600_000)
            broker.supply([offer]) { _, _ in Usage() }
            let request = TaskRequest.chat("demo", "Explain.") { $0.outputPriceCeiling = 500_000 }
            do {
                _ = try await broker.client.perform(request)
                Issue.record("an offer above the ceiling was taken")
            } catch let error as SluiceError {
                #expect(error.code == .noSupplier)
            }
        }
    }

    @Test("a conversation that goes on shares a key with its beginning")
    func affinity() async throws {
        let secret = Array("thirty-two bytes of randomness.!".utf8)
        let messages = ["You are brief.", "What is a sluice?", "A gate.", "For what?"]
        let earlier = PrefixAffinity(secret: secret).keys(
            scope: Array("account".utf8), model: "demo",
            messages: messages.prefix(2).map { Array($0.utf8) })

        let affinity = PrefixAffinity(secret: secret)
        let request = TaskRequest.chat("demo", messages.joined(separator: "\n")) {
            $0.affinityKeys = affinity.keys(
                scope: Array("account".utf8), model: "demo",
                messages: messages.map { Array($0.utf8) })
        }

        #expect(request.options.affinityKeys.count == messages.count)
        #expect(!Set(earlier).isDisjoint(with: request.options.affinityKeys))
    }

    @Test("a prompt goes only to who promises what was asked")
    func privacy() async throws {
        try await FakeBroker.run { broker in
            broker.supply([Offer(model: "demo", slots: 4, dataPolicy: .noTraining)]) { _, _ in
                Usage()
            }
            broker.supply(
                [Offer(model: "demo", slots: 4, dataPolicy: .noRetention, region: "eu")]
            ) { _, out in
                try await out.write("From the EU.", tokens: 4)
                return Usage(outputTokens: 4)
            }
            let sluice = broker.client

            let request = TaskRequest.chat("demo", "A secret.") {
                $0.dataPolicy = .noRetention
                $0.region = "eu"
            }

            let answer = try await sluice.perform(request)
            #expect(answer.text == "From the EU.")
        }
    }

    @Test("a failure of the engine says whether another one may do")
    func failures() async throws {
        try await FakeBroker.run { broker in
            struct EngineIsDown: Error {}
            struct Engine {
                func run(_ prompt: String) throws(EngineIsDown) -> String { throw EngineIsDown() }
            }
            let engine = Engine()
            broker.supply("demo") { task, out in
                guard case .text(let prompt) = task.payload else {
                    throw TaskFailure(code: .upstreamRefused)  // no engine could do better
                }
                do {
                    try await out.write(engine.run(prompt), tokens: 1)
                } catch is EngineIsDown {
                    throw TaskFailure(code: .upstreamUnavailable)  // another engine may do
                }
                return Usage(outputTokens: 1)
            }
            do {
                _ = try await broker.client.perform(.chat("demo", "x"))
                Issue.record("an answer without an engine")
            } catch let error as SluiceError {
                #expect(error.code != nil)
            }
        }
    }
}
