/// First block of a sealed segment: a file header that goes on with the segment's data key, which
/// a master key wraps (`Protocol/Files.md`, Sealed segments).
///
///     0…39 as `BlockFileHeader`, kind 0x44  40 u8 bytes of the wrapped key  41 the wrapped key
package struct SealedSegmentHeader: Equatable, Sendable {
    private static let keyOffset = 41
    /// Longest wrapped key that the block has room for.
    package static let wrappedKeyBytesMax = RecordWords.byteCount - keyOffset

    package var number: UInt64
    /// The data key, sealed under the master key that its bytes 1…8 name.
    package var wrappedKey: [UInt8]

    /// A key longer than `wrappedKeyBytesMax` is a fault of the caller.
    package init(number: UInt64, wrappedKey: [UInt8]) {
        precondition(
            wrappedKey.count <= Self.wrappedKeyBytesMax, "a wrapped key fits its header")
        self.number = number
        self.wrappedKey = wrappedKey
    }

    /// Nil unless the file header holds and says that what follows is sealed.
    package init?(_ words: RecordWords) {
        guard let header = BlockFileHeader(words), header.kind == .sealedSegment else {
            return nil
        }
        let count = Int(words[5].byte(0))
        guard count <= Self.wrappedKeyBytesMax else { return nil }
        self.init(
            number: header.number, wrappedKey: words.bytes(at: Self.keyOffset, count: count))
    }

    package var words: RecordWords {
        var words = BlockFileHeader(kind: .sealedSegment, number: number).words
        words.set([UInt8(wrappedKey.count)] + wrappedKey, at: Self.keyOffset - 1)
        return words.sealed
    }

    /// What the wrapped key belongs to: this segment and no other.
    package static func keyOwner(number: UInt64) -> [UInt8] {
        Array("sluice journal segment".utf8)
            + (0..<8).map { UInt8(truncatingIfNeeded: number >> UInt64($0 * 8)) }
    }
}

/// What stands before the ciphertext of records that were made durable together. It says where it
/// stands, so that behind damage the next one is found, and is not taken for one elsewhere.
///
///     0 u8 version  1 u8 0x45  4 u32 CRC-32C  8 "SLCBLCK1"  16 u64 segment  24 u64 offset
///     32 u64 records  40 12 bytes nonce  56 16 bytes tag
package struct SealedBlockHeader: Equatable, Sendable {
    package static let nonceBytes = 12
    package static let tagBytes = 16
    /// Records of one block at most: 512 KiB.
    package static let recordCountMax = 4_096
    private static let kind: UInt8 = 0x45
    /// "SLCBLCK1".
    private static let magic: UInt64 = 0x314B_434C_4243_4C53

    package var segment: UInt64
    /// Of this header in its file, in bytes.
    package var offset: Int
    /// 1…`recordCountMax`.
    package var recordCount: Int
    package var nonce = [UInt8](repeating: 0, count: nonceBytes)
    package var tag = [UInt8](repeating: 0, count: tagBytes)

    package init(segment: UInt64, offset: Int, recordCount: Int) {
        precondition((1...Self.recordCountMax).contains(recordCount))
        self.segment = segment
        self.offset = offset
        self.recordCount = recordCount
    }

    /// Nil unless the checksum and every field hold and the header belongs where it was read.
    package init?(_ words: RecordWords, segment: UInt64, offset: Int) {
        guard words.isIntact, words[0].byte(0) == 1, words[0].byte(1) == Self.kind,
            words[1] == Self.magic, words[2] == segment, words[3] == UInt64(offset),
            (1...UInt64(Self.recordCountMax)).contains(words[4])
        else { return nil }
        self.init(segment: segment, offset: offset, recordCount: Int(words[4]))
        nonce = words.bytes(at: 40, count: Self.nonceBytes)
        tag = words.bytes(at: 56, count: Self.tagBytes)
    }

    /// Whether a block is a header of this kind at all, wherever it was read.
    package static func isOne(_ words: RecordWords) -> Bool {
        words[0].byte(1) == kind && words[1] == magic
    }

    /// Bytes of the ciphertext behind the header.
    package var bodyBytes: Int { recordCount * RecordWords.byteCount }

    /// What the tag vouches for besides the ciphertext: magic, segment, offset, records.
    package var associated: [UInt8] { plainWords.bytes(at: 8, count: 32) }

    package var words: RecordWords {
        var words = plainWords
        words.set(nonce, at: 40)
        words.set(tag, at: 56)
        return words.sealed
    }

    private var plainWords: RecordWords {
        var words = RecordWords()
        words[0] = .byte(1, at: 0) | .byte(Self.kind, at: 1)
        words[1] = Self.magic
        words[2] = segment
        words[3] = UInt64(offset)
        words[4] = UInt64(recordCount)
        return words
    }
}

extension RecordWords {
    /// Bytes of the block as they stand in a file.
    fileprivate func bytes(at offset: Int, count: Int) -> [UInt8] {
        (offset..<offset + count).map { self[$0 >> 3].byte($0 & 7) }
    }

    /// Puts bytes where there are zeros.
    fileprivate mutating func set(_ bytes: [UInt8], at offset: Int) {
        for (index, byte) in bytes.enumerated() {
            self[(offset + index) >> 3] |= .byte(byte, at: (offset + index) & 7)
        }
    }
}
