/// The two words in front of a frame's payload, as the wire lays them out: the first 8 bytes as
/// one little-endian number, then the stream.
@frozen @usableFromInline
package struct FrameHeaderWords: Sendable {
    /// Payload bytes (32 bits), kind (8), flags (8), tokens (16), lowest first.
    @usableFromInline package var first: UInt64
    /// The stream's number.
    @usableFromInline package var stream: UInt32

    @inlinable
    package init(first: UInt64, stream: UInt32) {
        self.first = first
        self.stream = stream
    }
}

/// What `ChunkArena.takeFrames` moved.
@frozen @usableFromInline
package struct FramesTaken: Equatable, Sendable {
    /// Bytes written, headers included.
    @usableFromInline package var bytes = 0
    /// Whole frames.
    @usableFromInline package var frames = 0
    /// Sum of the frames' token increments, reasoning included.
    @usableFromInline package var tokens: UInt64 = 0
    /// The part of `tokens` from frames with the reasoning flag (0x01).
    @usableFromInline package var reasoningTokens: UInt64 = 0
    /// Sum of the frames' payloads: `bytes - 12 * frames`.
    @usableFromInline package var payloadBytes = 0

    @inlinable package init() {}

    /// Counts a frame by its first word, all but its bytes.
    @inlinable
    mutating func count(_ word: UInt64) {
        let tokens = word >> 48
        frames &+= 1
        payloadBytes &+= Int(UInt32(truncatingIfNeeded: word))
        self.tokens &+= tokens
        if (word >> 40) & 0x01 != 0 { reasoningTokens &+= tokens }
    }
}

/// A place in one `ChunkArena`: a first-in-first-out run of bytes.
///
/// A plain value: it owns nothing by itself and must be given back with `release` to the arena
/// that filled it. A copy and its original must not both be used.
@frozen @usableFromInline
package struct ChunkQueue: Sendable {
    /// Marks "no chunk".
    @inlinable package static var none: UInt32 { .max }

    /// First chunk, or `none` when the queue is empty.
    @usableFromInline var head: UInt32 = .max
    /// Last chunk, or `none`.
    @usableFromInline var tail: UInt32 = .max
    /// Bytes of the first chunk that were taken already, 0..<4,096.
    @usableFromInline var headOffset: UInt32 = 0
    /// Bytes of the last chunk that are filled, 1...4,096 unless the queue is empty.
    @usableFromInline var tailUsed: UInt32 = 0
    /// Bytes in the queue.
    @usableFromInline package internal(set) var byteCount: UInt32 = 0

    @inlinable package init() {}

    @inlinable package var isEmpty: Bool { byteCount == 0 }
}
