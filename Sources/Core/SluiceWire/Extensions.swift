/// Optional fields behind the fixed ones of a control payload: `u16 type, u16 length, value`,
/// types in rising order, each at most once ([X1]). A type with the highest bit set is critical:
/// who does not know it refuses the frame ([X2]). Others are skipped.
package enum ExtensionType {
    /// On any type: refuse what carries it when unknown.
    package static let critical: UInt16 = 0x8000

    /// HELLO: name and version of the peer's software, text, at most 64 bytes.
    package static let agent: UInt16 = 0x0001
    /// WELCOME: brokers of this deployment, `host:port` separated by commas.
    package static let brokers: UInt16 = 0x0002

    /// SUBMIT: idempotency key, 1 to 64 bytes. Critical.
    package static let idempotencyKey: UInt16 = 0x8010
    /// SUBMIT: 1 to 8 affinity keys of 16 bytes.
    package static let affinityKeys: UInt16 = 0x0011
    /// SUBMIT: highest input and output price, two u64 micro-USD per million tokens. Critical.
    package static let priceCeilings: UInt16 = 0x8012
    /// SUBMIT: region, text, 1 to 16 bytes. Critical.
    package static let region: UInt16 = 0x8013
    /// SUBMIT: lowest data policy class, u8. Critical.
    package static let dataPolicy: UInt16 = 0x8014
    /// SUBMIT: allowed supply types, u8 bit mask. Critical.
    package static let supplyTypes: UInt16 = 0x8015
    /// SUBMIT and ASSIGN: trace id (16 bytes) and parent span id (8 bytes).
    package static let trace: UInt16 = 0x0016
    /// SUBMIT: most copies of the task that may run at once, u8. Critical.
    package static let hedge: UInt16 = 0x8017

    /// OFFER: region, text, 1 to 16 bytes.
    package static let offerRegion: UInt16 = 0x0020
}

/// Walks a run of extensions. Each `next` is one extension; nil at the end.
package struct ExtensionCursor {
    private var offset: Int
    private let end: Int
    private var lastType: UInt16?

    package init(_ range: Range<Int>) {
        offset = range.lowerBound
        end = range.upperBound
    }

    /// Type and place of the value, or nil when the run is used up.
    package mutating func next(
        _ bytes: Span<UInt8>
    ) throws(WireError) -> (type: UInt16, value: Range<Int>)? {
        guard offset < end else { return nil }
        guard end - offset >= 4 else { throw .malformedPayload(.badExtension) }
        let type = bytes.littleEndian16(at: offset)
        let byteCount = Int(bytes.littleEndian16(at: offset + 2))
        guard byteCount <= end - offset - 4 else { throw .malformedPayload(.badExtension) }
        if let lastType, type <= lastType { throw .malformedPayload(.badExtension) }
        lastType = type
        let start = offset + 4
        offset = start + byteCount
        return (type, start..<offset)
    }

    /// What to do with a type that the reader does not know.
    package static func skipUnknown(_ type: UInt16) throws(WireError) {
        guard type & ExtensionType.critical == 0 else {
            throw .malformedPayload(.unknownCriticalExtension)
        }
    }
}

/// Builds a run of extensions; the caller adds them in rising order of type.
package struct ExtensionWriter {
    package private(set) var bytes: [UInt8] = []
    private var lastType: UInt16?

    package init() {}

    package mutating func add(_ type: UInt16, _ value: [UInt8]) {
        precondition(lastType.map { type > $0 } ?? true, "extensions out of order")
        precondition(bytes.count + 4 + value.count <= WireLimits.extensionBytesMax)
        lastType = type
        bytes.appendLittleEndian(type)
        bytes.appendLittleEndian(UInt16(value.count))
        bytes += value
    }
}

/// A short text of printable ASCII without spaces (a region), held without allocation.
package struct ShortText: Hashable, Sendable, CustomStringConvertible {
    /// Longest text in bytes.
    package static let byteCountMax = 16
    package let low: UInt64
    package let high: UInt64

    /// Nil unless 1 to 16 bytes of `0x21…0x7E`.
    package init?(_ bytes: Span<UInt8>) {
        guard bytes.count >= 1, bytes.count <= Self.byteCountMax else { return nil }
        var low: UInt64 = 0
        var high: UInt64 = 0
        for index in 0..<bytes.count {
            guard bytes[index] >= 0x21, bytes[index] <= 0x7E else { return nil }
            let shift = UInt64((index & 7) * 8)
            if index < 8 {
                low |= UInt64(bytes[index]) << shift
            } else {
                high |= UInt64(bytes[index]) << shift
            }
        }
        self.low = low
        self.high = high
    }

    /// Nil unless 1 to 16 bytes of `0x21…0x7E`.
    package init?(_ text: String) {
        let bytes = Array(text.utf8)
        self.init(bytes.span)
    }

    package var bytes: [UInt8] {
        var bytes: [UInt8] = []
        bytes.appendLittleEndian(low)
        bytes.appendLittleEndian(high)
        return Array(bytes.prefix { $0 != 0 })
    }

    package var description: String { String(decoding: bytes, as: UTF8.self) }
}
