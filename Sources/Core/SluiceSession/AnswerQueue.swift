import SluiceWire

/// Output of one task that waits for its turn: parts as the engine wrote them, cut into TOKENS
/// frames as credit allows. Bounded by the credit, because its writer waits once it holds more.
struct AnswerQueue: Sendable {
    struct Part: Sendable {
        let bytes: [UInt8]
        /// Bytes already sent; 0…`bytes.count`.
        var sentBytes = 0
        /// Increment not yet sent; travels with the last byte.
        var tokens: Int
        let flags: FrameFlags

        var leftBytes: Int { bytes.count - sentBytes }
    }

    /// UTF-8 payloads are never cut inside a code point.
    let isText: Bool
    /// Absolute limit of frame bytes (12 + payload each).
    private(set) var limitBytes: UInt64
    /// Frame bytes sent, ≤ `limitBytes`.
    private(set) var sentBytes: UInt64 = 0
    private var parts: [Part] = []
    private var firstPart = 0
    private var queuedBytes = 0

    init(isText: Bool, limitBytes: UInt64) {
        self.isText = isText
        self.limitBytes = limitBytes
    }

    var isEmpty: Bool { firstPart == parts.count }

    private var creditBytes: UInt64 { limitBytes - sentBytes }

    /// All that waits fits the credit, so that the writer may go on.
    var fitsCredit: Bool {
        isEmpty || UInt64(queuedBytes + FrameHeader.byteCount) <= creditBytes
    }

    mutating func append(_ bytes: [UInt8], tokens: Int, flags: FrameFlags) {
        guard !bytes.isEmpty || tokens > 0 else { return }
        parts.append(Part(bytes: bytes, tokens: tokens, flags: flags))
        queuedBytes += bytes.count
    }

    /// A limit at or below the known one changes nothing.
    mutating func raiseLimit(_ limitBytes: UInt64) {
        self.limitBytes = max(self.limitBytes, limitBytes)
    }

    /// The stream was cancelled: what waits is dropped.
    mutating func clear() {
        parts = []
        firstPart = 0
        queuedBytes = 0
    }

    /// What fits is worth sending: all of the first part, or at least 2,048 bytes of it.
    var canSend: Bool {
        guard !isEmpty else { return false }
        let wanted = UInt64(FrameHeader.byteCount + parts[firstPart].leftBytes)
        return creditBytes >= min(wanted, WireLimits.usefulCreditBytes)
    }

    /// Appends one TOKENS frame; `canSend` holds. Parts with the same flags that wait together
    /// share a frame; a part that does not fit is cut, its increment on the last piece.
    mutating func takeFrame(stream: StreamID, into bytes: inout [UInt8]) -> FrameHeader {
        precondition(canSend)
        let roomBytes = min(
            WireLimits.payloadBytesMax, Int(min(creditBytes, 1 << 20)) - FrameHeader.byteCount)
        let flags = parts[firstPart].flags
        var payload: [UInt8] = []
        var tokens = 0
        while !isEmpty, parts[firstPart].flags == flags, tokens < Int(UInt16.max) {
            let part = parts[firstPart]
            let room = roomBytes - payload.count
            guard part.leftBytes <= room else {
                if payload.isEmpty { takePiece(ofAtMost: room, into: &payload) }
                break
            }
            payload += part.bytes[part.sentBytes...]
            let increment = min(part.tokens, Int(UInt16.max) - tokens)
            tokens += increment
            parts[firstPart].sentBytes = part.bytes.count
            parts[firstPart].tokens -= increment
            if parts[firstPart].tokens == 0 { firstPart += 1 }
        }
        if isEmpty {
            parts.removeAll(keepingCapacity: true)
            firstPart = 0
        } else if firstPart >= 64 {
            parts.removeFirst(firstPart)
            firstPart = 0
        }
        queuedBytes -= payload.count
        let header = FrameHeader(
            kind: .tokens, stream: stream, payloadBytes: payload.count, flags: flags,
            tokens: UInt16(tokens))
        header.encode(into: &bytes)
        bytes += payload
        sentBytes += UInt64(header.frameBytes)
        return header
    }

    private mutating func takePiece(ofAtMost roomBytes: Int, into payload: inout [UInt8]) {
        let part = parts[firstPart]
        var end = part.sentBytes + roomBytes
        if isText, !part.flags.contains(.error) {
            // 10xxxxxx continues a code point, which has at most 4 bytes.
            while end > part.sentBytes, part.bytes[end] & 0xC0 == 0x80 { end -= 1 }
        }
        payload += part.bytes[part.sentBytes..<end]
        parts[firstPart].sentBytes = end
    }
}
