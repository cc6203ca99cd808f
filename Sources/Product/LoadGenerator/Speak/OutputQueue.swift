/// Plaintext of one connection that waits to be sealed.
package struct OutputQueue: Sendable {
    package private(set) var bytes: [UInt8] = []
    /// Bytes at the beginning that are sealed already.
    private var start = 0

    package var waitingBytes: Int { bytes.count - start }
    package var isEmpty: Bool { bytes.count == start }

    /// The next record's worth, at most 16,384 bytes.
    package var record: Range<Int> { start..<min(bytes.count, start + 16_384) }

    package mutating func sealed(_ count: Int) {
        start += count
        if start == bytes.count {
            bytes.removeAll(keepingCapacity: true)
            start = 0
        } else if start >= 1 << 20 {
            bytes.removeFirst(start)
            start = 0
        }
    }

    @inline(__always)
    package mutating func append(_ more: [UInt8]) { bytes.append(contentsOf: more) }

    /// Appends through a writer that fills an array.
    package mutating func write(_ body: (inout [UInt8]) -> Void) { body(&bytes) }

    package mutating func removeAll() {
        bytes.removeAll()
        start = 0
    }
}

extension [UInt8] {
    /// Overwrites the number at `offset`, little-endian.
    @inline(__always)
    package mutating func put32(_ value: UInt32, at offset: Int) {
        var place = mutableSpan
        place[offset] = UInt8(truncatingIfNeeded: value)
        place[offset + 1] = UInt8(truncatingIfNeeded: value >> 8)
        place[offset + 2] = UInt8(truncatingIfNeeded: value >> 16)
        place[offset + 3] = UInt8(truncatingIfNeeded: value >> 24)
    }

    @inline(__always)
    package mutating func put64(_ value: UInt64, at offset: Int) {
        put32(UInt32(truncatingIfNeeded: value), at: offset)
        put32(UInt32(truncatingIfNeeded: value >> 32), at: offset + 4)
    }
}
