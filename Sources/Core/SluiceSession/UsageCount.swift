package import SluiceWire

extension Usage {
    /// Adds an increment of output tokens; a sum that does not fit stays at the largest number.
    package mutating func count(_ tokens: Int, isReasoning: Bool) {
        let increment = UInt32(clamping: tokens)
        outputTokens = outputTokens.addingClamped(increment)
        guard isReasoning else { return }
        reasoningTokens = reasoningTokens.addingClamped(increment)
    }

    /// The same claim with every part within its whole, as END requires.
    package var consistent: Usage {
        Usage(
            inputTokens: inputTokens, outputTokens: outputTokens,
            cachedTokens: min(cachedTokens, inputTokens),
            reasoningTokens: min(reasoningTokens, outputTokens))
    }
}

extension UInt32 {
    fileprivate func addingClamped(_ other: UInt32) -> UInt32 {
        let (sum, overflow) = addingReportingOverflow(other)
        return overflow ? .max : sum
    }
}
