/// An input that is read from the front as numbers and blocks; zeros when it is used up.
struct FuzzScript {
    private(set) var rest: ArraySlice<UInt8>

    init(_ bytes: [UInt8]) {
        rest = bytes[...]
    }

    mutating func byte() -> UInt8 { rest.popFirst() ?? 0 }

    mutating func number16() -> Int { Int(byte()) | Int(byte()) << 8 }

    mutating func number64() -> UInt64 {
        (0..<8).reduce(0) { $0 | UInt64(byte()) << UInt64($1 * 8) }
    }

    /// The next bytes, as many as there are.
    mutating func take(_ count: Int) -> [UInt8] {
        defer { rest = rest.dropFirst(count) }
        return Array(rest.prefix(count))
    }
}
