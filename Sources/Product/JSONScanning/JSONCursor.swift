// Reading JSON where it lies. Decoding and encoding again would lose what the client or the engine
// wrote (numbers beyond a double, the order of members, fields that nobody here knows), so this
// only finds places in the bytes.

/// Why bytes are not JSON that is taken here. Carries no byte of them.
package enum JSONFault: Error, Equatable {
    /// The text breaks the grammar of RFC 8259 or ends early.
    case malformed
    /// Arrays and objects are nested deeper than `JSONCursor.depthMax`, or a `JSONValue` would have
    /// more than `JSONValue.valuesMax` values.
    case tooDeep
    /// A member that the reader must understand comes twice: two readers could disagree.
    case duplicateMember
    /// A member that the reader must understand has a value of another kind than it may have.
    case unexpectedKind
}

/// A place in a JSON text that moves forward over members, elements and values.
///
/// Every byte passed over is checked against the grammar of RFC 8259, except that bytes inside
/// strings need not be valid UTF-8. Values nobody asked for are skipped without allocation.
package struct JSONCursor {
    /// Deepest nesting of arrays and objects below a skipped value. JSON schemas of tools are the
    /// deepest that real requests hold, at about 20.
    package static let depthMax = 128

    let bytes: [UInt8]
    /// Next byte to read, 0…`bytes.count`.
    package private(set) var position: Int
    /// A value has just ended, so that a comma must come before the next member or element.
    private var needsComma = false

    /// Starts at the first byte of `bytes`.
    package init(_ bytes: [UInt8]) {
        self.bytes = bytes
        position = 0
    }

    /// The kinds of value, by their first byte.
    package enum Kind {
        case object, array, string, number, boolean, null
    }

    /// The kind of the value that comes next.
    package mutating func peekKind() throws(JSONFault) -> Kind {
        skipWhitespace()
        switch try current() {
        case UInt8(ascii: "{"): return .object
        case UInt8(ascii: "["): return .array
        case UInt8(ascii: "\""): return .string
        case UInt8(ascii: "t"), UInt8(ascii: "f"): return .boolean
        case UInt8(ascii: "n"): return .null
        case UInt8(ascii: "-"), UInt8(ascii: "0")...UInt8(ascii: "9"): return .number
        default: throw .malformed
        }
    }

    /// Enters an object; `nextKey` then gives its members.
    package mutating func beginObject() throws(JSONFault) {
        skipWhitespace()
        try expect(UInt8(ascii: "{"))
        needsComma = false
    }

    /// The key of the next member, unescaped, with the cursor before its value; nil after the
    /// last one, with the cursor behind the object. The caller reads or skips each value.
    package mutating func nextKey() throws(JSONFault) -> String? {
        guard try advance(closing: UInt8(ascii: "}")) else { return nil }
        let key = try string()
        skipWhitespace()
        try expect(UInt8(ascii: ":"))
        return key
    }

    /// Enters an array; `nextElement` then moves over its elements.
    package mutating func beginArray() throws(JSONFault) {
        skipWhitespace()
        try expect(UInt8(ascii: "["))
        needsComma = false
    }

    /// True with the cursor before the next element; false after the last one, with the cursor
    /// behind the array.
    package mutating func nextElement() throws(JSONFault) -> Bool {
        try advance(closing: UInt8(ascii: "]"))
    }

    /// Nothing but whitespace is left.
    package mutating func expectEnd() throws(JSONFault) {
        skipWhitespace()
        guard position == bytes.count else { throw .malformed }
    }

    /// Reads a string. A lone surrogate escape and bytes that are not UTF-8 become U+FFFD.
    package mutating func string() throws(JSONFault) -> String {
        skipWhitespace()
        let (content, isEscaped) = try skipString()
        guard isEscaped else { return String(decoding: bytes[content], as: UTF8.self) }
        return JSONText.unescaped(bytes[content])
    }

    /// Reads a string's text, or nothing for null; any other kind is skipped and is nothing too.
    package mutating func stringIfAny() throws(JSONFault) -> String? {
        guard try peekKind() == .string else {
            try skipValue()
            return nil
        }
        return try string()
    }

    /// Whether a string with at least one character comes next; moves over the value.
    package mutating func skipsNonEmptyString() throws(JSONFault) -> Bool {
        let kind = try peekKind()
        return try skipValue().count > 2 && kind == .string
    }

    /// Reads a whole number in 0…`max`; any other value is skipped and nil.
    package mutating func integer(upTo max: Int) throws(JSONFault) -> Int? {
        let range = try skipValue()
        guard (1...18).contains(range.count) else { return nil }
        var value = 0
        for byte in bytes[range] {
            guard (0x30...0x39).contains(byte) else { return nil }
            value = value * 10 + Int(byte - 0x30)
        }
        return value <= max ? value : nil
    }

    /// Moves over one value of any kind; returns its place, without whitespace around it.
    @discardableResult
    package mutating func skipValue() throws(JSONFault) -> Range<Int> {
        skipWhitespace()
        let start = position
        /// Closing brackets that are still to come, innermost last.
        var open: [UInt8] = []
        repeat {
            if let closing = open.last {
                guard try advance(closing: closing) else {
                    open.removeLast()
                    continue
                }
                if closing == UInt8(ascii: "}") {
                    skipWhitespace()
                    _ = try skipString()
                    skipWhitespace()
                    try expect(UInt8(ascii: ":"))
                }
            }
            switch try peekKind() {
            case .object, .array:
                guard open.count < Self.depthMax else { throw .tooDeep }
                // The closing bracket of both pairs is the opening one plus 2 in ASCII.
                open.append(bytes[position] + 2)
                position += 1
                needsComma = false
            case .string: _ = try skipString()
            case .number: try skipNumber()
            case .boolean, .null: try skipLiteral()
            }
        } while !open.isEmpty
        return start..<position
    }

    // MARK: - Grammar

    private func current() throws(JSONFault) -> UInt8 {
        guard position < bytes.count else { throw .malformed }
        return bytes[position]
    }

    private mutating func expect(_ byte: UInt8) throws(JSONFault) {
        guard try current() == byte else { throw .malformed }
        position += 1
    }

    private mutating func skipWhitespace() {
        while position < bytes.count {
            switch bytes[position] {
            case 0x20, 0x0A, 0x0D, 0x09: position += 1
            default: return
            }
        }
    }

    /// Moves to the next member or element; false when the closing bracket came instead.
    private mutating func advance(closing: UInt8) throws(JSONFault) -> Bool {
        skipWhitespace()
        if try current() == closing {
            position += 1
            needsComma = true
            return false
        }
        if needsComma { try expect(UInt8(ascii: ",")) }
        skipWhitespace()
        // The next value says so itself when it ends.
        needsComma = false
        return true
    }

    /// Moves over a string; returns the place between its quotes and whether it has escapes.
    private mutating func skipString() throws(JSONFault) -> (content: Range<Int>, isEscaped: Bool) {
        try expect(UInt8(ascii: "\""))
        let start = position
        var isEscaped = false
        while true {
            switch try current() {
            case UInt8(ascii: "\""):
                position += 1
                needsComma = true
                return (start..<position - 1, isEscaped)
            case UInt8(ascii: "\\"):
                isEscaped = true
                position += 1
                try skipEscape()
            case 0..<0x20: throw .malformed
            default: position += 1
            }
        }
    }

    private mutating func skipEscape() throws(JSONFault) {
        let letter = try current()
        position += 1
        switch letter {
        case UInt8(ascii: "\""), UInt8(ascii: "\\"), UInt8(ascii: "/"), UInt8(ascii: "b"),
            UInt8(ascii: "f"), UInt8(ascii: "n"), UInt8(ascii: "r"), UInt8(ascii: "t"):
            return
        case UInt8(ascii: "u"):
            for _ in 0..<4 {
                guard JSONText.hexadecimalDigit(try current()) != nil else { throw .malformed }
                position += 1
            }
        default: throw .malformed
        }
    }

    private mutating func skipNumber() throws(JSONFault) {
        if try current() == UInt8(ascii: "-") { position += 1 }
        if try current() == UInt8(ascii: "0") {
            position += 1
        } else {
            try skipDigits()
        }
        if position < bytes.count, bytes[position] == UInt8(ascii: ".") {
            position += 1
            try skipDigits()
        }
        if position < bytes.count, bytes[position] | 0x20 == UInt8(ascii: "e") {
            position += 1
            let sign = try current()
            if sign == UInt8(ascii: "+") || sign == UInt8(ascii: "-") { position += 1 }
            try skipDigits()
        }
        needsComma = true
    }

    private mutating func skipDigits() throws(JSONFault) {
        guard (0x30...0x39).contains(try current()) else { throw .malformed }
        while position < bytes.count, (0x30...0x39).contains(bytes[position]) { position += 1 }
    }

    private mutating func skipLiteral() throws(JSONFault) {
        for literal in ["true", "false", "null"] {
            let end = position + literal.utf8.count
            guard end <= bytes.count, bytes[position..<end].elementsEqual(literal.utf8) else {
                continue
            }
            position = end
            needsComma = true
            return
        }
        throw .malformed
    }
}
