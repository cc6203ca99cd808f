/// A parameter of a statement. It travels in binary, so nothing is quoted or parsed.
package enum PostgresValue: Equatable, Sendable {
    case null
    /// `bigint`.
    case integer(Int64)
    /// `text`.
    case text(String)
    /// `bytea`.
    case bytes([UInt8])
    /// `bigint[]`.
    case integers([Int64])

    /// The type's number in PostgreSQL's catalogue, which never changes; 0 = the server infers it.
    var type: UInt32 {
        switch self {
        case .null: 0
        case .integer: 20
        case .text: 25
        case .bytes: 17
        case .integers: 1016
        }
    }

    /// Appends the binary form without its length; a null has none.
    func append(to bytes: inout [UInt8]) {
        switch self {
        case .null: break
        case .integer(let value): bytes.appendBigEndian(value)
        case .text(let text): bytes.append(contentsOf: text.utf8)
        case .bytes(let content): bytes.append(contentsOf: content)
        case .integers(let values):
            // Dimensions, nulls, element type, then count and lower bound of the one dimension.
            for word in [1, 0, 20, Int32(values.count), 1] { bytes.appendBigEndian(word) }
            for value in values {
                bytes.appendBigEndian(8 as Int32)
                bytes.appendBigEndian(value)
            }
        }
    }
}

extension [UInt8] {
    mutating func appendBigEndian(_ value: Int64) {
        for shift in stride(from: 56, through: 0, by: -8) {
            append(UInt8(truncatingIfNeeded: value >> Int64(shift)))
        }
    }

    mutating func appendBigEndian(_ value: Int32) {
        for shift in stride(from: 24, through: 0, by: -8) {
            append(UInt8(truncatingIfNeeded: value >> Int32(shift)))
        }
    }
}

/// Rows for `COPY … FROM STDIN (FORMAT binary)` whose columns are all `bigint` and not null.
package struct PostgresRows: Sendable {
    private static let signature: [UInt8] = [
        0x50, 0x47, 0x43, 0x4F, 0x50, 0x59, 0x0A, 0xFF, 0x0D, 0x0A, 0x00,
    ]

    let columnCount: Int
    private(set) var bytes: [UInt8]

    /// An empty set of rows with 1…1,600 columns, with room for `rowCount`.
    package init(columnCount: Int, rowCount: Int) {
        precondition((1...1_600).contains(columnCount))
        self.columnCount = columnCount
        bytes = Self.signature + [UInt8](repeating: 0, count: 8)
        bytes.reserveCapacity(bytes.count + rowCount * (2 + 12 * columnCount) + 2)
    }

    /// Appends whole rows, one after the other: `values.count` is a multiple of `columnCount`.
    package mutating func append(_ values: Span<Int64>) {
        append(values, width: columnCount, firstNumber: nil)
    }

    /// The same for rows that lack their first column: it is their number, from `first` on.
    package mutating func append(_ values: Span<Int64>, numberedFrom first: Int64) {
        append(values, width: columnCount - 1, firstNumber: first)
    }

    private mutating func append(_ values: Span<Int64>, width: Int, firstNumber: Int64?) {
        precondition(width > 0 && values.count.isMultiple(of: width))
        let rowBytes = 2 + 12 * columnCount
        let rowCount = values.count / width
        let start = bytes.count
        bytes.append(contentsOf: repeatElement(0, count: rowCount * rowBytes))
        unsafe bytes.withUnsafeMutableBytes { target in
            var offset = start
            // SAFETY: `target` covers the array; every store lies in the `rowCount * rowBytes`
            // bytes that were just appended: per row 2 and 12 for each of `columnCount` columns.
            func store(_ value: Int64) {
                unsafe target.storeBytes(
                    of: UInt32(8).bigEndian, toByteOffset: offset, as: UInt32.self)
                unsafe target.storeBytes(
                    of: value.bigEndian, toByteOffset: offset + 4, as: Int64.self)
                offset += 12
            }
            for row in 0..<rowCount {
                unsafe target.storeBytes(
                    of: UInt16(columnCount).bigEndian, toByteOffset: offset, as: UInt16.self)
                offset += 2
                if let firstNumber { store(firstNumber + Int64(row)) }
                for column in 0..<width { store(values[row * width + column]) }
            }
        }
    }

    /// The whole stream with its trailer.
    var sealed: [UInt8] { bytes + [0xFF, 0xFF] }
}
