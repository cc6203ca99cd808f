import JSONScanning

/// Any bytes as JSON from a client or an engine: skipped where they lie, read as a value, and
/// walked as an object. The readings agree on what JSON is, and a value that is written is read
/// again as the same.
package enum JSONFuzz {
    package static func run(_ text: [UInt8]) {
        let value = try? JSONValue(parsing: text)
        let skipped = skip(text)
        // Reading a value refuses one level of nesting earlier than skipping.
        if value != nil { precondition(skipped, "what is read cannot be skipped") }
        if skipped { precondition(value != nil || isDeep(text), "what is skipped cannot be read") }
        if let value {
            let encoded = value.encoded
            precondition(
                (try? JSONValue(parsing: encoded)) == value,
                "what was written reads as something else")
            inspect(value)
        }
        walk(text)
    }

    private static func skip(_ text: [UInt8]) -> Bool {
        var cursor = JSONCursor(text)
        do throws(JSONFault) {
            let place = try cursor.skipValue()
            precondition(place.lowerBound >= 0 && place.upperBound <= text.count)
            try cursor.expectEnd()
            return true
        } catch {
            return false
        }
    }

    private static func isDeep(_ text: [UInt8]) -> Bool {
        do throws(JSONFault) {
            _ = try JSONValue(parsing: text)
            return false
        } catch {
            return error == .tooDeep
        }
    }

    /// Everything that a reader may ask of a value.
    private static func inspect(_ value: JSONValue) {
        _ = value.boolean
        _ = value.integer
        _ = value.text
        for element in value.elements ?? [] { inspect(element) }
        guard let members = value.members else { return }
        var changed = value
        for member in members {
            precondition(value[member.name] != nil, "a member is not found")
            changed.set(member.name, .null)
            inspect(member.value)
        }
        for member in members { changed.remove(member.name) }
        precondition(changed == .emptyObject, "members stay")
    }

    /// The way requests are read: members of an object, by what their value must be.
    private static func walk(_ text: [UInt8]) {
        var cursor = JSONCursor(text)
        do throws(JSONFault) {
            try cursor.beginObject()
            var turn = 0
            while try cursor.nextKey() != nil {
                turn += 1
                switch turn & 3 {
                case 0: _ = try cursor.stringIfAny()
                case 1: _ = try cursor.integer(upTo: .max)
                case 2: _ = try cursor.skipsNonEmptyString()
                default:
                    guard try cursor.peekKind() == .array else {
                        try cursor.skipValue()
                        continue
                    }
                    try cursor.beginArray()
                    while try cursor.nextElement() { try cursor.skipValue() }
                }
            }
            try cursor.expectEnd()
        } catch {
            return
        }
    }
}
