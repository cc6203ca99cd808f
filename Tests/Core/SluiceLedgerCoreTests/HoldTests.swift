import SluiceLedgerCore
import SluiceRecordFormat
import SluiceWire
import Testing

@Suite struct HoldTests {
    @Test func theInputBoundIsTheTasksOwnOrItsBytes() {
        #expect(Hold.inputBound(maxInputTokens: 9, bodyBytes: 100) == 9)
        #expect(Hold.inputBound(maxInputTokens: 0, bodyBytes: 100) == 1_124)
        #expect(Hold.inputBound(maxInputTokens: 0, bodyBytes: .max) == .max)
        for operation in [TaskOperation.chat, .completion] {
            func first(_ most: UInt32) -> UInt32 {
                Hold.firstOutputTokens(maxOutputTokens: most, operation: operation)
            }
            #expect(first(0) == 4_096)
            #expect(first(9) == 9)
            #expect(first(.max) == 4_096)
        }
    }

    /// A part of their answer is of no use.
    @Test func ofEmbeddingsAndImagesAllAreHeldForAtOnce() {
        for operation in [TaskOperation.embedding, .image] {
            for most in [1, 9, 4_097, .max] as [UInt32] {
                #expect(
                    Hold.firstOutputTokens(maxOutputTokens: most, operation: operation) == most)
            }
        }
    }

    @Test func theHoldOfImagesIsByTheImageAndOfEmbeddingsByTheMillion() {
        let prices = PriceList(input: 20_000, cached: 20_000, output: 40_000, reasoning: 40_000)
        func hold(_ input: UInt32, _ output: UInt32, _ operation: TaskOperation) -> MicroUSD? {
            Hold.amount(
                inputTokens: input, outputTokens: output, prices: prices, operation: operation)
        }
        // 1,000 tokens at 0.02 USD a million, and 2 images at 0.04 USD each.
        #expect(hold(1_000, 2, .image) == 80_020)
        // The same and 500 embeddings at 0.04 USD a million.
        #expect(hold(1_000, 500, .embedding) == 40)
    }

    /// Whatever was cached or reasoned, and at whichever price.
    @Test func aHoldIsNeverBelowAChargeItAllows() {
        var random = SystemRandomNumberGenerator()
        for _ in 0..<10_000 {
            let prices = anyPrices(&random)
            let operation = TaskOperation.allCases.randomElement(using: &random) ?? .chat
            let input = UInt32.random(in: 0...(.max), using: &random) >> UInt32.random(in: 0...31)
            let output = UInt32.random(in: 0...(.max), using: &random) >> UInt32.random(in: 0...31)
            guard
                let held = Hold.amount(
                    inputTokens: input, outputTokens: output, prices: prices,
                    operation: operation)
            else {
                #expect(operation == .image)
                continue
            }
            let usage = Usage(
                inputTokens: .random(in: 0...input), outputTokens: .random(in: 0...output),
                cachedTokens: .random(in: 0...input), reasoningTokens: .random(in: 0...output))
            guard let cost = prices.amount(usage, operation) else {
                Issue.record("a part does not fit though the whole does")
                continue
            }
            #expect(cost <= held)
        }
    }

    @Test func affordableTokensAreExact() {
        var random = SystemRandomNumberGenerator()
        for _ in 0..<10_000 {
            let prices = anyPrices(&random)
            let operation = TaskOperation.allCases.randomElement(using: &random) ?? .chat
            let money = MicroUSD(
                Int64.random(in: 0...(.max), using: &random) >> Int64.random(in: 0...62))
            let input = UInt32.random(in: 0...(.max), using: &random) >> UInt32.random(in: 0...31)
            func hold(_ output: UInt32) -> MicroUSD? {
                Hold.amount(
                    inputTokens: input, outputTokens: output, prices: prices,
                    operation: operation)
            }
            guard
                let tokens = Hold.affordableOutput(
                    money, inputTokens: input, prices: prices, operation: operation)
            else {
                #expect((hold(0) ?? MicroUSD(.max)) > money)
                continue
            }
            let held = hold(tokens)
            #expect(held != nil && held ?? 0 <= money)
            if tokens < .max { #expect((hold(tokens + 1) ?? MicroUSD(.max)) > money) }
        }
    }

    @Test func affordableTokensAtTheLimits() {
        let free = Hold.affordableOutput(0, inputTokens: .max, prices: .free, operation: .chat)
        #expect(free == .max)
        let dearest = Hold.affordableOutput(
            MicroUSD(.max), inputTokens: .max, prices: list(.max), operation: .chat)
        #expect(dearest == .max)
        let images = Hold.affordableOutput(
            MicroUSD(.max), inputTokens: 0, prices: list(.max), operation: .image)
        #expect(images == UInt32(UInt64(Int64.max) / UInt64(UInt32.max)))
        #expect(
            Hold.affordableOutput(-1, inputTokens: 0, prices: .free, operation: .chat) == nil)
        #expect(
            Hold.affordableOutput(0, inputTokens: 1, prices: list(500_000), operation: .chat)
                == nil)
        // 0.499,999 micro-USD round to nothing.
        #expect(
            Hold.affordableOutput(0, inputTokens: 1, prices: list(499_999), operation: .chat)
                == 0)
    }

    @Test func whatDoesNotFitIsRefused() {
        #expect(
            Hold.amount(
                inputTokens: 0, outputTokens: .max, prices: list(.max), operation: .image)
                == nil)
    }
}
