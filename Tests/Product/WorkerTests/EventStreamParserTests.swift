import Testing
import Worker

@Suite struct EventStreamParserTests {
    /// All events of a stream that comes in the given chunks, its unfinished tail included.
    private func events(_ chunks: [[UInt8]]) throws -> [String] {
        var parser = EventStreamParser()
        var events: [[UInt8]] = []
        for chunk in chunks { events += try parser.push(chunk) }
        if let tail = try parser.finish() { events.append(tail) }
        return events.map { String(decoding: $0, as: UTF8.self) }
    }

    private static let stream = Array(
        """
        : queued\r
        \r
        data: {"a":"é😀"}\r
        \r
        event: message
        id: 7
        data:one
        data: two
        data:  three

        retry: 10

        data

        dataset: no
        : data: no
        data: [DONE]\r\r
        """.utf8)

    private static let expected = [#"{"a":"é😀"}"#, "one\ntwo\n three", "[DONE]"]

    @Test func splittingAtEveryOffsetChangesNothing() throws {
        let stream = Self.stream
        #expect(try events([stream]) == Self.expected)
        #expect(try events(stream.map { [$0] }) == Self.expected)
        for first in 0...stream.count {
            #expect(
                try events([Array(stream[..<first]), Array(stream[first...])]) == Self.expected)
            let second = min(first + 1, stream.count)
            let pieces = [stream[..<first], stream[first..<second], [], stream[second...]]
            #expect(try events(pieces.map(Array.init)) == Self.expected)
        }
    }

    @Test func anEventIsReturnedAsSoonAsItsBlankLineBegins() throws {
        var parser = EventStreamParser()
        #expect(try parser.push(Array("data: x\r".utf8)).isEmpty)
        #expect(try parser.push(Array("\n".utf8)).isEmpty)
        #expect(try parser.push(Array("\r".utf8)) == [Array("x".utf8)])
        #expect(try parser.push(Array("\n".utf8)).isEmpty)
        #expect(try parser.finish() == nil)
    }

    @Test func aByteOrderMarkLeadsOnlyTheFirstLine() throws {
        let mark: [UInt8] = [0xEF, 0xBB, 0xBF]
        let line = mark + Array("data: a\n\n".utf8)
        #expect(try events([line]) == ["a"])
        #expect(try events(line.map { [$0] }) == ["a"])
        #expect(try events([line + line]) == ["a"])
    }

    @Test func theTailOfACutStreamIsHandedOut() throws {
        #expect(try events([Array("data: [DONE]".utf8)]) == ["[DONE]"])
        #expect(try events([Array("data: [DONE]\n".utf8)]) == ["[DONE]"])
        #expect(try events([Array(#"data: {"cut"#.utf8)]) == [#"{"cut"#])
        #expect(try events([Array("data: \n: x".utf8)]) == [])
        #expect(try events([]) == [])
    }

    @Test func aLineBeyondTheBoundIsRefusedWithoutBeingHeld() {
        var parser = EventStreamParser()
        let chunk = [UInt8](repeating: 0x61, count: 1 << 16)
        #expect(throws: EventStreamFault.eventTooLong) {
            for _ in 0...16 { _ = try parser.push(chunk) }
        }
    }

    @Test func manyDataLinesBeyondTheBoundAreRefused() {
        var parser = EventStreamParser()
        let line = Array("data: ".utf8) + [UInt8](repeating: 0x61, count: 1 << 16) + [0x0A]
        #expect(throws: EventStreamFault.eventTooLong) {
            for _ in 0...16 { _ = try parser.push(line) }
        }
    }

    @Test func theLongestEventIsTaken() throws {
        var parser = EventStreamParser()
        let data = [UInt8](repeating: 0x61, count: EventStreamParser.eventBytesMax - 6)
        _ = try parser.push(Array("data: ".utf8))
        _ = try parser.push(data)
        #expect(try parser.push([0x0A, 0x0A]) == [data])
    }
}
