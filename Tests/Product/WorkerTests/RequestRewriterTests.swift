import Foundation
import JSONScanning
import Testing
import Worker

@Suite struct RequestRewriterTests {
    private static let owned: Set<String> = [
        "model", "stream", "stream_options", "max_tokens", "max_completion_tokens",
    ]

    private func rewrite(_ text: String, model: String = "up", limit: UInt32 = 0) throws -> String {
        String(
            decoding: try RequestRewriter.rewrite(
                Array(text.utf8), model: model, maxOutputTokens: limit), as: UTF8.self)
    }

    private func object(_ text: String) throws -> [String: Any] {
        try #require(
            JSONSerialization.jsonObject(with: Data(text.utf8)) as? [String: Any])
    }

    /// Key and value of each member of the top level as they are written.
    private func members(_ text: String) throws -> [(key: String, value: String)] {
        let bytes = Array(text.utf8)
        var cursor = JSONCursor(bytes)
        var members: [(String, String)] = []
        try cursor.beginObject()
        while let key = try cursor.nextKey() {
            members.append((key, String(decoding: bytes[try cursor.skipValue()], as: UTF8.self)))
        }
        try cursor.expectEnd()
        return members
    }

    @Test func onlyTheOwnedMembersChange() throws {
        #expect(
            try rewrite(#" { "model" : "m", "seed":18446744073709551616.10, "stream":false } "#)
                == #" {"stream_options":{"include_usage":true}, "model" : "up", "#
                + #""seed":18446744073709551616.10, "stream":true } "#)
        #expect(
            try rewrite("{}")
                == #"{"model":"up","stream":true,"stream_options":{"include_usage":true}}"#)
    }

    @Test func otherStreamOptionsStay() throws {
        func options(_ value: String) throws -> String {
            let text = try rewrite(#"{"model":"m","stream":true,"stream_options":\#(value)}"#)
            return try #require(members(text).first { $0.key == "stream_options" }).value
        }
        #expect(try options("null") == #"{"include_usage":true}"#)
        #expect(try options("{}") == #"{"include_usage":true}"#)
        #expect(try options(#"{"include_usage":false}"#) == #"{"include_usage":true}"#)
        #expect(try options(#"{ "x": [1] }"#) == #"{"include_usage":true, "x": [1] }"#)
        #expect(throws: JSONFault.unexpectedKind) { try options("5") }
        #expect(throws: JSONFault.duplicateMember) {
            try options(#"{"include_usage":false,"include_usage":true}"#)
        }
    }

    @Test(arguments: [
        (#"{}"#, ["max_tokens": "50"]),
        (#"{"max_tokens":null}"#, ["max_tokens": "50"]),
        (#"{"max_tokens":50}"#, ["max_tokens": "50"]),
        (#"{"max_tokens":51}"#, ["max_tokens": "50"]),
        (#"{"max_tokens":7}"#, ["max_tokens": "7"]),
        (#"{"max_tokens":1e9}"#, ["max_tokens": "50"]),
        (#"{"max_tokens":-1}"#, ["max_tokens": "50"]),
        (#"{"max_tokens":99999999999999999999}"#, ["max_tokens": "50"]),
        (#"{"max_completion_tokens":60}"#, ["max_completion_tokens": "50"]),
        (
            #"{"max_completion_tokens":null}"#,
            ["max_completion_tokens": "null", "max_tokens": "50"]
        ),
        (
            #"{"max_completion_tokens":9,"max_tokens":null}"#,
            ["max_completion_tokens": "9", "max_tokens": "null"]
        ),
        (
            #"{"max_tokens":99,"max_completion_tokens":99}"#,
            ["max_completion_tokens": "50", "max_tokens": "50"]
        ),
    ])
    func theOutputLimitCutsWhatTheRequestAsksFor(_ body: String, _ limits: [String: String]) throws
    {
        let found = try members(rewrite(body, limit: 50)).filter { $0.key.hasPrefix("max") }
        #expect(Dictionary(uniqueKeysWithValues: found.map { ($0.key, $0.value) }) == limits)
    }

    @Test func withoutALimitTheRequestKeepsItsOwn() throws {
        let found = try members(rewrite(#"{"max_tokens":99999,"max_completion_tokens":null}"#))
        #expect(found.first { $0.key == "max_tokens" }?.value == "99999")
        #expect(found.first { $0.key == "max_completion_tokens" }?.value == "null")
    }

    @Test(arguments: [
        #"{"model":"a","model":"b"}"#, #"{"model":"a","mod\u0065l":"b"}"#,
        #"{"stream":true,"stream":false}"#, #"{"max_tokens":1,"max_tokens":9}"#,
    ])
    func anOwnedMemberThatComesTwiceIsRefused(_ body: String) {
        #expect(throws: JSONFault.duplicateMember) { try rewrite(body) }
    }

    @Test(arguments: ["", "[]", "null", "{", #"{"a":1}x"#, #"{"a":1}{"#, "\u{FEFF}{}"])
    func aBodyThatIsNoObjectIsRefused(_ body: String) {
        #expect(throws: JSONFault.malformed) { try rewrite(body) }
    }

    @Test(arguments: 0..<200)
    func everyOtherMemberKeepsItsBytes(_ seed: Int) throws {
        var generator = SeededGenerator(seed: UInt64(seed))
        var json = JSONWriter(generator: generator)
        let body = json.request(owned: Self.owned.sorted())
        generator = json.generator
        let limit =
            Bool.random(using: &generator) ? UInt32.random(in: 1...99, using: &generator) : 0

        let result = try rewrite(body, model: "org/up:7b", limit: limit)
        let before = try members(body).filter { !Self.owned.contains($0.key) }
        let after = try members(result).filter { !Self.owned.contains($0.key) }
        #expect(before.map { $0.key } == after.map { $0.key })
        #expect(before.map { $0.value } == after.map { $0.value })

        let read = try object(result)
        #expect(read["model"] as? String == "org/up:7b")
        #expect(read["stream"] as? Bool == true)
        #expect((read["stream_options"] as? [String: Any])?["include_usage"] as? Bool == true)
        if limit > 0 {
            let limits = ["max_tokens", "max_completion_tokens"].compactMap { read[$0] as? Int }
            #expect(!limits.isEmpty)
            #expect(limits.allSatisfy { $0 <= Int(limit) })
        }
        #expect(try rewrite(result, model: "org/up:7b", limit: limit) == result)
    }

    @Test func aPlainPromptBecomesARequestThatHoldsItExactly() throws {
        var generator = SeededGenerator(seed: 9)
        for _ in 0..<200 {
            let prompt = generator.text(upTo: 60)
            let chat = RequestRewriter.request(
                prompt: prompt, isChat: true, model: "a\"b", maxOutputTokens: 5)
            let read = try object(String(decoding: chat, as: UTF8.self))
            let messages = try #require(read["messages"] as? [[String: String]])
            #expect(messages == [["role": "user", "content": prompt]])
            #expect(read["model"] as? String == "a\"b")
            #expect(read["max_tokens"] as? Int == 5)
            #expect(read["stream"] as? Bool == true)

            let completion = RequestRewriter.request(
                prompt: prompt, isChat: false, model: "m", maxOutputTokens: 0)
            let other = try object(String(decoding: completion, as: UTF8.self))
            #expect(other["prompt"] as? String == prompt)
            #expect(other["max_tokens"] == nil)
        }
    }

    @Test func anEventChangesOnlyInItsModelName() throws {
        let data = Array(#"{"id":"1","model":"up","x":1.10,"choices":[{"model":"in"}]}"#.utf8)
        let renamed = RequestRewriter.rename(
            data, modelValue: try StreamEvent(data).modelValue, to: "offer")
        #expect(
            String(decoding: renamed, as: UTF8.self)
                == #"{"id":"1","model":"offer","x":1.10,"choices":[{"model":"in"}]}"#)
        let nameless = Array(#"{"choices":[]}"#.utf8)
        #expect(RequestRewriter.rename(nameless, modelValue: nil, to: "offer") == nameless)
    }
}

/// Writes random JSON with random whitespace and escapes.
private struct JSONWriter {
    var generator: SeededGenerator

    mutating func request(owned: [String]) -> String {
        var members: [String] = []
        for name in owned where Bool.random(using: &generator) {
            let value =
                switch name {
                case "model": string()
                case "stream": ["true", "false", "null"].randomElement(using: &generator) ?? ""
                case "stream_options":
                    ["null", "{}", #"{"include_usage": false }"#, #"{"other":[1,{}]}"#]
                        .randomElement(using: &generator) ?? ""
                default: ["null", "5", "500", "-3", "1e3"].randomElement(using: &generator) ?? ""
                }
            members.append("\(space())\"\(name)\"\(space()):\(space())\(value)\(space())")
        }
        for index in 0..<Int.random(in: 0...6, using: &generator) {
            members.append(#"\#(space())"k\#(index)"\#(space()):\#(space())\#(value(depth: 4))"#)
        }
        return space() + "{" + members.shuffled(using: &generator).joined(separator: ",") + space()
            + "}" + space()
    }

    private mutating func value(depth: Int) -> String {
        switch Int.random(in: 0...(depth > 0 ? 6 : 4), using: &generator) {
        case 0: return "null"
        case 1: return "true"
        case 2:
            return ["0", "-0.0", "1e99", "12345678901234567890123", "1.000"]
                .randomElement(using: &generator) ?? "0"
        case 3, 4: return string()
        case 5:
            let elements = (0..<Int.random(in: 0...3, using: &generator)).map { _ in
                space() + value(depth: depth - 1) + space()
            }
            return "[" + elements.joined(separator: ",") + "]"
        default:
            let members = (0..<Int.random(in: 0...3, using: &generator)).map { _ in
                string() + space() + ":" + value(depth: depth - 1)
            }
            return "{" + space() + members.joined(separator: ",") + space() + "}"
        }
    }

    private mutating func string() -> String {
        let escapes = [#"\u0041"#, #"\""#, #"\\"#, #"\/"#, #"\ud83d\ude00"#, "é", "x", "}", ","]
        return "\""
            + (0..<Int.random(in: 0...5, using: &generator))
            .map { _ in escapes.randomElement(using: &generator) ?? "" }.joined() + "\""
    }

    private mutating func space() -> String {
        ["", "", " ", "\n", "\t\r\n "].randomElement(using: &generator) ?? ""
    }
}
