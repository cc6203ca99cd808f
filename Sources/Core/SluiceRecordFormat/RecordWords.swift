import SluiceWire

/// Sixteen 64-bit words, 128 bytes: the unit of every Sluice file that two processes share
/// (`Protocol/Files.md`). In files and mapped memory each word is little-endian; in memory a word
/// is a plain number. Narrower fields sit inside a word, counted from its lowest byte.
@frozen @usableFromInline
package struct RecordWords: Sendable {
    /// Size in files and in mapped memory.
    @inlinable package static var byteCount: Int { 128 }
    /// Words in a block.
    @inlinable package static var count: Int { 16 }

    @usableFromInline
    var storage:
        (
            UInt64, UInt64, UInt64, UInt64, UInt64, UInt64, UInt64, UInt64,
            UInt64, UInt64, UInt64, UInt64, UInt64, UInt64, UInt64, UInt64
        )

    /// All words zero.
    @inlinable
    package init() {
        storage = (0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0)
    }

    /// Nil unless `bytes` holds exactly 128 bytes.
    package init?(_ bytes: Span<UInt8>) {
        guard bytes.count == Self.byteCount else { return nil }
        self.init()
        // Written out: a loop over the subscript costs a jump for every word.
        storage = (
            bytes.littleEndian64(at: 0), bytes.littleEndian64(at: 8),
            bytes.littleEndian64(at: 16), bytes.littleEndian64(at: 24),
            bytes.littleEndian64(at: 32), bytes.littleEndian64(at: 40),
            bytes.littleEndian64(at: 48), bytes.littleEndian64(at: 56),
            bytes.littleEndian64(at: 64), bytes.littleEndian64(at: 72),
            bytes.littleEndian64(at: 80), bytes.littleEndian64(at: 88),
            bytes.littleEndian64(at: 96), bytes.littleEndian64(at: 104),
            bytes.littleEndian64(at: 112), bytes.littleEndian64(at: 120)
        )
    }

    /// The word at `index`, 0…15.
    @inlinable
    package subscript(index: Int) -> UInt64 {
        get {
            switch index {
            case 0: storage.0
            case 1: storage.1
            case 2: storage.2
            case 3: storage.3
            case 4: storage.4
            case 5: storage.5
            case 6: storage.6
            case 7: storage.7
            case 8: storage.8
            case 9: storage.9
            case 10: storage.10
            case 11: storage.11
            case 12: storage.12
            case 13: storage.13
            case 14: storage.14
            case 15: storage.15
            default: preconditionFailure("a block has words 0 to 15")
            }
        }
        set {
            switch index {
            case 0: storage.0 = newValue
            case 1: storage.1 = newValue
            case 2: storage.2 = newValue
            case 3: storage.3 = newValue
            case 4: storage.4 = newValue
            case 5: storage.5 = newValue
            case 6: storage.6 = newValue
            case 7: storage.7 = newValue
            case 8: storage.8 = newValue
            case 9: storage.9 = newValue
            case 10: storage.10 = newValue
            case 11: storage.11 = newValue
            case 12: storage.12 = newValue
            case 13: storage.13 = newValue
            case 14: storage.14 = newValue
            case 15: storage.15 = newValue
            default: preconditionFailure("a block has words 0 to 15")
            }
        }
    }

    /// Appends the 128 bytes as they stand in a file.
    package func append(to bytes: inout [UInt8]) {
        let start = bytes.count
        bytes.append(contentsOf: repeatElement(0, count: Self.byteCount))
        var block = bytes.mutableSpan
        for index in 0..<Self.count {
            let word = self[index]
            let offset = start + index * 8
            for byte in 0..<8 {
                block[offset + byte] = UInt8(truncatingIfNeeded: word >> UInt64(byte * 8))
            }
        }
    }

    /// CRC-32C over the 128 bytes with bytes 4…7 (the checksum itself) taken as zero.
    package var checksum: UInt32 {
        var crc = CRC32C()
        crc.update(self)
        return crc.value
    }

    /// This block with its checksum in bytes 4…7.
    package var sealed: RecordWords {
        var copy = self
        copy[0] = self[0] & 0xFFFF_FFFF | UInt64(checksum) << 32
        return copy
    }

    /// Whether bytes 4…7 hold the checksum of the rest.
    package var isIntact: Bool { UInt32(self[0] >> 32) == checksum }
}

extension RecordWords: Equatable {
    @inlinable
    package static func == (left: RecordWords, right: RecordWords) -> Bool {
        for index in 0..<Self.count where left[index] != right[index] { return false }
        return true
    }
}

// Fields narrower than a word. The position counts in bytes from the word's lowest byte.
extension UInt64 {
    /// A word of two 32-bit halves.
    @inlinable
    package init(low: UInt32, high: UInt32) {
        self = UInt64(low) | UInt64(high) << 32
    }

    /// Bytes 0…3.
    @inlinable package var low32: UInt32 { UInt32(truncatingIfNeeded: self) }
    /// Bytes 4…7.
    @inlinable package var high32: UInt32 { UInt32(truncatingIfNeeded: self >> 32) }

    /// The byte at `position`, 0…7.
    @inlinable
    package func byte(_ position: Int) -> UInt8 {
        UInt8(truncatingIfNeeded: self >> UInt64(position &* 8))
    }

    /// A word with `value` at byte `position` and zero elsewhere.
    @inlinable
    package static func byte(_ value: UInt8, at position: Int) -> UInt64 {
        UInt64(value) << UInt64(position &* 8)
    }
}
