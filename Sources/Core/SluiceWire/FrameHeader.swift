/// What a frame is for. Numbers are fixed for ever; see `Protocol/Specification.md`.
@usableFromInline
package enum FrameKind: UInt8, Sendable, CaseIterable {
    case hello = 0x01
    case welcome = 0x02
    case ping = 0x03
    case pong = 0x04
    case goAway = 0x05
    case error = 0x06

    case offer = 0x10
    case grant = 0x11
    case withdraw = 0x12
    case ask = 0x18
    case report = 0x19

    case submit = 0x20
    case body = 0x21
    case queued = 0x22
    case assign = 0x23
    case started = 0x24
    case tokens = 0x25
    case end = 0x26
    case cancel = 0x27
    case credit = 0x28
    /// Reserved for a later version; refused as an unknown kind in version 1.
    case resume = 0x2F
}

/// Bits of a frame's `flags`. A sender sets no other bit; a receiver ignores the others and the
/// broker clears them when it forwards ([F3]).
@usableFromInline
package struct FrameFlags: OptionSet, Hashable, Sendable {
    @usableFromInline package var rawValue: UInt8

    @inlinable
    package init(rawValue: UInt8) {
        self.rawValue = rawValue
    }

    /// On TOKENS: the increment counts reasoning tokens.
    @inlinable package static var reasoning: FrameFlags { FrameFlags(rawValue: 0x01) }
    /// On TOKENS: the payload is part of an upstream's error body; its increment is 0.
    @inlinable package static var error: FrameFlags { FrameFlags(rawValue: 0x02) }
    /// On any kind: a receiver that does not know the kind skips the frame.
    @inlinable package static var ignorable: FrameFlags { FrameFlags(rawValue: 0x80) }
    /// The flags that the broker forwards on TOKENS.
    @inlinable package static var forwarded: FrameFlags { FrameFlags(rawValue: 0x03) }
}

/// The 12 bytes in front of every payload, little-endian:
///
///     0  u32  payload bytes, 0…16,372
///     4  u8   kind
///     5  u8   flags
///     6  u16  tokens: this frame's own increment (TOKENS), else 0
///     8  u32  stream
@usableFromInline
package struct FrameHeader: Hashable, Sendable {
    /// Size of a header in bytes.
    @inlinable package static var byteCount: Int { 12 }

    /// Bytes that follow the header.
    @usableFromInline package var payloadBytes: UInt32
    /// `FrameKind`, or a number that this version does not know.
    @usableFromInline package var rawKind: UInt8
    @usableFromInline package var flags: FrameFlags
    /// Tokens that this frame adds to its stream.
    @usableFromInline package var tokens: UInt16
    @usableFromInline package var stream: StreamID

    @inlinable
    package init(
        kind: FrameKind, stream: StreamID, payloadBytes: Int, flags: FrameFlags = [],
        tokens: UInt16 = 0
    ) {
        precondition(payloadBytes >= 0 && payloadBytes <= WireLimits.payloadBytesMax)
        self.payloadBytes = UInt32(truncatingIfNeeded: payloadBytes)
        self.rawKind = kind.rawValue
        self.flags = flags
        self.tokens = tokens
        self.stream = stream
    }

    /// Reads the header at `offset` of `bytes`; `offset + 12 <= bytes.count`.
    ///
    /// Throws `frameTooLarge` from the header alone, before anything is kept for the payload ([F1]).
    @inlinable @inline(__always)
    package init(decoding bytes: Span<UInt8>, at offset: Int = 0) throws(WireError) {
        let bytes = bytes.extracting(offset..<offset &+ Self.byteCount)
        precondition(bytes.count == Self.byteCount)
        let first = bytes.littleEndian64(at: 0)
        payloadBytes = UInt32(truncatingIfNeeded: first)
        rawKind = UInt8(truncatingIfNeeded: first >> 32)
        flags = FrameFlags(rawValue: UInt8(truncatingIfNeeded: first >> 40))
        tokens = UInt16(truncatingIfNeeded: first >> 48)
        stream = StreamID(bytes.littleEndian32(at: 8))
        guard payloadBytes <= UInt32(truncatingIfNeeded: WireLimits.payloadBytesMax) else {
            throw .frameTooLarge
        }
    }

    /// Nil for a kind that this version does not know.
    @inlinable package var kind: FrameKind? { FrameKind(rawValue: rawKind) }

    /// Tokens that this frame counts for: none where it carries an upstream's error body ([K6]).
    @inlinable package var increment: UInt16 { flags.contains(.error) ? 0 : tokens }

    /// Header and payload together, 12…16,384.
    @inlinable package var frameBytes: Int { Self.byteCount &+ Int(payloadBytes) }

    /// The first 8 bytes as one little-endian number.
    @inlinable package var firstWord: UInt64 {
        UInt64(payloadBytes) | UInt64(rawKind) << 32 | UInt64(flags.rawValue) << 40
            | UInt64(tokens) << 48
    }

    /// Appends the 12 bytes.
    @inlinable
    package func encode(into bytes: inout [UInt8]) {
        bytes.appendFields(Self.byteCount) { $0.set(self) }
    }
}
