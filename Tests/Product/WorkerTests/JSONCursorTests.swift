import JSONScanning
import Testing

@Suite struct JSONCursorTests {
    private func accepts(_ text: String) -> JSONFault? {
        do {
            var cursor = JSONCursor(Array(text.utf8))
            try cursor.skipValue()
            try cursor.expectEnd()
            return nil
        } catch { return error }
    }

    @Test(arguments: [
        "{}", "[]", " { \"a\" : [ 1 , -0.5e+10 , true , false , null , \"\" ] } ", "0", "-0", "1E9",
        #""\"\\\/\b\f\n\r\t\u00aF""#, "[[[]],{}]", #"{"a":{},"b":[{}]}"#, "\"\u{7F}é\"", "1e-1",
        "123456789012345678901234567890", #"{"a":1,"a":2}"#,
    ])
    func validTextIsPassedOver(_ text: String) {
        #expect(accepts(text) == nil)
    }

    @Test(arguments: [
        "", "{", "}", "[", "]", "[1,]", "[,1]", "[1 2]", #"{"a":1,}"#, #"{"a"}"#, #"{"a" 1}"#,
        #"{a:1}"#, #"{"a":}"#, #"{,"a":1}"#, #"{"a":1 "b":2}"#, "01", "-", "1.", ".5", "1e", "1e+",
        "+1", "0x1", "nul", "True", "nullx", "\"", "\"\n\"", #""\x""#, #""\u12g4""#, #""\u123""#,
        "[}", "{]", #"{"a":1]"#, "[1}", "1 2", "{} {}", "NaN", "'a'", "//x\n1",
    ])
    func anythingElseIsMalformed(_ text: String) {
        #expect(accepts(text) == .malformed)
    }

    @Test func nestingIsBounded() {
        let depth = JSONCursor.depthMax
        let fits = String(repeating: "[", count: depth) + String(repeating: "]", count: depth)
        #expect(accepts(fits) == nil)
        #expect(accepts("[" + fits + "]") == .tooDeep)
        #expect(accepts(String(repeating: #"{"a":"#, count: 100_000)) == .tooDeep)
    }

    @Test func everyPrefixOfAValueIsRefusedAndNoneTraps() {
        let text = Array(#"{"k\u0065y":[-1.5e3,"\ud83d\ude00x",{"n":null,"t":true}],"z":{}}"#.utf8)
        for end in 0..<text.count {
            #expect(accepts(String(decoding: text[..<end], as: UTF8.self)) == .malformed)
        }
    }

    @Test func quotingThenReadingGivesTheTextBack() throws {
        var generator = SeededGenerator(seed: 1)
        for _ in 0..<500 {
            let text = generator.text(upTo: 40)
            var cursor = JSONCursor(JSONText.quoted(text))
            #expect(try cursor.string() == text)
            try cursor.expectEnd()
        }
    }

    @Test func escapesStandForTheirScalars() throws {
        var cursor = JSONCursor(
            Array(#""\u0041\n\ud83d\ude00\ud83dx\ude00\u0000\ud83d\u0041""#.utf8))
        #expect(try cursor.string() == "A\n😀\u{FFFD}x\u{FFFD}\u{0}\u{FFFD}A")
    }

    @Test func anEscapedKeyIsTheSameKey() throws {
        var cursor = JSONCursor(Array(#"{"mod\u0065l":1}"#.utf8))
        try cursor.beginObject()
        #expect(try cursor.nextKey() == "model")
    }

    @Test func aWholeNumberIsReadOnlyWithinItsBound() throws {
        func read(_ text: String) throws -> Int? {
            var cursor = JSONCursor(Array(text.utf8))
            return try cursor.integer(upTo: 100)
        }
        #expect(try read("100") == 100)
        #expect(try read("0") == 0)
        for text in ["101", "-1", "1.0", "1e1", "99999999999999999999", "null", "\"5\"", "[5]"] {
            #expect(try read(text) == nil)
        }
    }
}
