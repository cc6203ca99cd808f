package import SluiceRecordFormat
package import SluiceWire

/// The operator's prices and fee with the times from which they hold. It says what a consumer pays
/// where a supplier asks this.
package struct PriceBook: Sendable {
    private struct Step<Value: Sendable>: Sendable {
        var effectiveFromMs: UInt64
        var value: Value
    }

    /// Per model, by rising time; nil = from then on no fixed price.
    private var prices: [ModelName: [Step<PriceList?>]] = [:]
    /// Basis points, by rising time.
    private var fees: [Step<UInt32>] = []
    /// Grows with every entry that was applied.
    package private(set) var revision: UInt64 = 0

    /// A book without prices and with a fee of nothing.
    package init() {}

    /// Adds a model's price, or replaces the one of the same time.
    package mutating func apply(_ price: DirectoryPrice) {
        let list = price.isRemoved ? nil : price.prices
        Self.insert(
            Step(effectiveFromMs: price.effectiveFromMs, value: list),
            into: &prices[price.model, default: []])
        revision += 1
    }

    /// Adds a fee, or replaces the one of the same time.
    package mutating func apply(_ fee: DirectoryFee) {
        Self.insert(
            Step(effectiveFromMs: fee.effectiveFromMs, value: fee.basisPoints), into: &fees)
        revision += 1
    }

    /// The operator's own price for the model at this time; nil = the ask and the fee decide.
    package func fixedPrices(of model: ModelName, nowMs: UInt64) -> PriceList? {
        Self.holding(prices[model] ?? [], nowMs) ?? nil
    }

    /// The fee at this time, 0…10,000 basis points of the ask.
    package func feeBasisPoints(nowMs: UInt64) -> UInt32 {
        Self.holding(fees, nowMs) ?? 0
    }

    /// What the consumer pays for a task at a supplier that asks `ask`: the fixed price of the
    /// model, else the ask and the fee. Nil where the offer is not eligible: it asks more than the
    /// fixed price in some part, or the price would not fit 32 bits. So no part is below the ask,
    /// and no fee is negative.
    package func consumerPrices(
        ask: PriceList, model: ModelName, nowMs: UInt64
    ) -> PriceList? {
        if let fixed = fixedPrices(of: model, nowMs: nowMs) {
            return fixed.covers(ask) ? fixed : nil
        }
        return Self.adding(feeBasisPoints: feeBasisPoints(nowMs: nowMs), to: ask)
    }

    /// Each price and the fee of it, rounded to the nearest micro-USD, halves up. Nil where one
    /// does not fit 32 bits.
    package static func adding(feeBasisPoints: UInt32, to ask: PriceList) -> PriceList? {
        guard let input = adding(feeBasisPoints, ask.input),
            let cached = adding(feeBasisPoints, ask.cached),
            let output = adding(feeBasisPoints, ask.output),
            let reasoning = adding(feeBasisPoints, ask.reasoning)
        else { return nil }
        return PriceList(input: input, cached: cached, output: output, reasoning: reasoning)
    }

    /// When what this book says may change next by the passing of time; nil = never.
    package func nextChangeMs(afterMs: UInt64) -> UInt64? {
        let times = prices.values.joined().lazy.map(\.effectiveFromMs).filter { $0 > afterMs }
        let feeTimes = fees.lazy.map(\.effectiveFromMs).filter { $0 > afterMs }
        guard let price = times.min() else { return feeTimes.min() }
        return min(price, feeTimes.min() ?? price)
    }

    private static func adding(_ feeBasisPoints: UInt32, _ price: UInt32) -> UInt32? {
        let fee = (UInt64(price) * UInt64(feeBasisPoints) + 5_000) / 10_000
        return UInt32(exactly: UInt64(price) + fee)
    }

    private static func insert<Value>(_ step: Step<Value>, into steps: inout [Step<Value>]) {
        let place =
            steps.firstIndex { $0.effectiveFromMs >= step.effectiveFromMs } ?? steps.count
        if place < steps.count, steps[place].effectiveFromMs == step.effectiveFromMs {
            steps[place] = step
        } else {
            steps.insert(step, at: place)
        }
    }

    private static func holding<Value>(_ steps: [Step<Value>], _ nowMs: UInt64) -> Value? {
        steps.last { $0.effectiveFromMs <= nowMs }?.value
    }
}
