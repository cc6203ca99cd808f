import Testing

import ContentArena

/// `#expect` cannot look inside a call on a noncopyable value.
func check(_ condition: Bool, at location: SourceLocation = #_sourceLocation) {
    #expect(condition, sourceLocation: location)
}

@Suite struct ChunkArenaTests {
    /// A frame's header words as the wire lays them out.
    func header(
        payloadBytes: Int, kind: UInt8 = 0x25, flags: UInt8 = 0, tokens: UInt16 = 0,
        stream: UInt32 = 1
    ) -> FrameHeaderWords {
        let first =
            UInt64(payloadBytes) | UInt64(kind) << 32 | UInt64(flags) << 40 | UInt64(tokens) << 48
        return FrameHeaderWords(first: first, stream: stream)
    }

    func bytes(_ count: Int, seed: Int = 1) -> [UInt8] {
        (0..<count).map { UInt8(truncatingIfNeeded: $0 &* 31 &+ seed &* 7 &+ 1) }
    }

    @Test func appendIsAllOrNothing() throws {
        var arena = try ChunkArena(chunkCount: 3)
        var queue = ChunkQueue()
        check(arena.append(bytes(5_000).span, to: &queue))
        #expect(arena.freeChunks == 1)
        // 3,192 bytes are left in the last chunk and one chunk is free.
        check(!arena.append(bytes(3_192 + 4_097).span, to: &queue))
        #expect(queue.byteCount == 5_000)
        #expect(arena.freeChunks == 1)
        check(arena.append(bytes(3_192 + 4_096).span, to: &queue))
        #expect(arena.freeChunks == 0)
        check(!arena.append(bytes(1).span, to: &queue))
        arena.release(&queue)
        #expect(arena.freeChunks == 3)
        #expect(queue.isEmpty)
    }

    @Test func copyReturnsWhatWasAppendedAtAnyOffsetAndLeavesIt() throws {
        var arena = try ChunkArena(chunkCount: 8)
        var region = try ContentRegion(byteCount: 20_000)
        var queue = ChunkQueue()
        let content = bytes(13_000)
        for start in stride(from: 0, to: 13_000, by: 1_300) {
            check(arena.append(Array(content[start..<start + 1_300]).span, to: &queue))
        }
        for (offset, count) in [
            (0, 13_000), (4_095, 2), (4_096, 4_096), (8_191, 4_000), (13_000, 0),
        ] {
            arena.copy(from: queue, offset: offset, count: count, into: &region, at: 7)
            for index in 0..<count {
                #expect(region.span[7 + index] == content[offset + index])
            }
        }
        #expect(queue.byteCount == 13_000)
        arena.release(&queue)
    }

    @Test func chunksAreZeroWhenFree() throws {
        var arena = try ChunkArena(chunkCount: 6)
        var region = try ContentRegion(byteCount: 16_384)
        var first = ChunkQueue()
        var second = ChunkQueue()
        check(arena.append(bytes(6_000).span, to: &first))
        for _ in 0..<3 {
            check(
                arena.appendFrame(
                    header(payloadBytes: 3_000), payload: bytes(3_000).span, to: &second))
        }
        arena.release(&first)
        check(arena.freeChunksAreZero())
        let taken = arena.takeFrames(from: &second, atMostBytes: 7_000, into: &region, at: 0)
        #expect(taken.frames == 2)
        check(arena.freeChunksAreZero())
        arena.release(&second)
        #expect(arena.freeChunks == 6)
        check(arena.freeChunksAreZero())
    }

    @Test func takeFramesTakesWholeFramesOnly() throws {
        var arena = try ChunkArena(chunkCount: 16)
        var region = try ContentRegion(byteCount: 65_536)
        var queue = ChunkQueue()
        for _ in 0..<10 {
            let payload = bytes(88).span
            check(
                arena.appendFrame(header(payloadBytes: 88, tokens: 2), payload: payload, to: &queue)
            )
        }
        var taken = arena.takeFrames(from: &queue, atMostBytes: 99, into: &region, at: 0)
        #expect(taken == FramesTaken())
        #expect(queue.byteCount == 1_000)
        taken = arena.takeFrames(from: &queue, atMostBytes: 399, into: &region, at: 5)
        #expect(taken.bytes == 300)
        #expect(taken.frames == 3)
        #expect(taken.tokens == 6)
        #expect(taken.payloadBytes == 264)
        taken = arena.takeFrames(from: &queue, atMostBytes: 65_536, into: &region, at: 0)
        #expect(taken.bytes == 700)
        #expect(queue.isEmpty)
        #expect(arena.freeChunks == 16)
    }

    @Test func takeFramesSumsTokensAndReasoningApart() throws {
        var arena = try ChunkArena(chunkCount: 16)
        var region = try ContentRegion(byteCount: 65_536)
        var queue = ChunkQueue()
        let none: [UInt8] = []
        for (flags, tokens) in [(0, 1), (1, 65_535), (3, 10), (2, 0), (0x80, 4)]
            as [(UInt8, UInt16)]
        {
            check(
                arena.appendFrame(
                    header(payloadBytes: 0, flags: flags, tokens: tokens), payload: none.span,
                    to: &queue))
        }
        let taken = arena.takeFrames(from: &queue, atMostBytes: 65_536, into: &region, at: 0)
        #expect(taken.tokens == 65_550)
        #expect(taken.reasoningTokens == 65_545)
        #expect(taken.payloadBytes == 0)
        #expect(taken.bytes == 60)
    }

    /// Every position of a frame relative to a chunk's end, its header split at each byte.
    @Test func framesSurviveEveryPlaceOfAChunkBoundary() throws {
        var arena = try ChunkArena(chunkCount: 8)
        var region = try ContentRegion(byteCount: 16_384)
        for lead in 4_060...4_100 {
            var queue = ChunkQueue()
            let filler = bytes(lead - 12, seed: lead)
            let payload = bytes(40, seed: 3)
            check(
                arena.appendFrame(header(payloadBytes: lead - 12), payload: filler.span, to: &queue)
            )
            check(
                arena.appendFrame(
                    header(payloadBytes: 40, tokens: 9, stream: 0xA1B2_C3D4), payload: payload.span,
                    to: &queue))
            let first = arena.takeFrames(from: &queue, atMostBytes: lead, into: &region, at: 0)
            #expect(first.bytes == lead)
            #expect(arena.firstFrameBytes(of: queue) == 52)
            let second = arena.takeFrames(from: &queue, atMostBytes: 16_384, into: &region, at: 0)
            #expect(second.tokens == 9)
            let expected: [UInt8] = [40, 0, 0, 0, 0x25, 0, 9, 0, 0xD4, 0xC3, 0xB2, 0xA1] + payload
            #expect((0..<52).map { region.span[$0] } == expected)
            #expect(arena.freeChunks == 8)
        }
        check(arena.freeChunksAreZero())
    }

    /// Many queues filled and drained in a pseudo-random order give back exactly their own bytes.
    @Test func queuesNeverMix() throws {
        var arena = try ChunkArena(chunkCount: 64)
        var region = try ContentRegion(byteCount: 65_536)
        var queues = [ChunkQueue](repeating: ChunkQueue(), count: 12)
        var expected = [[UInt8]](repeating: [], count: 12)
        var state: UInt64 = 0x9E37_79B9_7F4A_7C15
        for _ in 0..<4_000 {
            state ^= state << 13
            state ^= state >> 7
            state ^= state << 17
            let index = Int(state % 12)
            let size = Int((state >> 8) % 3_000)
            if (state >> 40) & 3 != 0 {
                let payload = bytes(size, seed: index)
                let words = header(payloadBytes: size, stream: UInt32(index))
                if arena.appendFrame(words, payload: payload.span, to: &queues[index]) {
                    withUnsafeBytes(of: words.first.littleEndian) { expected[index] += $0 }
                    withUnsafeBytes(of: words.stream.littleEndian) { expected[index] += $0 }
                    expected[index] += payload
                }
            } else if (state >> 50) & 15 == 0 {
                arena.release(&queues[index])
                expected[index] = []
            } else {
                let taken = arena.takeFrames(
                    from: &queues[index], atMostBytes: size * 4, into: &region, at: 0)
                #expect(
                    (0..<taken.bytes).map { region.span[$0] }
                        == Array(expected[index][..<taken.bytes]))
                expected[index].removeFirst(taken.bytes)
            }
            #expect(Int(queues[index].byteCount) == expected[index].count)
        }
        for index in queues.indices { arena.release(&queues[index]) }
        #expect(arena.freeChunks == 64)
        check(arena.freeChunksAreZero())
    }
}

@Suite struct ContentRegionTests {
    @Test func startsZeroAndWipesExactlyTheRange() throws {
        var region = try ContentRegion(byteCount: 10_000)
        #expect((0..<10_000).allSatisfy { region.span[$0] == 0 })
        region.copy(from: [UInt8](repeating: 7, count: 10_000).span, at: 0)
        region.wipe(100..<200)
        #expect((0..<10_000).allSatisfy { region.span[$0] == ((100..<200).contains($0) ? 0 : 7) })
        var bytes = region.mutableSpan
        bytes[0] = 1
        #expect(region.span[0] == 1)
    }

    @Test func aCopyThatDoesNotFitTraps() async {
        await #expect(processExitsWith: .failure) {
            var region = try ContentRegion(byteCount: 16)
            region.copy(from: [1, 2, 3].span, at: 14)
        }
    }
}
