package import SluiceWire

/// Money of one task. Consumer cost = supplier earning + platform fee, exactly (requirement S42).
package struct TaskCharge: Equatable, Sendable {
    package var consumerCost: MicroUSD
    package var supplierEarning: MicroUSD
    package var platformFee: MicroUSD

    /// Nothing is charged.
    package static let none = TaskCharge(consumerCost: 0, supplierEarning: 0, platformFee: 0)

    package init(consumerCost: MicroUSD, supplierEarning: MicroUSD, platformFee: MicroUSD) {
        self.consumerCost = consumerCost
        self.supplierEarning = supplierEarning
        self.platformFee = platformFee
    }

    /// The two sides add up.
    package var isBalanced: Bool { supplierEarning.adding(platformFee) == consumerCost }
}

/// Four prices, each 0…2^32 - 1 micro-USD per million tokens. For embeddings `output` and
/// `reasoning` are per million embeddings, for images per image (`Protocol/Money.md`).
@frozen @usableFromInline
package struct PriceList: Hashable, Sendable {
    @usableFromInline package var input: UInt32
    /// Prompt tokens that came from a cache.
    @usableFromInline package var cached: UInt32
    @usableFromInline package var output: UInt32
    @usableFromInline package var reasoning: UInt32

    @inlinable
    package init(input: UInt32, cached: UInt32, output: UInt32, reasoning: UInt32) {
        self.input = input
        self.cached = cached
        self.output = output
        self.reasoning = reasoning
    }

    /// Nil where a price is below 0 or above 2^32 - 1. A decoded OFFER has none such.
    package init?(_ prices: TokenPrices) {
        guard let input = UInt32(exactly: prices.input.rawValue),
            let cached = UInt32(exactly: prices.cached.rawValue),
            let output = UInt32(exactly: prices.output.rawValue),
            let reasoning = UInt32(exactly: prices.reasoning.rawValue)
        else { return nil }
        self.init(input: input, cached: cached, output: output, reasoning: reasoning)
    }

    /// The list in two words, each u32 low, u32 high: input and cached, output and reasoning.
    @inlinable
    package init(_ first: UInt64, _ second: UInt64) {
        self.init(
            input: first.low32, cached: first.high32, output: second.low32,
            reasoning: second.high32)
    }

    /// Input and cached.
    @inlinable package var firstWord: UInt64 { UInt64(low: input, high: cached) }
    /// Output and reasoning.
    @inlinable package var secondWord: UInt64 { UInt64(low: output, high: reasoning) }

    /// Nothing costs anything.
    @inlinable package static var free: PriceList {
        PriceList(input: 0, cached: 0, output: 0, reasoning: 0)
    }

    /// Whether no price of this list is below that of `other`.
    package func covers(_ other: PriceList) -> Bool {
        input >= other.input && cached >= other.cached && output >= other.output
            && reasoning >= other.reasoning
    }

    /// The one price rule: (input - cached) x input price + cached x cached price +
    /// (output - reasoning) x output price + reasoning x reasoning price, in millionths of a
    /// micro-USD, summed, then rounded once to the nearest micro-USD, halves up. A part above its
    /// whole counts as the whole. Nil where the result does not fit 63 bits.
    package func amount(_ usage: Usage, _ operation: TaskOperation) -> MicroUSD? {
        let cachedTokens = min(usage.cachedTokens, usage.inputTokens)
        let reasoningTokens = min(usage.reasoningTokens, usage.outputTokens)
        let prompt =
            Self.product(usage.inputTokens - cachedTokens, input)
            + Self.product(cachedTokens, cached)
        let answer =
            Self.product(usage.outputTokens - reasoningTokens, output)
            + Self.product(reasoningTokens, reasoning)
        // Each product is below 2^64, the sum of all with 10^6 below 2^86.
        let sum = prompt + answer * Self.unitsPerOutputPrice(operation)
        return Int64(exactly: (sum + 500_000) / 1_000_000).map { MicroUSD($0) }
    }

    /// What an output price is per, as a part of a million: 1 for a million tokens, a million for
    /// a single image.
    package static func unitsPerOutputPrice(_ operation: TaskOperation) -> UInt128 {
        switch operation {
        case .chat, .completion, .embedding: 1
        case .image: 1_000_000
        }
    }

    private static func product(_ count: UInt32, _ price: UInt32) -> UInt128 {
        UInt128(UInt64(count) * UInt64(price))
    }
}

/// Prices frozen when a task was dispatched.
@frozen @usableFromInline
package struct TaskPrices: Equatable, Sendable {
    /// What the supplier asks.
    @usableFromInline package var ask: PriceList
    /// What the client pays: the ask plus the fee, or the operator's price for the model.
    @usableFromInline package var consumer: PriceList

    @inlinable
    package init(ask: PriceList, consumer: PriceList) {
        self.ask = ask
        self.consumer = consumer
    }

    /// Nothing costs anything.
    @inlinable package static var free: TaskPrices { TaskPrices(ask: .free, consumer: .free) }

    /// The supplier earns by its ask, the consumer pays by its own prices, each rounded once; the
    /// fee is the difference. Nil where an amount does not fit 63 bits.
    package func charge(_ usage: Usage, _ operation: TaskOperation) -> TaskCharge? {
        guard let earning = ask.amount(usage, operation),
            let cost = consumer.amount(usage, operation)
        else { return nil }
        // Neither is negative: the difference fits.
        return TaskCharge(
            consumerCost: cost, supplierEarning: earning,
            platformFee: MicroUSD(cost.rawValue - earning.rawValue))
    }
}
