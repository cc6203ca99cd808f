import SluiceWire

/// The first bytes of a prompt: what the mock supplier is to answer.
///
///     0 u32 tokens  4 u32 period of a token µs (0 = as fast as it goes)  8 u32 bytes of a token
///     12 u32 0
struct TaskOrder: Equatable {
    static let byteCount = 16

    var tokens: UInt32
    var periodUs: UInt32
    var tokenBytes: UInt32

    init(_ group: StreamGroup, tokens: Int) {
        self.tokens = UInt32(tokens)
        periodUs = UInt32(group.periodNs / 1_000)
        tokenBytes = UInt32(group.tokenBytes)
    }

    init(decoding bytes: Span<UInt8>, at offset: Int) {
        tokens = bytes.littleEndian32(at: offset)
        periodUs = bytes.littleEndian32(at: offset + 4)
        tokenBytes = bytes.littleEndian32(at: offset + 8)
    }

    /// A whole prompt.
    func encode(promptBytes: Int, into bytes: inout [UInt8]) {
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
struct ContentStamp {
    static let byteCount = 16
    static let token: UInt32 = 0
    /// For protocols without an end of their own: no token, the position is the count.
    static let end: UInt32 = 1

    var position: UInt32
    var kind: UInt32
    var intendedNs: UInt64

    @inline(__always)
    init(decoding bytes: Span<UInt8>, at offset: Int) {
        let first = bytes.littleEndian64(at: offset)
        position = UInt32(truncatingIfNeeded: first)
        kind = UInt32(truncatingIfNeeded: first >> 32)
        intendedNs = bytes.littleEndian64(at: offset + 8)
    }
}
