/// Whole numbers packed into a short byte string, in which each is found by adding up lengths:
///
///     count u8, then how many bytes each number has, 0…8, two to a byte and the first in the lower
///     half, then the numbers, little-endian, without the bytes that only repeat the sign
///
/// Reading is total: bytes of any origin give numbers or nil, and nothing outside them is read.
package enum PackedIntegers {
    /// Numbers at most in one string.
    package static let countMax = 64
    /// Bytes that a string of `countMax` may take, and those that writing it touches.
    static let byteCountMax = 1 + countMax / 2 + 8 * countMax + 8

    /// The numbers of `bytes`; nil if it is no packed string.
    package static func unpack(_ bytes: Span<UInt8>) -> [Int64]? {
        unsafe bytes.withUnsafeBytes { unsafe Reader($0)?.all() }
    }

    /// Writes numbers where `byteCountMax` bytes have room; gives how many it took.
    static func pack(_ numbers: Span<Int64>, into start: UnsafeMutableRawPointer) -> Int {
        let count = numbers.count
        precondition(count <= countMax)
        unsafe start.storeBytes(of: UInt8(truncatingIfNeeded: count), as: UInt8.self)
        let headerCount = (count + 1) / 2
        var place = 1 + headerCount
        var index = 0
        // SAFETY: at most 8 bytes for each number follow the lengths, and 8 more are there.
        while index < count {
            let low = numbers[index]
            unsafe start.storeBytes(of: low.littleEndian, toByteOffset: place, as: Int64.self)
            let lowCount = byteCount(low)
            place += lowCount
            var lengths = lowCount
            if index + 1 < count {
                let high = numbers[index + 1]
                unsafe start.storeBytes(
                    of: high.littleEndian, toByteOffset: place, as: Int64.self)
                let highCount = byteCount(high)
                place += highCount
                lengths |= highCount << 4
            }
            unsafe start.storeBytes(
                of: UInt8(truncatingIfNeeded: lengths), toByteOffset: 1 + index / 2,
                as: UInt8.self)
            index += 2
        }
        return place
    }

    /// Bytes of two's complement that say all: none for 0.
    private static func byteCount(_ number: Int64) -> Int {
        let bits = 64 - (number ^ (number >> 63)).leadingZeroBitCount
        return number == 0 ? 0 : bits / 8 + 1
    }

    /// Looks into one packed string.
    @safe
    struct Reader {
        private let bytes: UnsafeRawBufferPointer
        private let count: Int
        private let headerCount: Int

        /// Nil where the bytes do not even hold the lengths.
        init?(_ bytes: UnsafeRawBufferPointer) {
            guard let first = unsafe bytes.first else { return nil }
            unsafe self.bytes = unsafe bytes
            count = Int(first)
            headerCount = (Int(first) + 1) / 2
            guard count <= PackedIntegers.countMax, bytes.count > headerCount else { return nil }
        }

        /// The number at `index`; nil if there is none, or if its bytes are not there.
        func number(_ index: Int) -> Int64? {
            guard index >= 0 && index < count else { return nil }
            var offset = 1 + headerCount
            let pairs = index / 2
            var pair = 0
            // SAFETY: the lengths of `count` numbers are inside, and `pairs` is below theirs.
            while pair + 8 <= pairs {
                let word = unsafe bytes.loadUnaligned(fromByteOffset: 1 + pair, as: UInt64.self)
                let sums = (word & 0x0F0F_0F0F_0F0F_0F0F) + (word >> 4 & 0x0F0F_0F0F_0F0F_0F0F)
                offset += Int((sums &* 0x0101_0101_0101_0101) >> 56)
                pair += 8
            }
            while pair < pairs {
                let lengths = unsafe Int(bytes[1 + pair])
                offset += lengths & 15 + lengths >> 4
                pair += 1
            }
            let lengths = unsafe Int(bytes[1 + pairs])
            var length = lengths & 15
            if index & 1 == 1 {
                offset += length
                length = lengths >> 4
            }
            return load(at: offset, length)
        }

        /// All of them; nil unless they fill the bytes.
        func all() -> [Int64]? {
            var numbers: [Int64] = []
            numbers.reserveCapacity(count)
            var offset = 1 + headerCount
            for index in 0..<count {
                let length = unsafe Int(bytes[1 + index / 2]) >> (index & 1 * 4) & 15
                guard let number = load(at: offset, length) else { return nil }
                numbers.append(number)
                offset += length
            }
            return unsafe offset == bytes.count ? numbers : nil
        }

        private func load(at offset: Int, _ length: Int) -> Int64? {
            guard length > 0 else { return 0 }
            guard unsafe length <= 8 && offset + length <= bytes.count else { return nil }
            var word: UInt64 = 0
            // SAFETY: what is read ends inside the bytes.
            if unsafe offset + 8 <= bytes.count {
                word = UInt64(
                    littleEndian: unsafe bytes.loadUnaligned(
                        fromByteOffset: offset, as: UInt64.self))
            } else {
                for index in 0..<length {
                    word |= unsafe UInt64(bytes[offset + index]) << UInt64(8 * index)
                }
            }
            let shift = Int64(64 - 8 * length)
            return (Int64(bitPattern: word) << shift) >> shift
        }
    }
}
