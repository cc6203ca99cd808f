import JSONScanning
import SluiceWire
import Testing
import Worker

/// What strangers send may be refused, and may never stop the worker.
@Suite struct HostileBytesTests {
    private static let samples = [
        Sample.hello, Sample.stop, Sample.usage,
        #"{"error":{"code":400,"message":"\\ud83d\\ude00"}}"#,
        #"{"model":"a","stream":null,"stream_options":{"x":[1,{}]},"max_tokens":7,"messages":["#
            + #"{"role":"user","content":[{"type":"text","text":"\\u00e9"},"b"]}]}"#,
        #"{"object":"list","data":[{"id":"m","max_model_len":4096},{"id":null}]}"#,
        #"{"model":"a","data":[{"embedding":[1,-2.5e1]},{"b64_json":"aGk="}],"#
            + #""usage":{"prompt_tokens":3}}"#,
        #"{"model":"a","input":["b",[1]],"n":2,"response_format":null,"encoding_format":"base64"}"#,
    ]

    private static let signs = Array("{}[]\",:\\0-e".utf8)

    @Test(arguments: 0..<50)
    func noMutationTrapsAnyReader(_ seed: Int) throws {
        var generator = SeededGenerator(seed: UInt64(seed))
        for sample in Self.samples {
            for _ in 0..<40 {
                var bytes = Array(sample.utf8)
                for _ in 0...Int.random(in: 0..<4, using: &generator) {
                    let place = Int.random(in: 0..<bytes.count, using: &generator)
                    switch Int.random(in: 0..<4, using: &generator) {
                    case 0: bytes[place] = UInt8.random(in: 0...255, using: &generator)
                    case 1: bytes.insert(Self.signs[place % Self.signs.count], at: place)
                    case 2: bytes.remove(at: place)
                    default: bytes += bytes[place...]
                    }
                    if bytes.isEmpty { bytes = [0x7B] }
                }
                _ = try? StreamEvent(bytes)
                _ = try? ListedModel.read(bytes)
                _ = try? PromptReader(.chat(.openAI(bytes)))
                let request = try? RequestRewriter.rewrite(bytes, model: "m", maxOutputTokens: 9)
                if let request { try expectWhole(request) }
                var answer = UpstreamAnswer(isOpenAI: seed % 2 == 0, model: "offer")
                _ = answer.received(bytes)
                if answer.outcome == nil { _ = answer.ended(tail: bytes) }
                #expect(answer.outcome != nil)
                let operation = seed % 2 == 0 ? TaskOperation.embedding : .image
                let counted = try? CountedRequest(bytes, operation, model: "m", resultsMax: 9)
                if let counted { try expectWhole(counted.body) }
                try pass(bytes, operation)
            }
        }
    }

    /// An answer that is taken as whole comes out the same however it is cut.
    private func pass(_ bytes: [UInt8], _ operation: TaskOperation) throws {
        func answer() -> CountedAnswer {
            CountedAnswer(operation, model: "offer", resultsMax: 9, encodesBase64: true)
        }
        var whole = answer()
        let parts = try? whole.push(bytes)
        var cut = answer()
        var pieces: [CountedAnswer.Part]? = []
        for byte in bytes {
            guard let more = try? cut.push([byte]) else {
                pieces = nil
                break
            }
            pieces? += more
        }
        #expect((parts == nil) == (pieces == nil))
        guard let parts, let pieces else { return }
        #expect(parts.flatMap(\.bytes) == pieces.flatMap(\.bytes))
        #expect(whole.usage == cut.usage)
        #expect(((try? whole.finish()) == nil) == ((try? cut.finish()) == nil))
    }

    /// What leaves is JSON again, whatever came.
    private func expectWhole(_ request: [UInt8]) throws {
        var cursor = JSONCursor(request)
        try cursor.skipValue()
        try cursor.expectEnd()
    }
}
