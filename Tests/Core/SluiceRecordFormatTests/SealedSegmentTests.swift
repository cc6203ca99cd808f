import SluiceRecordFormat
import SluiceWire
import Testing

@Suite struct SealedSegmentTests {
    private static let key = (0..<60).map { UInt8($0 + 1) }

    private static var block: SealedBlockHeader {
        var block = SealedBlockHeader(segment: 7, offset: 4_224, recordCount: 33)
        block.nonce = (0..<12).map { UInt8($0 + 100) }
        block.tag = (0..<16).map { UInt8($0 + 200) }
        return block
    }

    @Test func aHeaderComesBackWithItsKey() {
        let header = SealedSegmentHeader(number: 7, wrappedKey: Self.key)
        #expect(SealedSegmentHeader(header.words) == header)
        let empty = SealedSegmentHeader(number: 8, wrappedKey: [])
        #expect(SealedSegmentHeader(empty.words) == empty)
        #expect(SealedSegmentHeader.keyOwner(number: 7) != SealedSegmentHeader.keyOwner(number: 8))
    }

    @Test func anotherFileIsNoSealedSegment() {
        #expect(
            SealedSegmentHeader(BlockFileHeader(kind: .journalSegment, number: 7).words) == nil)
        var words = SealedSegmentHeader(number: 7, wrappedKey: Self.key).words
        // More key than there is room for, under a checksum that holds.
        words[5] |= 0xFF
        #expect(SealedSegmentHeader(words.sealed) == nil)
        words[6] ^= 1
        #expect(SealedSegmentHeader(words) == nil)
    }

    @Test func aBlockIsTakenOnlyWhereItBelongs() {
        let words = Self.block.words
        #expect(SealedBlockHeader(words, segment: 7, offset: 4_224) == Self.block)
        #expect(Self.block.bodyBytes == 33 * 128)
        #expect(SealedBlockHeader.isOne(words))
        #expect(SealedBlockHeader(words, segment: 8, offset: 4_224) == nil)
        #expect(SealedBlockHeader(words, segment: 7, offset: 4_096) == nil)
        #expect(!SealedBlockHeader.isOne(SealedSegmentHeader(number: 7, wrappedKey: []).words))
    }

    @Test func aBlockHasARecordAndNotTooMany() {
        for count in [0, UInt64(SealedBlockHeader.recordCountMax) + 1, .max] {
            var words = Self.block.words
            words[4] = count
            #expect(SealedBlockHeader(words.sealed, segment: 7, offset: 4_224) == nil)
        }
    }

    @Test func whatTheTagVouchesForChangesWithEveryField() {
        let others = [
            SealedBlockHeader(segment: 8, offset: 4_224, recordCount: 33),
            SealedBlockHeader(segment: 7, offset: 4_352, recordCount: 33),
            SealedBlockHeader(segment: 7, offset: 4_224, recordCount: 34),
        ]
        #expect(others.allSatisfy { $0.associated != Self.block.associated })
        #expect(Self.block.associated.count == 32)
    }
}
