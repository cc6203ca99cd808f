import Foundation
import SluiceWire
import Testing
import Worker

@Suite struct BuiltInEngineTests {
    private func answer(
        _ engine: BuiltInEngine, _ assignment: Assignment
    ) async throws -> (usage: Usage, record: RecordingSink.Record) {
        let sink = RecordingSink()
        let usage = try await engine.answer(assignment, to: sink)
        return (usage, sink.record)
    }

    private func body(_ messages: [[String: Any]], _ more: [String: Any] = [:]) throws -> [UInt8] {
        let request = ["model": "echo", "messages": messages].merging(more) { $1 }
        return Array(try JSONSerialization.data(withJSONObject: request))
    }

    /// The joined content of an answer's events, as a client reads them.
    private func content(_ record: RecordingSink.Record) throws -> String {
        try record.events.map { event in
            let chunk = try #require(
                JSONSerialization.jsonObject(with: Data(event.utf8)) as? [String: Any])
            #expect(chunk["id"] as? String == "chatcmpl-000000000000000a0000000000000007")
            #expect(chunk["object"] as? String == "chat.completion.chunk")
            #expect(chunk["model"] as? String == "echo")
            let choices = try #require(chunk["choices"] as? [[String: Any]])
            return (choices.first?["delta"] as? [String: Any])?["content"] as? String ?? ""
        }.joined()
    }

    @Test func echoAnswersWithThePromptWhateverItIs() async throws {
        let echo = BuiltInEngine(.echo)
        for seed in 0..<100 {
            var generator = SeededGenerator(seed: UInt64(seed))
            let prompt = generator.text(upTo: 40)
            let tokens = Array(Words(prompt)).count

            let text = try await answer(echo, .chat(.text(prompt), model: "echo"))
            #expect(Array(text.record.text.utf8) == Array(prompt.utf8))
            #expect(text.record.increments == [Int](repeating: 1, count: tokens))
            #expect(text.usage.outputTokens == UInt32(tokens))
            #expect(text.usage.inputTokens == UInt32(Words.count(in: prompt)))
            #expect(text.record.started?.input == text.usage.inputTokens)
            #expect(text.record.finishReason == .stop)

            let messages = [
                ["role": "system", "content": "no"], ["role": "user", "content": "no"],
                ["role": "user", "content": prompt], ["role": "assistant", "content": "no"],
            ]
            let openAI = try await answer(
                echo, .chat(.openAI(try body(messages)), model: "echo"))
            #expect(Array(try content(openAI.record).utf8) == Array(prompt.utf8))
            #expect(openAI.record.tokens == tokens)
            #expect(openAI.usage == text.usage)
        }
    }

    @Test func anOpenAIAnswerHasARoleWordsAnEndAndCounts() async throws {
        let assignment = Assignment.chat(
            .openAI(try body([["role": "user", "content": "a b"]])), model: "echo")
        let record = try await answer(BuiltInEngine(.echo), assignment).record
        #expect(record.increments == [0, 1, 1, 0, 0])
        #expect(record.events[0].contains(#""delta":{"role":"assistant","content":""}"#))
        #expect(record.events[1].contains(#""delta":{"content":"a "},"finish_reason":null"#))
        #expect(record.events[3].contains(#""delta":{},"finish_reason":"stop""#))
        #expect(
            record.events[4].hasSuffix(
                #""choices":[],"usage":{"prompt_tokens":2,"completion_tokens":2,"total_tokens":4}}"#
            ))
    }

    @Test func contentPartsAreOnePrompt() async throws {
        let parts: [[String: Any]] = [
            ["type": "text", "text": "one "],
            ["type": "image_url", "image_url": ["url": "data:"]],
            ["type": "text", "text": "two"],
        ]
        let assignment = Assignment.chat(
            .openAI(try body([["role": "user", "content": parts]])), model: "echo")
        #expect(try content(await answer(BuiltInEngine(.echo), assignment).record) == "one two")
    }

    @Test func aCompletionEchoesItsPrompt() async throws {
        var assignment = Assignment.chat(
            .openAI(Array(#"{"model":"echo","prompt":"x  y"}"#.utf8)), model: "echo")
        assignment.operation = .completion
        let record = try await answer(BuiltInEngine(.echo), assignment).record
        #expect(record.events.count == 5)
        #expect(record.events[1].contains(#""text":"x  ""#))
        #expect(record.events[1].contains(#""object":"text_completion""#))
        #expect(record.events[2].contains(#""text":"y""#))
    }

    @Test func theSmallestLimitEndsTheAnswer() async throws {
        let messages = [["role": "user", "content": "a b c d e"]]
        let both = try await answer(
            BuiltInEngine(.echo),
            .chat(.openAI(try body(messages, ["max_tokens": 2])), model: "echo", limit: 3))
        #expect(both.usage.outputTokens == 2)
        #expect(both.record.finishReason == .length)
        #expect(try content(both.record) == "a b ")
        let demo = try await answer(
            BuiltInEngine(.demo, tokensPerSecond: 1e6), .chat(.text("x"), limit: 4))
        #expect(demo.usage == Usage(inputTokens: 1, outputTokens: 4))
        #expect(demo.record.finishReason == .length)
    }

    @Test func demoPlaysItsTextWhateverThePrompt() async throws {
        let demo = BuiltInEngine(.demo, tokensPerSecond: 1e6)
        let text = try await answer(demo, .chat(.text(canary)))
        #expect(text.record.text == BuiltInEngine.demoText)
        #expect(text.record.text.hasPrefix("A sluice is a gate"))
        #expect(Int(text.usage.outputTokens) == Words.count(in: BuiltInEngine.demoText))
        let openAI = try await answer(demo, .openAIChat)
        #expect(openAI.record.tokens == text.record.tokens)
    }

    @Test func cancelEndsAPacedAnswerWithItsCounts() async throws {
        let sink = RecordingSink()
        let task = Task {
            try await BuiltInEngine(.echo, tokensPerSecond: 0.001).answer(
                .chat(.text("a b c")), to: sink)
        }
        await sink.wait { $0.tokens == 1 }
        task.cancel()
        await #expect(
            throws: EngineFailure(
                code: .cancelled, usage: Usage(inputTokens: 3, outputTokens: 1))
        ) { try await task.value }
    }

    @Test func aRequestThatIsNoJSONIsRefused() async throws {
        let sink = RecordingSink()
        await #expect(throws: EngineFailure(code: .upstreamRefused)) {
            try await BuiltInEngine(.echo).answer(.chat(.openAI([0x7B])), to: sink)
        }
        #expect(sink.record.errors.count == 1)
    }

    @Test(arguments: [Double?.none, 0.5])
    func theDeadlineEndsAnAnswer(_ tokensPerSecond: Double?) async throws {
        let echo = BuiltInEngine(.echo, tokensPerSecond: tokensPerSecond)
        let late = Assignment.chat(.text("a b"), deadline: .zero)
        await #expect(
            throws: EngineFailure(code: .upstreamUnavailable, usage: Usage(inputTokens: 2))
        ) { try await echo.answer(late, to: RecordingSink()) }
    }
}
