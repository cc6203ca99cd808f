import SluiceSession
import SluiceSupplier
import Synchronization
import Testing

@Suite("SluiceSupplier", .timeLimit(.minutes(1)))
struct SupplierTests {
    /// Runs a supplier of model `m` until the script is done, then drains it.
    static func run(
        slots: Int = 4, brokers: Int = 1,
        onEvent: (@Sendable (SupplierEvent) -> Void)? = nil,
        script: @escaping @Sendable (ScriptedBroker, SluiceSupplier) async throws -> Void,
        _ handler: @escaping SluiceSupplier.Handler
    ) async throws {
        let broker = ScriptedBroker()
        let supplier = SluiceSupplier(
            brokers: (0..<brokers).map { "memory:\($0 + 1)" }, token: "t",
            offers: [Offer(model: "m", slots: slots, inputPrice: 2, outputPrice: 3)],
            configuration: .init(onEvent: onEvent), environment: broker.environment(), handler)
        let running = Task { try await supplier.run() }
        try await script(broker, supplier)
        running.cancel()
        try await running.value
    }

    @Test("offers its models and slots, runs a task and claims its usage")
    func runsTask() async throws {
        try await Self.run { broker, _ in
            let connection = try await broker.welcome()
            let offer = try await connection.next(.offer).offer
            #expect(offer.model.description == "m")
            #expect(offer.prices.cached == 2 && offer.prices.reasoning == 3)
            let grant = try await connection.next(.grant).grant
            #expect(grant == GrantFrame(offer: offer.offer, slots: 4))
            let total = try await connection.next(.grant).grant
            #expect(total == GrantFrame(offer: .connection, slots: 4))
            try await connection.send(assignBytes(StreamID(2), body: Array("hi".utf8)))
            let started = try await connection.next(.started)
            #expect(try started.started.inputTokens == 5)
            var text: [UInt8] = []
            var tokens = 0
            while true {
                let frame = try await connection.next()
                guard frame.header.kind == .tokens else {
                    let end = try frame.end
                    #expect(end.code == .completed)
                    #expect(end.finishReason == .length)
                    #expect(end.usage == Usage(inputTokens: 5, outputTokens: 3))
                    break
                }
                text += frame.payload
                tokens += Int(frame.header.tokens)
            }
            #expect(String(decoding: text, as: UTF8.self) == "hi there!")
            #expect(tokens == 3)
        } _: { task, out in
            guard case .text(let prompt) = task.payload else { throw TaskFailure(code: .declined) }
            #expect(task.id == taskID && task.model == "m")
            try await out.started(inputTokens: 5)
            try await out.write(prompt, tokens: 1)
            try await out.write(" there", tokens: 1)
            try await out.write("!", tokens: 1)
            out.finish(.length)
            return Usage(inputTokens: 5, outputTokens: 3)
        }
    }

    @Test("frames every OpenAI event with its length")
    func events() async throws {
        try await Self.run { broker, _ in
            let connection = try await broker.serve()
            try await connection.send(assignBytes(StreamID(1), encoding: .openAI))
            var bytes: [UInt8] = []
            while true {
                let frame = try await connection.next()
                if frame.header.kind == .tokens { bytes += frame.payload }
                if frame.header.kind == .end { break }
            }
            #expect(bytes == event("{\"a\":1}") + event("{}"))
        } _: { _, out in
            try await out.write(event: Array("{\"a\":1}".utf8), tokens: 1)
            try await out.write(event: Array("{}".utf8), tokens: 0)
            let error = await thrown { try await out.write("text", tokens: 1) }
            #expect(error as? SupplierError == .wrongEncoding)
            return Usage(outputTokens: 1)
        }
    }

    @Test("never sends beyond the credit, and goes on when there is more")
    func credit() async throws {
        try await Self.run { broker, _ in
            let connection = try await broker.serve()
            var limit: UInt64 = 4_096
            try await connection.send(assignBytes(StreamID(1), limit: limit))
            var cost: UInt64 = 0
            var payloadBytes = 0
            while true {
                let frame = try await connection.next()
                if frame.header.kind == .end { break }
                guard frame.header.kind == .tokens else { continue }
                cost += UInt64(frame.header.frameBytes)
                payloadBytes += frame.payload.count
                #expect(cost <= limit)
                if limit - cost < 2_048 {
                    limit += 4_096
                    try await connection.send(creditBytes(StreamID(1), limit))
                }
            }
            #expect(payloadBytes == 300 * 200)
        } _: { _, out in
            let piece = String(repeating: "x", count: 200)
            for _ in 0..<300 { try await out.write(piece, tokens: 1) }
            return Usage(outputTokens: 300)
        }
    }

    @Test("CANCEL cancels the handler's task, fails its writes, and is answered with END")
    func cancel() async throws {
        let gate = AsyncStream<Void>.makeStream()
        try await Self.run { broker, _ in
            let connection = try await broker.serve()
            try await connection.send(assignBytes(StreamID(1)))
            for await _ in gate.stream { break }
            try await connection.send(cancelBytes(StreamID(1), .deadlineExceeded))
            let end = try await connection.skip(to: .end)
            #expect(try end.end.code == .deadlineExceeded)
        } _: { _, out in
            gate.continuation.yield()
            try? await Task.sleep(for: .seconds(50))
            #expect(Task.isCancelled)
            let error = await thrown { try await out.write("late", tokens: 1) }
            #expect(error as? SupplierError == .cancelled(.deadlineExceeded))
            throw CancellationError()
        }
    }

    @Test("CANCEL reaches a handler that waits for credit")
    func cancelWhileWaiting() async throws {
        try await Self.run { broker, _ in
            let connection = try await broker.serve()
            try await connection.send(assignBytes(StreamID(1), limit: 0))
            _ = try await connection.skip(to: .started)
            try await connection.send(cancelBytes(StreamID(1)))
            let end = try await connection.skip(to: .end)
            #expect(try end.end.code == .cancelled)
        } _: { _, out in
            try await out.started(inputTokens: 1)
            try await out.write("never read", tokens: 1)
            return Usage()
        }
    }

    @Test(
        "a handler's failure says why to the broker",
        arguments: [
            (TaskFailure.Reason.upstreamUnavailable, WireCode.upstreamUnavailable),
            (.upstreamRefused, .upstreamRefused), (.supplierFailed, .supplierFailed),
            (.declined, .declined),
        ])
    func failure(_ reason: TaskFailure.Reason, _ code: WireCode) async throws {
        try await Self.run { broker, _ in
            let connection = try await broker.serve()
            try await connection.send(assignBytes(StreamID(1), encoding: .openAI))
            let error = try await connection.skip(to: .tokens)
            #expect(error.header.flags == [.error] && error.header.tokens == 0)
            #expect(error.payload == [1, 2, 3])
            let end = try await connection.next(.end).end
            #expect(end.code == code)
            #expect(end.usage == Usage(inputTokens: 1))
        } _: { _, out in
            try await out.writeError([1, 2, 3])
            throw TaskFailure(code: reason, usage: Usage(inputTokens: 1))
        }
    }

    @Test("draining withdraws, lets tasks end, and then closes")
    func drains() async throws {
        let gate = AsyncStream<Void>.makeStream()
        try await Self.run { broker, supplier in
            let connection = try await broker.serve()
            try await connection.send(assignBytes(StreamID(1)))
            _ = try await connection.skip(to: .started)
            supplier.drain()
            _ = try await connection.skip(to: .withdraw)
            try await connection.send(assignBytes(StreamID(2)))
            let declined = try await connection.skip(to: .end)
            #expect(declined.header.stream == StreamID(2))
            #expect(try declined.end.code == .declined)
            gate.continuation.yield()
            let end = try await connection.skip(to: .end)
            #expect(try end.end.code == .completed)
            let error = await thrown { _ = try await connection.next() }
            #expect(error as? TransportError == .closed)
        } _: { _, out in
            try await out.started(inputTokens: 1)
            for await _ in gate.stream { break }
            try await out.write("done", tokens: 1)
            return Usage(outputTokens: 1)
        }
    }

    @Test("new terms are a new offer, new slots only a new grant, and what is gone is withdrawn")
    func updates() async throws {
        try await Self.run { broker, supplier in
            let connection = try await broker.welcome()
            _ = try await connection.next(.offer)
            _ = try await connection.next(.grant)
            _ = try await connection.next(.grant)
            await supplier.update(offers: [
                Offer(model: "m", slots: 9, inputPrice: 2, outputPrice: 3)
            ])
            let grant = try await connection.next(.grant).grant
            #expect(grant == GrantFrame(offer: OfferID(1), slots: 9))
            _ = try await connection.next(.grant)
            await supplier.update(offers: [Offer(model: "m", slots: 9, inputPrice: 4)])
            let withdraw = try await connection.next(.withdraw)
            #expect(try withdraw.withdraw.offer == OfferID(1))
            let offer = try await connection.next(.offer).offer
            #expect(offer.offer == OfferID(2) && offer.prices.input == 4)
        } _: { _, _ in
            Usage()
        }
    }

    @Test("splits its slots over the brokers that are connected")
    func splitsSlots() async throws {
        try await Self.run(slots: 5, brokers: 2) { broker, _ in
            let first = try await broker.welcome()
            _ = try await first.next(.offer)
            #expect(try await first.next(.grant).grant.slots == 5)
            _ = try await first.next(.grant)
            let second = try await broker.welcome()
            _ = try await second.next(.offer)
            #expect(try await second.next(.grant).grant.slots == 2)
            #expect(try await first.next(.grant).grant.slots == 3)
        } _: { _, _ in
            Usage()
        }
    }

    @Test("a lost connection cancels its handlers and is dialled again")
    func reconnects() async throws {
        let cancelled = Mutex(0)
        let gate = AsyncStream<Void>.makeStream()
        try await Self.run { broker, _ in
            let first = try await broker.serve()
            try await first.send(assignBytes(StreamID(1)))
            _ = try await first.skip(to: .started)
            await first.close()
            for await _ in gate.stream { break }
            let second = try await broker.welcome()
            _ = try await second.next(.offer)
        } _: { _, out in
            try await out.started(inputTokens: 1)
            try? await Task.sleep(for: .seconds(50))
            let error = await thrown { try await out.write("x", tokens: 1) }
            #expect(error as? SupplierError == .connectionLost)
            cancelled.withLock { $0 += 1 }
            gate.continuation.yield()
            return Usage()
        }
        #expect(cancelled.withLock { $0 } == 1)
    }
}
