import SluiceWire
import Testing

/// decode(encode(x)) == x for arbitrary values within their ranges, from a seed.
@Suite struct RoundTripTests {
    private static let rounds = 2_000

    @Test func frameHeader() throws {
        try forEachRound(seed: 1) { random throws in
            let header = FrameHeader(
                kind: FrameKind.allCases.randomElement(using: &random) ?? .body,
                stream: StreamID(.random(in: 0 ... .max, using: &random)),
                payloadBytes: .random(in: 0...WireLimits.payloadBytesMax, using: &random),
                flags: FrameFlags(rawValue: .random(in: 0 ... .max, using: &random)),
                tokens: .random(in: 0 ... .max, using: &random))
            var bytes: [UInt8] = []
            header.encode(into: &bytes)
            #expect(bytes.count == FrameHeader.byteCount)
            #expect(try FrameHeader(decoding: bytes.span) == header)
        }
    }

    @Test func offer() throws {
        try forEachRound(seed: 2) { random throws in
            let offer = OfferFrame(
                offer: OfferID(.random(in: 1 ... .max, using: &random)),
                model: randomName(&random),
                contextTokens: .random(in: 0 ... .max, using: &random),
                prices: TokenPrices(
                    input: price(&random), cached: price(&random), output: price(&random),
                    reasoning: price(&random)),
                supplyType: SupplyType.allCases.randomElement(using: &random) ?? .community,
                dataPolicy: DataPolicy(rawValue: .random(in: 0...2, using: &random)) ?? .unstated,
                quantisation: Quantisation(rawValue: .random(in: 0...9, using: &random))
                    ?? .unstated,
                operations: OperationSet(rawValue: .random(in: 1...15, using: &random)),
                encodings: EncodingSet(rawValue: .random(in: 1...3, using: &random)),
                region: Bool.random(using: &random) ? randomRegion(&random) : nil)
            var bytes: [UInt8] = []
            offer.encode(into: &bytes)
            #expect(try DecodedFrame(bytes).payload == .offer(offer))
        }
    }

    @Test func report() throws {
        try forEachRound(seed: 12) { random throws in
            var report = ReportFrame(
                question: .random(in: 0 ... .max, using: &random),
                rowsLeft: .random(in: 0 ... .max, using: &random),
                model: Bool.random(using: &random) ? randomName(&random) : nil)
            var number = UInt16.random(in: 0...9, using: &random)
            for _ in 0..<Int.random(in: 0...256, using: &random) {
                report.add(
                    ReportFrame.Count(
                        number: number, value: .random(in: 0 ... .max, using: &random)))
                number += .random(in: 1...200, using: &random)
            }
            var bytes: [UInt8] = []
            report.encode(into: &bytes)
            #expect(try DecodedFrame(bytes).payload == .report(report))
        }
    }

    @Test func submit() throws {
        try forEachRound(seed: 3) { random throws in
            let body = randomBytes(0...200, &random)
            let key = randomBytes(1...64, &random)
            var submit = SubmitFrame(
                terms: randomTerms(&random), model: randomName(&random),
                creditLimitBytes: .random(in: 0...WireLimits.creditLimitMax, using: &random))
            submit.windowBytes = .random(in: 0 ... .max, using: &random)
            submit.budget = MicroUSD(.random(in: 0...(1 << 62), using: &random))
            submit.filters.inputCeiling = .random(in: 0 ... .max, using: &random)
            submit.filters.outputCeiling = .random(in: 0 ... .max, using: &random)
            submit.filters.region = Bool.random(using: &random) ? randomRegion(&random) : nil
            submit.filters.dataPolicy =
                DataPolicy(rawValue: .random(in: 0...2, using: &random)) ?? .unstated
            submit.filters.supplyTypes = SupplyTypeSet(
                rawValue: .random(in: 1...255, using: &random))
            submit.hedgeCopies = .random(in: 1...255, using: &random)
            let keyCount = Int.random(in: 0...8, using: &random)
            let affinityKeys = randomBytes(keyCount * 16...keyCount * 16, &random)
            for start in stride(from: 0, to: affinityKeys.count, by: 16) {
                submit.affinityKeys.append(affinityKeys.span.littleEndian64(at: start))
            }
            submit.trace = Bool.random(using: &random) ? randomTrace(&random) : nil
            submit.idempotencyKey = 0..<key.count
            let extensions = submit.extensions(affinityKeys: affinityKeys, of: key)
            var bytes: [UInt8] = []
            submit.encode(
                stream: StreamID(1), extensions: extensions, inlineBodyBytes: body.count,
                into: &bytes)
            bytes += body
            let frame = try DecodedFrame(bytes)
            guard case .submit(var read) = frame.payload else {
                Issue.record("not a SUBMIT")
                return
            }
            #expect(frame.payloadBytes[read.inlineBody] == body[...])
            #expect(read.idempotencyKey.map { Array(frame.payloadBytes[$0]) } == key)
            read.inlineBody = submit.inlineBody
            read.idempotencyKey = submit.idempotencyKey
            #expect(read == submit)
        }
    }

    @Test func assign() throws {
        try forEachRound(seed: 4) { random throws in
            let body = randomBytes(0...200, &random)
            var terms = randomTerms(&random)
            terms.preference = .balanced
            var assign = AssignFrame(
                task: randomTask(&random), offer: OfferID(.random(in: 1 ... .max, using: &random)),
                terms: terms,
                creditLimitBytes: .random(in: 0...WireLimits.creditLimitMax, using: &random))
            assign.trace = Bool.random(using: &random) ? randomTrace(&random) : nil
            var bytes: [UInt8] = []
            assign.encode(stream: StreamID(9), inlineBodyBytes: body.count, into: &bytes)
            bytes += body
            let frame = try DecodedFrame(bytes)
            guard case .assign(var read) = frame.payload else {
                Issue.record("not an ASSIGN")
                return
            }
            #expect(frame.payloadBytes[read.inlineBody] == body[...])
            read.inlineBody = assign.inlineBody
            #expect(read == assign)
        }
    }

    @Test func end() throws {
        let codes = WireCode.allCases.filter { $0.scope == .stream }
        try forEachRound(seed: 5) { random throws in
            var usage = Usage()
            usage.inputTokens = .random(in: 0 ... .max, using: &random)
            usage.cachedTokens = .random(in: 0...usage.inputTokens, using: &random)
            usage.outputTokens = .random(in: 0 ... .max, using: &random)
            usage.reasoningTokens = .random(in: 0...usage.outputTokens, using: &random)
            let end = EndFrame(
                code: codes.randomElement(using: &random) ?? .completed,
                finishReason: FinishReason(rawValue: .random(in: 0...2, using: &random)) ?? .stop,
                usage: usage, retryAfterMs: .random(in: 0 ... .max, using: &random),
                cost: MicroUSD(.random(in: 0...(1 << 62), using: &random)))
            var bytes: [UInt8] = []
            end.encode(stream: StreamID(3), into: &bytes)
            #expect(try DecodedFrame(bytes).payload == .end(end))
        }
    }

    @Test func taskIDTextIsItsOwnInverse() throws {
        try forEachRound(seed: 6) { random throws in
            let task = randomTask(&random)
            #expect(task.description.utf8.count == 32)
            #expect(TaskID(task.description) == task)
        }
        #expect(TaskID("0123456789ABCDEF0123456789abcdef") == nil)
        #expect(TaskID("0123456789abcdef0123456789abcde") == nil)
    }

    private func forEachRound(
        seed: UInt64, _ body: (inout SplitMix64) throws -> Void
    ) throws {
        var random = SplitMix64(seed: seed)
        for _ in 0..<Self.rounds { try body(&random) }
    }

    private func randomBytes(_ counts: ClosedRange<Int>, _ random: inout SplitMix64) -> [UInt8] {
        (0..<Int.random(in: counts, using: &random)).map { _ in
            .random(in: 0...255, using: &random)
        }
    }

    private func randomName(_ random: inout SplitMix64) -> ModelName {
        let allowed = Array(
            "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._:/@-".utf8)
        let bytes = (0..<Int.random(in: 1...88, using: &random)).map { _ in
            allowed.randomElement(using: &random) ?? 0x61
        }
        guard let name = ModelName(bytes.span) else { preconditionFailure("a valid name") }
        return name
    }

    private func randomRegion(_ random: inout SplitMix64) -> ShortText? {
        let bytes = (0..<Int.random(in: 1...16, using: &random)).map { _ in
            UInt8.random(in: 0x21...0x7E, using: &random)
        }
        return ShortText(bytes.span)
    }

    private func randomTask(_ random: inout SplitMix64) -> TaskID {
        TaskID(instance: random.next(), counter: random.next())
    }

    private func randomTrace(_ random: inout SplitMix64) -> TraceContext {
        TraceContext(traceHigh: random.next(), traceLow: random.next(), span: random.next())
    }

    private func randomTerms(_ random: inout SplitMix64) -> TaskTerms {
        var terms = TaskTerms(
            operation: TaskOperation.allCases.randomElement(using: &random) ?? .chat,
            encoding: Bool.random(using: &random) ? .text : .openAI,
            bodyBytes: .random(in: 0 ... .max, using: &random))
        terms.priority = .random(in: 0 ... .max, using: &random)
        terms.preference = Preference(rawValue: .random(in: 0...3, using: &random)) ?? .balanced
        terms.deadlineMs = .random(in: 0 ... .max, using: &random)
        terms.maxInputTokens = .random(in: 0 ... .max, using: &random)
        terms.maxOutputTokens = .random(in: 0 ... .max, using: &random)
        terms.maxReasoningTokens = .random(in: 0 ... .max, using: &random)
        return terms
    }

    private func price(_ random: inout SplitMix64) -> MicroUSD {
        MicroUSD(.random(in: 0...TokenPrices.amountMax, using: &random))
    }
}
