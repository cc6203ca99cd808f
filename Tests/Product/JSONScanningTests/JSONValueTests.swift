import JSONScanning
import Testing

@Suite struct JSONValueTests {
    private func bytes(_ text: String) -> [UInt8] { Array(text.utf8) }

    @Test(
        "what is read is written with its digits, its order and its repeated members",
        arguments: [
            #"{"b":1.50,"a":[12345678901234567890,-0,1e400,true,null],"a":{}}"#, "[]", #""x\"\\""#,
            "\"\u{1F600}é\"", "0",
        ])
    func roundTrip(_ text: String) throws {
        #expect(try JSONValue(parsing: bytes(text)).encoded == bytes(text))
    }

    @Test("what is no JSON value is refused", arguments: ["", "{", "[1,]", "{} x", "nul", "01"])
    func refused(_ text: String) {
        #expect(throws: JSONFault.malformed) { try JSONValue(parsing: bytes(text)) }
    }

    @Test("nesting is bounded")
    func depth() throws {
        func nested(_ depth: Int) -> [UInt8] {
            bytes(String(repeating: "[", count: depth) + String(repeating: "]", count: depth))
        }
        _ = try JSONValue(parsing: nested(JSONCursor.depthMax))
        #expect(throws: JSONFault.tooDeep) {
            try JSONValue(parsing: nested(JSONCursor.depthMax + 1))
        }
    }

    @Test("the number of values is bounded")
    func values() throws {
        func list(_ count: Int) -> [UInt8] {
            bytes("[" + Array(repeating: "1", count: count).joined(separator: ",") + "]")
        }
        _ = try JSONValue(parsing: list(JSONValue.valuesMax - 1))
        #expect(throws: JSONFault.tooDeep) {
            try JSONValue(parsing: list(JSONValue.valuesMax))
        }
    }

    @Test("members are found, replaced in place, added behind and removed")
    func members() {
        var value: JSONValue = ["a": .number(1), "b": .null]
        value.set("a", "x")
        value.set("c", .boolean(true))
        #expect(value == ["a": "x", "b": .null, "c": .boolean(true)])
        #expect(value["b"] == .null && value.present("b") == nil && value["d"] == nil)
        #expect(value["c"]?.boolean == true && value["a"]?.integer == nil)
        value.remove("b")
        #expect(value == ["a": "x", "c": .boolean(true)])
    }
}
