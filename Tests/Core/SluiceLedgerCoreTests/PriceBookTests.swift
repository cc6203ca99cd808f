import SluiceLedgerCore
import SluiceRecordFormat
import SluiceWire
import Testing

func modelName(_ text: String) -> ModelName {
    guard let name = ModelName(text) else { preconditionFailure("no model name") }
    return name
}

func list(_ price: UInt32) -> PriceList {
    PriceList(input: price, cached: price, output: price, reasoning: price)
}

/// Prices of every size, small and large alike.
func anyPrices(_ random: inout some RandomNumberGenerator) -> PriceList {
    func price() -> UInt32 {
        UInt32.random(in: 0...(.max), using: &random) >> UInt32.random(in: 0...31, using: &random)
    }
    return PriceList(input: price(), cached: price(), output: price(), reasoning: price())
}

@Suite struct PriceBookTests {
    let model = modelName("m")

    private func fixed(_ price: UInt32, from: UInt64, removed: Bool = false) -> DirectoryPrice {
        DirectoryPrice(
            model: model, prices: list(price), effectiveFromMs: from, isRemoved: removed)
    }

    @Test func withoutEntriesTheConsumerPaysTheAsk() {
        #expect(
            PriceBook().consumerPrices(ask: list(7), model: model, nowMs: 0) == list(7))
    }

    @Test func theFeeIsRoundedHalfUpPerPrice() {
        #expect(PriceBook.adding(feeBasisPoints: 1_000, to: list(4)) == list(4))
        #expect(PriceBook.adding(feeBasisPoints: 1_000, to: list(5)) == list(6))
        #expect(PriceBook.adding(feeBasisPoints: 10_000, to: list(5)) == list(10))
        #expect(PriceBook.adding(feeBasisPoints: 1, to: list(1 << 31)) == list(2_147_698_396))
    }

    @Test func aPriceBeyond32BitsIsNotEligible() {
        #expect(PriceBook.adding(feeBasisPoints: 0, to: list(.max)) == list(.max))
        #expect(PriceBook.adding(feeBasisPoints: 1, to: list(.max)) == nil)
        #expect(PriceBook.adding(feeBasisPoints: 10_000, to: list(1 << 31)) == nil)
        #expect(PriceBook.adding(feeBasisPoints: 10_000, to: list((1 << 31) - 1)) != nil)
    }

    @Test func entriesHoldFromTheirTimeOn() {
        var book = PriceBook()
        // Written in no order.
        book.apply(fixed(30, from: 300))
        book.apply(DirectoryFee(basisPoints: 1_000, effectiveFromMs: 50))
        book.apply(fixed(10, from: 100))
        book.apply(fixed(0, from: 400, removed: true))
        func paid(_ nowMs: UInt64) -> PriceList? {
            book.consumerPrices(ask: list(10), model: model, nowMs: nowMs)
        }
        #expect(paid(49) == list(10))
        #expect(paid(50) == list(11))
        #expect(paid(99) == list(11))
        #expect(paid(100) == list(10))
        #expect(paid(299) == list(10))
        #expect(paid(300) == list(30))
        #expect(paid(400) == list(11))
        #expect(book.nextChangeMs(afterMs: 0) == 50)
        #expect(book.nextChangeMs(afterMs: 100) == 300)
        #expect(book.nextChangeMs(afterMs: 400) == nil)
        // The same time again replaces.
        book.apply(fixed(40, from: 300))
        #expect(paid(300) == list(40))
        #expect(book.revision == 5)
    }

    @Test func anAskAboveTheFixedPriceInAnyPartIsNotEligible() {
        var book = PriceBook()
        book.apply(fixed(10, from: 0))
        #expect(book.consumerPrices(ask: list(10), model: model, nowMs: 1) == list(10))
        for part in 0..<4 {
            let ask = PriceList(
                input: part == 0 ? 11 : 0, cached: part == 1 ? 11 : 0,
                output: part == 2 ? 11 : 0, reasoning: part == 3 ? 11 : 0)
            #expect(book.consumerPrices(ask: ask, model: model, nowMs: 1) == nil)
        }
        #expect(
            book.consumerPrices(ask: list(11), model: modelName("other"), nowMs: 1) == list(11))
    }

    @Test func theWorkedExampleOfMoneyMdHolds() {
        let ask = PriceList(input: 200_000, cached: 50_000, output: 600_000, reasoning: 600_000)
        var book = PriceBook()
        book.apply(DirectoryFee(basisPoints: 1_000, effectiveFromMs: 0))
        let consumer = book.consumerPrices(ask: ask, model: model, nowMs: 1)
        #expect(
            consumer
                == PriceList(input: 220_000, cached: 55_000, output: 660_000, reasoning: 660_000))
        let usage = Usage(
            inputTokens: 1_203, outputTokens: 87, cachedTokens: 1_000, reasoningTokens: 40)
        #expect(
            TaskPrices(ask: ask, consumer: consumer ?? .free).charge(usage, .chat)
                == TaskCharge(consumerCost: 157, supplierEarning: 143, platformFee: 14))
    }

    @Test func noFeeIsNegativeAndCostIsEarningAndFee() {
        var random = SystemRandomNumberGenerator()
        for _ in 0..<5_000 {
            let ask = anyPrices(&random)
            var book = PriceBook()
            book.apply(
                DirectoryFee(basisPoints: .random(in: 0...10_000), effectiveFromMs: 0))
            if Bool.random() {
                book.apply(
                    DirectoryPrice(
                        model: model, prices: anyPrices(&random), effectiveFromMs: 0))
            }
            guard let consumer = book.consumerPrices(ask: ask, model: model, nowMs: 1) else {
                continue
            }
            #expect(consumer.covers(ask))
            let usage = Usage(
                inputTokens: .random(in: 0...(.max)), outputTokens: .random(in: 0...(.max)),
                cachedTokens: .random(in: 0...(.max)), reasoningTokens: .random(in: 0...(.max)))
            guard let charge = TaskPrices(ask: ask, consumer: consumer).charge(usage, .chat)
            else {
                Issue.record("tokens always fit")
                continue
            }
            #expect(charge.isBalanced)
            #expect(charge.platformFee >= 0)
        }
    }
}
