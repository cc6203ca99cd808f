// Reading and writing of fixed-width little-endian integers, the only number format on the wire
// and in Sluice's files.

// Each number is read out of a piece of exactly its size: that costs one check of the bounds and
// one load, where a check at every byte would be an instruction count of its own.
extension Span<UInt8> {
    /// The 16-bit number at `offset`; `offset + 2 <= count`.
    @inlinable @inline(__always)
    package func littleEndian16(at offset: Int) -> UInt16 {
        let field = extracting(offset..<offset &+ 2)
        precondition(field.count == 2)
        return UInt16(field[0]) | UInt16(field[1]) << 8
    }

    /// The 32-bit number at `offset`; `offset + 4 <= count`.
    @inlinable @inline(__always)
    package func littleEndian32(at offset: Int) -> UInt32 {
        let field = extracting(offset..<offset &+ 4)
        precondition(field.count == 4)
        return UInt32(field[0]) | UInt32(field[1]) << 8 | UInt32(field[2]) << 16
            | UInt32(field[3]) << 24
    }

    /// The 64-bit number at `offset`; `offset + 8 <= count`.
    @inlinable @inline(__always)
    package func littleEndian64(at offset: Int) -> UInt64 {
        let field = extracting(offset..<offset &+ 8)
        precondition(field.count == 8)
        return UInt64(field.littleEndian32(at: 0)) | UInt64(field.littleEndian32(at: 4)) << 32
    }
}

extension [UInt8] {
    /// Appends a 16-bit number.
    @inlinable
    package mutating func appendLittleEndian(_ value: UInt16) {
        append(contentsOf: LittleEndianBytes(UInt64(value), count: 2))
    }

    /// Appends a 32-bit number.
    @inlinable
    package mutating func appendLittleEndian(_ value: UInt32) {
        append(contentsOf: LittleEndianBytes(UInt64(value), count: 4))
    }

    /// Appends a 64-bit number.
    @inlinable
    package mutating func appendLittleEndian(_ value: UInt64) {
        append(contentsOf: LittleEndianBytes(value, count: 8))
    }
}

// A whole frame is appended in one step: its array is looked at once, not at every field.
extension [UInt8] {
    /// Appends `byteCount` bytes, at most 128, that `write` fills by their offsets; what it leaves
    /// is zero.
    @inlinable @inline(__always)
    package mutating func appendFields(
        _ byteCount: Int, _ write: (inout MutableSpan<UInt8>) -> Void
    ) {
        let start = count
        append(contentsOf: emptyFields[0..<byteCount])
        var bytes = mutableSpan
        var fields = bytes._mutatingExtracting(start..<start &+ byteCount)
        write(&fields)
    }
}

@usableFromInline let emptyFields = [UInt8](repeating: 0, count: 128)

// As with reading: one check of the bounds and one store for each number.
extension MutableSpan<UInt8> {
    /// Sets the byte at `offset`.
    @inlinable @inline(__always)
    package mutating func set(_ value: UInt8, at offset: Int) {
        self[offset] = value
    }

    /// Sets the 16-bit number at `offset`; `offset + 2 <= count`.
    @inlinable @inline(__always)
    package mutating func set(_ value: UInt16, at offset: Int) {
        var field = _mutatingExtracting(offset..<offset &+ 2)
        precondition(field.count == 2)
        field[0] = UInt8(truncatingIfNeeded: value)
        field[1] = UInt8(truncatingIfNeeded: value >> 8)
    }

    /// Sets the 32-bit number at `offset`; `offset + 4 <= count`.
    @inlinable @inline(__always)
    package mutating func set(_ value: UInt32, at offset: Int) {
        var field = _mutatingExtracting(offset..<offset &+ 4)
        precondition(field.count == 4)
        field[0] = UInt8(truncatingIfNeeded: value)
        field[1] = UInt8(truncatingIfNeeded: value >> 8)
        field[2] = UInt8(truncatingIfNeeded: value >> 16)
        field[3] = UInt8(truncatingIfNeeded: value >> 24)
    }

    /// Sets the 64-bit number at `offset`; `offset + 8 <= count`.
    @inlinable @inline(__always)
    package mutating func set(_ value: UInt64, at offset: Int) {
        var field = _mutatingExtracting(offset..<offset &+ 8)
        precondition(field.count == 8)
        field.set(UInt32(truncatingIfNeeded: value), at: 0)
        field.set(UInt32(truncatingIfNeeded: value >> 32), at: 4)
    }

    /// Sets the 12 bytes of a header at the front.
    @inlinable @inline(__always)
    package mutating func set(_ header: FrameHeader) {
        set(header.firstWord, at: 0)
        set(header.stream.rawValue, at: 8)
    }
}

/// The bytes of a number, lowest first, so that an array makes room for all of them at once.
@frozen @usableFromInline
package struct LittleEndianBytes: Sequence, IteratorProtocol {
    @usableFromInline var left: UInt64
    /// Bytes that are still to come.
    @usableFromInline package internal(set) var underestimatedCount: Int

    @inlinable
    init(_ value: UInt64, count: Int) {
        left = value
        underestimatedCount = count
    }

    @inlinable
    package mutating func next() -> UInt8? {
        guard underestimatedCount > 0 else { return nil }
        underestimatedCount &-= 1
        defer { left >>= 8 }
        return UInt8(truncatingIfNeeded: left)
    }
}

/// Reads the fields of a control payload in order. A field that is not whole is `truncated`; the
/// payload is never read past its end.
package struct PayloadCursor {
    /// Offset of the next field, 0…count of the payload.
    package private(set) var offset = 0

    package init() {}

    @inline(__always)
    package mutating func uint8(_ bytes: Span<UInt8>) throws(WireError) -> UInt8 {
        let start = try take(1, of: bytes)
        return bytes[start]
    }

    @inline(__always)
    package mutating func uint16(_ bytes: Span<UInt8>) throws(WireError) -> UInt16 {
        let start = try take(2, of: bytes)
        return bytes.littleEndian16(at: start)
    }

    @inline(__always)
    package mutating func uint32(_ bytes: Span<UInt8>) throws(WireError) -> UInt32 {
        let start = try take(4, of: bytes)
        return bytes.littleEndian32(at: start)
    }

    @inline(__always)
    package mutating func uint64(_ bytes: Span<UInt8>) throws(WireError) -> UInt64 {
        let start = try take(8, of: bytes)
        return bytes.littleEndian64(at: start)
    }

    /// The place of the next `byteCount` bytes, relative to the start of the payload.
    package mutating func range(
        _ byteCount: Int, of bytes: Span<UInt8>
    ) throws(WireError) -> Range<Int> {
        let start = try take(byteCount, of: bytes)
        return start..<start + byteCount
    }

    /// A run of extensions of the length that the payload declares ([X3]).
    package mutating func extensions(
        byteCount: Int, of bytes: Span<UInt8>
    ) throws(WireError) -> ExtensionCursor {
        let run = try range(byteCount, of: bytes)
        guard byteCount <= WireLimits.extensionBytesMax else {
            throw .malformedPayload(.valueOutOfRange)
        }
        return ExtensionCursor(run)
    }

    /// A number that names a case of a closed table.
    package mutating func value<Table: RawRepresentable<UInt8>>(
        _: Table.Type, _ bytes: Span<UInt8>
    ) throws(WireError) -> Table {
        guard let value = Table(rawValue: try uint8(bytes)) else {
            throw .malformedPayload(.valueOutOfRange)
        }
        return value
    }

    /// Every byte was read.
    package func finish(_ bytes: Span<UInt8>) throws(WireError) {
        guard offset == bytes.count else { throw .malformedPayload(.trailingBytes) }
    }

    @inline(__always)
    private mutating func take(
        _ byteCount: Int, of bytes: Span<UInt8>
    ) throws(WireError) -> Int {
        guard byteCount <= bytes.count - offset else { throw .malformedPayload(.truncated) }
        defer { offset += byteCount }
        return offset
    }
}
