import SluiceWire
import Testing
import Worker

@Suite struct CountedAnswerTests {
    private static let embeddings =
        #"{"object":"list","x":{"data":[{"embedding":[1]}],"model":"no"}, "data":["#
        + #"{"object":"embedding","index":0,"embedding":[0.5, -1e-3,1]},"#
        + #"{"object":"embedding","index":1,"embedding":[0.25,0,-2.5E2],"model":"in\"ner"}],"#
        + #""model":"up/m","usage":{"prompt_tokens":8,"total_tokens":8},"end":null}"#
    private static let images =
        #"{"created":1,"data":[{"b64_json":"aGk="},{"revised_prompt":"\\\"]}","b64_json":"aG8="}],"#
        + #""usage":{"input_tokens":50,"input_tokens_details":{"text_tokens":10}}}"#

    /// The bytes, counts and usage of a whole answer that comes in pieces of this size.
    private func pass(
        _ text: String, _ operation: TaskOperation = .embedding, pieces: Int = .max,
        resultsMax: UInt32 = 2, encodesBase64: Bool = false
    ) throws -> (text: String, increments: [Int], usage: Usage) {
        var answer = CountedAnswer(
            operation, model: "offer", resultsMax: resultsMax, encodesBase64: encodesBase64)
        var parts: [CountedAnswer.Part] = []
        let bytes = Array(text.utf8)
        var start = 0
        while start < bytes.count {
            let end = start + min(pieces, bytes.count - start)
            parts += try answer.push(Array(bytes[start..<end]))
            start = end
        }
        try answer.finish()
        return (
            String(decoding: parts.flatMap(\.bytes), as: UTF8.self), parts.map(\.results),
            answer.usage
        )
    }

    @Test(
        "all passes as it came but for the model's name, however it is cut",
        arguments: [1, 2, 7, 64, Int.max])
    func verbatim(_ pieces: Int) throws {
        let embeddings = try pass(Self.embeddings, pieces: pieces)
        #expect(embeddings.text == Self.embeddings.replacing(#""up/m""#, with: #""offer""#))
        #expect(embeddings.usage == Usage(inputTokens: 8, outputTokens: 2))
        #expect(embeddings.increments.reduce(0, +) == 2)
        let images = try pass(Self.images, .image, pieces: pieces)
        #expect(images.text == Self.images)
        #expect(images.usage == Usage(inputTokens: 50, outputTokens: 2))
    }

    @Test("[K3] the increment is on the part that ends with the result")
    func increments() throws {
        var answer = CountedAnswer(
            .image, model: "offer", resultsMax: 2, encodesBase64: false)
        #expect(try answer.push(Array(#"{"data":[{"b64_json":"a"#.utf8)).isEmpty)
        let first = try answer.push(Array(#"b"},{"b64"#.utf8))
        #expect(
            first == [
                .init(bytes: Array(#"{"data":[{"b64_json":"ab"}"#.utf8), results: 1),
                .init(bytes: Array(#",{"b64"#.utf8), results: 0),
            ])
        let second = try answer.push(Array(#"_json":"c"}"#.utf8))
        #expect(second == [.init(bytes: Array(#"_json":"c"}"#.utf8), results: 1)])
        let end = try answer.push(Array("]}".utf8))
        #expect(end == [.init(bytes: Array("]}".utf8), results: 0)])
        try answer.finish()
    }

    @Test("[P22] what comes before the first result waits, up to 65,536 bytes")
    func leading() throws {
        var answer = CountedAnswer(
            .image, model: "offer", resultsMax: 1, encodesBase64: false)
        let opening = Array(#"{"data":[{"b64_json":""#.utf8)
        #expect(try answer.push(opening).isEmpty)
        let most = CountedAnswer.leadingBytesMax - opening.count
        #expect(try answer.push([UInt8](repeating: 0x41, count: most)).isEmpty)
        let parts = try answer.push([0x41])
        #expect(parts.map(\.bytes.count) == [CountedAnswer.leadingBytesMax + 1])
        #expect(parts.map(\.results) == [0])
        #expect(try answer.push([0x41]).map(\.bytes.count) == [1])
    }

    @Test(
        "numbers become base64 of 32-bit floats where that was asked for",
        arguments: [1, 5, Int.max])
    func base64(_ pieces: Int) throws {
        let answer = try pass(Self.embeddings, pieces: pieces, encodesBase64: true)
        // struct.pack("<3f", 0.5, -1e-3, 1) and (0.25, 0, -250), by Python's base64.
        #expect(answer.text.contains(#""index":0,"embedding":"AAAAP28Sg7oAAIA/"}"#))
        #expect(answer.text.contains(#""index":1,"embedding":"AACAPgAAAAAAAHrD","#))
        // Only what stands in data is an embedding.
        #expect(answer.text.contains(#"[{"embedding":[1]}]"#))
        let one = #"{"data":[{"embedding":[ 1 ]},{"embedding":[]}]}"#
        let padded = try pass(one, pieces: pieces, encodesBase64: true)
        #expect(padded.text == #"{"data":[{"embedding":"AACAPw=="},{"embedding":""}]}"#)
        let given = #"{"data":[{"embedding":"AACAPw=="}]}"#
        #expect(try pass(given, pieces: pieces, encodesBase64: true).text == given)
    }

    @Test(
        "what has no result counts none",
        arguments: [
            #"{"data":[]}"#, #"{"data":[{"url":"https://x"}]}"#, #"{"data":[{"b64_json":null}]}"#,
            #"{"error":{"message":"no"}}"#, #"{"b64_json":"x"}"#,
            #"{"data":{"a":{"b64_json":"x"}}}"#,
            #"{"data":[["b64_json"]]}"#, #"{"data":[{"a":{"b64_json":"x"}}]}"#, "{}",
        ])
    func withoutResults(_ text: String) {
        #expect(throws: CountedAnswer.Fault.withoutResults) { try pass(text, .image) }
    }

    @Test(
        "what is not one whole object is malformed",
        arguments: [
            "", " ", "[]", "x", #"{"data":[{"b64_json":"x"}]"#, #"{"data":[{"b64_json":"x"}]}}"#,
            #"{"data":[{"b64_json":"x"}]} x"#, #"{"data":[{"b64_json":"x"}}"#, #"{"data":[,]}"#,
            #"{"data" [] }"#, #"{"data":[]"b":1}"#, "{\"a\":\"\n\"}", #"{"a":1,}"#, #"{"a":}"#,
            #"{1:2}"#,
            #"{"a":"# + String(repeating: "[", count: 40),
        ])
    func malformed(_ text: String) {
        #expect(throws: CountedAnswer.Fault.malformed) { try pass(text, .image) }
    }

    @Test("numbers that are none do not become base64")
    func oddNumbers() {
        for element in ["1e99", "--1", "true", #""1""#, "[1]", "{}", "1 2"] {
            #expect(throws: CountedAnswer.Fault.malformed) {
                try pass(#"{"data":[{"embedding":[\#(element)]}]}"#, encodesBase64: true)
            }
        }
    }

    @Test("more results than the task may bring are a fault")
    func tooMany() {
        #expect(throws: CountedAnswer.Fault.tooManyResults) {
            try pass(Self.images, .image, resultsMax: 1)
        }
    }
}

@Suite struct CountedRequestTests {
    private func request(
        _ text: String, _ operation: TaskOperation, max: UInt32 = 2
    ) throws(RequestFault) -> CountedRequest {
        try CountedRequest(Array(text.utf8), operation, model: "up/m", resultsMax: max)
    }

    @Test("[P8] only the model's name and a missing response_format are set")
    func rewriting() throws {
        func body(_ text: String, _ operation: TaskOperation) throws -> String {
            String(decoding: try request(text, operation).body, as: UTF8.self)
        }
        #expect(
            try body(#"{"model":"a", "input":["x","y"],"dimensions":3.0,"z":1e400}"#, .embedding)
                == #"{"model":"up/m", "input":["x","y"],"dimensions":3.0,"z":1e400}"#)
        #expect(
            try body(#"{"prompt":"p"}"#, .image)
                == #"{"model":"up/m","response_format":"b64_json","prompt":"p"}"#)
        #expect(
            try body(#"{"model":"a","response_format":null}"#, .image)
                == #"{"model":"up/m","response_format":"b64_json"}"#)
        let whole = #"{"model":"up/m","response_format":"b64_json","n":2,"size":"1x1"}"#
        #expect(try body(whole, .image) == whole)
        #expect(try body("{}", .embedding) == #"{"model":"up/m"}"#)
    }

    @Test("base64 is asked for by encoding_format")
    func encoding() throws {
        #expect(try request(#"{"encoding_format":"base64"}"#, .embedding).wantsBase64)
        #expect(try !request(#"{"encoding_format":"float"}"#, .embedding).wantsBase64)
        #expect(try !request("{}", .embedding).wantsBase64)
    }

    @Test(
        "what a request may not ask for is refused",
        arguments: [
            ("[]", TaskOperation.image, RequestFault.ambiguous),
            (#"{"n":1,"n":2}"#, .image, .ambiguous),
            (#"{"n":"2"}"#, .image, .ambiguous),
            (#"{"n":3}"#, .image, .moreResultsThanSaid),
            (#"{"response_format":"url"}"#, .image, .asksForURL),
            (#"{"response_format":7}"#, .image, .asksForURL),
            (#"{"stream":true}"#, .image, .asksForStream),
            (#"{"input":["a","b","c"]}"#, .embedding, .moreResultsThanSaid),
            (#"{"input":[[1],[2],[3]]}"#, .embedding, .moreResultsThanSaid),
        ] as [(String, TaskOperation, RequestFault)])
    func refused(_ text: String, _ operation: TaskOperation, _ fault: RequestFault) {
        #expect(throws: fault) { try request(text, operation) }
    }

    @Test("an array of token numbers is one input")
    func tokens() throws {
        _ = try request(#"{"input":[1,2,3,4]}"#, .embedding, max: 1)
        _ = try request(#"{"input":"abc"}"#, .embedding, max: 1)
    }
}
