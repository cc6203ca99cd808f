// Frames of one task: SUBMIT, QUEUED, ASSIGN, STARTED, END, CANCEL, CREDIT. BODY and TOKENS have no
// fields of their own: their payload is content and is never looked at here.

/// What a task carries besides its body and model.
package struct TaskTerms: Equatable, Sendable {
    package var operation: TaskOperation
    package var encoding: PayloadEncoding
    /// 0…255, higher first among one account's tasks; 128 by default.
    package var priority: UInt8 = 128
    package var preference: Preference = .balanced
    package var bodyBytes: UInt32
    /// From the arrival of SUBMIT; 0 = the welcome's maximum.
    package var deadlineMs: UInt32 = 0
    /// 0 = not limited by the client.
    package var maxInputTokens: UInt32 = 0
    package var maxOutputTokens: UInt32 = 0
    package var maxReasoningTokens: UInt32 = 0

    package init(operation: TaskOperation, encoding: PayloadEncoding, bodyBytes: UInt32) {
        self.operation = operation
        self.encoding = encoding
        self.bodyBytes = bodyBytes
    }
}

/// Trace id and parent span of a caller (W3C trace context, without its state).
package struct TraceContext: Equatable, Sendable {
    package var traceHigh: UInt64
    package var traceLow: UInt64
    package var span: UInt64

    package init(traceHigh: UInt64, traceLow: UInt64, span: UInt64) {
        self.traceHigh = traceHigh
        self.traceLow = traceLow
        self.span = span
    }
}

/// Opens a task stream (client → broker; section 8).
///
///     0 u8 operation  1 u8 encoding  2 u8 priority  3 u8 preference  4 u32 body bytes
///     8 u32 deadline ms  12 u32 max input  16 u32 max output  20 u32 max reasoning
///     24 u32 window bytes asked (0 = default)  28 u16 model bytes  30 u16 extension bytes
///     32 u64 credit limit of the answer  40 u64 budget micro-USD (0 = none)
///     48 model, extensions, then the first body bytes
package struct SubmitFrame: Equatable, Sendable {
    package static let fixedBytes = 48

    package var terms: TaskTerms
    package var model: ModelName
    /// Reserve asked for; 0 = default, else 4,096…65,536.
    package var windowBytes: UInt32 = 0
    /// Absolute limit of TOKENS bytes (12 + payload each) that the client will take.
    package var creditLimitBytes: UInt64
    /// 0 = none.
    package var budget: MicroUSD = 0
    package var filters = OfferFilters()
    /// An idempotency key, place in the payload.
    package var idempotencyKey: Range<Int>?
    /// Most copies at once; 1 = no hedging.
    package var hedgeCopies: UInt8 = 1
    package var affinityKeys = AffinityKeys()
    package var trace: TraceContext?
    /// Place of the first body bytes in the payload; may be empty.
    package var inlineBody: Range<Int> = 0..<0

    package init(terms: TaskTerms, model: ModelName, creditLimitBytes: UInt64) {
        self.terms = terms
        self.model = model
        self.creditLimitBytes = creditLimitBytes
    }

    package init(decoding bytes: Span<UInt8>) throws(WireError) {
        var cursor = PayloadCursor()
        let operation = try cursor.value(TaskOperation.self, bytes)
        let encoding = try cursor.value(PayloadEncoding.self, bytes)
        let priority = try cursor.uint8(bytes)
        let preference = try cursor.value(Preference.self, bytes)
        terms = TaskTerms(
            operation: operation, encoding: encoding, bodyBytes: try cursor.uint32(bytes))
        terms.priority = priority
        terms.preference = preference
        terms.deadlineMs = try cursor.uint32(bytes)
        terms.maxInputTokens = try cursor.uint32(bytes)
        terms.maxOutputTokens = try cursor.uint32(bytes)
        terms.maxReasoningTokens = try cursor.uint32(bytes)
        windowBytes = try cursor.uint32(bytes)
        let modelBytes = Int(try cursor.uint16(bytes))
        let extensionBytes = Int(try cursor.uint16(bytes))
        creditLimitBytes = try cursor.uint64(bytes)
        let budget = try cursor.uint64(bytes)
        guard creditLimitBytes <= WireLimits.creditLimitMax, budget <= UInt64(1) << 62 else {
            throw .malformedPayload(.valueOutOfRange)
        }
        self.budget = MicroUSD(Int64(budget))
        let name = try cursor.range(modelBytes, of: bytes)
        guard let model = ModelName(bytes.extracting(name)) else {
            throw .malformedPayload(.invalidText)
        }
        self.model = model
        try decodeExtensions(cursor.extensions(byteCount: extensionBytes, of: bytes), of: bytes)
        inlineBody = cursor.offset..<bytes.count
    }

    private mutating func decodeExtensions(
        _ run: ExtensionCursor, of bytes: Span<UInt8>
    ) throws(WireError) {
        var extensions = run
        while let (type, value) = try extensions.next(bytes) {
            switch type {
            case ExtensionType.idempotencyKey where (1...64).contains(value.count):
                idempotencyKey = value
            case ExtensionType.affinityKeys
            where value.count % 16 == 0
                && (1...WireLimits.affinityKeysMax).contains(
                    value.count / 16):
                for start in stride(from: value.lowerBound, to: value.upperBound, by: 16) {
                    affinityKeys.append(bytes.littleEndian64(at: start))
                }
            case ExtensionType.priceCeilings where value.count == 16:
                filters.inputCeiling = bytes.littleEndian64(at: value.lowerBound)
                filters.outputCeiling = bytes.littleEndian64(at: value.lowerBound + 8)
            case ExtensionType.region:
                guard let region = ShortText(bytes.extracting(value)) else {
                    throw .malformedPayload(.invalidText)
                }
                filters.region = region
            case ExtensionType.dataPolicy where value.count == 1:
                guard let policy = DataPolicy(rawValue: bytes[value.lowerBound]) else {
                    throw .malformedPayload(.valueOutOfRange)
                }
                filters.dataPolicy = policy
            case ExtensionType.supplyTypes where value.count == 1:
                filters.supplyTypes = SupplyTypeSet(rawValue: bytes[value.lowerBound])
                guard !filters.supplyTypes.isEmpty else {
                    throw .malformedPayload(.valueOutOfRange)
                }
            case ExtensionType.trace where value.count == 24:
                trace = TraceContext(
                    traceHigh: bytes.littleEndian64(at: value.lowerBound),
                    traceLow: bytes.littleEndian64(at: value.lowerBound + 8),
                    span: bytes.littleEndian64(at: value.lowerBound + 16))
            case ExtensionType.hedge where value.count == 1:
                hedgeCopies = bytes[value.lowerBound]
                guard hedgeCopies >= 1 else { throw .malformedPayload(.valueOutOfRange) }
            case ExtensionType.idempotencyKey, ExtensionType.affinityKeys,
                ExtensionType.priceCeilings, ExtensionType.dataPolicy,
                ExtensionType.supplyTypes, ExtensionType.trace, ExtensionType.hedge:
                throw .malformedPayload(.badExtension)
            default:
                try ExtensionCursor.skipUnknown(type)
            }
        }
    }

    /// The header and the fields before the inline body, for the side that submits; the caller
    /// appends exactly `inlineBodyBytes` body bytes. `extensions` holds what the caller built.
    package func encode(
        stream: StreamID, extensions: ExtensionWriter = ExtensionWriter(), inlineBodyBytes: Int,
        into bytes: inout [UInt8]
    ) {
        FrameHeader(
            kind: .submit, stream: stream,
            payloadBytes: Self.fixedBytes + Int(model.byteCount) + extensions.bytes.count
                + inlineBodyBytes
        ).encode(into: &bytes)
        bytes += [
            terms.operation.rawValue, terms.encoding.rawValue, terms.priority,
            terms.preference.rawValue,
        ]
        bytes.appendLittleEndian(terms.bodyBytes)
        bytes.appendLittleEndian(terms.deadlineMs)
        bytes.appendLittleEndian(terms.maxInputTokens)
        bytes.appendLittleEndian(terms.maxOutputTokens)
        bytes.appendLittleEndian(terms.maxReasoningTokens)
        bytes.appendLittleEndian(windowBytes)
        bytes.appendLittleEndian(UInt16(model.byteCount))
        bytes.appendLittleEndian(UInt16(extensions.bytes.count))
        bytes.appendLittleEndian(creditLimitBytes)
        bytes.appendLittleEndian(UInt64(bitPattern: budget.rawValue))
        bytes += model.bytes
        bytes += extensions.bytes
    }
}

/// What an offer must satisfy to be eligible for a task.
package struct OfferFilters: Equatable, Sendable {
    /// Micro-USD per million input tokens; `.max` = no ceiling.
    package var inputCeiling: UInt64 = .max
    /// Micro-USD per million output tokens; `.max` = no ceiling.
    package var outputCeiling: UInt64 = .max
    package var region: ShortText?
    package var dataPolicy: DataPolicy = .unstated
    package var supplyTypes: SupplyTypeSet = .all

    package init() {}
}

/// The affinity keys of a task, longest prefix first. Of each 16-byte key the first 8 are kept:
/// they are HMACs, so a meeting by chance is as good as excluded and would only send a task to
/// another supplier of its model.
package struct AffinityKeys: Equatable, Sendable {
    /// 0…8.
    package private(set) var count: UInt8 = 0
    private var words: (UInt64, UInt64, UInt64, UInt64, UInt64, UInt64, UInt64, UInt64) = (
        0, 0, 0, 0, 0, 0, 0, 0
    )

    package init() {}

    package mutating func append(_ word: UInt64) {
        precondition(Int(count) < WireLimits.affinityKeysMax, "too many affinity keys")
        switch count {
        case 0: words.0 = word
        case 1: words.1 = word
        case 2: words.2 = word
        case 3: words.3 = word
        case 4: words.4 = word
        case 5: words.5 = word
        case 6: words.6 = word
        default: words.7 = word
        }
        count += 1
    }

    /// The key at `index`, 0..<`count`.
    package subscript(index: Int) -> UInt64 {
        precondition(index < Int(count))
        return switch index {
        case 0: words.0
        case 1: words.1
        case 2: words.2
        case 3: words.3
        case 4: words.4
        case 5: words.5
        case 6: words.6
        default: words.7
        }
    }

    package static func == (left: AffinityKeys, right: AffinityKeys) -> Bool {
        guard left.count == right.count else { return false }
        for index in 0..<Int(left.count) where left[index] != right[index] { return false }
        return true
    }
}

/// The task is accepted (broker → client), exactly once per accepted task ([Q3]).
///
///     0 u64 instance  8 u64 counter  16 u32 reserve bytes  20 u32 position in the queue
package struct QueuedFrame: Equatable, Sendable {
    package var task: TaskID
    package var reserveBytes: UInt32
    /// Tasks of the model that wait before this one.
    package var position: UInt32

    package init(task: TaskID, reserveBytes: UInt32, position: UInt32) {
        self.task = task
        self.reserveBytes = reserveBytes
        self.position = position
    }

    package init(decoding bytes: Span<UInt8>) throws(WireError) {
        var cursor = PayloadCursor()
        task = TaskID(instance: try cursor.uint64(bytes), counter: try cursor.uint64(bytes))
        reserveBytes = try cursor.uint32(bytes)
        position = try cursor.uint32(bytes)
        try cursor.finish(bytes)
    }

    package func encode(stream: StreamID, into bytes: inout [UInt8]) {
        bytes.appendFields(FrameHeader.byteCount + 24) { fields in
            fields.set(FrameHeader(kind: .queued, stream: stream, payloadBytes: 24))
            fields.set(task.instance, at: 12)
            fields.set(task.counter, at: 20)
            fields.set(reserveBytes, at: 28)
            fields.set(position, at: 32)
        }
    }
}

/// Opens a task stream at a supplier (broker → supplier; section 10).
///
///     0 u64 instance  8 u64 counter  16 u8 operation  17 u8 encoding  18 u8 priority  19 u8 0
///     20 u32 offer  24 u32 body bytes  28 u32 deadline ms left  32 u32 max input
///     36 u32 max output  40 u32 max reasoning  44 u16 extension bytes  46 u16 0
///     48 u64 credit limit of the answer  56 extensions, then the first body bytes
package struct AssignFrame: Equatable, Sendable {
    package static let fixedBytes = 56
    /// Body bytes that fit one ASSIGN with a trace.
    package static let inlineBodyBytesMax = WireLimits.payloadBytesMax - fixedBytes - 28

    package var task: TaskID
    package var offer: OfferID
    package var terms: TaskTerms
    package var creditLimitBytes: UInt64
    package var trace: TraceContext?
    /// Place of the first body bytes in the payload; may be empty.
    package var inlineBody: Range<Int> = 0..<0

    package init(task: TaskID, offer: OfferID, terms: TaskTerms, creditLimitBytes: UInt64) {
        self.task = task
        self.offer = offer
        self.terms = terms
        self.creditLimitBytes = creditLimitBytes
    }

    package init(decoding bytes: Span<UInt8>) throws(WireError) {
        var cursor = PayloadCursor()
        task = TaskID(instance: try cursor.uint64(bytes), counter: try cursor.uint64(bytes))
        let operation = try cursor.value(TaskOperation.self, bytes)
        let encoding = try cursor.value(PayloadEncoding.self, bytes)
        let priority = try cursor.uint8(bytes)
        _ = try cursor.uint8(bytes)
        offer = OfferID(try cursor.uint32(bytes))
        terms = TaskTerms(
            operation: operation, encoding: encoding, bodyBytes: try cursor.uint32(bytes))
        terms.priority = priority
        terms.deadlineMs = try cursor.uint32(bytes)
        terms.maxInputTokens = try cursor.uint32(bytes)
        terms.maxOutputTokens = try cursor.uint32(bytes)
        terms.maxReasoningTokens = try cursor.uint32(bytes)
        let extensionBytes = Int(try cursor.uint16(bytes))
        _ = try cursor.uint16(bytes)
        creditLimitBytes = try cursor.uint64(bytes)
        guard offer != .connection, creditLimitBytes <= WireLimits.creditLimitMax else {
            throw .malformedPayload(.valueOutOfRange)
        }
        var extensions = try cursor.extensions(byteCount: extensionBytes, of: bytes)
        while let (type, value) = try extensions.next(bytes) {
            guard type == ExtensionType.trace else {
                try ExtensionCursor.skipUnknown(type)
                continue
            }
            guard value.count == 24 else { throw .malformedPayload(.badExtension) }
            trace = TraceContext(
                traceHigh: bytes.littleEndian64(at: value.lowerBound),
                traceLow: bytes.littleEndian64(at: value.lowerBound + 8),
                span: bytes.littleEndian64(at: value.lowerBound + 16))
        }
        inlineBody = cursor.offset..<bytes.count
    }

    /// The header and the fields before the inline body; the caller appends exactly
    /// `inlineBodyBytes` body bytes.
    package func encode(stream: StreamID, inlineBodyBytes: Int, into bytes: inout [UInt8]) {
        let extensionBytes = trace == nil ? 0 : 28
        let header = FrameHeader(
            kind: .assign, stream: stream,
            payloadBytes: Self.fixedBytes + extensionBytes + inlineBodyBytes)
        bytes.appendFields(FrameHeader.byteCount + Self.fixedBytes + extensionBytes) { fields in
            fields.set(header)
            fields.set(task.instance, at: 12)
            fields.set(task.counter, at: 20)
            fields.set(terms.operation.rawValue, at: 28)
            fields.set(terms.encoding.rawValue, at: 29)
            fields.set(terms.priority, at: 30)
            fields.set(offer.rawValue, at: 32)
            fields.set(terms.bodyBytes, at: 36)
            fields.set(terms.deadlineMs, at: 40)
            fields.set(terms.maxInputTokens, at: 44)
            fields.set(terms.maxOutputTokens, at: 48)
            fields.set(terms.maxReasoningTokens, at: 52)
            fields.set(UInt16(extensionBytes), at: 56)
            fields.set(creditLimitBytes, at: 60)
            guard let trace else { return }
            fields.set(ExtensionType.trace, at: 68)
            fields.set(UInt16(24), at: 70)
            fields.set(trace.traceHigh, at: 72)
            fields.set(trace.traceLow, at: 80)
            fields.set(trace.span, at: 88)
        }
    }
}

/// The supplier's engine has read the prompt (supplier → broker, at most once, before END; [D3]).
///
///     0 u32 input tokens  4 u32 cached tokens
package struct StartedFrame: Equatable, Sendable {
    package var inputTokens: UInt32
    package var cachedTokens: UInt32

    package init(inputTokens: UInt32, cachedTokens: UInt32) {
        self.inputTokens = inputTokens
        self.cachedTokens = cachedTokens
    }

    package init(decoding bytes: Span<UInt8>) throws(WireError) {
        var cursor = PayloadCursor()
        inputTokens = try cursor.uint32(bytes)
        cachedTokens = try cursor.uint32(bytes)
        try cursor.finish(bytes)
        guard cachedTokens <= inputTokens else { throw .malformedPayload(.valueOutOfRange) }
    }

    package func encode(stream: StreamID, into bytes: inout [UInt8]) {
        bytes.appendFields(FrameHeader.byteCount + 8) { fields in
            fields.set(FrameHeader(kind: .started, stream: stream, payloadBytes: 8))
            fields.set(inputTokens, at: 12)
            fields.set(cachedTokens, at: 16)
        }
    }
}

/// The last frame of a stream ([E1]): how it ended and what it used. From a supplier the usage is
/// its claim; from the broker it is what was recorded, with the cost ([E4]).
///
///     0 u16 code  2 u8 finish reason  3 u8 0  4 u32 input  8 u32 cached  12 u32 output
///     16 u32 reasoning  20 u32 retry after ms  24 u64 cost micro-USD
package struct EndFrame: Equatable, Sendable {
    package var code: WireCode
    package var finishReason: FinishReason
    package var usage: Usage
    /// When a retry can succeed, where `code` says later; 0 = not known.
    package var retryAfterMs: UInt32
    package var cost: MicroUSD

    package init(
        code: WireCode, finishReason: FinishReason = .stop, usage: Usage = Usage(),
        retryAfterMs: UInt32 = 0, cost: MicroUSD = 0
    ) {
        self.code = code
        self.finishReason = finishReason
        self.usage = usage
        self.retryAfterMs = retryAfterMs
        self.cost = cost
    }

    package init(decoding bytes: Span<UInt8>) throws(WireError) {
        var cursor = PayloadCursor()
        code = try cursor.code(bytes)
        finishReason = try cursor.value(FinishReason.self, bytes)
        _ = try cursor.uint8(bytes)
        let input = try cursor.uint32(bytes)
        let cached = try cursor.uint32(bytes)
        let output = try cursor.uint32(bytes)
        let reasoning = try cursor.uint32(bytes)
        usage = Usage(
            inputTokens: input, outputTokens: output, cachedTokens: cached,
            reasoningTokens: reasoning)
        retryAfterMs = try cursor.uint32(bytes)
        let cost = try cursor.uint64(bytes)
        try cursor.finish(bytes)
        guard code.scope == .stream, cost <= UInt64(1) << 62, cached <= input,
            reasoning <= output
        else { throw .malformedPayload(.valueOutOfRange) }
        self.cost = MicroUSD(Int64(cost))
    }

    package func encode(stream: StreamID, into bytes: inout [UInt8]) {
        bytes.appendFields(FrameHeader.byteCount + 32) { fields in
            fields.set(FrameHeader(kind: .end, stream: stream, payloadBytes: 32))
            fields.set(code.rawValue, at: 12)
            fields.set(finishReason.rawValue, at: 14)
            fields.set(usage.inputTokens, at: 16)
            fields.set(usage.cachedTokens, at: 20)
            fields.set(usage.outputTokens, at: 24)
            fields.set(usage.reasoningTokens, at: 28)
            fields.set(retryAfterMs, at: 32)
            fields.set(UInt64(bitPattern: cost.rawValue), at: 36)
        }
    }
}

/// Stop the task; END still follows from the other side ([E1], [E7]). Its code is one of those
/// that end an accepted task, 32…47 ([N1]).
///
///     0 u16 code  2 u16 0
package struct CancelFrame: Equatable, Sendable {
    package var code: WireCode

    package init(code: WireCode) {
        self.code = code
    }

    package init(decoding bytes: Span<UInt8>) throws(WireError) {
        var cursor = PayloadCursor()
        code = try cursor.code(bytes)
        _ = try cursor.uint16(bytes)
        try cursor.finish(bytes)
        guard code.endsAcceptedTask else { throw .malformedPayload(.valueOutOfRange) }
    }

    package func encode(stream: StreamID, into bytes: inout [UInt8]) {
        bytes.appendFields(FrameHeader.byteCount + 4) { fields in
            fields.set(FrameHeader(kind: .cancel, stream: stream, payloadBytes: 4))
            fields.set(code.rawValue, at: 12)
        }
    }
}

/// Absolute limit of the data that flows towards the sender of this frame; on stream 0 the
/// connection's upload limit ([C2]). A limit at or below the known one changes nothing ([C3]).
///
///     0 u64 limit
package struct CreditFrame: Equatable, Sendable {
    package var limitBytes: UInt64

    package init(limitBytes: UInt64) {
        self.limitBytes = limitBytes
    }

    package init(decoding bytes: Span<UInt8>) throws(WireError) {
        var cursor = PayloadCursor()
        limitBytes = try cursor.uint64(bytes)
        try cursor.finish(bytes)
        guard limitBytes <= WireLimits.creditLimitMax else {
            throw .malformedPayload(.valueOutOfRange)
        }
    }

    package func encode(stream: StreamID, into bytes: inout [UInt8]) {
        bytes.appendFields(FrameHeader.byteCount + 8) { fields in
            fields.set(FrameHeader(kind: .credit, stream: stream, payloadBytes: 8))
            fields.set(limitBytes, at: 12)
        }
    }
}
