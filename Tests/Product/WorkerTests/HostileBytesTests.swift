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
            }
        }
    }

    /// What leaves is JSON again, whatever came.
    private func expectWhole(_ request: [UInt8]) throws {
        var cursor = JSONCursor(request)
        try cursor.skipValue()
        try cursor.expectEnd()
    }
}
