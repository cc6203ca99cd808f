package import SluiceWire

/// Counts a stream's tokens as it passes: one for each non-empty delta, corrected by the engine's
/// own usage whenever an event brings it, so that the increments sum to what the engine counted.
///
/// An increment is never negative. Where the engine counts fewer than the deltas already
/// reported, later increments are held back and the claim is the engine's lower number; the
/// broker bills the lesser of claim and sum. `Protocol/Decisions/0010-worker-counts.md` says why.
package struct TokenTally {
    /// Tokens to report with one event.
    package struct Increment: Equatable {
        /// Tokens of the answer proper, 0….
        package var answer: Int
        /// Reasoning tokens, 0….
        package var reasoning: Int

        package var total: Int { answer + reasoning }
    }

    /// The sum of all increments so far.
    package private(set) var reported = Increment(answer: 0, reasoning: 0)
    /// The best knowledge of what the engine wrote: its last usage plus the deltas since.
    private(set) var estimate = Increment(answer: 0, reasoning: 0)
    /// The prompt's tokens, once the engine has said so.
    package private(set) var inputTokens: Int?
    package private(set) var cachedTokens = 0

    /// A tally at zero.
    package init() {}

    /// Counts one event; returns what to report with it.
    package mutating func count(_ event: StreamEvent) -> Increment {
        estimate.reasoning += event.reasoningDeltas
        estimate.answer += event.deltas - event.reasoningDeltas
        if let usage = event.usage { correct(by: usage) }

        let due = max(0, estimate.total - reported.total)
        let reasoning = min(due, max(0, estimate.reasoning - reported.reasoning))
        let increment = Increment(answer: due - reasoning, reasoning: reasoning)
        reported.answer += increment.answer
        reported.reasoning += increment.reasoning
        return increment
    }

    /// What the worker claims at the end. Input is 0 where the engine never said it: an
    /// invented number would be billed.
    package var usage: Usage {
        let output = min(estimate.total, reported.total)
        return Usage(
            inputTokens: UInt32(clamping: inputTokens ?? 0),
            outputTokens: UInt32(clamping: output),
            cachedTokens: UInt32(clamping: min(cachedTokens, inputTokens ?? 0)),
            reasoningTokens: UInt32(clamping: min(estimate.reasoning, output)))
    }

    private mutating func correct(by usage: StreamEvent.EngineUsage) {
        if let input = usage.inputTokens, input > 0 {
            inputTokens = input
            cachedTokens = min(usage.cachedTokens, input)
        }
        // Some servers fill early events with zeros: a zero says nothing that the deltas do not.
        guard let output = usage.outputTokens, output > 0 else { return }
        let reasoning = min(usage.reasoningTokens ?? estimate.reasoning, output)
        estimate = Increment(answer: output - reasoning, reasoning: reasoning)
    }
}
