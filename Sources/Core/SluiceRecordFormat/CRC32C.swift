/// CRC-32C (Castagnoli, reflected polynomial 0x82F63B78), the checksum of disk segments and of the
/// directory. The text "123456789" gives 0xE3069283.
package struct CRC32C: Sendable {
    private var state: UInt32 = 0xFFFF_FFFF

    package init() {}

    /// Adds the eight bytes of a little-endian word.
    package mutating func update(_ word: UInt64) {
        let table = Self.table
        let mixed = word ^ UInt64(state)
        var crc: UInt32 = 0
        for position in 0..<8 {
            crc ^= table[(7 - position) * 256 + Int(mixed.byte(position))]
        }
        state = crc
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
