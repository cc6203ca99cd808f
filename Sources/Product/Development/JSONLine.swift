/// One JSON object on one line, its members in the order in which they were added.
package struct JSONLine: Sendable, CustomStringConvertible {
    private var members: [String] = []

    /// An object without members.
    package init() {}

    /// Adds a text.
    package mutating func add(_ name: String, _ value: String) {
        append(name, Self.quoted(value))
    }

    /// Adds a number, or `null`.
    package mutating func add(_ name: String, _ value: (some BinaryInteger)?) {
        append(name, value.map { String($0) } ?? "null")
    }

    /// Adds a truth value.
    package mutating func add(_ name: String, _ value: Bool) {
        append(name, value ? "true" : "false")
    }

    /// Adds a list of texts.
    package mutating func add(_ name: String, _ values: [String]) {
        append(name, "[" + values.map { Self.quoted($0) }.joined(separator: ",") + "]")
    }

    /// Adds an object.
    package mutating func add(_ name: String, _ object: JSONLine) {
        append(name, object.description)
    }

    /// Adds `null`.
    package mutating func addNull(_ name: String) {
        append(name, "null")
    }

    /// The object, without a line end.
    package var description: String {
        "{" + members.joined(separator: ",") + "}"
    }

    private mutating func append(_ name: String, _ value: String) {
        members.append(Self.quoted(name) + ":" + value)
    }

    /// RFC 8259: quotes, backslashes and control characters are escaped, all else is as it is.
    private static func quoted(_ text: String) -> String {
        var result = "\""
        for scalar in text.unicodeScalars {
            switch scalar {
            case "\"": result += "\\\""
            case "\\": result += "\\\\"
            case "\n": result += "\\n"
            case "\r": result += "\\r"
            case "\t": result += "\\t"
            case _ where scalar.value < 0x20:
                let digits = String(scalar.value, radix: 16)
                result += "\\u" + String(repeating: "0", count: 4 - digits.count) + digits
            default: result.unicodeScalars.append(scalar)
            }
        }
        return result + "\""
    }
}
