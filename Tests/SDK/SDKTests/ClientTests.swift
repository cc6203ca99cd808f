import SluiceClient
import SluiceSession
import Synchronization
import Testing

@Suite("SluiceClient", .timeLimit(.minutes(1)))
struct ClientTests {
    /// Runs a client against what `script` does with the broker's end.
    @discardableResult
    static func run<Value: Sendable>(
        _ broker: ScriptedBroker = ScriptedBroker(),
        script: @escaping @Sendable (ScriptedBroker) async throws -> Void,
        _ body: (SluiceClient) async throws -> Value
    ) async throws -> Value {
        async let scripted: Void = script(broker)
        let value = try await SluiceClient.withClient(
            .init(brokers: ["memory:1"], key: "secret"), environment: broker.environment(), body)
        try await scripted
        return value
    }

    @Test("streams text as it comes and then tells usage, cost and task")
    func streamsText() async throws {
        let (text, tokens, completion) = try await Self.run { broker in
            let connection = try await broker.welcome()
            let (stream, submit, body) = try await connection.acceptTask()
            #expect(submit.model.description == "m")
            #expect(submit.budget == 2_000)
            // What is left of it when SUBMIT goes out: never more, however slow the machine is.
            #expect((1...20_000).contains(submit.terms.deadlineMs))
            #expect(String(decoding: body, as: UTF8.self) == "Why?")
            try await connection.send(
                tokenBytes(stream, Array("Be".utf8)) + tokenBytes(stream, Array("cause".utf8))
                    + endBytes(
                        stream, usage: Usage(inputTokens: 3, outputTokens: 2), cost: 12))
        } _: { sluice in
            let answer = sluice.stream(
                .chat("m", "Why?") {
                    $0.deadline = .seconds(20)
                    $0.budget = 2_000
                })
            var text = ""
            var tokens = 0
            for try await chunk in answer {
                text += chunk.text ?? ""
                tokens += chunk.tokens
            }
            return (text, tokens, try await answer.completion())
        }
        #expect(text == "Because")
        #expect(tokens == 2)
        #expect(completion.task == taskID)
        #expect(completion.usage.outputTokens == 2)
        #expect(completion.cost == 12)
    }

    @Test("puts OpenAI events together however frames cut them, and counts every token once")
    func events() async throws {
        let bytes = event("{\"a\":1}") + event("{}") + event("{\"b\":\"é\"}")
        let (events, tokens) = try await Self.run { broker in
            let connection = try await broker.welcome()
            let (stream, _, _) = try await connection.acceptTask()
            for (index, byte) in bytes.enumerated() {
                try await connection.send(
                    tokenBytes(stream, [byte], tokens: index % 9 == 0 ? 1 : 0))
            }
            try await connection.send(endBytes(stream))
        } _: { sluice in
            var events: [String] = []
            var tokens = 0
            let request = TaskRequest(.chat, model: "m", payload: .openAI(Array("{}".utf8)))
            for try await chunk in sluice.stream(request) {
                #expect(chunk.text == nil)
                events.append(String(decoding: chunk.bytes, as: UTF8.self))
                tokens += chunk.tokens
            }
            return (events, tokens)
        }
        #expect(events == ["{\"a\":1}", "{}", "{\"b\":\"é\"}"])
        #expect(tokens == (bytes.count + 8) / 9)
    }

    @Test("every END code becomes the error that says what happened", arguments: WireCode.allCases)
    func errors(_ code: WireCode) async throws {
        guard code != .completed, code.scope == .stream else { return }
        let usage = Usage(inputTokens: 1, outputTokens: 2)
        let error = try await Self.run { broker in
            let connection = try await broker.welcome()
            let frame = try await connection.next(.submit)
            if !code.isRefusal { try await connection.send(queuedBytes(frame.header.stream)) }
            try await connection.send(
                endBytes(frame.header.stream, code, usage: usage, retryAfterMs: 1_500))
        } _: { sluice in
            await #expect(throws: SluiceError.self) {
                _ = try await sluice.perform(.chat("m", "x"))
            }
        }
        #expect(error?.code == code)
        #expect(error?.retry == code.retry)
        let receipt = Receipt(task: taskID, usage: usage, cost: 0)
        switch code {
        case .supplierLost: #expect(error == .supplierLost(receipt))
        case .upstreamRefused: #expect(error == .supplierFailed(code, receipt))
        case .queueFull:
            let rejection = Rejection(code: code, retryAfter: .milliseconds(1_500))
            #expect(error == .rejected(rejection))
        case .insufficientFunds: #expect(error == .refused(code))
        default: break
        }
    }

    @Test("an accepted task is known before its answer, which stays to be read")
    func accepted() async throws {
        let gate = AsyncStream<Void>.makeStream()
        try await Self.run { broker in
            let connection = try await broker.welcome()
            let (stream, _, _) = try await connection.acceptTask()
            for await _ in gate.stream { break }
            try await connection.send(tokenBytes(stream, [0x61]) + endBytes(stream))
        } _: { sluice in
            let answer = sluice.stream(.chat("m", "x"))
            async let other = answer.accepted()
            #expect(try await answer.accepted() == taskID)
            #expect(try await other == taskID)
            #expect(await !answer.hasArrived(within: .milliseconds(1)))
            gate.continuation.yield()
            while await !answer.hasArrived(within: .seconds(5)) {}
            var text = ""
            for try await chunk in answer { text += chunk.text ?? "" }
            #expect(text == "a")
            #expect(try await answer.accepted() == taskID)
        }
    }

    @Test("a task that is refused is never accepted, and its reason is thrown")
    func neverAccepted() async throws {
        try await Self.run { broker in
            let connection = try await broker.welcome()
            let frame = try await connection.next(.submit)
            try await connection.send(endBytes(frame.header.stream, .noSupplier))
        } _: { sluice in
            let answer = sluice.stream(.chat("m", "x"))
            let error = await #expect(throws: SluiceError.self) { try await answer.accepted() }
            #expect(error?.code == .noSupplier)
            #expect(await answer.hasArrived(within: .zero))
        }
    }

    @Test("a wait for the answer that is cancelled ends, and leaves the task alone")
    func watchedAndLeft() async throws {
        try await Self.run { broker in
            let connection = try await broker.welcome()
            let (stream, _, _) = try await connection.acceptTask()
            try await connection.send(tokenBytes(stream, [0x61]) + endBytes(stream))
        } _: { sluice in
            let answer = sluice.stream(.chat("m", "x"))
            let watch = Task { await answer.hasArrived(within: .seconds(3_600)) }
            watch.cancel()
            _ = await watch.value
            var text = ""
            for try await chunk in answer { text += chunk.text ?? "" }
            #expect(text == "a")
        }
    }

    @Test("cancelling the reading task sends CANCEL and throws cancelled")
    func taskCancellation() async throws {
        let gate = AsyncStream<Void>.makeStream()
        try await Self.run { broker in
            let connection = try await broker.welcome()
            let (stream, _, _) = try await connection.acceptTask()
            try await connection.send(tokenBytes(stream, [0x61]))
            let cancel = try await connection.next(.cancel)
            #expect(cancel.header.stream == stream)
            // As the client counts: its END may come before the reader has ended.
            try await connection.send(
                endBytes(stream, .cancelled, usage: Usage(outputTokens: 1)))
        } _: { sluice in
            let reading = Task {
                for try await _ in sluice.stream(.chat("m", "x")) { gate.continuation.yield() }
            }
            for await _ in gate.stream { break }
            reading.cancel()
            let result = await reading.result
            #expect(
                throws: SluiceError.cancelled(Receipt(task: taskID, usage: Usage(outputTokens: 1)))
            ) { try result.get() }
        }
    }

    @Test("letting go of the iterator sends CANCEL; the completion then tells the charge")
    func iteratorDropped() async throws {
        try await Self.run { broker in
            let connection = try await broker.welcome()
            let (stream, _, _) = try await connection.acceptTask()
            try await connection.send(tokenBytes(stream, [0x61]))
            _ = try await connection.next(.cancel)
            try await connection.send(
                endBytes(stream, .cancelled, usage: Usage(outputTokens: 1), cost: 7))
        } _: { sluice in
            let answer = sluice.stream(.chat("m", "x"))
            for try await _ in answer { break }
            await #expect(
                throws: SluiceError.cancelled(
                    Receipt(task: taskID, usage: Usage(outputTokens: 1), cost: 7))
            ) { _ = try await answer.completion() }
        }
    }

    @Test("letting go of an answer that was never read sends CANCEL")
    func answerDropped() async throws {
        let gate = AsyncStream<Void>.makeStream()
        try await Self.run { broker in
            let connection = try await broker.welcome()
            let (stream, _, _) = try await connection.acceptTask()
            gate.continuation.yield()
            let cancel = try await connection.next(.cancel)
            try await connection.send(endBytes(cancel.header.stream, .cancelled))
            #expect(cancel.header.stream == stream)
            gate.continuation.yield()
        } _: { sluice in
            var signals = gate.stream.makeAsyncIterator()
            do {
                let answer = sluice.stream(.chat("m", "x"))
                await signals.next()
                _ = answer
            }
            await signals.next()
        }
    }

    @Test("grants no credit for what nobody reads, and again what was read")
    func slowReader() async throws {
        let gate = AsyncStream<Void>.makeStream()
        try await Self.run { broker in
            let connection = try await broker.welcome()
            let (stream, submit, _) = try await connection.acceptTask()
            #expect(submit.creditLimitBytes == 8_192)
            for _ in 0..<4 {
                try await connection.send(
                    tokenBytes(stream, Array(repeating: 0x61, count: 2_036)))
            }
            // An answer to PING shows that no CREDIT was queued before it.
            try await connection.send(
                encoded { PingFrame(value: 1).encode(as: .ping, into: &$0) })
            _ = try await connection.next(.pong)
            gate.continuation.yield()
            let credit = try await connection.next(.credit)
            #expect(try credit.credit.limitBytes == 16_384)
            try await connection.send(endBytes(stream))
        } _: { sluice in
            let answer = sluice.stream(.chat("m", "x") { $0.windowBytes = 8_192 })
            for await _ in gate.stream { break }
            var byteCount = 0
            for try await chunk in answer { byteCount += chunk.bytes.count }
            #expect(byteCount == 4 * 2_036)
        }
    }

    @Test("a lost connection ends what was under way and never sends it again; others go on")
    func connectionLost() async throws {
        try await Self.run { broker in
            let first = try await broker.welcome()
            let (stream, _, _) = try await first.acceptTask()
            try await first.send(tokenBytes(stream, [0x61, 0x62], tokens: 2))
            // The credit shows that the client has read.
            await first.close()
            let second = try await broker.welcome()
            let (again, _, body) = try await second.acceptTask()
            #expect(String(decoding: body, as: UTF8.self) == "second")
            try await second.send(endBytes(again))
        } _: { sluice in
            await #expect(
                throws: SluiceError.connectionLost(
                    Receipt(task: taskID, usage: Usage(outputTokens: 2)))
            ) { for try await _ in sluice.stream(.chat("m", "first")) {} }
            _ = try await sluice.perform(.chat("m", "second"))
        }
    }

    @Test("a task waits for the connection, however many attempts it takes")
    func waitsForConnection() async throws {
        let broker = ScriptedBroker(refusedDials: 5)
        let result = try await Self.run(broker) { broker in
            let connection = try await broker.welcome()
            let (stream, _, _) = try await connection.acceptTask()
            try await connection.send(tokenBytes(stream, [0x61]) + endBytes(stream))
        } _: {
            try await $0.perform(.chat("m", "x"))
        }
        #expect(result.text == "a")
        #expect(broker.dialCount == 6)
    }

    @Test("a task that waits for a connection ends at its deadline")
    func deadlineWithoutConnection() async throws {
        let clock = ManualClock()
        let broker = ScriptedBroker()
        try await SluiceClient.withClient(
            .init(brokers: ["memory:1"], key: "k"), environment: broker.environment(clock: clock)
        ) { sluice in
            let answer = sluice.stream(.chat("m", "x") { $0.deadline = .seconds(1) })
            let moving = Task {
                while !Task.isCancelled {
                    clock.advance(100)
                    await Task.yield()
                }
            }
            await #expect(throws: SluiceError.deadlineExceeded(Receipt())) {
                _ = try await answer.completion()
            }
            // Left running, it also wakes the sleepers that end with the client.
            _ = moving
        }
    }

    @Test("a task that waits for a free stream gets one after another's END")
    func waitsForStream() async throws {
        let texts = try await Self.run { broker in
            let connection = try await broker.welcome(welcomeBytes(maxStreams: 1))
            for _ in 0..<3 {
                let (stream, _, _) = try await connection.acceptTask()
                try await connection.send(tokenBytes(stream, [0x61]) + endBytes(stream))
            }
        } _: { sluice in
            try await withThrowingTaskGroup(of: String.self) { group in
                for _ in 0..<3 {
                    group.addTask { try await sluice.perform(.chat("m", "x")).text }
                }
                return try await group.reduce(into: []) { $0.append($1) }
            }
        }
        #expect(texts == ["a", "a", "a"])
    }

    @Test("after GO-AWAY new tasks go to a new connection and old ones end where they are")
    func goAway() async throws {
        let gate = AsyncStream<Void>.makeStream()
        try await Self.run { broker in
            let first = try await broker.welcome()
            let (old, _, _) = try await first.acceptTask()
            try await first.send(
                encoded { GoAwayFrame(code: .shuttingDown, graceMs: 1_000).encode(into: &$0) })
            let second = try await broker.welcome()
            gate.continuation.yield()
            let (new, _, _) = try await second.acceptTask()
            try await second.send(tokenBytes(new, [0x6E]) + endBytes(new))
            try await first.send(tokenBytes(old, [0x6F]) + endBytes(old))
        } _: { sluice in
            async let old = sluice.perform(.chat("m", "old")).text
            for await _ in gate.stream { break }
            let new = try await sluice.perform(.chat("m", "new")).text
            let last = try await old
            #expect(new == "n")
            #expect(last == "o")
        }
    }

    @Test("a key that is not known refuses what waits, for good")
    func unauthenticated() async throws {
        try await Self.run { broker in
            let connection = try await broker.accept()
            _ = try await connection.next(.hello)
            try await connection.send(
                encoded { ErrorFrame(code: .unauthenticated).encode(into: &$0) })
        } _: { sluice in
            await #expect(throws: SluiceError.refused(.unauthenticated)) {
                _ = try await sluice.perform(.chat("m", "x"))
            }
        }
    }

    @Test("an upstream's error body comes as a piece marked as error, before the error")
    func errorBody() async throws {
        try await Self.run { broker in
            let connection = try await broker.welcome()
            let (stream, _, _) = try await connection.acceptTask()
            try await connection.send(
                tokenBytes(stream, Array("{\"error\":1}".utf8), tokens: 0, flags: [.error])
                    + endBytes(stream, .upstreamRefused))
        } _: { sluice in
            var bodies: [[UInt8]] = []
            do throws(SluiceError) {
                let request = TaskRequest(.chat, model: "m", payload: .openAI([]))
                for try await chunk in sluice.stream(request) where chunk.isError {
                    bodies.append(chunk.bytes)
                }
                Issue.record("the stream ended as if all were well")
            } catch {
                #expect(error.code == .upstreamRefused)
                #expect(error.retry == .never)
            }
            #expect(bodies == [Array("{\"error\":1}".utf8)])
        }
    }

    @Test(
        "a request with a field out of range is refused here",
        arguments: [
            TaskRequest.chat("bad name", "x"),
            TaskRequest.chat("m", "x") { $0.idempotencyKey = "" },
            TaskRequest.chat("m", "x") { $0.affinityKeys = [[1]] },
            TaskRequest.chat("m", "x") { $0.region = "far away" },
            TaskRequest.chat("m", "x") { $0.supplyTypes = [] },
            TaskRequest.chat("m", "x") { $0.budget = -1 },
        ])
    func invalidRequest(_ request: TaskRequest) async throws {
        let broker = ScriptedBroker()
        try await SluiceClient.withClient(
            .init(brokers: ["memory:1"], key: "k"), environment: broker.environment()
        ) { sluice in
            await #expect(throws: SluiceError.refused(.invalidRequest)) {
                _ = try await sluice.perform(request)
            }
        }
    }

    @Test("every option reaches the wire")
    func options() async throws {
        try await Self.run { broker in
            let connection = try await broker.welcome()
            let (stream, submit, _) = try await connection.acceptTask()
            #expect(submit.terms.priority == 9)
            #expect(submit.terms.preference == .throughput)
            #expect(submit.terms.maxInputTokens == 1)
            #expect(submit.terms.maxOutputTokens == 2)
            #expect(submit.terms.maxReasoningTokens == 3)
            #expect(submit.filters.inputCeiling == 4)
            #expect(submit.filters.outputCeiling == 5)
            #expect(submit.filters.region?.description == "eu")
            #expect(submit.filters.dataPolicy == .noRetention)
            #expect(submit.filters.supplyTypes == [SupplyTypeSet(.platform)])
            #expect(submit.idempotencyKey?.count == 3)
            #expect(submit.affinityKeys.count == 2)
            #expect(submit.trace == TraceContext(traceHigh: 6, traceLow: 7, span: 8))
            #expect(submit.hedgeCopies == 2)
            #expect(submit.windowBytes == 32_768 && submit.creditLimitBytes == 32_768)
            try await connection.send(endBytes(stream))
        } _: { sluice in
            _ = try await sluice.perform(
                .chat("m", "x") {
                    $0.priority = 9
                    $0.preference = .throughput
                    $0.maxInputTokens = 1
                    $0.maxOutputTokens = 2
                    $0.maxReasoningTokens = 3
                    $0.inputPriceCeiling = 4
                    $0.outputPriceCeiling = 5
                    $0.region = "eu"
                    $0.dataPolicy = .noRetention
                    $0.supplyTypes = [.platform]
                    $0.idempotencyKey = "abc"
                    $0.affinityKeys = [
                        Array(repeating: 1, count: 16), Array(repeating: 2, count: 16),
                    ]
                    $0.trace = .init(traceID: (6, 7), parentSpan: 8)
                    $0.hedgeCopies = 2
                    $0.windowBytes = 32_768
                })
        }
    }
}
