package import JSONScanning

/// Joins the events of an answer to the one object that a client gets who did not ask for a stream
/// ([P12]). Members that nobody here knows are kept: text and arrays of a delta are joined, of
/// anything else the last value stands.
package struct CompletionJoiner {
    private var members: JSONValue = .emptyObject
    private var choices: [Int64: Choice] = [:]
    private let isChat: Bool

    /// One of several answers to the same request.
    private struct Choice {
        /// `message` of a chat; unused for a completion.
        var message = Growing(["role": "assistant", "content": .null])
        /// The other members.
        var rest = Growing(.emptyObject)
    }

    /// An object that grows event by event. Its texts grow in place: joining values instead would
    /// copy a long answer once for every token.
    private struct Growing {
        private var object: JSONValue
        private var texts: [String: String] = [:]

        init(_ object: JSONValue) {
            self.object = object
        }

        mutating func take(_ member: JSONValue.Member) {
            guard let piece = member.value.text, !repeatedNames.contains(member.name) else {
                CompletionJoiner.merge([member], into: &object)
                return
            }
            // Keeps the member's place among the others.
            if texts[member.name] == nil { object.set(member.name, "") }
            texts[member.name, default: ""] += piece
        }

        var joined: JSONValue {
            var joined = object
            for (name, text) in texts { joined.set(name, .string(text)) }
            return joined
        }
    }

    /// For the events of `/v1/chat/completions`, or of `/v1/completions`.
    package init(isChat: Bool) {
        self.isChat = isChat
    }

    /// Takes the next event.
    package mutating func add(_ event: [UInt8]) throws(JSONFault) {
        let event = try JSONValue(parsing: event)
        guard let eventMembers = event.members else { throw .unexpectedKind }
        for member in eventMembers where member.name != "choices" {
            guard !member.value.isNull || members[member.name] == nil else { continue }
            members.set(member.name, member.value)
        }
        for (position, element) in (event["choices"]?.elements ?? []).enumerated() {
            guard let choiceMembers = element.members else { throw .unexpectedKind }
            let index = element["index"]?.integer ?? Int64(position)
            for member in choiceMembers {
                guard member.name == "delta", isChat else {
                    choices[index, default: Choice()].rest.take(member)
                    continue
                }
                for part in member.value.members ?? [] {
                    choices[index, default: Choice()].message.take(part)
                }
            }
        }
    }

    /// The object.
    package consuming func joined() -> [UInt8] {
        var object = members
        if isChat { object.set("object", "chat.completion") }
        let list = choices.sorted { $0.key < $1.key }.map { index, choice in
            var value = choice.rest.joined
            value.set("index", .number(index))
            if isChat { value.set("message", Self.withoutIndices(choice.message.joined)) }
            if value["finish_reason"] == nil { value.set("finish_reason", .null) }
            return value
        }
        object.set("choices", .array(list))
        return object.encoded
    }

    /// Members whose value is said again rather than continued.
    private static let repeatedNames: Set<String> = [
        "role", "type", "id", "index", "finish_reason", "object", "model",
    ]

    private static func merge(_ delta: JSONValue, into target: inout JSONValue) {
        guard let members = delta.members else { return }
        merge(members, into: &target)
    }

    private static func merge(_ members: [JSONValue.Member], into target: inout JSONValue) {
        for member in members {
            guard let old = target.present(member.name) else {
                target.set(member.name, member.value)
                continue
            }
            guard !member.value.isNull else { continue }
            target.set(member.name, continued(old, by: member.value, name: member.name))
        }
    }

    private static func continued(
        _ old: JSONValue, by new: JSONValue, name: String
    ) -> JSONValue {
        switch (old, new) {
        case (.string(let first), .string(let second)):
            // Engines that repeat a whole function name are known; one that repeats a text is not.
            let isRepeated = repeatedNames.contains(name) || name == "name" && first == second
            return .string(isRepeated ? second : first + second)
        case (.object, .object):
            var merged = old
            merge(new, into: &merged)
            return merged
        case (.array(let first), .array(let second)): return .array(merged(first, second))
        default: return new
        }
    }

    /// Elements with an `index` continue the one of that index; others are added.
    private static func merged(_ old: [JSONValue], _ new: [JSONValue]) -> [JSONValue] {
        var result = old
        for element in new {
            let index = element["index"]?.integer
            if let index, let place = result.firstIndex(where: { $0["index"]?.integer == index }) {
                merge(element, into: &result[place])
            } else {
                result.append(element)
            }
        }
        return result
    }

    /// The tool calls of a message have no indices, unlike those of deltas.
    private static func withoutIndices(_ message: JSONValue) -> JSONValue {
        guard let calls = message["tool_calls"]?.elements else { return message }
        var message = message
        message.set(
            "tool_calls",
            .array(
                calls.map { call in
                    var call = call
                    call.remove("index")
                    return call
                }))
        return message
    }
}

/// What the gateway looks at in an event on its way.
package enum EventGlance {
    /// Whether an event brings the usage and nothing else: no choice, and `usage` is an object.
    package static func isUsageOnly(_ event: [UInt8]) -> Bool {
        var cursor = JSONCursor(event)
        var hasUsage = false
        do {
            try cursor.beginObject()
            while let key = try cursor.nextKey() {
                switch key {
                case "usage":
                    hasUsage = try cursor.peekKind() == .object
                    try cursor.skipValue()
                case "choices":
                    guard try cursor.peekKind() == .array else { return false }
                    try cursor.beginArray()
                    guard try !cursor.nextElement() else { return false }
                default: try cursor.skipValue()
                }
            }
            return hasUsage
        } catch {
            return false
        }
    }
}
