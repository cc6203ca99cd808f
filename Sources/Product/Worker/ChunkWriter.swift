import Foundation
import JSONScanning
import SluiceWire

/// Writes the events of an OpenAI-compatible stream for an engine that has none of its own.
struct ChunkWriter {
    private let isChat: Bool
    /// The members that every event of the answer begins with.
    private let head: [UInt8]

    init(_ assignment: Assignment) {
        isChat = assignment.operation == .chat
        let object = isChat ? "chat.completion.chunk" : "text_completion"
        let prefix = isChat ? "chatcmpl-" : "cmpl-"
        let created = Int(Date().timeIntervalSince1970)
        head =
            Array(
                #"{"id":"\#(prefix)\#(assignment.id)","object":"\#(object)","created":\#(created)"#
                    .utf8) + Array(#","model":"#.utf8) + JSONText.quoted(assignment.model)
    }

    /// The event that opens the answer.
    var role: [UInt8] {
        choice(
            isChat ? Array(#""delta":{"role":"assistant","content":""}"#.utf8) : text(""),
            finish: "null")
    }

    /// One token.
    func token(_ token: String) -> [UInt8] {
        let delta = Array(#""delta":{"content":"#.utf8) + JSONText.quoted(token)
        return choice(isChat ? delta + [UInt8(ascii: "}")] : text(token), finish: "null")
    }

    /// The end of the answer.
    func finish(_ reason: FinishReason) -> [UInt8] {
        let name = reason == .length ? #""length""# : #""stop""#
        return choice(isChat ? Array(#""delta":{}"#.utf8) : text(""), finish: name)
    }

    /// The counts.
    func usage(_ usage: Usage) -> [UInt8] {
        let total = UInt64(usage.inputTokens) + UInt64(usage.outputTokens)
        return head
            + Array(
                (#","choices":[],"usage":{"prompt_tokens":\#(usage.inputTokens),"#
                    + #""completion_tokens":\#(usage.outputTokens),"total_tokens":\#(total)}}"#)
                    .utf8)
    }

    private func text(_ text: String) -> [UInt8] {
        Array(#""text":"#.utf8) + JSONText.quoted(text)
    }

    private func choice(_ members: [UInt8], finish: String) -> [UInt8] {
        head + Array(#","choices":[{"index":0,"#.utf8) + members
            + Array(#","finish_reason":\#(finish)}]}"#.utf8)
    }
}
