import Gateway
import NIOCore
import NIOEmbedded
import Testing

@Suite struct PeerWatchTests {
    /// A connection whose client has left so many bytes unread.
    private func connection(unreadBytes: Int) throws -> EmbeddedChannel {
        let channel = EmbeddedChannel(handler: PeerWatch())
        try channel.connect(to: SocketAddress(ipAddress: "127.0.0.1", port: 1)).wait()
        channel.write(ByteBuffer(repeating: 1, count: unreadBytes), promise: nil)
        channel.isWritable = false
        channel.pipeline.fireChannelWritabilityChanged()
        return channel
    }

    @Test("a client that does not read for a minute loses its connection")
    func stalled() throws {
        let channel = try connection(unreadBytes: 100_000)
        channel.embeddedEventLoop.advanceTime(by: .seconds(59))
        #expect(channel.isActive)
        channel.embeddedEventLoop.advanceTime(by: .seconds(2))
        #expect(!channel.isActive)
    }

    @Test("one that reads slowly, or again, keeps it")
    func slow() throws {
        let slow = try connection(unreadBytes: 100_000)
        slow.embeddedEventLoop.advanceTime(by: .seconds(50))
        slow.flush()
        slow.write(ByteBuffer(repeating: 1, count: 80_000), promise: nil)
        slow.embeddedEventLoop.advanceTime(by: .seconds(11))
        #expect(slow.isActive)
        // And then no more.
        slow.embeddedEventLoop.advanceTime(by: .seconds(60))
        #expect(!slow.isActive)
        let again = try connection(unreadBytes: 100_000)
        again.embeddedEventLoop.advanceTime(by: .seconds(30))
        again.isWritable = true
        again.pipeline.fireChannelWritabilityChanged()
        again.embeddedEventLoop.advanceTime(by: .seconds(600))
        #expect(again.isActive)
    }
}
