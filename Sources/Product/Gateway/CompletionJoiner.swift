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

        mutating func take(_ member: JSONValue.Member) throws(JSONFault) {
            guard let piece = member.value.text, !repeatedNames.contains(member.name) else {
                return try CompletionJoiner.merge([member], into: &object)
            }
            // Keeps the member's place among the others.
            if texts[member.name] == nil {
                try CompletionJoiner.set(member.name, "", in: &object)
            }
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
            try Self.set(member.name, member.value, in: &members)
        }
        for (position, element) in (event["choices"]?.elements ?? []).enumerated() {
            guard let choiceMembers = element.members else { throw .unexpectedKind }
            let index = element["index"]?.integer ?? Int64(position)
            guard choices[index] != nil || choices.count < Self.membersMax else { throw .tooDeep }
            for member in choiceMembers {
                guard member.name == "delta", isChat else {
                    try choices[index, default: Choice()].rest.take(member)
                    continue
                }
                for part in member.value.members ?? [] {
                    try choices[index, default: Choice()].message.take(part)
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

    /// Members of one object, and choices: each is looked for among all, so an answer that brings
    /// ever new ones must not take time without end.
    private static let membersMax = 1_024
    /// The same of an array's elements that may be continued: the last so many.
    private static let openElementsMax = 128

    private static func set(
        _ name: String, _ value: JSONValue, in object: inout JSONValue
    ) throws(JSONFault) {
        guard object[name] != nil || (object.members?.count ?? 0) < membersMax else {
            throw .tooDeep
        }
        object.set(name, value)
    }

    private static func merge(
        _ members: [JSONValue.Member], into target: inout JSONValue
    ) throws(JSONFault) {
        for member in members {
            guard target.present(member.name) != nil else {
                try set(member.name, member.value, in: &target)
                continue
            }
            guard !member.value.isNull else { continue }
            try target.change(member.name) { (old: inout JSONValue) throws(JSONFault) in
                try carryOn(&old, member.value, name: member.name)
            }
        }
    }

    /// In place: a copy of what is there, for each event, would take ever longer.
    private static func carryOn(
        _ old: inout JSONValue, _ new: JSONValue, name: String
    ) throws(JSONFault) {
        switch (old, new) {
        case (.string(var text), .string(let more)):
            old = .null
            // Engines that repeat a whole function name are known; one that repeats a text is not.
            let isRepeated = repeatedNames.contains(name) || name == "name" && text == more
            if isRepeated { text = more } else { text += more }
            old = .string(text)
        case (.object, .object(let members)): try merge(members, into: &old)
        case (.array(var elements), .array(let more)):
            old = .null
            try append(more, to: &elements)
            old = .array(elements)
        default: old = new
        }
    }

    /// Elements with an `index` continue the one of that index; others are added.
    private static func append(
        _ new: [JSONValue], to elements: inout [JSONValue]
    ) throws(JSONFault) {
        for element in new {
            let index = element["index"]?.integer
            let places = max(0, elements.count - openElementsMax)..<elements.count
            if let index, let members = element.members,
                let place = places.first(where: { elements[$0]["index"]?.integer == index })
            {
                try merge(members, into: &elements[place])
            } else {
                elements.append(element)
            }
        }
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
