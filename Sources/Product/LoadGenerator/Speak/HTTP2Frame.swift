/// Kinds of HTTP/2 frames (RFC 9113, 6).
package enum HTTP2Kind: UInt8, Sendable {
    case data = 0
    case headers = 1
    case priority = 2
    case reset = 3
    case settings = 4
    case pushPromise = 5
    case ping = 6
    case goAway = 7
    case windowUpdate = 8
    case continuation = 9
}

/// The nine bytes in front of every HTTP/2 payload.
package struct HTTP2Header: Equatable {
    package static let byteCount = 9
    package static let endStream: UInt8 = 0x01
    package static let acknowledgement: UInt8 = 0x01
    package static let endHeaders: UInt8 = 0x04
    package static let padded: UInt8 = 0x08
    package static let hasPriority: UInt8 = 0x20

    package var payloadBytes: Int
    package var rawKind: UInt8
    package var flags: UInt8
    package var stream: UInt32

    package init(_ kind: HTTP2Kind, flags: UInt8 = 0, stream: UInt32, payloadBytes: Int) {
        self.payloadBytes = payloadBytes
        rawKind = kind.rawValue
        self.flags = flags
        self.stream = stream
    }

    /// `offset + 9 <= bytes.count`.
    package init(decoding bytes: Span<UInt8>, at offset: Int) {
        payloadBytes =
            Int(bytes[offset]) << 16 | Int(bytes[offset + 1]) << 8 | Int(bytes[offset + 2])
        rawKind = bytes[offset + 3]
        flags = bytes[offset + 4]
        stream = bytes.bigEndian32(at: offset + 5) & 0x7FFF_FFFF
    }

    package func encode(into bytes: inout [UInt8]) {
        bytes.append(UInt8(truncatingIfNeeded: payloadBytes >> 16))
        bytes.append(UInt8(truncatingIfNeeded: payloadBytes >> 8))
        bytes.append(UInt8(truncatingIfNeeded: payloadBytes))
        bytes.append(rawKind)
        bytes.append(flags)
        bytes.appendBigEndian(stream)
    }

    package var endsStream: Bool { flags & Self.endStream != 0 }
}

extension Span<UInt8> {
    package func bigEndian32(at offset: Int) -> UInt32 {
        let field = extracting(offset..<offset + 4)
        return UInt32(field[0]) << 24 | UInt32(field[1]) << 16 | UInt32(field[2]) << 8
            | UInt32(field[3])
    }
}

extension [UInt8] {
    package mutating func appendBigEndian(_ value: UInt32) {
        append(UInt8(truncatingIfNeeded: value >> 24))
        append(UInt8(truncatingIfNeeded: value >> 16))
        append(UInt8(truncatingIfNeeded: value >> 8))
        append(UInt8(truncatingIfNeeded: value))
    }

    /// Overwrites the number at `offset`, most significant byte first.
    @inline(__always)
    package mutating func putBigEndian32(_ value: UInt32, at offset: Int) {
        put32(value.byteSwapped, at: offset)
    }
}
