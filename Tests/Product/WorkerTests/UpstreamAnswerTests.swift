import SluiceWire
import Testing
import Worker

@Suite struct UpstreamAnswerTests {
    private func tokens(_ actions: [UpstreamAnswer.Action]) -> [(tokens: Int, reasoning: Bool)] {
        actions.compactMap { action in
            switch action {
            case .text(_, let tokens, let reasoning), .event(_, let tokens, let reasoning):
                (tokens, reasoning)
            case .started, .error: nil
            }
        }
    }

    @Test func leadingEventsWaitForTheFirstToken() {
        var answer = UpstreamAnswer(isOpenAI: true, model: "offer")
        #expect(answer.received(Array(Sample.role.utf8)) == [])
        let actions = answer.received(Array(Sample.hello.utf8))
        #expect(actions.count == 2)
        #expect(tokens(actions).map { $0.tokens } == [0, 1])
    }

    @Test func leadingEventsAreBounded() {
        var answer = UpstreamAnswer(isOpenAI: true, model: "offer")
        let event = Array(
            #"{"x":"\#(String(repeating: "y", count: 1_000))","choices":[]}"#.utf8)
        var waiting = 0
        while answer.received(event).isEmpty { waiting += event.count }
        #expect(waiting <= UpstreamAnswer.leadingBytesMax)
    }

    @Test func anAnswerWithoutTokensStillArrivesWhole() {
        var answer = UpstreamAnswer(isOpenAI: true, model: "offer")
        #expect(answer.received(Array(Sample.role.utf8)) == [])
        #expect(answer.received(Array(Sample.stop.utf8)) == [])
        #expect(answer.received(Array("[DONE]".utf8)).count == 2)
        #expect(answer.outcome == .completed(.stop))
    }

    @Test(arguments: [true, false])
    func aCountThatOneFrameCannotCarryIsSpread(_ isOpenAI: Bool) {
        var answer = UpstreamAnswer(isOpenAI: isOpenAI, model: "offer")
        let usage =
            #"{"choices":[],"usage":{"prompt_tokens":1,"completion_tokens":300000,"#
            + #""completion_tokens_details":{"reasoning_tokens":100000}}}"#
        let found = tokens(answer.received(Array(usage.utf8)))
        #expect(found.allSatisfy { $0.tokens <= 65_535 })
        #expect(found.reduce(0) { $0 + $1.tokens } == 300_000)
        #expect(found.filter { $0.reasoning }.reduce(0) { $0 + $1.tokens } == 100_000)
    }

    @Test func reasoningIsMarked() {
        var answer = UpstreamAnswer(isOpenAI: false, model: "offer")
        let thought = answer.received(Array(Sample.chunk(#"{"reasoning":"hm"}"#).utf8))
        #expect(thought == [.text("hm", tokens: 1, reasoning: true)])
        let word = answer.received(Array(Sample.chunk(#"{"content":"so"}"#).utf8))
        #expect(word == [.text("so", tokens: 1, reasoning: false)])
    }

    @Test func aChoiceThatStoppedForAnErrorIsNoCompletion() {
        var answer = UpstreamAnswer(isOpenAI: true, model: "offer")
        let actions = answer.received(
            Array(Sample.chunk(#"{"content":"x"}"#, finish: #""error""#).utf8))
        #expect(tokens(actions).map { $0.tokens } == [1])
        #expect(answer.outcome == .failed(.upstreamUnavailable))
    }

    @Test func anErrorAnotherSupplierMayNotHaveIsToldOnlyAfterOutput() {
        let failure = Array(#"{"error":{"message":"x","code":503}}"#.utf8)
        var silent = UpstreamAnswer(isOpenAI: true, model: "offer")
        _ = silent.received(Array(Sample.role.utf8))
        #expect(silent.received(failure) == [])
        #expect(silent.outcome == .failed(.upstreamUnavailable))
        var begun = UpstreamAnswer(isOpenAI: true, model: "offer")
        _ = begun.received(Array(Sample.hello.utf8))
        #expect(begun.received(failure) == [.error(failure)])
        #expect(begun.outcome == .failed(.upstreamUnavailable))
    }

    @Test func anEventThatTheWireCannotCarryEndsTheAnswer() {
        var answer = UpstreamAnswer(isOpenAI: true, model: "offer")
        let bytes = EventStreamParser.eventBytesMax - 20
        let event = Array(#"{"x":"\#(String(repeating: "y", count: bytes))","choices":[]}"#.utf8)
        #expect(answer.received(event) == [])
        #expect(answer.outcome == .failed(.upstreamUnavailable))
    }
}
