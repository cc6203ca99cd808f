import SluiceWire
import Testing

@Suite struct FrameHeaderTests {
    @Test func headerIsTwelveLittleEndianBytes() throws {
        var bytes: [UInt8] = []
        FrameHeader(
            kind: .tokens, stream: StreamID(0x0102_0304), payloadBytes: 0x1122,
            flags: .reasoning, tokens: 0x0506
        ).encode(into: &bytes)
        #expect(
            bytes == [0x22, 0x11, 0, 0, 0x25, 0x01, 0x06, 0x05, 0x04, 0x03, 0x02, 0x01])
        let header = try FrameHeader(decoding: bytes.span)
        #expect(header.kind == .tokens)
        #expect(header.tokens == 0x0506)
        #expect(header.stream == StreamID(0x0102_0304))
    }

    @Test func oversizeIsRefusedFromTheHeaderAlone() {
        let bytes: [UInt8] = [0xF5, 0x3F, 0, 0, 0x25, 0, 0, 0, 1, 0, 0, 0]
        #expect(throws: WireError.frameTooLarge) {
            _ = try FrameHeader(decoding: bytes.span)
        }
    }
}
