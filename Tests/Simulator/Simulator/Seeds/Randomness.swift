import SluiceBrokerCore

/// A named stream of random numbers, derived from the root seed by its name alone: a draw more in
/// one stream shifts nothing in another.
package struct RandomStream: Sendable {
    private var generator: SplitMix64

    package init(root: UInt64, name: StaticString) {
        var seed = root
        for byte in name.description.utf8 {
            var mix = SplitMix64(seed: seed ^ UInt64(byte))
            seed = mix.next()
        }
        generator = SplitMix64(seed: seed)
    }

    package mutating func next() -> UInt64 { generator.next() }

    /// A number of the range.
    package mutating func pick(_ range: ClosedRange<Int>) -> Int {
        range.lowerBound + Int(generator.next(below: UInt64(range.count)))
    }

    package mutating func pick<Element>(_ choices: [Element]) -> Element {
        choices[pick(0...choices.count - 1)]
    }

    /// True in `percent` of 100 cases.
    package mutating func chance(_ percent: Int) -> Bool { pick(0...99) < percent }
}

/// What happened in a run, as one number: two runs of a seed give the same.
package struct RollingHash: Sendable {
    package private(set) var value: UInt64 = 0xCBF2_9CE4_8422_2325

    package mutating func add(_ number: UInt64) {
        value = (value ^ number) &* 0x0000_0100_0000_01B3
        value ^= value >> 29
    }

    package mutating func add(_ bytes: [UInt8]) {
        add(UInt64(bytes.count))
        for byte in bytes { value = (value ^ UInt64(byte)) &* 0x0000_0100_0000_01B3 }
    }
}

/// Bytes that say whose they are: any of them can be checked from its place alone.
package enum MarkedContent {
    /// Bytes 0x20…0x5F at `offset`… of the content that `mark` names; valid UTF-8 at any cut.
    package static func bytes(mark: UInt64, offset: Int, count: Int) -> [UInt8] {
        var bytes: [UInt8] = []
        bytes.reserveCapacity(count)
        var word: UInt64 = 0
        for place in offset..<offset + count {
            if place & 7 == 0 || bytes.isEmpty {
                var mix = SplitMix64(seed: mark &+ UInt64(place >> 3) &* 0x9E37_79B9)
                word = mix.next()
            }
            bytes.append(0x20 + UInt8(truncatingIfNeeded: word >> UInt64((place & 7) * 8)) & 0x3F)
        }
        return bytes
    }

    /// A body of `count` bytes: account and serial in front where they fit, then marked bytes.
    package static func body(account: UInt64, serial: UInt64, count: Int) -> [UInt8] {
        guard count >= 16 else { return bytes(mark: 0, offset: 0, count: count) }
        var body: [UInt8] = []
        for value in [account, serial] {
            for byte in 0..<8 { body.append(UInt8(truncatingIfNeeded: value >> UInt64(byte * 8))) }
        }
        return body + bytes(mark: account &* 31 &+ serial, offset: 16, count: count - 16)
    }

    /// Account and serial of a body of at least 16 bytes whose every byte is right.
    package static func owner(ofBody body: [UInt8]) -> (account: UInt64, serial: UInt64)? {
        guard body.count >= 16 else { return nil }
        var values: [UInt64] = [0, 0]
        for place in 0..<16 { values[place / 8] |= UInt64(body[place]) << UInt64(place % 8 * 8) }
        let expected = Self.body(account: values[0], serial: values[1], count: body.count)
        return body == expected ? (values[0], values[1]) : nil
    }
}
