package import SluiceRecordFormat
package import SluiceWire

/// What is set aside for a task before it may cost anything: never less than the task can cost
/// within the tokens it is set aside for.
package enum Hold {
    /// Output tokens that a hold begins with and is extended by.
    package static let stepTokens: UInt32 = 4_096
    /// A running task asks for more when fewer tokens than these are left.
    package static let lowTokens: UInt32 = 1_024
    /// Input tokens beyond the bytes of the body that an engine's own template may add.
    private static let templateTokens: UInt32 = 1_024

    /// Most input tokens that a task is billed, whatever its supplier claims: what it allows itself,
    /// else one for each byte of its body and the template's.
    package static func inputBound(maxInputTokens: UInt32, bodyBytes: UInt32) -> UInt32 {
        guard maxInputTokens == 0 else { return maxInputTokens }
        let (sum, overflow) = bodyBytes.addingReportingOverflow(templateTokens)
        return overflow ? .max : sum
    }

    /// Output tokens to hold for at first: one step, or what the task allows itself if less. Of
    /// embeddings and images all that were asked for: a part of that answer is of no use.
    package static func firstOutputTokens(
        maxOutputTokens: UInt32, operation: TaskOperation
    ) -> UInt32 {
        if operation.countsResults { return maxOutputTokens }
        return maxOutputTokens == 0 ? stepTokens : min(maxOutputTokens, stepTokens)
    }

    /// Most that a task of at most so many tokens costs: cached tokens may be dearer than others,
    /// and so may reasoning. Nil where that does not fit 63 bits: the task is refused.
    package static func amount(
        inputTokens: UInt32, outputTokens: UInt32, prices: PriceList,
        operation: TaskOperation
    ) -> MicroUSD? {
        dearest(prices).amount(
            Usage(inputTokens: inputTokens, outputTokens: outputTokens), operation)
    }

    /// Most output tokens whose hold, with that of the input, is not above `amount`; one more
    /// would be. 2^32 - 1 = all. Nil where the input alone is too dear.
    package static func affordableOutput(
        _ amount: MicroUSD, inputTokens: UInt32, prices: PriceList, operation: TaskOperation
    ) -> UInt32? {
        guard amount >= 0 else { return nil }
        let dearest = dearest(prices)
        let input = UInt128(UInt64(inputTokens) * UInt64(dearest.input))
        // The largest sum, in millionths, that still rounds down to `amount`.
        let most = UInt128(amount.rawValue.magnitude) * 1_000_000 + 499_999
        guard input <= most else { return nil }
        guard dearest.output > 0 else { return .max }
        let perToken =
            UInt128(dearest.output) * PriceList.unitsPerOutputPrice(operation)
        return UInt32(clamping: (most - input) / perToken)
    }

    /// The list that no task with these prices can cost more than.
    private static func dearest(_ prices: PriceList) -> PriceList {
        let input = max(prices.input, prices.cached)
        let output = max(prices.output, prices.reasoning)
        return PriceList(input: input, cached: input, output: output, reasoning: output)
    }
}
