/// One thread's hold on the chunks of a `ChunkPool`: 4 KiB each, linked into queues.
///
/// Free chunks are always zero: what is taken is wiped as it goes, the rest before its chunk is
/// freed. Nothing is allocated after `init`; every operation is bounded by the bytes it moves. A
/// queue may be filled by one arena and read or released by another of the same pool: whoever holds
/// the queue owns its chunks. Owned by one thread.
@safe @usableFromInline
package struct ChunkArena: ~Copyable, @unchecked Sendable {
    /// Size of a chunk in bytes.
    @inlinable package static var chunkBytes: Int { 4_096 }
    /// Free chunks that an arena keeps from the others at most.
    @inlinable package static var cachedChunksMax: Int { 2 &* ChunkPool.batchChunks }

    @usableFromInline let pool: ChunkPool
    /// SAFETY: the pool's memory; lives at least as long as `pool`.
    @usableFromInline let base: UnsafeMutablePointer<UInt8>
    /// SAFETY: the pool's links: a chunk's successor in its queue or on the free list.
    @usableFromInline let next: UnsafeMutablePointer<UInt32>
    /// The free chunks that are this arena's, and how many.
    @usableFromInline var freeHead = ChunkQueue.none
    @usableFromInline var cachedChunks = 0

    /// Takes from and gives back to `pool`.
    package init(pool: ChunkPool) {
        self.pool = pool
        unsafe base = pool.base
        unsafe next = pool.next
    }

    /// An arena with a pool of its own: `chunkCount` chunks, 1..<2^20.
    package init(chunkCount: Int) throws(ArenaError) {
        self.init(pool: try ChunkPool(chunkCount: chunkCount))
    }

    deinit {
        if cachedChunks > 0 { unsafe pool.push(freeHead, count: cachedChunks) }
    }

    /// Free chunks that this arena could take now: its own and those of the pool.
    package var freeChunks: Int { cachedChunks + pool.freeChunks }

    /// Whether the kernel keeps the chunks out of swap.
    package var isLocked: Bool { pool.isLocked }

    /// See `ChunkPool.heldBytes`: of all arenas of the pool.
    package var heldBytes: Int { pool.heldBytes }

    /// See `ChunkPool.heldBytesMax`.
    package var heldBytesMax: Int { pool.heldBytesMax }

    // MARK: Appending

    /// Appends all of `bytes`, or nothing and returns false when the free chunks do not suffice.
    @inlinable
    package mutating func append(_ bytes: Span<UInt8>, to queue: inout ChunkQueue) -> Bool {
        guard hasRoom(for: bytes.count, in: queue) else { return false }
        unsafe bytes.withUnsafeBufferPointer { source in
            guard let start = source.baseAddress else { return }
            unsafe fill(start, source.count, of: &queue)
        }
        return true
    }

    /// Appends a frame, 12 header bytes and then the payload: all of it, or nothing and false.
    ///
    /// `header` names `payload.count` as its payload length.
    @inlinable
    package mutating func appendFrame(
        _ header: FrameHeaderWords, payload: Span<UInt8>, to queue: inout ChunkQueue
    ) -> Bool {
        precondition(Int(UInt32(truncatingIfNeeded: header.first)) == payload.count)
        return unsafe payload.withUnsafeBufferPointer { source in
            let frameBytes = 12 &+ source.count
            let isRoomInTail =
                queue.head != ChunkQueue.none
                && frameBytes <= Self.chunkBytes &- Int(queue.tailUsed)
            if !isRoomInTail {
                switch unsafe appendElsewhere(header, source, of: &queue) {
                case .refused: return false
                case .appended: return true
                case .hasRoom: break
                }
            }
            let used = Int(queue.tailUsed)
            // SAFETY: the rest of the tail chunk holds the whole frame.
            let target = unsafe UnsafeMutableRawPointer(
                base + (Int(queue.tail) &* Self.chunkBytes &+ used))
            unsafe target.storeBytes(of: header.first.littleEndian, as: UInt64.self)
            unsafe target.storeBytes(
                of: header.stream.littleEndian, toByteOffset: 8, as: UInt32.self)
            if let start = source.baseAddress {
                unsafe (target + 12).copyMemory(from: start, byteCount: source.count)
            }
            queue.tailUsed = UInt32(truncatingIfNeeded: used &+ frameBytes)
            queue.byteCount &+= UInt32(truncatingIfNeeded: frameBytes)
            return true
        }
    }

    /// Where the first frame of a queue begins in its chunk: not at its start in all of them,
    /// because lines at the same offset of many chunks share a few sets of the cache. A queue may
    /// begin anywhere in its first chunk in any case, once that was partly taken.
    @inlinable
    static func firstFrameOffset(ofChunk chunk: UInt32) -> Int {
        Int(chunk & 31) &* 64
    }

    @usableFromInline
    enum TailRoom {
        /// The free chunks do not suffice.
        case refused
        /// The tail chunk now has room for the whole frame.
        case hasRoom
        /// The frame was cut by the end of its chunk, and is appended.
        case appended
    }

    /// A frame for which the tail chunk has no room: the rare way, kept out of the callers.
    @unsafe @usableFromInline
    mutating func appendElsewhere(
        _ header: FrameHeaderWords, _ payload: UnsafeBufferPointer<UInt8>,
        of queue: inout ChunkQueue
    ) -> TailRoom {
        let frameBytes = 12 + payload.count
        guard hasRoom(for: frameBytes, in: queue) else { return .refused }
        if queue.head == ChunkQueue.none {
            grow(&queue)
            let start = Self.firstFrameOffset(ofChunk: queue.head)
            if frameBytes <= Self.chunkBytes - start {
                queue.headOffset = UInt32(start)
                queue.tailUsed = queue.headOffset
            }
            if frameBytes <= Self.chunkBytes - Int(queue.tailUsed) { return .hasRoom }
        }
        unsafe appendCut(header, payload, to: &queue)
        return .appended
    }

    /// A frame that does not fit the tail chunk whole.
    @unsafe
    private mutating func appendCut(
        _ header: FrameHeaderWords, _ payload: UnsafeBufferPointer<UInt8>,
        to queue: inout ChunkQueue
    ) {
        var words = (header.first.littleEndian, header.stream.littleEndian)
        unsafe withUnsafePointer(to: &words) { pointer in
            unsafe pointer.withMemoryRebound(to: UInt8.self, capacity: 12) { bytes in
                unsafe fill(bytes, 12, of: &queue)
            }
        }
        guard let start = payload.baseAddress else { return }
        unsafe fill(start, payload.count, of: &queue)
    }

    /// Appends a place of `region` as `append(_:to:)` does.
    @inlinable
    package mutating func append(
        _ place: Range<Int>, of region: borrowing ContentRegion, to queue: inout ChunkQueue
    ) -> Bool {
        append(region.span.extracting(place), to: &queue)
    }

    /// Appends a frame whose payload is a place of `region`, as `appendFrame(_:payload:to:)` does.
    @inlinable
    package mutating func appendFrame(
        _ header: FrameHeaderWords, payload place: Range<Int>,
        of region: borrowing ContentRegion, to queue: inout ChunkQueue
    ) -> Bool {
        appendFrame(header, payload: region.span.extracting(place), to: &queue)
    }

    /// Whether `byteCount` more bytes fit. Fetches the chunks that they need from the pool.
    @inlinable
    package mutating func hasRoom(for byteCount: Int, in queue: ChunkQueue) -> Bool {
        let room = queue.head == ChunkQueue.none ? 0 : Self.chunkBytes &- Int(queue.tailUsed)
        guard byteCount > room else { return true }
        let chunks = (byteCount &- room &+ Self.chunkBytes &- 1) / Self.chunkBytes
        return (chunks <= cachedChunks || fetch(chunks))
            && byteCount <= Int(UInt32.max) &- Int(queue.byteCount)
    }

    /// Takes batches from the pool until `chunks` are at hand; false when it has too few.
    @usableFromInline
    mutating func fetch(_ chunks: Int) -> Bool {
        while cachedChunks < chunks {
            guard let batch = unsafe pool.pop() else { return false }
            // The cached ones stand behind the batch.
            unsafe next[Int(batch.last)] = freeHead
            freeHead = batch.first
            cachedChunks += batch.count
        }
        return true
    }

    /// Gives a batch of the free chunks back to the pool.
    @usableFromInline
    mutating func giveBack() {
        let first = freeHead
        var last = first
        for _ in 1..<ChunkPool.batchChunks { unsafe last = next[Int(last)] }
        unsafe freeHead = next[Int(last)]
        unsafe next[Int(last)] = ChunkQueue.none
        cachedChunks -= ChunkPool.batchChunks
        unsafe pool.push(first, count: ChunkPool.batchChunks)
    }

    @inlinable
    mutating func fill(
        _ source: UnsafePointer<UInt8>, _ byteCount: Int, of queue: inout ChunkQueue
    ) {
        var done = 0
        while done < byteCount {
            if queue.head == ChunkQueue.none || Int(queue.tailUsed) == Self.chunkBytes {
                grow(&queue)
            }
            let used = Int(queue.tailUsed)
            let count = min(byteCount &- done, Self.chunkBytes &- used)
            let target = unsafe base + (Int(queue.tail) &* Self.chunkBytes &+ used)
            unsafe target.update(from: source + done, count: count)
            queue.tailUsed = UInt32(truncatingIfNeeded: used &+ count)
            done &+= count
        }
        queue.byteCount &+= UInt32(truncatingIfNeeded: byteCount)
    }

    @inlinable
    mutating func grow(_ queue: inout ChunkQueue) {
        let chunk = freeHead
        precondition(chunk != ChunkQueue.none)
        unsafe freeHead = next[Int(chunk)]
        unsafe next[Int(chunk)] = ChunkQueue.none
        cachedChunks &-= 1
        if queue.head == ChunkQueue.none {
            queue.head = chunk
            queue.headOffset = 0
        } else {
            unsafe next[Int(queue.tail)] = chunk
        }
        queue.tail = chunk
        queue.tailUsed = 0
    }

    // MARK: Reading

    /// Copies `count` bytes from `offset` of the queue into `region`, leaving the queue as it is.
    ///
    /// `offset + count <= queue.byteCount`; they fit in `region` at `position`. Costs one step for
    /// each chunk before `offset`.
    package func copy(
        from queue: ChunkQueue, offset: Int, count: Int, into region: inout ContentRegion,
        at position: Int
    ) {
        precondition(offset >= 0 && count >= 0 && count <= Int(queue.byteCount) - offset)
        precondition(position >= 0 && count <= region.byteCount - position)
        var chunk = Int(queue.head)
        var start = Int(queue.headOffset) + offset
        while start >= Self.chunkBytes {
            unsafe chunk = Int(next[chunk])
            start -= Self.chunkBytes
        }
        var done = 0
        while done < count {
            let part = min(count - done, Self.chunkBytes - start)
            let source = unsafe base + (chunk * Self.chunkBytes + start)
            unsafe (region.base + position + done).update(from: source, count: part)
            done += part
            start = 0
            if done < count { unsafe chunk = Int(next[chunk]) }
        }
    }

    /// Bytes of the first frame, header included; 0 when the queue is empty.
    ///
    /// The queue holds whole frames only.
    @inlinable
    package func firstFrameBytes(of queue: ChunkQueue) -> Int {
        queue.isEmpty ? 0 : 12 &+ Int(UInt32(truncatingIfNeeded: firstWord(of: queue)))
    }

    /// Moves whole frames from the front of the queue to `position` of `region`, while they fit in
    /// `atMostBytes`.
    ///
    /// The queue holds whole frames only; `region` has `atMostBytes` at `position`.
    @inlinable
    package mutating func takeFrames(
        from queue: inout ChunkQueue, atMostBytes: Int, into region: inout ContentRegion,
        at position: Int
    ) -> FramesTaken {
        precondition(position >= 0 && atMostBytes <= region.byteCount &- position)
        var taken = FramesTaken()
        while !queue.isEmpty {
            let whole = count(
                wholeFramesOf: queue, atMostBytes: atMostBytes &- taken.bytes, into: &taken)
            if whole > 0 {
                unsafe move(whole, from: &queue, to: region.base + (position &+ taken.bytes))
                taken.bytes &+= whole
                continue
            }
            // The first frame is cut by the end of its chunk, or does not fit.
            let word = firstWord(of: queue)
            let frameBytes = 12 &+ Int(UInt32(truncatingIfNeeded: word))
            precondition(frameBytes <= Int(queue.byteCount))
            if frameBytes > atMostBytes &- taken.bytes { break }
            unsafe move(frameBytes, from: &queue, to: region.base + (position &+ taken.bytes))
            taken.bytes &+= frameBytes
            taken.count(word)
        }
        return taken
    }

    /// Bytes of the frames at the front that lie whole in the first chunk and fit `atMostBytes`:
    /// one copy moves them all. They are counted, but for their bytes.
    @inlinable
    func count(
        wholeFramesOf queue: ChunkQueue, atMostBytes: Int, into taken: inout FramesTaken
    ) -> Int {
        let start = Int(queue.headOffset)
        let filled = queue.head == queue.tail ? Int(queue.tailUsed) : Self.chunkBytes
        let end = min(filled, start &+ atMostBytes)
        let chunk = unsafe UnsafeRawPointer(base + Int(queue.head) &* Self.chunkBytes)
        var offset = start
        while end &- offset >= 12 {
            // SAFETY: 12 bytes from `offset` on lie in the filled part of the chunk.
            let word = unsafe UInt64(
                littleEndian: chunk.loadUnaligned(fromByteOffset: offset, as: UInt64.self))
            let frameBytes = 12 &+ Int(UInt32(truncatingIfNeeded: word))
            guard frameBytes <= end &- offset else { break }
            offset &+= frameBytes
            taken.count(word)
        }
        return offset &- start
    }

    /// The first 8 bytes of the queue, which holds at least 8, as a little-endian number.
    @inlinable
    func firstWord(of queue: ChunkQueue) -> UInt64 {
        precondition(queue.byteCount >= 12)
        let offset = Int(queue.headOffset)
        let start = unsafe base + (Int(queue.head) &* Self.chunkBytes &+ offset)
        if offset &+ 8 <= Self.chunkBytes {
            let raw = UnsafeRawPointer(start)
            return unsafe UInt64(littleEndian: raw.loadUnaligned(as: UInt64.self))
        }
        let here = Self.chunkBytes &- offset
        let after = unsafe base + Int(next[Int(queue.head)]) &* Self.chunkBytes
        var word: UInt64 = 0
        for index in 0..<8 {
            let byte = unsafe index < here ? start[index] : after[index &- here]
            word |= UInt64(byte) << UInt64(8 &* index)
        }
        return word
    }

    @inlinable
    mutating func move(
        _ byteCount: Int, from queue: inout ChunkQueue, to target: UnsafeMutablePointer<UInt8>
    ) {
        var done = 0
        while done < byteCount {
            let offset = Int(queue.headOffset)
            let end = queue.head == queue.tail ? Int(queue.tailUsed) : Self.chunkBytes
            let part = min(byteCount &- done, end &- offset)
            let source = unsafe base + (Int(queue.head) &* Self.chunkBytes &+ offset)
            unsafe (target + done).update(from: source, count: part)
            unsafe source.update(repeating: 0, count: part)
            done &+= part
            queue.headOffset = UInt32(truncatingIfNeeded: offset &+ part)
            if offset &+ part == end { freeFirst(of: &queue) }
        }
        queue.byteCount &-= UInt32(truncatingIfNeeded: byteCount)
    }

    // MARK: Releasing

    /// Drops what the queue holds, wipes its chunks and leaves it empty.
    package mutating func release(_ queue: inout ChunkQueue) {
        while queue.head != ChunkQueue.none {
            let used = queue.head == queue.tail ? Int(queue.tailUsed) : Self.chunkBytes
            let held = used - Int(queue.headOffset)
            let start = Int(queue.head) * Self.chunkBytes + Int(queue.headOffset)
            unsafe (base + start).update(repeating: 0, count: held)
            freeFirst(of: &queue)
        }
        queue = ChunkQueue()
    }

    /// Frees the first chunk, of which everything was taken or wiped.
    @inlinable
    mutating func freeFirst(of queue: inout ChunkQueue) {
        let chunk = Int(queue.head)
        let successor = unsafe next[chunk]
        unsafe next[chunk] = freeHead
        freeHead = UInt32(truncatingIfNeeded: chunk)
        cachedChunks &+= 1
        if cachedChunks > Self.cachedChunksMax { giveBack() }
        queue.head = successor
        queue.headOffset = 0
        if successor == ChunkQueue.none {
            queue.tail = ChunkQueue.none
            queue.tailUsed = 0
        }
    }

    /// Whether every free chunk is zero: the invariant, for tests. Reads all of them; no other
    /// arena may be in use.
    package mutating func freeChunksAreZero() -> Bool {
        while fetch(cachedChunks + 1) {}
        var chunk = freeHead
        while chunk != ChunkQueue.none {
            let start = unsafe base + Int(chunk) * Self.chunkBytes
            for index in 0..<Self.chunkBytes where unsafe start[index] != 0 { return false }
            unsafe chunk = next[Int(chunk)]
        }
        while cachedChunks > Self.cachedChunksMax { giveBack() }
        return true
    }
}
