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
    /// By connection: whole TOKENS frames of its next records.
    private var staged: [ChunkQueue]
    /// By supplier stream: the body that it sends. Not owned: the client's end releases it.
    private var boundBodies: [ChunkQueue] = []
    /// The body of the `open` that is being performed.
    var arrivingBody = ChunkQueue()
    /// By shard: TOKENS frames that go there.
    private var parcels: [ChunkQueue]
    /// By connection: the start of a frame whose end has not arrived, below 16 KiB.
    private var kept: [ChunkQueue]
    /// What is left for those: they must not take what bodies and answers have reserved.
    private var reassemblyFreeBytes: Int

    /// Room for a kept frame and several records behind it.
    static let incomingBytes = 64 * 1_024
    static let outgoingBytes = WireLimits.frameBytesMax

    /// The store of one of `shardCount` shards that share `pool`.
    init(limits: BrokerLimits, pool: ChunkPool, shardCount: Int) throws(ArenaError) {
        let incoming = try ContentRegion(byteCount: Self.incomingBytes)
        let outgoing = try ContentRegion(byteCount: Self.outgoingBytes)
        arena = ChunkArena(pool: pool)
        self.incoming = incoming
        self.outgoing = outgoing
        parcels = [ChunkQueue](repeating: ChunkQueue(), count: shardCount)
        kept = [ChunkQueue](repeating: ChunkQueue(), count: limits.connections)
        staged = [ChunkQueue](repeating: ChunkQueue(), count: limits.connections)
        reassemblyFreeBytes = limits.reassemblyArenaBytes / shardCount
    }

    /// The pool for all shards of a broker.
    static func makePool(limits: BrokerLimits, shardCount: Int) throws(ArenaError) -> ChunkPool {
        let cached = (ChunkArena.cachedChunksMax + ChunkPool.batchChunks) * shardCount
        let bytes = limits.arenaBytes(shardCount: shardCount)
        return try ChunkPool(chunkCount: bytes / BrokerLimits.chunkBytes + cached)
    }

    // MARK: Cut frames

    /// Puts what the connection kept to the front of `incoming`; returns its size.
    mutating func restore(_ connection: Int) -> Int {
        let count = Int(kept[connection].byteCount)
        guard count > 0 else { return 0 }
        arena.copy(from: kept[connection], offset: 0, count: count, into: &incoming, at: 0)
        forget(connection)
        return count
    }

    /// Keeps `place` of `incoming` until more arrives; false when there is no room.
    mutating func keep(_ place: Range<Int>, for connection: Int) -> Bool {
        guard !place.isEmpty else { return true }
        precondition(kept[connection].isEmpty)
        let bytes = BrokerLimits.chunked(place.count)
        guard bytes <= reassemblyFreeBytes else { return false }
        reassemblyFreeBytes -= bytes
        let isStored = arena.append(place, of: incoming, to: &kept[connection])
        precondition(isStored, "a cut frame within its budget does not fit")
        return true
    }

    mutating func forget(_ connection: Int) {
        reassemblyFreeBytes += BrokerLimits.chunked(Int(kept[connection].byteCount))
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

    /// What another shard may read of a body until its end says that it is done.
    func lendBody(_ stream: UInt32) -> ChunkQueue {
        Int(stream) < bodies.count ? bodies[Int(stream)] : ChunkQueue()
    }

    mutating func bindBody(_ supplier: UInt32, client: StreamRef, ownShard: UInt16) {
        while boundBodies.count <= Int(supplier) { boundBodies.append(ChunkQueue()) }
        boundBodies[Int(supplier)] =
            client.shard == ownShard ? lendBody(client.index) : arrivingBody
    }

    /// Copies `count` body bytes from `offset` into the outgoing record.
    mutating func copyBody(_ supplier: UInt32, offset: Int, count: Int, at position: Int) {
        guard count > 0 else { return }
        arena.copy(
            from: boundBodies[Int(supplier)], offset: offset, count: count, into: &outgoing,
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

    // MARK: Staged frames

    mutating func stage(_ frame: StagedFrame) {
        let start = Int(frame.start)
        let count = Int(UInt32(truncatingIfNeeded: frame.headerWord))
        let isStored = arena.appendFrame(
            FrameHeaderWords(first: frame.headerWord, stream: frame.stream),
            payload: start..<start + count, of: incoming, to: &staged[Int(frame.connection)])
        precondition(isStored, "an answer within its reserve does not fit")
    }

    /// Whether frames wait for the connection's next record.
    func hasStaged(_ connection: Int) -> Bool { !staged[connection].isEmpty }

    /// Moves whole frames to the front of the outgoing record; returns their bytes.
    mutating func takeStaged(_ connection: Int) -> Int {
        guard !staged[connection].isEmpty else { return 0 }
        return arena.takeFrames(
            from: &staged[connection], atMostBytes: Self.outgoingBytes, into: &outgoing, at: 0
        ).bytes
    }

    mutating func dropStaged(_ connection: Int) {
        arena.release(&staged[connection])
    }

    // MARK: Parcels

    /// Whether the parcel for that shard still fits what its receiver unpacks it into.
    func hasParcelRoom(_ target: Int, payloadBytes: Int) -> Bool {
        Int(parcels[target].byteCount) + FrameHeader.byteCount + payloadBytes
            <= Self.incomingBytes
    }

    mutating func packTokens(
        _ target: Int, headerWord: UInt64, client: UInt32, payload place: Range<Int>
    ) {
        let isStored = arena.appendFrame(
            FrameHeaderWords(first: headerWord, stream: client), payload: place, of: incoming,
            to: &parcels[target])
        precondition(isStored, "frames within their streams' credit do not fit")
    }

    /// The frames packed for that shard; nil when there are none.
    mutating func takeParcel(_ target: Int) -> ChunkQueue? {
        guard !parcels[target].isEmpty else { return nil }
        defer { parcels[target] = ChunkQueue() }
        return parcels[target]
    }

    /// Puts a parcel of another shard to the front of `incoming`; returns its size.
    mutating func unpack(_ frames: ChunkQueue) -> Int {
        var frames = frames
        let count = Int(frames.byteCount)
        arena.copy(from: frames, offset: 0, count: count, into: &incoming, at: 0)
        arena.release(&frames)
        return count
    }

    // MARK: The outgoing record

    /// Copies the first `count` of these bytes, which hold no content, into the record.
    mutating func write(_ bytes: [UInt8], _ count: Int, at position: Int) {
        outgoing.copy(from: bytes.span.extracting(0..<count), at: position)
    }
}
