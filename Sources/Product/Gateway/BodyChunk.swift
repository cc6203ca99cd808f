package import NIOCore

/// One chunk of a body of unknown length (RFC 9112, section 7.1): a response without
/// `content-length` is chunked.
package enum BodyChunk {
    private static let crlf: UInt16 = 0x0D0A

    /// `bytes`, at least one, with length and line ends in one buffer of exactly that size. No bytes
    /// would end the body.
    package static func framed(_ bytes: [UInt8], by allocator: ByteBufferAllocator) -> ByteBuffer {
        precondition(!bytes.isEmpty, "an empty chunk ends a body")
        let length = String(bytes.count, radix: 16)
        var chunk = allocator.buffer(capacity: length.utf8.count + bytes.count + 4)
        chunk.writeString(length)
        chunk.writeInteger(crlf)
        chunk.writeBytes(bytes)
        chunk.writeInteger(crlf)
        return chunk
    }
}
