/// Number of a stream on one connection: a slot chosen by its opener. 0 is the connection itself;
/// 1…`maxStreams` are task streams.
@usableFromInline
package struct StreamID: Hashable, Comparable, Sendable {
    @usableFromInline package var rawValue: UInt32

    @inlinable
    package init(_ rawValue: UInt32) {
        self.rawValue = rawValue
    }

    /// The connection itself.
    @inlinable package static var connection: StreamID { StreamID(0) }

    @inlinable
    package static func < (left: StreamID, right: StreamID) -> Bool {
        left.rawValue < right.rawValue
    }
}

/// Number of an offer, chosen by the supplier, unique on its connection. 0 names the connection
/// as a whole in GRANT.
@usableFromInline
package struct OfferID: Hashable, Sendable {
    @usableFromInline package var rawValue: UInt32

    @inlinable
    package init(_ rawValue: UInt32) {
        self.rawValue = rawValue
    }

    /// The whole connection, in GRANT.
    @inlinable package static var connection: OfferID { OfferID(0) }
}

/// Identity of an accepted task: the broker instance that accepted it and that instance's own
/// counter. Written as 32 lower-case hexadecimal digits, instance first.
public struct TaskID: Hashable, Sendable, CustomStringConvertible {
    /// The instance (one start of one broker) that accepted the task.
    public var instance: UInt64
    /// Position among the tasks of that instance, from 1.
    public var counter: UInt64

    /// Makes an identity from its two halves.
    public init(instance: UInt64, counter: UInt64) {
        self.instance = instance
        self.counter = counter
    }

    /// Reads 32 hexadecimal digits; nil for anything else.
    public init?(_ text: String) {
        let digits = Array(text.utf8)
        guard digits.count == 32 else { return nil }
        var halves: [UInt64] = [0, 0]
        for (position, digit) in digits.enumerated() {
            let value: UInt8
            switch digit {
            case 0x30...0x39: value = digit - 0x30
            case 0x61...0x66: value = digit - 0x61 + 10
            default: return nil
            }
            halves[position / 16] = halves[position / 16] << 4 | UInt64(value)
        }
        self.init(instance: halves[0], counter: halves[1])
    }

    /// 32 lower-case hexadecimal digits.
    public var description: String {
        hexadecimal(instance) + hexadecimal(counter)
    }
}

/// 16 lower-case hexadecimal digits of a 64-bit number.
package func hexadecimal(_ value: UInt64) -> String {
    let digits = String(value, radix: 16)
    return String(repeating: "0", count: 16 - digits.count) + digits
}

/// SHA-256 of an API key, supplier token or other secret; never the secret.
package struct Digest256: Hashable, Sendable {
    package var words: (UInt64, UInt64, UInt64, UInt64)

    package init(_ a: UInt64, _ b: UInt64, _ c: UInt64, _ d: UInt64) {
        words = (a, b, c, d)
    }

    /// 32 bytes, first byte lowest in the first word; nil for another count.
    package init?(_ bytes: Span<UInt8>) {
        guard bytes.count == 32 else { return nil }
        self.init(
            bytes.littleEndian64(at: 0), bytes.littleEndian64(at: 8),
            bytes.littleEndian64(at: 16), bytes.littleEndian64(at: 24))
    }

    package static func == (left: Digest256, right: Digest256) -> Bool {
        // One expression without early exit: a comparison takes the same time wherever two
        // digests first differ.
        let a = left.words.0 ^ right.words.0
        let b = left.words.1 ^ right.words.1
        let c = left.words.2 ^ right.words.2
        let d = left.words.3 ^ right.words.3
        return a | b | c | d == 0
    }

    package func hash(into hasher: inout Hasher) {
        hasher.combine(words.0)
        hasher.combine(words.1)
    }
}

/// A model's name as it travels: 1 to 88 bytes of `[A-Za-z0-9._:/@-]`, held without allocation so
/// that it fits a message between threads.
package struct ModelName: Hashable, Sendable, CustomStringConvertible {
    /// Longest name in bytes.
    package static let byteCountMax = 88

    /// Length in bytes, 1…88.
    package let byteCount: UInt8
    private var words:
        (
            UInt64, UInt64, UInt64, UInt64, UInt64, UInt64, UInt64, UInt64, UInt64, UInt64, UInt64
        ) = (0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0)

    /// Nil when the bytes are no valid name.
    package init?(_ bytes: Span<UInt8>) {
        guard bytes.count >= 1, bytes.count <= Self.byteCountMax else { return nil }
        byteCount = UInt8(bytes.count)
        for index in 0..<bytes.count {
            let byte = bytes[index]
            guard Self.isAllowed(byte) else { return nil }
            setByte(byte, at: index)
        }
    }

    /// Nil when the text is no valid name.
    package init?(_ text: String) {
        let bytes = Array(text.utf8)
        self.init(bytes.span)
    }

    /// The byte at `index`, 0..<`byteCount`.
    package func byte(at index: Int) -> UInt8 {
        precondition(index < Int(byteCount))
        return UInt8(truncatingIfNeeded: self[word: index >> 3] >> UInt64((index & 7) * 8))
    }

    package var bytes: [UInt8] {
        (0..<Int(byteCount)).map { byte(at: $0) }
    }

    package var description: String {
        String(decoding: bytes, as: UTF8.self)
    }

    package static func == (left: ModelName, right: ModelName) -> Bool {
        let (a, b) = (left.words, right.words)
        return left.byteCount == right.byteCount && a.0 == b.0 && a.1 == b.1 && a.2 == b.2
            && a.3 == b.3 && a.4 == b.4 && a.5 == b.5 && a.6 == b.6 && a.7 == b.7 && a.8 == b.8
            && a.9 == b.9 && a.10 == b.10
    }

    package func hash(into hasher: inout Hasher) {
        hasher.combine(byteCount)
        for index in 0..<((Int(byteCount) + 7) >> 3) { hasher.combine(self[word: index]) }
    }

    private static func isAllowed(_ byte: UInt8) -> Bool {
        switch byte {
        case 0x30...0x3A, 0x40...0x5A, 0x61...0x7A, 0x2D, 0x2E, 0x2F, 0x5F: true
        default: false
        }
    }

    private mutating func setByte(_ byte: UInt8, at index: Int) {
        self[word: index >> 3] |= UInt64(byte) << UInt64((index & 7) * 8)
    }

    private subscript(word index: Int) -> UInt64 {
        get {
            switch index {
            case 0: words.0
            case 1: words.1
            case 2: words.2
            case 3: words.3
            case 4: words.4
            case 5: words.5
            case 6: words.6
            case 7: words.7
            case 8: words.8
            case 9: words.9
            default: words.10
            }
        }
        set {
            switch index {
            case 0: words.0 = newValue
            case 1: words.1 = newValue
            case 2: words.2 = newValue
            case 3: words.3 = newValue
            case 4: words.4 = newValue
            case 5: words.5 = newValue
            case 6: words.6 = newValue
            case 7: words.7 = newValue
            case 8: words.8 = newValue
            case 9: words.9 = newValue
            default: words.10 = newValue
            }
        }
    }
}
