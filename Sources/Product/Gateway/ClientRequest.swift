package import JSONScanning

/// What the gateway reads of a JSON request. Everything but the member `sluice` goes on byte for
/// byte.
package struct ClientRequest {
    /// The name that the client asked for.
    package var model: String
    /// Whether the client wants server-sent events.
    package var isStreaming = false
    /// Whether the client wants the event with the usage.
    package var includesUsage = false
    /// Answer tokens asked for at most, over all choices.
    package var maxOutputTokens: UInt32?
    /// The member `n`; nil where it is missing, null or no whole number in 0…1,024.
    package var choices: Int?
    /// The member `n` is there with a value that is no such number.
    package var hasOddChoices = false
    /// Embeddings that `input` asks for; nil where it is missing or neither text nor an array.
    package var inputs: Int?
    /// `response_format` where it is a string, as requests for images write it.
    package var responseFormat: String?
    /// The member `sluice`.
    package var extra: JSONValue?
    /// Each message's bytes; of the first `messagesMax`.
    package var messages: [[UInt8]] = []
    /// The request as it came, without `sluice`.
    package var payload: [UInt8]

    /// Reads a request. Throws a fault with status 400 that names the member that is wrong.
    package init(_ body: [UInt8]) throws(HTTPFault) {
        payload = body
        model = ""
        do {
            try read(body)
        } catch let fault as HTTPFault {
            throw fault
        } catch {
            throw .invalid("The body is not one JSON object.")
        }
        guard !model.isEmpty else {
            throw .invalid("The member model is missing or no text.", param: "model")
        }
    }

    private mutating func read(_ body: [UInt8]) throws {
        var cursor = JSONCursor(body)
        var found: Set<String> = []
        var cut: Range<Int>?
        var tokenLimit: Int?
        try cursor.beginObject()
        var isFirst = true
        while true {
            let start = cursor.position
            guard let key = try cursor.nextKey() else { break }
            defer { isFirst = false }
            guard Self.readKeys.contains(key) else {
                try cursor.skipValue()
                continue
            }
            guard found.insert(key).inserted else {
                throw HTTPFault.invalid("The member \(key) is there twice.", param: key)
            }
            switch key {
            case "model": model = try cursor.stringIfAny() ?? ""
            case "stream": isStreaming = try Self.flag(&cursor, key)
            case "stream_options":
                includesUsage =
                    try JSONValue(reading: &cursor).present("include_usage")?.boolean ?? false
            case "max_tokens", "max_completion_tokens":
                let limit = try cursor.integer(upTo: Int(Int32.max))
                tokenLimit = max(tokenLimit ?? 0, limit ?? 0)
            case "n":
                let isNull = try cursor.peekKind() == .null
                choices = try cursor.integer(upTo: 1_024)
                hasOddChoices = choices == nil && !isNull
            case "input": inputs = try cursor.embeddingInputs()
            case "response_format": responseFormat = try cursor.stringIfAny()
            case "messages": messages = try Self.elements(&cursor, of: body)
            default:
                extra = try JSONValue(reading: &cursor)
                cut = try Self.member(start, end: cursor.position, isFirst: isFirst, of: body)
            }
        }
        try cursor.expectEnd()
        if let tokenLimit, tokenLimit > 0 {
            maxOutputTokens = UInt32(exactly: tokenLimit * max(1, choices ?? 1))
        }
        if let cut { payload.removeSubrange(cut) }
    }

    /// So many are looked at for the keys of a conversation's prefixes.
    private static let messagesMax = 1_024

    private static let readKeys: Set<String> = [
        "model", "stream", "stream_options", "max_tokens", "max_completion_tokens", "n",
        "input", "response_format", "messages", "sluice",
    ]

    private static func flag(_ cursor: inout JSONCursor, _ key: String) throws -> Bool {
        let value = try JSONValue(reading: &cursor)
        if value.isNull { return false }
        guard let flag = value.boolean else {
            throw HTTPFault.invalid("The member \(key) is true or false.", param: key)
        }
        return flag
    }

    private static func elements(
        _ cursor: inout JSONCursor, of body: [UInt8]
    ) throws -> [[UInt8]] {
        guard try cursor.peekKind() == .array else {
            try cursor.skipValue()
            return []
        }
        var elements: [[UInt8]] = []
        try cursor.beginArray()
        while try cursor.nextElement() {
            let place = try cursor.skipValue()
            if elements.count < messagesMax { elements.append(Array(body[place])) }
        }
        return elements
    }

    /// A member with the comma that goes when it goes. `start` is behind what came before it.
    private static func member(
        _ start: Int, end: Int, isFirst: Bool, of body: [UInt8]
    ) throws -> Range<Int> {
        guard isFirst else { return start..<end }
        var next = end
        while next < body.count, [0x20, 0x0A, 0x0D, 0x09].contains(body[next]) { next += 1 }
        let hasSuccessor = next < body.count && body[next] == UInt8(ascii: ",")
        return start..<(hasSuccessor ? next + 1 : end)
    }
}
