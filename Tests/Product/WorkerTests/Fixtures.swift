import SluiceWire
import Synchronization
import Worker

/// A word that may never be seen in a log line.
let canary = "c4n4ry-7f3a"

/// Keeps what a log writes.
final class LogLines: Sendable {
    private let lines = Mutex<[String]>([])

    var log: WorkerLog {
        WorkerLog { line in self.lines.withLock { $0.append(line) } }
    }

    var all: [String] { lines.withLock { $0 } }
}

extension Assignment {
    static func chat(
        _ payload: Payload, model: String = "offer", limit: UInt32 = 0,
        deadline: Duration = .seconds(60)
    ) -> Assignment {
        Assignment(
            id: TaskID(instance: 0xA, counter: 7), model: model, operation: .chat,
            payload: payload, maxOutputTokens: limit, deadline: .now + deadline)
    }

    static var openAIChat: Assignment {
        .chat(
            .openAI(
                Array(
                    (#"{"model":"offer","messages":[{"role":"user","content":"\#(canary)"}],"#
                        + #""seed":123456789012345678901234567890}"#).utf8)))
    }

    static var textChat: Assignment { .chat(.text(canary)) }
}

/// What the usual engine sends: a role, a comment, words, reasons and counts.
enum Sample {
    static let role = chunk(#"{"role":"assistant","content":""}"#)
    static let hello = chunk(#"{"content":"Hé😀 "}"#)
    static let world = chunk(#"{"content":"\#(canary)"}"#)
    static let stop = chunk("{}", finish: #""stop""#)
    static let usage =
        #"{"id":"x","model":"up/m","choices":[],"usage":{"prompt_tokens":11,"#
        + #""completion_tokens":5,"prompt_tokens_details":{"cached_tokens":4}}}"#

    static func chunk(_ delta: String, finish: String = "null") -> String {
        #"{"id":"x","model":"up/m","n":1.0,"choices":[{"index":0,"delta":\#(delta),"#
            + #""finish_reason":\#(finish)}]}"#
    }

    static func stream(_ events: [String], done: Bool = true) -> String {
        (events + (done ? ["[DONE]"] : [])).map { "data: \($0)\r\n\r\n" }.joined()
    }

    static let whole = ": waiting\n\n" + stream([role, hello, world, stop, usage])

    /// What the client gets of `whole`: the model's name is the offer's.
    static let relayed = [role, hello, world, stop, usage].map {
        $0.replacing("up/m", with: "offer")
    }
}
