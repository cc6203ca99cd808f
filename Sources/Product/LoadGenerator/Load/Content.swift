import SluiceWire

/// The first bytes of a prompt: what the mock supplier is to answer.
///
///     0 u32 tokens  4 u32 period of a token µs (0 = as fast as it goes)  8 u32 bytes of a token
///     12 u32 0
package struct TaskOrder: Equatable, Sendable {
    package static let byteCount = 16

    package var tokens: UInt32
    package var periodUs: UInt32
    package var tokenBytes: UInt32

    package init(_ group: StreamGroup, tokens: Int) {
        self.tokens = UInt32(tokens)
        periodUs = UInt32(group.periodNs / 1_000)
        tokenBytes = UInt32(group.tokenBytes)
    }

    package init(decoding bytes: Span<UInt8>, at offset: Int) {
        tokens = bytes.littleEndian32(at: offset)
        periodUs = bytes.littleEndian32(at: offset + 4)
        tokenBytes = bytes.littleEndian32(at: offset + 8)
    }

    /// A whole prompt.
    package func encode(promptBytes: Int, into bytes: inout [UInt8]) {
        bytes.appendLittleEndian(tokens)
        bytes.appendLittleEndian(periodUs)
        bytes.appendLittleEndian(tokenBytes)
        bytes.appendLittleEndian(UInt32(0))
        bytes.append(contentsOf: repeatElement(0x70, count: promptBytes - Self.byteCount))
    }
}

/// The first bytes of a token: its place in the answer, and when it was meant to be sent.
///
///     0 u32 position  4 u32 kind  8 u64 intended ns
package struct ContentStamp {
    package static let byteCount = 16
    package static let token: UInt32 = 0
    /// For protocols without an end of their own: no token, the position is the count.
    package static let end: UInt32 = 1

    package var position: UInt32
    package var kind: UInt32
    package var intendedNs: UInt64

    @inline(__always)
    package init(decoding bytes: Span<UInt8>, at offset: Int) {
        let first = bytes.littleEndian64(at: offset)
        position = UInt32(truncatingIfNeeded: first)
        kind = UInt32(truncatingIfNeeded: first >> 32)
        intendedNs = bytes.littleEndian64(at: offset + 8)
    }
}
