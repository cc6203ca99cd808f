import LinuxIO
import LockFree
import Testing

import ContentArena

/// Several arenas on one pool, as the shards of a broker have them.
@Suite struct ChunkPoolTests {
    @Test func whatOneArenaFillsAnotherReadsAndReleases() throws {
        let pool = try ChunkPool(chunkCount: 64)
        var filling = ChunkArena(pool: pool)
        var emptying = ChunkArena(pool: pool)
        let bytes = (0..<20_000).map { UInt8(truncatingIfNeeded: $0 &* 7) }
        var queue = ChunkQueue()
        check(filling.append(bytes.span, to: &queue))
        var region = try ContentRegion(byteCount: 20_000)
        emptying.copy(from: queue, offset: 0, count: 20_000, into: &region, at: 0)
        for index in bytes.indices { #expect(region.span[index] == bytes[index]) }
        emptying.release(&queue)
        #expect(filling.freeChunks + emptying.freeChunks - pool.freeChunks == 64)
        check(emptying.freeChunksAreZero())
    }

    @Test func anArenaKeepsFewChunksFromTheOthers() throws {
        let pool = try ChunkPool(chunkCount: 256)
        var first = ChunkArena(pool: pool)
        var queue = ChunkQueue()
        check(first.append([UInt8](repeating: 1, count: 200 * 4_096).span, to: &queue))
        first.release(&queue)
        #expect(pool.freeChunks >= 256 - ChunkArena.cachedChunksMax)
        var second = ChunkArena(pool: pool)
        var other = ChunkQueue()
        check(
            second.append(
                [UInt8](repeating: 2, count: (256 - ChunkArena.cachedChunksMax) * 4_096).span,
                to: &other))
        second.release(&other)
    }

    @Test func thePoolKnowsTheMostThatWasHeld() throws {
        let pool = try ChunkPool(chunkCount: 256)
        #expect(pool.heldBytes == 0 && pool.heldBytesMax == 0)
        var arena = ChunkArena(pool: pool)
        var queue = ChunkQueue()
        check(arena.append([UInt8](repeating: 1, count: 160 * 4_096).span, to: &queue))
        #expect(pool.heldBytes == 160 * 4_096)
        arena.release(&queue)
        #expect(pool.heldBytes <= ChunkArena.cachedChunksMax * 4_096)
        check(arena.append([UInt8](repeating: 1, count: 4_096).span, to: &queue))
        #expect(pool.heldBytesMax == 160 * 4_096)
        arena.release(&queue)
    }

    @Test func anEmptyPoolRefusesAndLosesNothing() throws {
        let pool = try ChunkPool(chunkCount: 40)
        var first = ChunkArena(pool: pool)
        var second = ChunkArena(pool: pool)
        var taken = ChunkQueue()
        var refused = ChunkQueue()
        check(first.append([UInt8](repeating: 1, count: 33 * 4_096).span, to: &taken))
        check(!second.append([UInt8](repeating: 1, count: 8 * 4_096).span, to: &refused))
        #expect(refused.isEmpty)
        first.release(&taken)
        #expect(first.freeChunks + second.freeChunks - pool.freeChunks == 40)
    }

    /// Two threads fill, two empty, through queues between them. Forbidden: a chunk in two queues
    /// at once (its bytes would mix), a free chunk that is not zero, a chunk that is lost.
    @Test func chunksThatChangeThreadsAreNeitherSharedNorLost() throws {
        let chunkCount = 512
        let pool = try ChunkPool(chunkCount: chunkCount)
        let rounds = 5_000
        let ways = (0..<2).map { _ in SPSCQueue<ChunkQueue>(capacity: 16) }
        let verdicts = (0..<2).map { _ in SPSCQueue<Bool>(capacity: 2) }
        var threads: [Box] = []
        for (number, way) in ways.enumerated() {
            threads.append(
                Box(
                    try KernelThread {
                        var arena = ChunkArena(pool: pool)
                        for round in 0..<rounds {
                            let mark = UInt8(truncatingIfNeeded: round &* 2 &+ number &+ 1) | 1
                            let bytes = [UInt8](
                                repeating: mark, count: 1 + (round &* 811) % 30_000)
                            var queue = ChunkQueue()
                            while !arena.append(bytes.span, to: &queue) { KernelThread.yield() }
                            while !way.push(queue) { KernelThread.yield() }
                            way.publish()
                        }
                    }))
            let verdict = verdicts[number]
            threads.append(
                Box(
                    try KernelThread {
                        var arena = ChunkArena(pool: pool)
                        guard var region = try? ContentRegion(byteCount: 30_000) else { return }
                        var isWhole = true
                        var taken = 0
                        while taken < rounds {
                            guard var queue = way.pop() else {
                                way.release()
                                KernelThread.yield()
                                continue
                            }
                            let count = Int(queue.byteCount)
                            arena.copy(
                                from: queue, offset: 0, count: count, into: &region, at: 0)
                            let mark = UInt8(truncatingIfNeeded: taken &* 2 &+ number &+ 1) | 1
                            for index in 0..<count where region.span[index] != mark {
                                isWhole = false
                            }
                            arena.release(&queue)
                            way.release()
                            taken += 1
                        }
                        _ = verdict.push(isWhole)
                        verdict.publish()
                    }))
        }
        for thread in threads { thread.join() }
        for verdict in verdicts { #expect(verdict.pop() == true) }
        #expect(pool.freeChunks == chunkCount)
        var arena = ChunkArena(pool: pool)
        check(arena.freeChunksAreZero())
    }

    private final class Box {
        var thread: KernelThread?

        init(_ thread: consuming KernelThread) { self.thread = consume thread }

        func join() { thread.take()?.join() }
    }
}
