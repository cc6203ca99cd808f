/// As much of HPACK (RFC 7541) as a peer needs that announces a dynamic table of size 0: static
/// indices and literals. Huffman-coded text is recognised only where it is one of the words below.
package enum HPACK {
    /// One field of a header block; places in the block.
    package struct Field: Equatable {
        /// In the static table; 0 = by its text.
        package var nameIndex = 0
        package var name = 0..<0
        package var isNameCoded = false
        package var value = 0..<0
        package var isValueCoded = false
        /// The value too stands in the static table, under this index.
        package var staticIndex = 0
    }

    /// What a response says of itself.
    package struct Outcome: Equatable {
        /// `:status` is 200.
        package var isOK = false
        /// `grpc-status`, if there: whether it is 0.
        package var grpcIsOK: Bool?
    }

    /// Index of `:status 200`, and the first of those of `:status`.
    private static let ok = 8
    private static let statuses = 8...14
    private static let grpcStatus = Array("grpc-status".utf8)
    /// The same, Huffman-coded: of NIO's and others' encoders.
    private static let grpcStatusCoded: [UInt8] = [0x9A, 0xCA, 0xC8, 0xB2, 0x12, 0x34, 0xDA, 0x8F]
    private static let zero = Array("0".utf8)
    private static let zeroCoded: [UInt8] = [0x07]
    private static let twoHundred = Array("200".utf8)
    private static let twoHundredCoded: [UInt8] = [0x10, 0x01]

    /// Reads a response's header or trailer block; nil if it is malformed.
    package static func outcome(_ block: Span<UInt8>) -> Outcome? {
        var outcome = Outcome()
        var offset = 0
        while offset < block.count {
            guard let field = next(block, &offset) else { return nil }
            guard let field else { continue }
            if field.staticIndex == ok { outcome.isOK = true }
            if statuses.contains(field.nameIndex) {
                outcome.isOK =
                    matches(
                        field.value, of: block, field.isValueCoded ? twoHundredCoded : twoHundred)
            }
            guard field.nameIndex == 0,
                matches(field.name, of: block, field.isNameCoded ? grpcStatusCoded : grpcStatus)
            else { continue }
            outcome.grpcIsOK =
                matches(field.value, of: block, field.isValueCoded ? zeroCoded : zero)
        }
        return outcome
    }

    /// The next field; `.some(nil)` for a change of the table's size, nil if malformed.
    package static func next(_ block: Span<UInt8>, _ offset: inout Int) -> Field?? {
        let first = block[offset]
        var field = Field()
        if first & 0x80 != 0 {
            guard let index = integer(block, &offset, bits: 7), index > 0 else { return nil }
            // Above 61 is the dynamic table, which is empty.
            guard index <= 61 else { return nil }
            field.staticIndex = index
            return field
        }
        if first & 0xE0 == 0x20 {
            guard integer(block, &offset, bits: 5) != nil else { return nil }
            return .some(nil)
        }
        guard let index = integer(block, &offset, bits: first & 0x40 != 0 ? 6 : 4), index <= 61
        else {
            return nil
        }
        field.nameIndex = index
        if index == 0 {
            guard let name = text(block, &offset) else { return nil }
            (field.name, field.isNameCoded) = name
        }
        guard let value = text(block, &offset) else { return nil }
        (field.value, field.isValueCoded) = value
        return field
    }

    /// An integer with a prefix of `bits` bits (RFC 7541, 5.1).
    private static func integer(_ block: Span<UInt8>, _ offset: inout Int, bits: Int) -> Int? {
        guard offset < block.count else { return nil }
        let mask = 1 << bits - 1
        var value = Int(block[offset]) & mask
        offset += 1
        guard value == mask else { return value }
        var shift = 0
        while offset < block.count, shift <= 21 {
            let byte = block[offset]
            offset += 1
            value += Int(byte & 0x7F) << shift
            shift += 7
            if byte & 0x80 == 0 { return value }
        }
        return nil
    }

    private static func text(
        _ block: Span<UInt8>, _ offset: inout Int
    ) -> (place: Range<Int>, isCoded: Bool)? {
        guard offset < block.count else { return nil }
        let isCoded = block[offset] & 0x80 != 0
        guard let count = integer(block, &offset, bits: 7), count <= block.count - offset else {
            return nil
        }
        defer { offset += count }
        return (offset..<offset + count, isCoded)
    }

    private static func matches(_ place: Range<Int>, of block: Span<UInt8>, _ text: [UInt8]) -> Bool
    {
        guard place.count == text.count else { return false }
        for index in text.indices where block[place.lowerBound + index] != text[index] {
            return false
        }
        return true
    }

    // MARK: Writing

    /// A field whose name stands in the static table, not to be indexed; its value below 127 bytes.
    package static func literal(_ nameIndex: Int, _ value: String, into block: inout [UInt8]) {
        precondition((1..<15 + 128).contains(nameIndex) && value.utf8.count < 127)
        if nameIndex < 15 {
            block.append(UInt8(nameIndex))
        } else {
            block.append(0x0F)
            block.append(UInt8(nameIndex - 15))
        }
        block.append(UInt8(value.utf8.count))
        block.append(contentsOf: value.utf8)
    }

    /// A field of its own name, not to be indexed; both below 127 bytes.
    package static func literal(_ name: String, _ value: String, into block: inout [UInt8]) {
        precondition(name.utf8.count < 127 && value.utf8.count < 127)
        block.append(0)
        block.append(UInt8(name.utf8.count))
        block.append(contentsOf: name.utf8)
        block.append(UInt8(value.utf8.count))
        block.append(contentsOf: value.utf8)
    }
}
