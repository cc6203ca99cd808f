package import Foundation

/// One thing that is wrong with the settings, in a sentence: where it stands, the value, what was
/// expected.
package struct ConfigurationProblem: Error, Equatable, Sendable, CustomStringConvertible {
    /// The setting's place; empty when the file as a whole is meant.
    package let key: String
    package let description: String

    init(_ key: String, _ description: String) {
        self.key = key
        self.description = description
    }
}

/// All that is wrong with the settings, never empty.
package struct ConfigurationError: Error, Equatable, Sendable, CustomStringConvertible {
    package let problems: [ConfigurationProblem]

    package var description: String {
        problems.map(\.description).joined(separator: "\nalso: ")
    }
}

/// A file of settings, read and checked: JSON of at most 1 MiB, in which comments and a comma too
/// many are allowed.
///
///     { "run": "/dev/shm/sluice", "data": "/var/lib/sluice",
///       "broker": { "port": 7700 }, "sidecar": { "segment-budget-mib": 4096 } }
package struct ConfigurationFile: Sendable {
    /// As the operator gave it.
    package let path: String
    /// By the place of their keys.
    let values: [String: String]

    private static let bytesMax = 1 << 20

    /// The processes that it is for: all, but worker and gateway alone where it speaks of nothing
    /// else.
    package var processes: [ConfiguredProcess] {
        let named = ConfiguredProcess.allCases.filter { process in
            values.keys.contains { $0.hasPrefix(process.rawValue + ".") }
        }
        let standAlone = values.keys.allSatisfy {
            $0.hasPrefix("worker.") || $0.hasPrefix("gateway.")
        }
        return standAlone && !named.isEmpty ? named : ConfiguredProcess.allCases
    }

    /// Reads the file; says everything that is wrong with it at once.
    package init(path: String) throws(ConfigurationError) {
        guard let data = FileManager.default.contents(atPath: path) else {
            throw Self.whole(path, "cannot be read; expected a file of JSON")
        }
        try self.init(path: path, data: data)
    }

    /// The same from its bytes.
    package init(path: String, data: Data) throws(ConfigurationError) {
        guard data.count <= Self.bytesMax else {
            throw Self.whole(path, "has \(data.count) bytes; expected at most \(Self.bytesMax)")
        }
        // The decoder of JSON5 traps on a key that begins with what is no UTF-8.
        guard String(validating: data, as: UTF8.self) != nil else {
            throw Self.whole(path, "is not text in UTF-8; expected a file of JSON")
        }
        let decoder = JSONDecoder()
        decoder.allowsJSON5 = true
        let root: JSONValue
        do {
            // A long number at the very end would be read on into the memory behind it, and trap.
            root = try decoder.decode(JSONValue.self, from: data + [UInt8(ascii: "\n")])
        } catch {
            throw Self.whole(
                path, "is not JSON; expected an object such as { \"broker\": { \"port\": 7700 } }")
        }
        guard case .object(let members) = root else {
            throw Self.whole(path, "holds \(root.kind); expected one object")
        }
        var reading = Reading(path: path)
        reading.read(members, section: nil)
        guard reading.problems.isEmpty else {
            throw ConfigurationError(problems: reading.problems.sorted { $0.key < $1.key })
        }
        self.path = path
        values = reading.values
    }

    private static func whole(_ path: String, _ text: String) -> ConfigurationError {
        ConfigurationError(problems: [ConfigurationProblem("", "\(path) \(text)")])
    }

    /// Takes what is right and notes what is wrong.
    private struct Reading {
        let path: String
        var values: [String: String] = [:]
        var problems: [ConfigurationProblem] = []

        mutating func read(_ members: [String: JSONValue], section: ConfiguredProcess?) {
            for (name, value) in members {
                if section == nil, let inner = ConfiguredProcess(rawValue: name) {
                    guard case .object(let members) = value else {
                        note(name, "is \(value.kind); expected an object")
                        continue
                    }
                    read(members, section: inner)
                    continue
                }
                let known = ConfigurationKey.all.first { $0.name == name && $0.section == section }
                if let known {
                    take(value, for: known)
                } else {
                    unknown(name, section)
                }
            }
        }

        private mutating func take(_ value: JSONValue, for key: ConfigurationKey) {
            let text: String
            switch (value, key.kind) {
            case (.number(let number), .number), (.number(let number), .numberOrWord),
                (.number(let number), .decimal), (.fraction(let number), .decimal):
                text = number
            case (.truth(let value), .truth): text = "\(value)"
            case (.text(let word), .numberOrWord), (.text(let word), .list): text = word
            case (.list(let words), .list) where !words.contains(where: { $0.contains(",") }):
                text = words.joined(separator: ",")
            case (.text(let word), .text), (.text(let word), .word), (.text(let word), .database):
                text = word
            default:
                let words = key.expectation(of: "") ?? "expected text"
                let found = if case .text(let text) = value { shown(text) } else { value.kind }
                return note(key.path, "is \(found); \(words)")
            }
            if case .database = key.kind, ConfigurationKey.holdsPassword(text) {
                return note(
                    key.path,
                    "holds a password (not shown); expected a URL without one: put it into a file "
                        + "that only the sidecar's user may read, and name that as store-file")
            }
            if let words = key.expectation(of: text) {
                return note(key.path, "is \(shown(text)); \(words)")
            }
            values[key.path] = text
        }

        private mutating func unknown(_ name: String, _ section: ConfiguredProcess?) {
            let path = section.map { "\($0.rawValue).\(name)" } ?? name
            // A right name in the wrong section is nearer than any other.
            let nearest =
                ConfigurationKey.all.first { $0.name == name }?.path
                ?? NearestName.of(
                    path,
                    among: ConfigurationKey.all.map(\.path)
                        + ConfiguredProcess.allCases.map(\.rawValue))
            note(path, "is not a setting; the nearest that is: \(nearest)")
        }

        private mutating func note(_ key: String, _ text: String) {
            problems.append(ConfigurationProblem(key, "\(path): \(shown(key, bare: true)) \(text)"))
        }

        /// A text from the file, short and on one line.
        private func shown(_ text: String, bare: Bool = false) -> String {
            let plain = String(
                text.unicodeScalars.prefix(80).map { $0.value < 32 ? "?" : Character($0) })
            return bare ? plain : "\"\(plain)\""
        }
    }
}

/// JSON as far as settings need it.
private enum JSONValue: Decodable {
    case text(String)
    /// Its digits, where it is whole.
    case number(String)
    /// A number that is not whole.
    case fraction(String)
    case truth(Bool)
    /// A list of texts.
    case list([String])
    case object([String: JSONValue])
    case other(String)

    init(from decoder: any Decoder) throws {
        let container = try decoder.singleValueContainer()
        if container.decodeNil() {
            self = .other("null")
        } else if let value = try? container.decode(Bool.self) {
            self = .truth(value)
        } else if let value = try? container.decode(Int.self) {
            self = .number("\(value)")
        } else if let value = try? container.decode(Double.self) {
            self = .fraction("\(value)")
        } else if let value = try? container.decode([String].self) {
            self = .list(value)
        } else if let value = try? container.decode(String.self) {
            self = .text(value)
        } else if let value = try? container.decode([String: JSONValue].self) {
            self = .object(value)
        } else {
            self = .other("a list")
        }
    }

    /// For messages. A text is not shown by itself: it may be a secret in the wrong place.
    var kind: String {
        switch self {
        case .text: "a text"
        case .number(let digits): digits
        case .fraction(let digits): digits
        case .truth(let value): "\(value)"
        case .list: "a list"
        case .object: "an object"
        case .other(let words): words
        }
    }
}

/// The known name that is the fewest edits away.
enum NearestName {
    static func of(_ name: String, among known: [String]) -> String {
        let wanted = Array(name.utf8.prefix(64))
        let distances = known.map { (distance(wanted, Array($0.utf8)), $0) }
        return distances.min { $0.0 < $1.0 }?.1 ?? ""
    }

    /// Letters to insert, remove or replace (Levenshtein).
    static func distance(_ first: [UInt8], _ second: [UInt8]) -> Int {
        var row = Array(0...second.count)
        for (index, letter) in first.enumerated() {
            var diagonal = row[0]
            row[0] = index + 1
            for (column, other) in second.enumerated() {
                let replaced = diagonal + (letter == other ? 0 : 1)
                diagonal = row[column + 1]
                row[column + 1] = min(replaced, row[column] + 1, row[column + 1] + 1)
            }
        }
        return row[second.count]
    }
}
