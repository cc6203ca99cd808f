import Synchronization

/// The chunks of a process: memory for content, and the free chunks that no thread holds.
///
/// Free chunks change hands in batches, through a lock-free stack: one exchange for 32 chunks, so
/// that threads that fill and threads that empty queues need no way back to each other. Any thread.
@safe @usableFromInline
package final class ChunkPool: @unchecked Sendable {
    /// Chunks that change hands together.
    @inlinable package static var batchChunks: Int { 32 }

    struct Batch {
        var first: UInt32
        var last: UInt32
        var count: Int
    }

    private let region: ContentRegion
    /// SAFETY: the region's memory; lives exactly as long as `region`.
    @usableFromInline let base: UnsafeMutablePointer<UInt8>
    /// SAFETY: `chunkCount` links, from `init` to `deinit`. A link belongs to whoever owns its
    /// chunk.
    @usableFromInline let next: UnsafeMutablePointer<UInt32>
    /// SAFETY: as `next`. Of the first chunk of a free batch: the next batch. Atomic, because a
    /// thread may look at a batch that another has just taken; the tag of `top` tells.
    private let nextBatch: UnsafeMutablePointer<Atomic<UInt32>>
    /// SAFETY: as `next`. Of the first chunk of a free batch: how many it has.
    private let batchCount: UnsafeMutablePointer<UInt32>
    /// First chunk of the newest free batch (low half), and a tag that counts its changes.
    private let top = Atomic<UInt64>(UInt64(ChunkQueue.none))
    private let freeCount = Atomic<Int>(0)
    /// The smallest that `freeCount` has been behind a batch that was taken.
    private let leastFreeCount: Atomic<Int>

    /// Chunks of the pool, fixed.
    package let chunkCount: Int

    /// Maps `chunkCount` chunks, 1..<2^20 (4 GiB).
    package init(chunkCount: Int) throws(ArenaError) {
        precondition(chunkCount > 0 && chunkCount < 1 << 20)
        let region = try ContentRegion(byteCount: chunkCount * ChunkArena.chunkBytes)
        unsafe base = region.base
        self.region = region
        self.chunkCount = chunkCount
        leastFreeCount = Atomic(chunkCount)
        unsafe next = .allocate(capacity: chunkCount)
        unsafe nextBatch = .allocate(capacity: chunkCount)
        unsafe batchCount = .allocate(capacity: chunkCount)
        unsafe batchCount.initialize(repeating: 0, count: chunkCount)
        for chunk in 0..<chunkCount {
            unsafe (next + chunk).initialize(to: UInt32(chunk + 1))
            unsafe (nextBatch + chunk).initialize(to: Atomic(ChunkQueue.none))
        }
        // Last batch first, so that the lowest chunks are taken first.
        for first in stride(from: 0, to: chunkCount, by: Self.batchChunks).reversed() {
            let end = min(first + Self.batchChunks, chunkCount)
            unsafe next[end - 1] = ChunkQueue.none
            unsafe push(UInt32(first), count: end - first)
        }
    }

    deinit {
        unsafe next.deallocate()
        unsafe nextBatch.deinitialize(count: chunkCount)
        unsafe nextBatch.deallocate()
        unsafe batchCount.deallocate()
    }

    /// Whether the kernel keeps the chunks out of swap.
    package var isLocked: Bool { region.isLocked }

    /// Chunks that no arena holds; others may take them meanwhile.
    @usableFromInline package var freeChunks: Int { freeCount.load(ordering: .relaxed) }

    /// Bytes of chunks that arenas hold: those in use, and what each keeps ready for its next ones
    /// (96 chunks at most).
    package var heldBytes: Int { (chunkCount - freeChunks) * ChunkArena.chunkBytes }

    /// The most that `heldBytes` has been. The kernel has backed no more than this: what was never
    /// held was never written.
    package var heldBytesMax: Int {
        (chunkCount - leastFreeCount.load(ordering: .relaxed)) * ChunkArena.chunkBytes
    }

    /// Gives back `count` zeroed chunks, linked from `first`. The caller owned them.
    @unsafe
    func push(_ first: UInt32, count: Int) {
        unsafe batchCount[Int(first)] = UInt32(count)
        var old = top.load(ordering: .relaxed)
        while true {
            unsafe nextBatch[Int(first)].store(UInt32(truncatingIfNeeded: old), ordering: .relaxed)
            // Releasing: links, count and wiped bytes are seen by whoever takes the batch.
            let (isDone, seen) = top.weakCompareExchange(
                expected: old, desired: Self.word(first, after: old),
                successOrdering: .acquiringAndReleasing, failureOrdering: .relaxed)
            if isDone { break }
            old = seen
        }
        freeCount.add(count, ordering: .relaxed)
    }

    /// Takes a batch; nil when there is none. The caller owns its chunks.
    @unsafe
    func pop() -> Batch? {
        var old = top.load(ordering: .acquiring)
        while true {
            let first = UInt32(truncatingIfNeeded: old)
            guard first != ChunkQueue.none else { return nil }
            let below = unsafe nextBatch[Int(first)].load(ordering: .relaxed)
            let (isDone, seen) = top.weakCompareExchange(
                expected: old, desired: Self.word(below, after: old),
                successOrdering: .acquiringAndReleasing, failureOrdering: .acquiring)
            guard isDone else {
                old = seen
                continue
            }
            let count = unsafe Int(batchCount[Int(first)])
            let free = freeCount.subtract(count, ordering: .relaxed).newValue
            leastFreeCount.min(free, ordering: .relaxed)
            var last = first
            for _ in 1..<count { unsafe last = next[Int(last)] }
            return Batch(first: first, last: last, count: count)
        }
    }

    private static func word(_ first: UInt32, after old: UInt64) -> UInt64 {
        UInt64(first) | ((old >> 32) &+ 1) << 32
    }
}
