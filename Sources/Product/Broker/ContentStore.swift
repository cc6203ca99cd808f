import ContentArena
import SluiceBrokerCore
import SluiceWire

/// Where content lies while it passes through: request bodies, queued answer frames, cut frames of
/// peers, and the two buffers in which plaintext enters and leaves. All of it in arena memory.
///
/// The shard says what goes where; nothing here decides. Owned by the shard's thread.
struct ContentStore: ~Copyable {
    var arena: ChunkArena
    /// Plaintext as it came: what a connection kept, then what was just decrypted.
    var incoming: ContentRegion
    /// One record of plaintext on its way out.
    var outgoing: ContentRegion

    /// By client stream.
    private var bodies: [ChunkQueue] = []
    private var answers: [ChunkQueue] = []
    /// By connection: the start of a frame whose end has not arrived, below 16 KiB.
    private var kept: [ChunkQueue]

    /// Room for a kept frame and several records behind it.
    static let incomingBytes = 64 * 1_024
    static let outgoingBytes = WireLimits.frameBytesMax

    init(limits: BrokerLimits) throws(ArenaError) {
        let bytes =
            limits.bodyArenaBytes + limits.answerArenaBytes + limits.reassemblyArenaBytes
            + Self.incomingBytes
        let arena = try ChunkArena(chunkCount: bytes / BrokerLimits.chunkBytes)
        let incoming = try ContentRegion(byteCount: Self.incomingBytes)
        let outgoing = try ContentRegion(byteCount: Self.outgoingBytes)
        self.arena = arena
        self.incoming = incoming
        self.outgoing = outgoing
        kept = [ChunkQueue](repeating: ChunkQueue(), count: limits.connections)
    }

    // MARK: Cut frames

    /// Puts what the connection kept to the front of `incoming`; returns its size.
    mutating func restore(_ connection: Int) -> Int {
        let count = Int(kept[connection].byteCount)
        guard count > 0 else { return 0 }
        arena.copy(from: kept[connection], offset: 0, count: count, into: &incoming, at: 0)
        arena.release(&kept[connection])
        return count
    }

    /// Keeps `place` of `incoming` until more arrives; false when there is no room.
    mutating func keep(_ place: Range<Int>, for connection: Int) -> Bool {
        guard !place.isEmpty else { return true }
        return arena.append(place, of: incoming, to: &kept[connection])
    }

    mutating func forget(_ connection: Int) {
        arena.release(&kept[connection])
    }

    // MARK: Bodies

    mutating func storeBody(_ stream: UInt32, _ place: Range<Int>) {
        while bodies.count <= Int(stream) { bodies.append(ChunkQueue()) }
        let isStored = arena.append(place, of: incoming, to: &bodies[Int(stream)])
        precondition(isStored, "a body that was reserved does not fit")
    }

    mutating func dropBody(_ stream: UInt32) {
        arena.release(&bodies[Int(stream)])
    }

    /// Copies `count` body bytes from `offset` into the outgoing record.
    mutating func copyBody(_ stream: UInt32, offset: Int, count: Int, at position: Int) {
        guard count > 0 else { return }
        arena.copy(
            from: bodies[Int(stream)], offset: offset, count: count, into: &outgoing,
            at: position)
    }

    // MARK: Answers

    mutating func enqueue(
        _ stream: UInt32, headerWord: UInt64, streamID: UInt32, payload place: Range<Int>
    ) {
        while answers.count <= Int(stream) { answers.append(ChunkQueue()) }
        let isStored = arena.appendFrame(
            FrameHeaderWords(first: headerWord, stream: streamID),
            payload: place, of: incoming, to: &answers[Int(stream)])
        precondition(isStored, "an answer within its reserve does not fit")
    }

    mutating func dropAnswer(_ stream: UInt32) {
        arena.release(&answers[Int(stream)])
    }

    /// Moves whole frames of the stream into the outgoing record.
    mutating func take(_ stream: UInt32, atMostBytes: Int, at position: Int) -> SealedTokens? {
        let taken = arena.takeFrames(
            from: &answers[Int(stream)], atMostBytes: atMostBytes, into: &outgoing, at: position)
        guard taken.bytes > 0 else { return nil }
        return SealedTokens(
            bytes: taken.bytes, payloadBytes: taken.payloadBytes, tokens: taken.tokens,
            reasoningTokens: taken.reasoningTokens)
    }

    // MARK: The outgoing record

    /// Copies the first `count` of these bytes, which hold no content, into the record.
    mutating func write(_ bytes: [UInt8], _ count: Int, at position: Int) {
        outgoing.copy(from: bytes.span.extracting(0..<count), at: position)
    }
}
