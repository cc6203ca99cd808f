import SluiceWire
import Synchronization
import Testing
import Worker

@Suite(.serialized, .timeLimit(.minutes(1))) struct UpstreamEngineTests {
    /// How one task ended, everything it left behind, and the lines that the worker wrote.
    private struct Ending {
        var usage: Usage?
        var failure: EngineFailure?
        var record: RecordingSink.Record
        var lines: [String]
    }

    /// Runs one task against a scripted server.
    private func run(
        _ assignment: Assignment, sink: RecordingSink = RecordingSink(),
        _ script: @escaping ScriptedUpstream.Script
    ) async throws -> Ending {
        try await withEngine(script) { engine in
            await run(assignment, on: engine, sink: sink)
        }
    }

    private func run(
        _ assignment: Assignment, on engine: UpstreamEngine, sink: RecordingSink
    ) async -> Ending {
        let lines = LogLines()
        let runner = EngineRunner(log: lines.log) { _ in engine }
        do throws(EngineFailure) {
            let usage = try await runner.run(assignment, to: sink)
            return Ending(usage: usage, record: sink.record, lines: lines.all)
        } catch {
            return Ending(failure: error, record: sink.record, lines: lines.all)
        }
    }

    private func withEngine<Result: Sendable>(
        _ script: @escaping ScriptedUpstream.Script,
        _ body: (UpstreamEngine) async throws -> Result
    ) async throws -> Result {
        let upstream = try await ScriptedUpstream(script)
        let address = try #require(UpstreamAddress(upstream.url, key: "k-\(canary)"))
        let client = UpstreamClient(address, tasksMax: 4)
        let engine = UpstreamEngine(client)
        engine.serve([OfferedModel(name: "offer", engineName: "up/m")])
        let result = try await body(engine)
        await client.shutdown()
        await upstream.stop()
        return result
    }

    @Test func eventsAreRelayedVerbatimButForTheModelsName() async throws {
        let requests = Mutex<[ScriptedUpstream.Request]>([])
        let ending = try await run(.openAIChat) { request, exchange in
            requests.withLock { $0.append(request) }
            try await exchange.head()
            try await exchange.send(Sample.whole)
            try await exchange.end()
        }
        #expect(ending.record.events == Sample.relayed)
        #expect(ending.record.increments == [0, 1, 1, 0, 3])
        #expect(ending.record.finishReason == .stop)
        #expect(ending.record.started?.input == 11)
        #expect(ending.record.started?.cached == 4)
        #expect(
            ending.usage == Usage(inputTokens: 11, outputTokens: 5, cachedTokens: 4))

        let request = try #require(requests.withLock { $0.first })
        #expect(request.path == "/v1/chat/completions")
        #expect(request.authorisation == "Bearer k-\(canary)")
        #expect(
            String(decoding: request.body, as: UTF8.self)
                == #"{"stream":true,"stream_options":{"include_usage":true},"model":"up/m","#
                + #""messages":[{"role":"user","content":"\#(canary)"}],"#
                + #""seed":123456789012345678901234567890}"#)
    }

    private func counted(
        _ operation: TaskOperation, _ request: String, limit: UInt32 = 2
    ) -> Assignment {
        Assignment(
            id: TaskID(instance: 0xA, counter: 7), model: "offer", operation: operation,
            payload: .openAI(Array(request.utf8)), maxOutputTokens: limit,
            deadline: .now + .seconds(60))
    }

    @Test func embeddingsAreRelayedInPartsAndCounted() async throws {
        let requests = Mutex<[ScriptedUpstream.Request]>([])
        let request = #"{"model":"offer","input":["\#(canary)","b"],"encoding_format":"base64"}"#
        let ending = try await run(counted(.embedding, request)) { request, exchange in
            requests.withLock { $0.append(request) }
            try await exchange.head(type: "application/json")
            try await exchange.send(#"{"data":[{"embedding":[1"#)
            try await exchange.send(#"]},{"embedding":"AACAPw=="}],"model":"up/m","#)
            try await exchange.send(#""usage":{"prompt_tokens":9,"total_tokens":9}}"#)
            try await exchange.end()
        }
        #expect(
            String(decoding: ending.record.object, as: UTF8.self)
                == #"{"data":[{"embedding":"AACAPw=="},{"embedding":"AACAPw=="}],"#
                + #""model":"offer","usage":{"prompt_tokens":9,"total_tokens":9}}"#)
        #expect(ending.record.tokens == 2)
        #expect(ending.record.finishReason == .stop)
        #expect(ending.usage == Usage(inputTokens: 9, outputTokens: 2))
        let sent = try #require(requests.withLock { $0.first })
        #expect(sent.path == "/v1/embeddings")
        #expect(sent.body == Array(request.replacing("offer", with: "up/m").utf8))
        #expect(!ending.lines.joined().contains(canary))
    }

    @Test func imagesAreAskedForAsBase64() async throws {
        let requests = Mutex<[ScriptedUpstream.Request]>([])
        let ending = try await run(counted(.image, #"{"prompt":"p","n":2}"#)) { request, exchange in
            requests.withLock { $0.append(request) }
            try await exchange.head(type: "application/json")
            try await exchange.send(
                #"{"created":1,"data":[{"b64_json":"aGk="},{"b64_json":"aG8="}]}"#)
            try await exchange.end()
        }
        #expect(ending.usage == Usage(outputTokens: 2))
        let sent = try #require(requests.withLock { $0.first })
        #expect(sent.path == "/v1/images/generations")
        #expect(
            String(decoding: sent.body, as: UTF8.self)
                == #"{"model":"up/m","response_format":"b64_json","prompt":"p","n":2}"#)
    }

    @Test func anImageByURLIsRefusedBeforeTheEngineIsAsked() async throws {
        let ending = try await run(counted(.image, #"{"response_format":"url"}"#)) { _, _ in
            Issue.record("the engine was asked")
        }
        #expect(ending.failure == EngineFailure(code: .upstreamRefused))
        #expect(ending.record.errors.first?.contains(#""param":"response_format""#) == true)
    }

    @Test(arguments: [
        #"{"data":[]}"#, #"{"data":[{"url":"http://x/1"}]}"#, #"{"data":[{"b64_json":"aGk="}"#,
        #"{"data":[{"b64_json":"a"},{"b64_json":"a"},{"b64_json":"a"}]}"#, "no json",
    ])
    func anAnswerThatIsNoneIsAnotherSuppliersChance(_ answer: String) async throws {
        let ending = try await run(counted(.image, #"{"n":2}"#)) { _, exchange in
            try await exchange.head(type: "application/json")
            try await exchange.send(answer)
            try await exchange.end()
        }
        #expect(ending.failure?.code == .upstreamUnavailable)
    }

    @Test func anEnginesRefusalOfEmbeddingsReachesTheClient() async throws {
        let ending = try await run(counted(.embedding, #"{"input":"a"}"#)) { _, exchange in
            try await exchange.head(400, type: "application/json")
            try await exchange.send(#"{"error":{"message":"no embeddings"}}"#)
            try await exchange.end()
        }
        #expect(ending.failure?.code == .upstreamRefused)
        #expect(ending.record.errors == [#"{"error":{"message":"no embeddings"}}"#])
    }

    @Test func aTextTaskGetsTheTextAndItsCounts() async throws {
        let ending = try await run(.textChat) { request, exchange in
            #expect(String(decoding: request.body, as: UTF8.self).contains(#""role":"user""#))
            try await exchange.head()
            try await exchange.send(Sample.whole)
            try await exchange.end()
        }
        #expect(ending.record.text == "Hé😀 \(canary)")
        #expect(ending.record.increments == [1, 1, 3])
        #expect(ending.usage == Usage(inputTokens: 11, outputTokens: 5, cachedTokens: 4))
    }

    @Test func aCompletionGoesToItsOwnPath() async throws {
        var assignment = Assignment.textChat
        assignment.operation = .completion
        let ending = try await run(assignment) { request, exchange in
            #expect(request.path == "/v1/completions")
            #expect(String(decoding: request.body, as: UTF8.self).contains(#""prompt":""#))
            try await exchange.head()
            try await exchange.send(
                Sample.stream([
                    #"{"choices":[{"index":0,"text":"one","finish_reason":null}]}"#,
                    #"{"choices":[{"index":0,"text":"","finish_reason":"length"}]}"#,
                ]))
            try await exchange.end()
        }
        #expect(ending.record.text == "one")
        #expect(ending.record.finishReason == .length)
    }

    @Test func splittingTheStreamAtEveryOffsetChangesNothing() async throws {
        let stream = Array(Sample.whole.utf8)
        let offset = Mutex(0)
        try await withEngine { _, exchange in
            let split = offset.withLock { $0 }
            try await exchange.head()
            try await exchange.send(Array(stream[..<split]))
            try await exchange.send(Array(stream[split...]))
            try await exchange.end()
        } _: { engine in
            for split in 1..<stream.count {
                offset.withLock { $0 = split }
                let ending = await run(.openAIChat, on: engine, sink: RecordingSink())
                #expect(ending.record.events == Sample.relayed)
                #expect(ending.usage?.outputTokens == 5)
            }
        }
    }

    @Test func theFirstTokenIsThereBeforeTheLastIsWritten() async throws {
        let sink = RecordingSink()
        let gate = Gate()
        let ending = try await withEngine { _, exchange in
            try await exchange.head()
            try await exchange.send(Sample.stream([Sample.role, Sample.hello], done: false))
            await gate.pass()
            try await exchange.send(Sample.stream([Sample.world, Sample.stop]))
            try await exchange.end()
        } _: { engine in
            async let ending = run(.openAIChat, on: engine, sink: sink)
            await sink.wait { $0.tokens == 1 }
            gate.open()
            return await ending
        }
        #expect(ending.usage?.outputTokens == 2)
    }

    @Test func withoutUsageNoInputIsInvented() async throws {
        let ending = try await run(.openAIChat) { _, exchange in
            try await exchange.head()
            try await exchange.send(Sample.stream([Sample.role, Sample.hello, Sample.stop]))
            try await exchange.end()
        }
        #expect(ending.usage == Usage(outputTokens: 1))
        #expect(ending.record.started == nil)
    }

    @Test func anUpstreamThatDiesLeavesTheCountsSoFar() async throws {
        for assignment in [Assignment.openAIChat, .textChat] {
            let ending = try await run(assignment) { _, exchange in
                try await exchange.head()
                try await exchange.send(Sample.stream([Sample.hello, Sample.world], done: false))
                try await exchange.abort()
            }
            #expect(ending.failure?.code == .upstreamUnavailable)
            #expect(ending.failure?.usage == Usage(outputTokens: 2))
            #expect(ending.record.tokens == 2)
        }
    }

    @Test func anUpstreamThatDiesBeforeItsFirstTokenLeavesNothingForwarded() async throws {
        let ending = try await run(.openAIChat) { _, exchange in
            try await exchange.head()
            try await exchange.send(Sample.stream([Sample.role], done: false))
            try await exchange.abort()
        }
        #expect(ending.failure?.code == .upstreamUnavailable)
        #expect(ending.record.events.isEmpty)
    }

    @Test func aStreamCutWithoutDoneIsCompleteOnlyAfterAFinishReason() async throws {
        let cut = try await run(.openAIChat) { _, exchange in
            try await exchange.head()
            try await exchange.send(Sample.stream([Sample.role, Sample.hello], done: false))
            try await exchange.end()
        }
        #expect(cut.failure?.code == .upstreamUnavailable)
        #expect(cut.failure?.usage.outputTokens == 1)

        let complete = try await run(.openAIChat) { _, exchange in
            try await exchange.head()
            try await exchange.send(Sample.stream([Sample.hello, Sample.stop], done: false))
            try await exchange.end()
        }
        #expect(complete.usage?.outputTokens == 1)
        #expect(complete.record.finishReason == .stop)

        let cutInAnEvent = try await run(.openAIChat) { _, exchange in
            try await exchange.head()
            try await exchange.send(Sample.stream([Sample.hello], done: false))
            try await exchange.send("data: " + Sample.world.dropLast(9))
            try await exchange.end()
        }
        #expect(cutInAnEvent.failure?.code == .upstreamUnavailable)
        #expect(cutInAnEvent.failure?.usage.outputTokens == 1)
    }

    @Test func doneAtTheVeryEndCountsWithoutItsBlankLine() async throws {
        let ending = try await run(.openAIChat) { _, exchange in
            try await exchange.head()
            try await exchange.send(Sample.stream([Sample.hello], done: false) + "data: [DONE]")
            try await exchange.end()
        }
        #expect(ending.usage?.outputTokens == 1)
        #expect(ending.record.finishReason == .other)
    }

    @Test(arguments: ["", ": queued\n\n: queued\n\n", "data: [DONE]\n\n", "\(canary)"])
    func anEmpty200IsNoAnswer(_ body: String) async throws {
        let ending = try await run(.openAIChat) { _, exchange in
            try await exchange.head()
            if !body.isEmpty { try await exchange.send(body) }
            try await exchange.end()
        }
        #expect(ending.failure?.code == .upstreamUnavailable)
        #expect(ending.failure?.usage == Usage())
        #expect(ending.record.events.isEmpty)
    }

    @Test(arguments: [
        (400, WireCode.upstreamRefused, true), (403, .upstreamRefused, true),
        (404, .upstreamRefused, true), (422, .upstreamRefused, true),
        (401, .upstreamUnavailable, false), (402, .upstreamUnavailable, false),
        (408, .upstreamUnavailable, false), (409, .upstreamUnavailable, false),
        (429, .upstreamUnavailable, false), (500, .upstreamUnavailable, false),
        (503, .upstreamUnavailable, false), (302, .upstreamUnavailable, false),
    ])
    func anErrorStatusEndsTheTaskWithTheUpstreamsWords(
        _ status: Int, _ code: WireCode, _ isTold: Bool
    ) async throws {
        let body = #"{"error":{"message":"\#(canary)"}}"#
        let script: ScriptedUpstream.Script = { _, exchange in
            try await exchange.head(status, type: "application/json")
            try await exchange.send(body)
            try await exchange.end()
        }
        let openAI = try await run(.openAIChat, script)
        #expect(openAI.failure?.code == code)
        #expect(openAI.record.errors == (isTold ? [body] : []))
        let text = try await run(.textChat, script)
        #expect(text.failure?.code == code)
        #expect(text.record.errors.isEmpty)
        #expect(text.record.text.isEmpty)
    }

    @Test func anErrorBodyBeyondTheBoundIsLeftOut() async throws {
        let ending = try await run(.openAIChat) { _, exchange in
            try await exchange.head(400, type: "application/json")
            try await exchange.send(
                [UInt8](repeating: 0x20, count: UpstreamAnswer.errorBytesMax + 1))
            try await exchange.end()
        }
        #expect(ending.failure?.code == .upstreamRefused)
        #expect(ending.record.errors.isEmpty)
    }

    @Test(arguments: [true, false])
    func anErrorInsideA200IsAnError(_ isEvent: Bool) async throws {
        let body = #"{"error":{"message":"\#(canary)","code":400}}"#
        let ending = try await run(.openAIChat) { _, exchange in
            try await exchange.head(type: isEvent ? "text/event-stream" : "application/json")
            try await exchange.send(isEvent ? "data: \(body)\n\n" : body)
            try await exchange.end()
        }
        #expect(ending.failure?.code == .upstreamRefused)
        #expect(ending.record.errors == [body])
    }

    @Test func whatIsNoJSONEndsTheTask() async throws {
        let ending = try await run(.openAIChat) { _, exchange in
            try await exchange.head()
            try await exchange.send(Sample.stream([Sample.hello, "<html>\(canary)"]))
            try await exchange.end()
        }
        #expect(ending.failure?.code == .upstreamUnavailable)
        #expect(ending.failure?.usage.outputTokens == 1)
    }

    @Test func aRequestThatIsNoJSONNeverReachesTheUpstream() async throws {
        let ending = try await run(.chat(.openAI(Array("{\(canary)".utf8)))) { _, _ in
            Issue.record("the request was sent")
        }
        #expect(ending.failure?.code == .upstreamRefused)
        #expect(ending.record.errors.count == 1)
        #expect(!ending.record.errors[0].contains(canary))
    }

    @Test func anUpstreamThatIsNotThereIsUnavailableAtOnce() async throws {
        let upstream = try await ScriptedUpstream { _, _ in }
        let address = try #require(UpstreamAddress(upstream.url))
        await upstream.stop()
        let client = UpstreamClient(address, tasksMax: 1)
        let engine = UpstreamEngine(client)
        let isTold = Mutex(false)
        engine.onUnreachable { isTold.withLock { $0 = true } }
        let ending = await run(.openAIChat, on: engine, sink: RecordingSink())
        await client.shutdown()
        #expect(ending.failure?.code == .upstreamUnavailable)
        #expect(isTold.withLock { $0 })
    }

    @Test func aSilentUpstreamIsBoundedByTheDeadline() async throws {
        let wasClosed = Gate()
        let ending = try await run(.chat(.text(canary), deadline: .milliseconds(200))) {
            _, exchange in
            try await exchange.head()
            try await exchange.send(Sample.stream([Sample.hello], done: false))
            try await exchange.closed()
            wasClosed.open()
        }
        await wasClosed.pass()
        #expect(ending.failure?.code == .upstreamUnavailable)
        #expect(ending.failure?.usage == Usage(outputTokens: 1))
    }

    /// Where a task can be when its cancel comes.
    enum CancelPoint: CaseIterable {
        case beforeTheHead, betweenEvents, inAWrite
    }

    @Test(arguments: CancelPoint.allCases)
    func cancelClosesTheUpstreamsConnection(_ point: CancelPoint) async throws {
        let wasReached = Gate()
        let wasClosed = Gate()
        let sink = RecordingSink(gate: point == .inAWrite ? Gate() : nil)
        let ending = try await withEngine { _, exchange in
            if point != .beforeTheHead {
                try await exchange.head()
                try await exchange.send(Sample.stream([Sample.hello], done: false))
            }
            wasReached.open()
            try await exchange.closed()
            wasClosed.open()
        } _: { engine in
            let task = Task { await run(.openAIChat, on: engine, sink: sink) }
            await wasReached.pass()
            if point == .betweenEvents { await sink.wait { $0.tokens == 1 } }
            task.cancel()
            await wasClosed.pass()
            return await task.value
        }
        let tokens = point == .betweenEvents ? 1 : 0
        #expect(ending.failure?.code == .cancelled)
        #expect(ending.failure?.upstreamClosed == true)
        #expect(
            ending.lines == [
                #"{"event":"cancelled","task":"000000000000000a0000000000000007","#
                    + #""model":"offer","tokens":\#(tokens),"upstreamClosed":true}"# + "\n"
            ])
    }

    @Test func aSlowReaderStopsTheUpstream() async throws {
        let total = 512
        let block = [UInt8](
            (Sample.stream(
                [Sample.chunk(#"{"content":"\#(String(repeating: "x", count: 65_000))"}"#)],
                done: false)).utf8)
        let sentCount = Mutex(0)
        let gate = Gate()
        let sink = RecordingSink(gate: gate)
        let ending = try await withEngine { _, exchange in
            try await exchange.head()
            for _ in 0..<total {
                try await exchange.send(block)
                sentCount.withLock { $0 += 1 }
            }
            try await exchange.send(Sample.stream([Sample.stop]))
            try await exchange.end()
        } _: { engine in
            let task = Task { await run(.openAIChat, on: engine, sink: sink) }
            // The server stands still once the kernel's buffers are full.
            var before = -1
            while before != sentCount.withLock({ $0 }) || before == 0 {
                before = sentCount.withLock { $0 }
                try await Task.sleep(for: .milliseconds(200))
            }
            #expect(before < total)
            gate.open()
            return await task.value
        }
        #expect(ending.usage?.outputTokens == UInt32(total))
    }

    @Test func aTaskAfterARestartOfTheUpstreamIsAnswered() async throws {
        let script: ScriptedUpstream.Script = { _, exchange in
            try await exchange.head()
            try await exchange.send(Sample.whole)
            try await exchange.end()
        }
        let first = try await ScriptedUpstream(script)
        let client = UpstreamClient(
            try #require(UpstreamAddress(first.url)), tasksMax: 2)
        let engine = UpstreamEngine(client)
        #expect(await run(.openAIChat, on: engine, sink: RecordingSink()).failure == nil)
        await first.stop()
        #expect(await run(.openAIChat, on: engine, sink: RecordingSink()).failure != nil)
        let second = try await ScriptedUpstream(port: first.port, script)
        #expect(await run(.openAIChat, on: engine, sink: RecordingSink()).failure == nil)
        await client.shutdown()
        await second.stop()
    }

    @Test func noLineEverHoldsContent() async throws {
        var lines: [String] = []
        for assignment in [Assignment.openAIChat, .textChat] {
            for body in [Sample.whole, canary, "data: {\"\(canary)\"}\n\n", ""] {
                for status in [200, 400, 500] {
                    lines += try await run(assignment) { _, exchange in
                        try await exchange.head(status)
                        try await exchange.send(body.isEmpty ? " " : body)
                        try await exchange.end()
                    }.lines
                }
            }
        }
        #expect(lines.count == 24)
        #expect(lines.filter { $0.contains(#""event":"ended""#) }.count == 2)
        for line in lines { #expect(!line.contains(canary)) }
    }
}
