import Gateway
import NIOCore
import Testing

@Suite struct BodyChunkTests {
    @Test(
        "events leave as one chunk in one buffer of its exact size",
        arguments: [1, 9, 15, 16, 255, 256, 4_095, 4_096, 65_536])
    func chunk(count: Int) {
        let bytes = (0..<count).map { UInt8(truncatingIfNeeded: $0) }
        var chunk = BodyChunk.framed(bytes, by: ByteBufferAllocator())
        let length = String(count, radix: 16)
        #expect(chunk.readableBytes == length.utf8.count + count + 4)
        #expect(chunk.readString(length: length.utf8.count + 2) == length + "\r\n")
        #expect(chunk.readBytes(length: count) == bytes)
        #expect(chunk.readString(length: 2) == "\r\n")
        #expect(chunk.readableBytes == 0)
    }
}
