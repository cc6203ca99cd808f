package import SluiceWire

/// One whole frame as it came: header and payload.
package struct ReceivedFrame: Sendable {
    package let header: FrameHeader
    package let payload: [UInt8]
}

/// Cuts a byte stream, split anywhere, into frames. Keeps at most one frame that is not whole
/// (below 16 KiB) between two chunks.
package struct FrameAssembler: Sendable {
    private var buffer: [UInt8] = []
    /// Bytes of `buffer` already handed out; 0…`buffer.count`.
    private var start = 0

    package init() {}

    /// Adds what was received. Every whole frame is taken with `next` before the following call.
    package mutating func append(_ bytes: [UInt8]) {
        if start == buffer.count {
            buffer = bytes
        } else {
            buffer.removeFirst(start)
            buffer += bytes
        }
        start = 0
    }

    /// The next whole frame, or nil until more bytes come. Throws from a header alone, before its
    /// payload is kept.
    package mutating func next() throws(WireError) -> ReceivedFrame? {
        let available = buffer.count - start
        guard available >= FrameHeader.byteCount else { return nil }
        let header = try FrameHeader(decoding: buffer.span, at: start)
        guard available >= header.frameBytes else { return nil }
        let payloadStart = start + FrameHeader.byteCount
        start += header.frameBytes
        let frame = ReceivedFrame(header: header, payload: Array(buffer[payloadStart..<start]))
        if start == buffer.count {
            buffer = []
            start = 0
        }
        return frame
    }
}
