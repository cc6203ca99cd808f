package import JSONScanning
package import SluiceWire

/// What the worker must know of one event of an OpenAI-compatible stream
/// (`chat.completion.chunk` or `text_completion`); everything else in it is nobody's business here.
package struct StreamEvent: Equatable {
    /// Numbers that the engine itself counted.
    package struct EngineUsage: Equatable {
        package var inputTokens: Int?
        package var cachedTokens = 0
        package var outputTokens: Int?
        package var reasoningTokens: Int?
    }

    /// Place of the value of the top-level `model`.
    package var modelValue: Range<Int>?
    /// Choices whose delta carries something the model wrote.
    package var deltas = 0
    /// Those of `deltas` that carry reasoning alone.
    package var reasoningDeltas = 0
    /// The first choice's text; empty where there is none.
    package var text = ""
    /// The first choice's reasoning; empty where there is none.
    package var reasoningText = ""
    /// Why a choice stopped, where the event says so.
    package var finishReason: FinishReason?
    package var usage: EngineUsage?
    /// The event reports a failure: it has an `error`, or a choice stopped because of one.
    package var isError = false
    /// The event has an `error`.
    package var hasErrorBody = false
    /// HTTP-like status of `error.code`, where there is one.
    package var errorStatus: Int?

    /// Largest count an engine's usage is believed to hold.
    package static let tokensMax = 10_000_000

    /// Reads an event's data.
    package init(_ data: [UInt8]) throws(JSONFault) {
        var cursor = JSONCursor(data)
        try cursor.beginObject()
        while let key = try cursor.nextKey() {
            switch key {
            case "model":
                guard modelValue == nil else { throw .duplicateMember }
                modelValue = try cursor.skipValue()
            case "choices" where try cursor.peekKind() == .array:
                try cursor.beginArray()
                while try cursor.nextElement() { try readChoice(&cursor) }
            case "usage" where try cursor.peekKind() == .object: try readUsage(&cursor)
            case "error" where try cursor.peekKind() != .null: try readError(&cursor)
            default: try cursor.skipValue()
            }
        }
        try cursor.expectEnd()
    }

    private mutating func readChoice(_ cursor: inout JSONCursor) throws(JSONFault) {
        guard try cursor.peekKind() == .object else { throw .unexpectedKind }
        var delta = Delta()
        var index = 0
        try cursor.beginObject()
        while let key = try cursor.nextKey() {
            switch key {
            case "index": index = try cursor.integer(upTo: Int(UInt32.max)) ?? 0
            case "delta" where try cursor.peekKind() == .object: try delta.read(&cursor)
            case "text": delta.text = try cursor.stringIfAny() ?? ""
            case "finish_reason":
                guard let reason = try cursor.stringIfAny() else { continue }
                readFinishReason(reason)
            default: try cursor.skipValue()
            }
        }
        if delta.hasOutput {
            deltas += 1
        } else if !delta.reasoning.isEmpty {
            deltas += 1
            reasoningDeltas += 1
        }
        guard index == 0 else { return }
        text += delta.text
        reasoningText += delta.reasoning
    }

    private mutating func readFinishReason(_ reason: String) {
        switch reason {
        case "": break
        case "stop", "eos", "end_turn": finishReason = .stop
        case "length", "max_tokens": finishReason = .length
        case "error":
            finishReason = .other
            isError = true
        default: finishReason = .other
        }
    }

    private mutating func readUsage(_ cursor: inout JSONCursor) throws(JSONFault) {
        var found = EngineUsage()
        try cursor.beginObject()
        while let key = try cursor.nextKey() {
            switch key {
            case "prompt_tokens": found.inputTokens = try cursor.integer(upTo: Self.tokensMax)
            case "completion_tokens":
                found.outputTokens = try cursor.integer(upTo: Self.tokensMax)
            case "prompt_tokens_details" where try cursor.peekKind() == .object:
                found.cachedTokens = try Self.readMember("cached_tokens", &cursor) ?? 0
            case "completion_tokens_details" where try cursor.peekKind() == .object:
                found.reasoningTokens = try Self.readMember("reasoning_tokens", &cursor)
            default: try cursor.skipValue()
            }
        }
        usage = found
    }

    private mutating func readError(_ cursor: inout JSONCursor) throws(JSONFault) {
        isError = true
        hasErrorBody = true
        guard try cursor.peekKind() == .object else {
            try cursor.skipValue()
            return
        }
        errorStatus = try Self.readMember("code", &cursor)
    }

    /// The whole number that an object's member holds, if any; moves over the object.
    private static func readMember(
        _ name: String, _ cursor: inout JSONCursor
    ) throws(JSONFault) -> Int? {
        var value: Int?
        try cursor.beginObject()
        while let key = try cursor.nextKey() {
            if key == name {
                value = try cursor.integer(upTo: tokensMax)
            } else {
                try cursor.skipValue()
            }
        }
        return value
    }
}

/// What one choice's delta carries.
private struct Delta {
    var text = ""
    var reasoning = ""
    /// A tool call, a refusal: output that is not text.
    var hasOther = false

    var hasOutput: Bool { !text.isEmpty || hasOther }

    mutating func read(_ cursor: inout JSONCursor) throws(JSONFault) {
        try cursor.beginObject()
        while let key = try cursor.nextKey() {
            switch key {
            case "content": text = try cursor.stringIfAny() ?? ""
            case "reasoning_content", "reasoning":
                // Some servers send the same words under both names.
                let found = try cursor.stringIfAny() ?? ""
                if reasoning.isEmpty { reasoning = found }
            case "refusal":
                if try cursor.skipsNonEmptyString() { hasOther = true }
            case "function_call" where try cursor.peekKind() == .object:
                try readFunction(&cursor)
            case "tool_calls" where try cursor.peekKind() == .array:
                try cursor.beginArray()
                while try cursor.nextElement() { try readToolCall(&cursor) }
            default: try cursor.skipValue()
            }
        }
    }

    private mutating func readToolCall(_ cursor: inout JSONCursor) throws(JSONFault) {
        guard try cursor.peekKind() == .object else { throw .unexpectedKind }
        try cursor.beginObject()
        while let key = try cursor.nextKey() {
            if key == "function", try cursor.peekKind() == .object {
                try readFunction(&cursor)
            } else {
                try cursor.skipValue()
            }
        }
    }

    private mutating func readFunction(_ cursor: inout JSONCursor) throws(JSONFault) {
        try cursor.beginObject()
        while let key = try cursor.nextKey() {
            if key == "name" || key == "arguments" {
                if try cursor.skipsNonEmptyString() { hasOther = true }
            } else {
                try cursor.skipValue()
            }
        }
    }
}
