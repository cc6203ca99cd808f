import SluiceWire
import Testing
import Worker

@Suite struct TokenTallyTests {
    private func content() throws -> StreamEvent {
        try StreamEvent(Array(#"{"choices":[{"delta":{"content":"x"}}]}"#.utf8))
    }

    private func reasoning() throws -> StreamEvent {
        try StreamEvent(Array(#"{"choices":[{"delta":{"reasoning":"x"}}]}"#.utf8))
    }

    private func usage(_ input: Int, _ output: Int, reasoning: Int? = nil, cached: Int = 0) throws
        -> StreamEvent
    {
        let details = reasoning.map { #","completion_tokens_details":{"reasoning_tokens":\#($0)}"# }
        return try StreamEvent(
            Array(
                (#"{"choices":[],"usage":{"prompt_tokens":\#(input),"#
                    + #""completion_tokens":\#(output),"#
                    + #""prompt_tokens_details":{"cached_tokens":\#(cached)}\#(details ?? "")}}"#)
                    .utf8))
    }

    @Test func withoutUsageEachDeltaIsOneTokenAndNoInputIsInvented() throws {
        var tally = TokenTally()
        #expect(tally.count(try content()).answer == 1)
        #expect(tally.count(try content()).answer == 1)
        #expect(tally.usage == Usage(inputTokens: 0, outputTokens: 2))
        #expect(tally.inputTokens == nil)
    }

    @Test func theRestIsAddedWhenTheEngineCountedMore() throws {
        var tally = TokenTally()
        _ = tally.count(try content())
        #expect(tally.count(try usage(9, 5, cached: 4)).answer == 4)
        #expect(tally.usage == Usage(inputTokens: 9, outputTokens: 5, cachedTokens: 4))
    }

    @Test func anIncrementIsNeverNegativeAndTheLowerNumberIsClaimed() throws {
        var tally = TokenTally()
        for _ in 0..<4 { _ = tally.count(try content()) }
        #expect(tally.count(try usage(9, 3)).total == 0)
        #expect(tally.usage.outputTokens == 3)
        // One delta more only repays what was reported too early.
        #expect(tally.count(try content()).total == 0)
        #expect(tally.count(try content()).total == 1)
        #expect(tally.usage.outputTokens == 5)
    }

    @Test func usageInEveryEventCountsWhatItAdds() throws {
        var tally = TokenTally()
        #expect(tally.count(try usage(9, 3)).answer == 3)
        #expect(tally.count(try usage(9, 3)).answer == 0)
        #expect(tally.count(try usage(9, 8)).answer == 5)
        #expect(tally.usage.outputTokens == 8)
    }

    @Test func aUsageOfZeroSaysNothing() throws {
        var tally = TokenTally()
        _ = tally.count(try content())
        #expect(tally.count(try usage(0, 0)).total == 0)
        #expect(tally.usage.outputTokens == 1)
        #expect(tally.inputTokens == nil)
    }

    @Test func reasoningIsPartOfTheOutputAndCorrectedOnItsOwn() throws {
        var tally = TokenTally()
        #expect(tally.count(try reasoning()).reasoning == 1)
        #expect(tally.count(try content()).reasoning == 0)
        let last = tally.count(try usage(9, 10, reasoning: 6))
        #expect(last.reasoning == 5)
        #expect(last.answer == 3)
        #expect(tally.usage == Usage(inputTokens: 9, outputTokens: 10, reasoningTokens: 6))
    }

    @Test func incrementsSumToTheClaimOrMoreWhateverComes() throws {
        for seed in 0..<300 {
            var generator = SeededGenerator(seed: UInt64(seed))
            var tally = TokenTally()
            var sum = 0
            var reasoningSum = 0
            for _ in 0..<Int.random(in: 0...30, using: &generator) {
                let event =
                    switch Int.random(in: 0...5, using: &generator) {
                    case 0:
                        try usage(
                            .random(in: 0...9, using: &generator),
                            .random(in: 0...40, using: &generator),
                            reasoning: .random(in: 0...50, using: &generator))
                    case 1, 2: try reasoning()
                    default: try content()
                    }
                let increment = tally.count(event)
                #expect(increment.answer >= 0 && increment.reasoning >= 0)
                sum += increment.total
                reasoningSum += increment.reasoning
            }
            #expect(tally.reported.total == sum)
            #expect(tally.reported.reasoning == reasoningSum)
            #expect(Int(tally.usage.outputTokens) <= sum)
            #expect(tally.usage.reasoningTokens <= tally.usage.outputTokens)
            #expect(tally.usage.cachedTokens <= tally.usage.inputTokens)
        }
    }
}
