import JSONScanning
import SluiceWire
import Testing
import Worker

@Suite struct StreamEventTests {
    private func event(_ text: String) throws -> StreamEvent {
        try StreamEvent(Array(text.utf8))
    }

    private func delta(_ delta: String) throws -> StreamEvent {
        try event(#"{"model":"m","choices":[{"index":0,"delta":\#(delta),"finish_reason":null}]}"#)
    }

    @Test func aDeltaCountsOnceWhenTheModelWroteSomething() throws {
        #expect(try delta(#"{"role":"assistant"}"#).deltas == 0)
        #expect(try delta(#"{"role":"assistant","content":""}"#).deltas == 0)
        #expect(try delta(#"{"content":null,"refusal":null}"#).deltas == 0)
        #expect(try delta(#"{"content":"hi"}"#).deltas == 1)
        #expect(try delta(#"{"refusal":"no"}"#).deltas == 1)
        #expect(
            try delta(#"{"tool_calls":[{"index":0,"function":{"arguments":"{"}}]}"#).deltas == 1)
        #expect(
            try delta(#"{"tool_calls":[{"id":"x","function":{"name":"f","arguments":""}}]}"#).deltas
                == 1)
        #expect(try delta(#"{"tool_calls":[{"index":0,"function":{"arguments":""}}]}"#).deltas == 0)
        #expect(
            try event(#"{"choices":[{"index":0,"text":"hi","finish_reason":null}]}"#).deltas == 1)
        #expect(
            try event(
                #"{"choices":[{"index":0,"delta":{"content":"a"}},"#
                    + #"{"index":1,"delta":{"content":"b"}}]}"#
            ).deltas == 2)
    }

    @Test func reasoningIsReasoningOnlyWithoutAnAnswerBesideIt() throws {
        let both = try delta(#"{"content":"a","reasoning_content":"b"}"#)
        #expect(both.deltas == 1)
        #expect(both.reasoningDeltas == 0)
        for name in ["reasoning", "reasoning_content"] {
            let alone = try delta(#"{"content":"","\#(name)":"b"}"#)
            #expect(alone.deltas == 1)
            #expect(alone.reasoningDeltas == 1)
            #expect(alone.reasoningText == "b")
        }
        #expect(
            try delta(#"{"reasoning":"b","reasoning_content":"b"}"#).reasoningText == "b")
    }

    @Test func textIsTheFirstChoicesAlone() throws {
        let found = try event(
            #"{"choices":[{"index":1,"delta":{"content":"no"}},"#
                + #"{"index":0,"delta":{"content":"\u00e9\n"}}]}"#)
        #expect(found.text == "é\n")
    }

    @Test(arguments: [
        ("stop", FinishReason.stop), ("length", .length), ("tool_calls", .other),
        ("content_filter", .other),
    ])
    func theFinishReasonIsOneOfThree(_ name: String, _ reason: FinishReason) throws {
        let found = try event(#"{"choices":[{"delta":{},"finish_reason":"\#(name)"}]}"#)
        #expect(found.finishReason == reason)
        #expect(!found.isError)
    }

    @Test func usageIsReadWithItsDetails() throws {
        let found = try event(
            #"{"choices":[],"usage":{"prompt_tokens":7,"completion_tokens":5,"total_tokens":12,"#
                + #""prompt_tokens_details":{"cached_tokens":3},"#
                + #""completion_tokens_details":{"reasoning_tokens":2}}}"#)
        #expect(found.usage?.inputTokens == 7)
        #expect(found.usage?.cachedTokens == 3)
        #expect(found.usage?.outputTokens == 5)
        #expect(found.usage?.reasoningTokens == 2)
        #expect(try event(#"{"usage":null,"choices":[]}"#).usage == nil)
        #expect(
            try event(#"{"usage":{"completion_tokens":99999999999}}"#).usage?.outputTokens == nil)
    }

    @Test func anErrorIsSeenWithItsStatus() throws {
        #expect(try event(#"{"error":{"message":"x","code":400}}"#).errorStatus == 400)
        #expect(try event(#"{"error":{"message":"x","code":"bad"}}"#).isError)
        #expect(try event(#"{"error":"x"}"#).isError)
        #expect(try !event(#"{"error":null,"choices":[]}"#).isError)
        #expect(try event(#"{"choices":[{"delta":{},"finish_reason":"error"}]}"#).isError)
    }

    @Test(arguments: [
        "", "[]", "{", #"{"choices":[1]}"#, #"{"model":"a","model":"b"}"#, #"{"choices":[]} x"#,
    ])
    func whatIsNoEventIsRefused(_ text: String) {
        #expect(throws: JSONFault.self) { try event(text) }
    }
}
