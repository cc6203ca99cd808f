import SluiceWire

/// One frame's header as the driver reads it.
struct Head {
    let payloadBytes: Int
    let kind: UInt8
    let tokens: UInt64
    let stream: Int

    @inline(__always)
    init(_ bytes: UnsafeRawPointer) {
        let first = bytes.loadUnaligned(as: UInt64.self)
        payloadBytes = Int(truncatingIfNeeded: first & 0xFFFF_FFFF)
        kind = UInt8(truncatingIfNeeded: first >> 32)
        tokens = first >> 48
        stream = Int(bytes.loadUnaligned(fromByteOffset: 8, as: UInt32.self))
    }
}

/// Frames that are sent often, ready but for their stream and what changes.
struct FrameTemplates {
    let submit: [UInt8]
    let tokens: [UInt8]
    let end: [UInt8]
    let credit: [UInt8]
    let started: [UInt8]

    init(_ load: Load, windowBytes: UInt64) {
        guard let model = ModelName(Load.model) else { fatalError("not a model name") }
        let any = StreamID(1)
        var terms = TaskTerms(
            operation: .chat, encoding: .text, bodyBytes: UInt32(load.bodyBytes))
        terms.deadlineMs = 600_000
        var frame = SubmitFrame(terms: terms, model: model, creditLimitBytes: windowBytes)
        frame.windowBytes = load.reserveBytes
        var submit: [UInt8] = []
        frame.encode(stream: any, inlineBodyBytes: load.bodyBytes, into: &submit)
        submit += [UInt8](repeating: 0x70, count: load.bodyBytes)
        self.submit = submit

        var tokens: [UInt8] = []
        FrameHeader(kind: .tokens, stream: any, payloadBytes: load.tokenBytes, tokens: 1)
            .encode(into: &tokens)
        tokens += [UInt8](repeating: 0x74, count: load.tokenBytes)
        self.tokens = tokens

        var end: [UInt8] = []
        let usage = Usage(
            inputTokens: 10, outputTokens: 0, cachedTokens: 0, reasoningTokens: 0)
        EndFrame(code: .completed, usage: usage).encode(stream: any, into: &end)
        self.end = end

        var credit: [UInt8] = []
        CreditFrame(limitBytes: 0).encode(stream: any, into: &credit)
        self.credit = credit

        var started: [UInt8] = []
        StartedFrame(inputTokens: 10, cachedTokens: 0).encode(stream: any, into: &started)
        self.started = started
    }
}

extension Endpoint {
    /// Appends the template under another stream number; returns its place.
    @inline(__always)
    @discardableResult
    mutating func append(_ template: [UInt8], stream: Int) -> UnsafeMutableRawPointer {
        let place = reserve(template.count)
        template.withUnsafeBytes {
            if let base = $0.baseAddress { place.copyMemory(from: base, byteCount: $0.count) }
        }
        place.storeBytes(of: UInt32(stream), toByteOffset: 8, as: UInt32.self)
        return place
    }
}
