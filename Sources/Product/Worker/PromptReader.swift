package import JSONScanning
import SluiceWire

/// Finds the prompt that the built-in engines answer, and the limits of the answer.
package struct PromptReader: Equatable {
    /// The text of the prompt: of a chat its last user message, of a completion the prompt.
    package private(set) var prompt = ""
    /// The smallest output limit that request or task name; nil = not limited.
    package private(set) var maxTokens: Int?

    /// Reads an assignment's payload.
    package init(_ assignment: Assignment) throws(JSONFault) {
        if assignment.maxOutputTokens > 0 { maxTokens = Int(assignment.maxOutputTokens) }
        switch assignment.payload {
        case .text(let text): prompt = text
        case .openAI(let body): try read(body)
        }
    }

    private mutating func read(_ body: [UInt8]) throws(JSONFault) {
        var cursor = JSONCursor(body)
        try cursor.beginObject()
        while let key = try cursor.nextKey() {
            switch key {
            case "max_tokens", "max_completion_tokens":
                guard let limit = try cursor.integer(upTo: StreamEvent.tokensMax) else { continue }
                maxTokens = min(limit, maxTokens ?? limit)
            case "prompt": prompt = try Self.readText(&cursor)
            case "messages" where try cursor.peekKind() == .array:
                try cursor.beginArray()
                while try cursor.nextElement() { try readMessage(&cursor) }
            default: try cursor.skipValue()
            }
        }
        try cursor.expectEnd()
    }

    private mutating func readMessage(_ cursor: inout JSONCursor) throws(JSONFault) {
        guard try cursor.peekKind() == .object else { throw .unexpectedKind }
        var isUser = false
        var content = ""
        try cursor.beginObject()
        while let key = try cursor.nextKey() {
            switch key {
            case "role": isUser = try cursor.stringIfAny() == "user"
            case "content": content = try Self.readText(&cursor)
            default: try cursor.skipValue()
            }
        }
        if isUser { prompt = content }
    }

    /// A string, or the text of an array's parts joined; anything else is no text.
    private static func readText(_ cursor: inout JSONCursor) throws(JSONFault) -> String {
        guard try cursor.peekKind() == .array else { return try cursor.stringIfAny() ?? "" }
        var text = ""
        try cursor.beginArray()
        while try cursor.nextElement() {
            switch try cursor.peekKind() {
            case .string: text += try cursor.string()
            case .object:
                try cursor.beginObject()
                while let key = try cursor.nextKey() {
                    if key == "text" {
                        text += try cursor.stringIfAny() ?? ""
                    } else {
                        try cursor.skipValue()
                    }
                }
            case .array, .number, .boolean, .null: try cursor.skipValue()
            }
        }
        return text
    }
}
