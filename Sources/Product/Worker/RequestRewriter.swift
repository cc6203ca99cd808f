package import JSONScanning

/// Turns a task's payload into the request that an OpenAI-compatible server gets.
package enum RequestRewriter {
    /// The request JSON with only these members set: `model`, `stream`, `stream_options`'s
    /// `include_usage`, and, where the task limits its output, `max_tokens` and
    /// `max_completion_tokens` cut to the limit (`max_tokens` is added where neither is there).
    /// All other bytes stay as they came.
    ///
    /// - Parameters:
    ///   - maxOutputTokens: 0 = not limited.
    package static func rewrite(
        _ body: [UInt8], model: String, maxOutputTokens: UInt32
    ) throws(JSONFault) -> [UInt8] {
        var cursor = JSONCursor(body)
        var found: Set<String> = []
        var edits: [(range: Range<Int>, bytes: [UInt8])] = []
        var isLimited = false
        /// Where `max_tokens` is there as null: a second one would be a duplicate.
        var nullLimit: Range<Int>?
        var isEmpty = true

        try cursor.beginObject()
        let insertionPoint = cursor.position
        while let key = try cursor.nextKey() {
            isEmpty = false
            guard Self.ownedKeys.contains(key) else {
                try cursor.skipValue()
                continue
            }
            guard found.insert(key).inserted else { throw .duplicateMember }
            let kind = try cursor.peekKind()
            if key == "stream_options", kind == .object {
                edits += try includeUsage(&cursor)
                continue
            }
            let range = try cursor.skipValue()
            switch key {
            case "model": edits.append((range, JSONText.quoted(model)))
            case "stream": edits.append((range, Array("true".utf8)))
            case "stream_options":
                guard kind == .null else { throw .unexpectedKind }
                edits.append((range, Array(#"{"include_usage":true}"#.utf8)))
            default:
                guard maxOutputTokens > 0 else { continue }
                guard kind != .null else {
                    if key == "max_tokens" { nullLimit = range }
                    continue
                }
                isLimited = true
                if !isWithin(maxOutputTokens, body[range]) {
                    edits.append((range, Array(String(maxOutputTokens).utf8)))
                }
            }
        }
        try cursor.expectEnd()

        var missing: [[UInt8]] = []
        if !found.contains("model") {
            missing.append(Array(#""model":"#.utf8) + JSONText.quoted(model))
        }
        if !found.contains("stream") { missing.append(Array(#""stream":true"#.utf8)) }
        if !found.contains("stream_options") {
            missing.append(Array(#""stream_options":{"include_usage":true}"#.utf8))
        }
        if maxOutputTokens > 0, !isLimited {
            if let nullLimit {
                edits.append((nullLimit, Array(String(maxOutputTokens).utf8)))
            } else {
                missing.append(Array(#""max_tokens":\#(maxOutputTokens)"#.utf8))
            }
        }
        if !missing.isEmpty {
            var insertion = Array(missing.joined(separator: [UInt8(ascii: ",")]))
            if !isEmpty { insertion.append(UInt8(ascii: ",")) }
            edits.append((insertionPoint..<insertionPoint, insertion))
        }
        return apply(edits, to: body)
    }

    /// The request for a prompt that came as plain text: a chat gets one user message, a
    /// completion the prompt.
    ///
    /// - Parameters:
    ///   - maxOutputTokens: 0 = not limited.
    package static func request(
        prompt: String, isChat: Bool, model: String, maxOutputTokens: UInt32
    ) -> [UInt8] {
        var body: [UInt8] = []
        body.reserveCapacity(prompt.utf8.count + 256)
        body += Array(#"{"model":"#.utf8)
        JSONText.append(model, to: &body)
        body += Array((isChat ? #","messages":[{"role":"user","content":"# : #","prompt":"#).utf8)
        JSONText.append(prompt, to: &body)
        if isChat { body += Array("}]".utf8) }
        body += Array(#","stream":true,"stream_options":{"include_usage":true}"#.utf8)
        if maxOutputTokens > 0 { body += Array(#","max_tokens":\#(maxOutputTokens)"#.utf8) }
        body.append(UInt8(ascii: "}"))
        return body
    }

    /// `event` with the bytes at `modelValue` replaced by the name of the offer.
    package static func rename(
        _ event: [UInt8], modelValue: Range<Int>?, to model: String
    ) -> [UInt8] {
        guard let modelValue else { return event }
        return apply([(modelValue, JSONText.quoted(model))], to: event)
    }

    private static let ownedKeys: Set<String> = [
        "model", "stream", "stream_options", "max_tokens", "max_completion_tokens",
    ]

    /// Edits that set `include_usage` in the `stream_options` object before the cursor.
    private static func includeUsage(
        _ cursor: inout JSONCursor
    ) throws(JSONFault) -> [(range: Range<Int>, bytes: [UInt8])] {
        var edit: (range: Range<Int>, bytes: [UInt8])?
        var isEmpty = true
        try cursor.beginObject()
        let insertionPoint = cursor.position
        while let key = try cursor.nextKey() {
            isEmpty = false
            let range = try cursor.skipValue()
            guard key == "include_usage" else { continue }
            guard edit == nil else { throw .duplicateMember }
            edit = (range, Array("true".utf8))
        }
        let missing = Array((#""include_usage":true"# + (isEmpty ? "" : ",")).utf8)
        return [edit ?? (insertionPoint..<insertionPoint, missing)]
    }

    /// Whether a JSON number is a plain whole number in 0…`limit`.
    private static func isWithin(_ limit: UInt32, _ number: ArraySlice<UInt8>) -> Bool {
        guard number.count <= 10, number.allSatisfy({ (0x30...0x39).contains($0) }) else {
            return false
        }
        return number.reduce(0) { $0 * 10 + UInt64($1 - 0x30) } <= UInt64(limit)
    }

    /// Replaces ranges that do not overlap, in one pass.
    static func apply(
        _ edits: [(range: Range<Int>, bytes: [UInt8])], to body: [UInt8]
    ) -> [UInt8] {
        var result: [UInt8] = []
        result.reserveCapacity(edits.reduce(body.count) { $0 + $1.bytes.count })
        var position = 0
        for edit in edits.sorted(by: { $0.range.lowerBound < $1.range.lowerBound }) {
            result += body[position..<edit.range.lowerBound]
            result += edit.bytes
            position = edit.range.upperBound
        }
        result += body[position...]
        return result
    }
}
