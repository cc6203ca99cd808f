import SluiceRecordFormat
import SluiceWire
import Testing

@Suite struct TaskPricesTests {
    private func list(_ price: UInt32) -> PriceList {
        PriceList(input: price, cached: price, output: price, reasoning: price)
    }

    @Test func allPartsAreSummedThenRoundedOnce() {
        let quarter = list(250_000)
        // 0.25 + 0.25 rounds up once; each alone would round down.
        #expect(quarter.amount(Usage(inputTokens: 1, outputTokens: 1), .chat) == 1)
        #expect(quarter.amount(Usage(inputTokens: 1), .chat) == 0)
        let four = Usage(
            inputTokens: 2, outputTokens: 2, cachedTokens: 1, reasoningTokens: 1)
        #expect(list(125_000).amount(four, .chat) == 1)
        #expect(list(124_999).amount(four, .chat) == 0)
    }

    @Test func eachPartHasItsPrice() {
        let prices = PriceList(
            input: 1_000_000, cached: 10_000_000, output: 100_000_000, reasoning: 1_000_000_000)
        let usage = Usage(
            inputTokens: 5, outputTokens: 7, cachedTokens: 2, reasoningTokens: 3)
        #expect(prices.amount(usage, .chat) == 3_423)
        #expect(prices.amount(usage, .embedding) == 3_423)
        #expect(prices.amount(usage, .image) == 3_400_000_023)
    }

    /// The worked examples of `Protocol/Money.md`.
    @Test func imagesCostByTheImageAndEmbeddingsByTheirInput() {
        func list(_ input: UInt32, _ output: UInt32) -> PriceList {
            PriceList(input: input, cached: input, output: output, reasoning: output)
        }
        let images = TaskPrices(
            ask: list(2_000_000, 40_000), consumer: list(2_200_000, 44_000))
        #expect(
            images.charge(Usage(inputTokens: 7, outputTokens: 2), .image)
                == TaskCharge(
                    consumerCost: 88_015, supplierEarning: 80_014, platformFee: 8_001))
        let embeddings = TaskPrices(ask: list(20_000, 0), consumer: list(20_000, 0))
        #expect(
            embeddings.charge(Usage(inputTokens: 1_500_000, outputTokens: 500), .embedding)
                == TaskCharge(
                    consumerCost: 30_000, supplierEarning: 30_000, platformFee: 0))
    }

    @Test func aPartAboveItsWholeIsTheWhole() {
        let usage = Usage(
            inputTokens: 1, outputTokens: 1, cachedTokens: .max, reasoningTokens: .max)
        let prices = PriceList(
            input: 9_000_000, cached: 1_000_000, output: 9_000_000, reasoning: 1_000_000)
        #expect(prices.amount(usage, .chat) == 2)
    }

    @Test func theLargestUsageAtTheHighestPriceIsExactOrNothing() {
        let most = Usage(inputTokens: .max, outputTokens: .max)
        // 2 x (2^32 - 1)^2 / 10^6, rounded.
        #expect(list(.max).amount(most, .chat) == 36_893_488_130_239)
        // (2^32 - 1)^2 micro-USD of images do not fit 63 bits.
        #expect(list(.max).amount(most, .image) == nil)
        #expect(
            TaskPrices(ask: .free, consumer: list(.max)).charge(most, .image) == nil)
        let fits = Usage(outputTokens: 1 << 31)
        #expect(list(.max).amount(fits, .image) == MicroUSD(Int64(UInt32.max) << 31))
    }

    @Test func theFeeIsTheDifferenceExactly() {
        var random = SystemRandomNumberGenerator()
        for _ in 0..<10_000 {
            func price(_ least: UInt32) -> UInt32 {
                .random(in: least...(.max), using: &random) >> UInt32.random(in: 0...24)
            }
            let ask = PriceList(
                input: price(0), cached: price(0), output: price(0), reasoning: price(0))
            let consumer = PriceList(
                input: max(ask.input, price(0)), cached: max(ask.cached, price(0)),
                output: max(ask.output, price(0)), reasoning: max(ask.reasoning, price(0)))
            #expect(consumer.covers(ask))
            let usage = Usage(
                inputTokens: price(0), outputTokens: price(0), cachedTokens: price(0),
                reasoningTokens: price(0))
            let operation = TaskOperation.allCases.randomElement(using: &random) ?? .chat
            let prices = TaskPrices(ask: ask, consumer: consumer)
            guard let charge = prices.charge(usage, operation) else {
                #expect(operation == .image)
                continue
            }
            #expect(charge.isBalanced)
            #expect(charge.platformFee >= 0)
            #expect(charge.supplierEarning >= 0)
        }
    }

    @Test func offersAboveTheRangeHaveNoList() {
        #expect(
            PriceList(TokenPrices(input: 1, cached: 2, output: 3, reasoning: 4))
                == PriceList(input: 1, cached: 2, output: 3, reasoning: 4))
        let most = MicroUSD(TokenPrices.amountMax)
        #expect(PriceList(TokenPrices(input: most))?.input == .max)
        #expect(PriceList(TokenPrices(input: MicroUSD(TokenPrices.amountMax + 1))) == nil)
        #expect(PriceList(TokenPrices(reasoning: -1)) == nil)
    }
}
