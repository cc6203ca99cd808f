/// A JSON value that was read to be built anew: objects keep the order of their members, and numbers
/// the digits they were written with. Two members of one name stay two; the first one is found.
package indirect enum JSONValue: Equatable, Sendable {
    /// One member of an object.
    package struct Member: Equatable, Sendable {
        package var name: String
        package var value: JSONValue

        package init(_ name: String, _ value: JSONValue) {
            self.name = name
            self.value = value
        }
    }

    case object([Member])
    case array([JSONValue])
    case string(String)
    /// A number, `true`, `false` or `null`, as it was written.
    case literal([UInt8])

    /// `null`.
    package static let null = JSONValue.literal(Array("null".utf8))
    /// `{}`.
    package static let emptyObject = JSONValue.object([])

    /// A number.
    package static func number(_ value: some BinaryInteger) -> JSONValue {
        .literal(Array(String(value).utf8))
    }

    /// `true` or `false`.
    package static func boolean(_ value: Bool) -> JSONValue {
        .literal(Array((value ? "true" : "false").utf8))
    }

    /// Reads the one value that `bytes` hold.
    package init(parsing bytes: [UInt8]) throws(JSONFault) {
        var cursor = JSONCursor(bytes)
        try self.init(reading: &cursor)
        try cursor.expectEnd()
    }

    /// Most values in one: each takes some hundred bytes of memory, and may be but two bytes of the text.
    package static let valuesMax = 262_144

    /// Reads the value that comes next.
    package init(reading cursor: inout JSONCursor) throws(JSONFault) {
        var left = Self.valuesMax
        self = try JSONValue(reading: &cursor, depth: 0, left: &left)
    }

    private init(
        reading cursor: inout JSONCursor, depth: Int, left: inout Int
    ) throws(JSONFault) {
        guard depth < JSONCursor.depthMax, left > 0 else { throw .tooDeep }
        left -= 1
        switch try cursor.peekKind() {
        case .object:
            var members: [Member] = []
            try cursor.beginObject()
            while let name = try cursor.nextKey() {
                members.append(
                    Member(name, try JSONValue(reading: &cursor, depth: depth + 1, left: &left)))
            }
            self = .object(members)
        case .array:
            var elements: [JSONValue] = []
            try cursor.beginArray()
            while try cursor.nextElement() {
                elements.append(
                    try JSONValue(reading: &cursor, depth: depth + 1, left: &left))
            }
            self = .array(elements)
        case .string: self = .string(try cursor.string())
        case .number, .boolean, .null: self = .literal(Array(cursor.bytes[try cursor.skipValue()]))
        }
    }

    // MARK: Looking in

    /// The value of a member; nil where there is none, or no object.
    package subscript(name: String) -> JSONValue? {
        guard case .object(let members) = self else { return nil }
        return members.first { $0.name == name }?.value
    }

    /// The same, nil for `null` too.
    package func present(_ name: String) -> JSONValue? {
        guard let value = self[name], !value.isNull else { return nil }
        return value
    }

    package var isNull: Bool { self == .null }

    /// The text of a string.
    package var text: String? {
        if case .string(let text) = self { text } else { nil }
    }

    /// The elements of an array.
    package var elements: [JSONValue]? {
        if case .array(let elements) = self { elements } else { nil }
    }

    /// The members of an object.
    package var members: [Member]? {
        if case .object(let members) = self { members } else { nil }
    }

    /// `true` or `false`.
    package var boolean: Bool? {
        guard case .literal(let bytes) = self else { return nil }
        return switch bytes.first {
        case UInt8(ascii: "t"): true
        case UInt8(ascii: "f"): false
        default: nil
        }
    }

    /// A whole number that fits.
    package var integer: Int64? {
        guard case .literal(let bytes) = self else { return nil }
        return Int64(String(decoding: bytes, as: UTF8.self))
    }

    // MARK: Changing and writing

    /// Replaces the first member of this name, or adds it behind the others. Only for objects.
    package mutating func set(_ name: String, _ value: JSONValue) {
        guard case .object(var members) = self else { preconditionFailure("not an object") }
        self = .null
        if let index = members.firstIndex(where: { $0.name == name }) {
            members[index].value = value
        } else {
            members.append(Member(name, value))
        }
        self = .object(members)
    }

    /// Changes the value of the first member of this name in its place, without a copy; nothing
    /// where there is none.
    package mutating func change<Fault: Error>(
        _ name: String, _ body: (inout JSONValue) throws(Fault) -> Void
    ) throws(Fault) {
        guard case .object(var members) = self,
            let index = members.firstIndex(where: { $0.name == name })
        else { return }
        self = .null
        var value = members[index].value
        members[index].value = .null
        defer {
            members[index].value = value
            self = .object(members)
        }
        try body(&value)
    }

    /// Removes every member of this name.
    package mutating func remove(_ name: String) {
        guard case .object(var members) = self else { return }
        members.removeAll { $0.name == name }
        self = .object(members)
    }

    /// The value as JSON without spaces.
    package var encoded: [UInt8] {
        var bytes: [UInt8] = []
        append(to: &bytes)
        return bytes
    }

    /// Appends the value as JSON without spaces.
    package func append(to bytes: inout [UInt8]) {
        switch self {
        case .object(let members):
            bytes.append(UInt8(ascii: "{"))
            for (index, member) in members.enumerated() {
                if index > 0 { bytes.append(UInt8(ascii: ",")) }
                JSONText.append(member.name, to: &bytes)
                bytes.append(UInt8(ascii: ":"))
                member.value.append(to: &bytes)
            }
            bytes.append(UInt8(ascii: "}"))
        case .array(let elements):
            bytes.append(UInt8(ascii: "["))
            for (index, element) in elements.enumerated() {
                if index > 0 { bytes.append(UInt8(ascii: ",")) }
                element.append(to: &bytes)
            }
            bytes.append(UInt8(ascii: "]"))
        case .string(let text): JSONText.append(text, to: &bytes)
        case .literal(let literal): bytes += literal
        }
    }
}

extension JSONValue: ExpressibleByStringLiteral, ExpressibleByDictionaryLiteral,
    ExpressibleByArrayLiteral
{
    package init(stringLiteral value: String) { self = .string(value) }

    package init(dictionaryLiteral members: (String, JSONValue)...) {
        self = .object(members.map { Member($0.0, $0.1) })
    }

    package init(arrayLiteral elements: JSONValue...) { self = .array(elements) }
}
