package import SluiceWire

/// A task as a client hands it to its session.
package struct Submission: Sendable {
    package var terms: TaskTerms
    package var model: ModelName
    /// The whole body; `terms.bodyBytes` is set from it.
    package var body: [UInt8]
    /// Bytes of answer frames (12 + payload each) that may be on their way or unread at once.
    package var windowBytes: UInt64
    /// Reserve asked of the broker: 0 = its default, else 4,096…65,536.
    package var reserveBytes: UInt32 = 0
    /// 0 = none.
    package var budget: MicroUSD = 0
    package var filters = OfferFilters()
    /// 1…64 bytes, or empty for none.
    package var idempotencyKey: [UInt8] = []
    /// Up to 8 keys of 16 bytes, one after the other.
    package var affinityKeys: [UInt8] = []
    package var trace: TraceContext?
    /// Most copies that may run at once; 1 = no hedging.
    package var hedgeCopies: UInt8 = 1
    /// When the caller gives up, on the session's clock; nil = the broker's longest deadline.
    package var expiresMs: UInt64?

    package init(terms: TaskTerms, model: ModelName, body: [UInt8], windowBytes: UInt64) {
        self.terms = terms
        self.model = model
        self.body = body
        self.windowBytes = windowBytes
    }

    /// The SUBMIT without its body, and its extensions.
    func frame(
        maxDeadlineMs: UInt32, nowMs: UInt64
    ) -> (frame: SubmitFrame, extensions: ExtensionWriter) {
        var terms = terms
        terms.bodyBytes = UInt32(body.count)
        if let expiresMs {
            let leftMs = expiresMs > nowMs ? expiresMs - nowMs : 1
            terms.deadlineMs = UInt32(min(leftMs, UInt64(maxDeadlineMs)))
        }
        var frame = SubmitFrame(terms: terms, model: model, creditLimitBytes: windowBytes)
        frame.windowBytes = reserveBytes
        frame.budget = budget
        return (frame, extensions())
    }

    private func extensions() -> ExtensionWriter {
        var writer = ExtensionWriter()
        // In rising order of type; the critical ones have the highest bit set.
        if !affinityKeys.isEmpty { writer.add(ExtensionType.affinityKeys, affinityKeys) }
        if let trace {
            var value: [UInt8] = []
            value.appendLittleEndian(trace.traceHigh)
            value.appendLittleEndian(trace.traceLow)
            value.appendLittleEndian(trace.span)
            writer.add(ExtensionType.trace, value)
        }
        if !idempotencyKey.isEmpty { writer.add(ExtensionType.idempotencyKey, idempotencyKey) }
        if filters.inputCeiling != .max || filters.outputCeiling != .max {
            var value: [UInt8] = []
            value.appendLittleEndian(filters.inputCeiling)
            value.appendLittleEndian(filters.outputCeiling)
            writer.add(ExtensionType.priceCeilings, value)
        }
        if let region = filters.region { writer.add(ExtensionType.region, region.bytes) }
        if filters.dataPolicy != .unstated {
            writer.add(ExtensionType.dataPolicy, [filters.dataPolicy.rawValue])
        }
        if filters.supplyTypes != .all {
            writer.add(ExtensionType.supplyTypes, [filters.supplyTypes.rawValue])
        }
        if hedgeCopies != 1 { writer.add(ExtensionType.hedge, [hedgeCopies]) }
        return writer
    }
}

/// The body of a task on its way to the broker, and how much of it may travel now.
struct Upload: Sendable {
    private(set) var body: [UInt8]
    /// Body bytes already sent; 0…`bodyBytes`.
    private(set) var sentBytes = 0
    let bodyBytes: Int
    /// Absolute limit from CREDIT on the stream, counted from offset 0.
    var limitBytes: UInt64 = 0

    init(_ body: [UInt8]) {
        self.body = body
        bodyBytes = body.count
    }

    var isComplete: Bool { sentBytes == bodyBytes }

    /// First body bytes of a task travel on the connection's upload allowance.
    var freeLeftBytes: Int {
        max(0, min(bodyBytes, Int(WireLimits.freeBodyBytesMax)) - sentBytes)
    }

    /// Bytes that may be sent now, given what is left of the connection's upload allowance.
    func sendableBytes(uploadLeftBytes: UInt64) -> Int {
        guard uploadLeftBytes >= UInt64(freeLeftBytes) else { return Int(uploadLeftBytes) }
        let creditEnd = Int(min(limitBytes, UInt64(bodyBytes)))
        return max(freeLeftBytes, creditEnd - sentBytes)
    }

    /// Size of the BODY frame to send now, or 0 to wait: every frame but the last carries at least
    /// 1 KiB.
    func nextFrameBytes(uploadLeftBytes: UInt64) -> Int {
        let leftBytes = bodyBytes - sentBytes
        let byteCount = min(
            leftBytes, sendableBytes(uploadLeftBytes: uploadLeftBytes),
            WireLimits.payloadBytesMax)
        return byteCount == leftBytes || byteCount >= WireLimits.bodyFrameBytesMin ? byteCount : 0
    }

    /// Appends the next `byteCount` body bytes and returns how many of them were free ones. The
    /// body is let go with its last byte.
    mutating func take(_ byteCount: Int, into bytes: inout [UInt8]) -> UInt64 {
        let freeBytes = min(byteCount, freeLeftBytes)
        bytes += body[sentBytes..<sentBytes + byteCount]
        sentBytes += byteCount
        if isComplete { body = [] }
        return UInt64(freeBytes)
    }

    /// The task was cancelled: nothing more is sent.
    mutating func abandon() {
        body = []
        sentBytes = bodyBytes
    }
}

/// The answer's credit, as the side that reads grants it: an absolute limit that follows what was
/// consumed, sent again once half a window has been consumed.
package struct GrantWindow: Sendable {
    package let windowBytes: UInt64
    /// Absolute limit that the peer knows.
    package private(set) var limitBytes: UInt64
    /// Bytes received, ≤ `limitBytes`.
    package private(set) var receivedBytes: UInt64 = 0
    /// Bytes that the reader is done with, ≤ `receivedBytes`.
    package private(set) var consumedBytes: UInt64 = 0

    /// What must be consumed before the limit is told again: half a window, or less where that
    /// would leave the sender with so little credit that it may wait ([C6], [C11]).
    private let stepBytes: UInt64

    /// `windowBytes` ≥ 1 is the first limit.
    package init(windowBytes: UInt64) {
        precondition(windowBytes >= 1)
        self.windowBytes = windowBytes
        limitBytes = windowBytes
        let spareBytes = windowBytes - min(windowBytes, WireLimits.usefulCreditBytes)
        stepBytes = max(1, min(windowBytes / 2, spareBytes))
    }

    /// False when the peer sent more than it may.
    package mutating func receive(_ byteCount: UInt64) -> Bool {
        guard byteCount <= limitBytes - receivedBytes else { return false }
        receivedBytes += byteCount
        return true
    }

    /// The new limit to tell the peer, or nil while it still has half a window.
    package mutating func consume(_ byteCount: UInt64) -> UInt64? {
        precondition(byteCount <= receivedBytes - consumedBytes, "consumed what was not received")
        consumedBytes += byteCount
        let limit = min(consumedBytes + windowBytes, WireLimits.creditLimitMax)
        guard limit - limitBytes >= stepBytes else { return nil }
        limitBytes = limit
        return limit
    }
}
