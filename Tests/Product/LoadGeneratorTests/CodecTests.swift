import Glibc
import Testing

import LoadGenerator

@Suite struct CodecTests {
    private func next(_ text: String) -> (NATSOperation?, Int) {
        let bytes = Array(text.utf8)
        var offset = 0
        let operation = NATSOperation.next(bytes.span, &offset)
        return (operation, offset)
    }

    @Test func natsMessagesAreCutWhereTheySay() {
        let plain = next("MSG I.1.2 1 5\r\nhello\r\nPING\r\n")
        #expect(
            plain.0 == .message(subject: 4..<9, reply: 14..<14, payload: 15..<20)
                || plain.0 == .message(subject: 4..<9, reply: 12..<12, payload: 15..<20))
        #expect(plain.1 == 22)
        let reply = next("MSG tasks 1 I.7.11 2\r\nab\r\n")
        #expect(reply.0 == .message(subject: 4..<9, reply: 12..<18, payload: 22..<24))
        #expect(reply.1 == 26)
    }

    @Test func natsOperationsThatAreNotWholeWait() {
        for text in ["", "PIN", "PING\r", "MSG a 1 5\r\nhel", "MSG a 1 5\r\nhello\r"] {
            #expect(next(text).0 == nil)
            #expect(next(text).1 == 0)
        }
    }

    @Test func natsSpeaksOfErrorsAndOfItself() {
        #expect(next("PING\r\n").0 == .ping)
        #expect(next("PONG\r\n").0 == .pong)
        #expect(next("INFO {}\r\n").0 == .information)
        #expect(next("+OK\r\n").0 == .information)
        #expect(next("-ERR 'Slow Consumer'\r\n").0 == .error)
        #expect(next("MSG a 1 many\r\n").0 == .error)
        #expect(next("\r\n").0 == .error)
    }

    @Test func hpackReadsStaticAndLiteralFields() {
        #expect(HPACK.outcome([0x88].span)?.isOK == true)
        // :status 404.
        #expect(HPACK.outcome([0x8D].span)?.isOK == false)
        // :status by its name in the table: 200 and 503, plain.
        #expect(HPACK.outcome([0x08, 3, 0x32, 0x30, 0x30].span)?.isOK == true)
        #expect(HPACK.outcome([0x48, 3, 0x35, 0x30, 0x33].span)?.isOK == false)
        var block: [UInt8] = []
        HPACK.literal(31, "application/grpc", into: &block)
        HPACK.literal("grpc-status", "0", into: &block)
        #expect(HPACK.outcome(block.span)?.grpcIsOK == true)
        block.removeAll()
        HPACK.literal("grpc-status", "13", into: &block)
        #expect(HPACK.outcome(block.span)?.grpcIsOK == false)
    }

    @Test func hpackKnowsTheHuffmanFormsOfTheWordsThatMatter() {
        // A change of the table's size, then grpc-status: 0 with both texts coded.
        let block: [UInt8] = [
            0x20, 0x40, 0x88, 0x9A, 0xCA, 0xC8, 0xB2, 0x12, 0x34, 0xDA, 0x8F, 0x81, 0x07,
        ]
        #expect(HPACK.outcome(block.span)?.grpcIsOK == true)
    }

    @Test func hpackRefusesWhatCannotBeRead() {
        // Index 0, the empty dynamic table, a text that is cut, an integer without an end.
        for block: [UInt8] in [
            [0x80], [0xBE], [0x00, 5, 0x61], [0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF], [0x00],
        ] {
            #expect(HPACK.outcome(block.span) == nil)
        }
    }

    @Test func http2HeadersAreWrittenAsTheyAreRead() {
        let header = HTTP2Header(
            .data, flags: HTTP2Header.endStream, stream: 0x7ABC_DEF1, payloadBytes: 0x01_23_45)
        var bytes: [UInt8] = []
        header.encode(into: &bytes)
        #expect(bytes == [0x01, 0x23, 0x45, 0, 1, 0x7A, 0xBC, 0xDE, 0xF1])
        #expect(HTTP2Header(decoding: bytes.span, at: 0) == header)
    }

    @Test(arguments: [1, 2, 3, 5, 6, 11, 64])
    func messagesArePutTogetherFromAnyPieces(pieceBytes: Int) {
        let messages: [[UInt8]] = [[1], [], Array(repeating: 7, count: 20), [9, 9]]
        var stream: [UInt8] = []
        for message in messages {
            stream.append(0)
            stream.appendBigEndian(UInt32(message.count))
            stream += message
        }
        var assembler = MessageAssembler()
        var found: [[UInt8]] = []
        for start in Swift.stride(from: 0, to: stream.count, by: pieceBytes) {
            let piece = Array(stream[start..<min(stream.count, start + pieceBytes)])
            assembler.take(piece.span) { bytes, place in found.append(place.map { bytes[$0] }) }
        }
        #expect(found == messages)
        #expect(assembler.isEmpty)
    }

    @Test func presetsCanBeRunAndAreWhatTheySay() {
        #expect(
            Workload.presets.map(\.name) == [
                "W1", "W2", "W3", "W4", "W5", "W6", "W5m", "W6m", "W7",
            ])
        for workload in Workload.presets { #expect(workload.fault == nil) }
        let streams = Workload.presets.map(\.streamCount)
        #expect(streams == [1_024, 512, 512, 256, 1_024, 2_048, 1_024, 2_048, 64 + 256])
        #expect(
            Workload.presets.filter(\.isOpenLoop).map(\.name) == [
                "W4", "W5", "W6", "W5m", "W6m", "W7",
            ])
    }

    @Test func aProcessIsAccountedForByTheSystem() throws {
        let before = try #require(ProcessSample(pid: getpid()))
        var value = 1.0
        for index in 1...20_000_000 { value += 1 / Double(index) }
        let after = try #require(ProcessSample(pid: getpid()))
        #expect(value > 1 && after.processorNs > before.processorNs)
        #expect(after.residentBytes > 1 << 20 && after.threads > 0)
        #expect(ProcessSample(pid: 0x7FFF_FFFF) == nil)
    }
}
