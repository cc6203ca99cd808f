/// CRC-32C (Castagnoli, reflected polynomial 0x82F63B78), the checksum of disk segments and of the
/// directory. The text "123456789" gives 0xE3069283.
package struct CRC32C: Sendable {
    private var state: UInt32 = 0xFFFF_FFFF

    package init() {}

    /// Adds the eight bytes of a little-endian word.
    package mutating func update(_ word: UInt64) {
        update(word, Self.table.span)
    }

    /// Adds the words of a block; the first without its upper half, where the checksum stands.
    mutating func update(_ block: borrowing RecordWords) {
        let table = Self.table.span
        update(block[0] & 0xFFFF_FFFF, table)
        for index in 1..<RecordWords.count { update(block[index], table) }
    }

    @inline(__always)
    private mutating func update(_ word: UInt64, _ table: Span<UInt32>) {
        // One check of the table's size in place of one for each byte.
        let entries = table.extracting(0..<2_048)
        let mixed = word ^ UInt64(state)
        // Two halves that do not wait for each other.
        let low =
            entries[1_792 + Int(mixed.byte(0))] ^ entries[1_536 + Int(mixed.byte(1))]
            ^ entries[1_280 + Int(mixed.byte(2))] ^ entries[1_024 + Int(mixed.byte(3))]
        let high =
            entries[768 + Int(mixed.byte(4))] ^ entries[512 + Int(mixed.byte(5))]
            ^ entries[256 + Int(mixed.byte(6))] ^ entries[Int(mixed.byte(7))]
        state = low ^ high
    }

    /// Adds bytes one by one.
    package mutating func update(_ bytes: Span<UInt8>) {
        let table = Self.table
        for index in 0..<bytes.count {
            state = state >> 8 ^ table[Int(UInt8(truncatingIfNeeded: state) ^ bytes[index])]
        }
    }

    /// The checksum of everything added so far.
    package var value: UInt32 { ~state }

    /// Eight tables of 256 entries: entry n of table k is the effect of byte n when k zero bytes
    /// follow it.
    private static let table: [UInt32] = {
        var table = [UInt32](repeating: 0, count: 8 * 256)
        for index in 0..<256 {
            var crc = UInt32(index)
            for _ in 0..<8 { crc = crc & 1 == 1 ? crc >> 1 ^ 0x82F6_3B78 : crc >> 1 }
            table[index] = crc
        }
        for index in 256..<8 * 256 {
            let previous = table[index - 256]
            table[index] = previous >> 8 ^ table[Int(previous & 0xFF)]
        }
        return table
    }()
}
