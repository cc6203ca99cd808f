import SluiceClient
import SluiceSupplier
import SluiceTesting
import Synchronization
import Testing

@Suite("An app that makes summaries", .timeLimit(.minutes(1))) struct SummariserTests {
    @Test("the summary is the model's answer")
    func answers() async throws {
        try await FakeBroker.run { broker in
            broker.supply("small") { task, out in
                try await out.write("Water, ", tokens: 1)
                try await out.write("held back.", tokens: 2)
                return Usage(inputTokens: 9, outputTokens: 3)
            }
            let app = Summariser(sluice: broker.client, model: "small")
            let summary = try await app.summary(of: "a sluice", key: "1")
            #expect(summary == "Water, held back.")
        }
    }

    @Test("a supplier that is lost in the middle of its answer is asked again")
    func survivesALoss() async throws {
        try await FakeBroker.run { broker in
            broker.supply("small") { _, out in
                try await out.write("Water, ", tokens: 1)
                try await out.write("held back.", tokens: 2)
                return Usage(inputTokens: 9, outputTokens: 3)
            }
            broker.loseSupplier(afterTokens: 1)
            let app = Summariser(sluice: broker.client, model: "small")
            let summary = try await app.summary(of: "a sluice", key: "1")
            #expect(summary == "Water, held back.")
        }
    }

    @Test("a model that nobody serves is waited for as the broker says, and then given up")
    func givesUp() async throws {
        try await FakeBroker.run { broker in
            broker.supply("small") { _, _ in Usage() }
            let pauses = Mutex(0)
            var app = Summariser(sluice: broker.client, model: "large")
            app.pause = { duration in
                pauses.withLock { $0 += 1 }
                await broker.advance(by: duration)
            }
            await #expect(throws: SluiceError.self) {
                try await app.summary(of: "a sluice", key: "1")
            }
            #expect(pauses.withLock { $0 } == 2)
        }
    }

    @Test("a wish that was fulfilled is not fulfilled again")
    func runsOnce() async throws {
        try await FakeBroker.run { broker in
            let runs = Mutex(0)
            broker.supply("small") { _, out in
                runs.withLock { $0 += 1 }
                try await out.write("Water.", tokens: 1)
                return Usage(inputTokens: 9, outputTokens: 1)
            }
            let app = Summariser(sluice: broker.client, model: "small")
            _ = try await app.summary(of: "a sluice", key: "1")
            do {
                _ = try await app.summary(of: "a sluice", key: "1")
                Issue.record("the wish was fulfilled twice")
            } catch SluiceError.duplicate(let receipt) {
                #expect(receipt.usage.outputTokens == 1)
            }
            #expect(runs.withLock { $0 } == 1)
        }
    }
}
