import SluiceRecordFormat
import SluiceWire
import Testing

@Suite struct DirectoryFormatTests {
    /// One entry of each kind with a value in every field.
    static let entries: [DirectoryEntry] = [
        .credential(
            DirectoryCredential(
                digest: Digest256(0x11, 0x22, 0x33, 0x44), account: 0x55, role: .supplier,
                isRevoked: true, expiresAtMs: 0x66, concurrentTasksMax: 0x77,
                requestsPerMinuteMax: 0x88, supplier: 0x99, needsAccount: true,
                tokensPerMinuteMax: 0xBB, operations: OperationSet(.embedding))),
        .account(
            DirectoryAccount(
                account: 0x55, isSuspended: false, isPrepaid: true, concurrentTasksMax: 0x11,
                requestsPerMinuteMax: 0x22, tokensPerMinuteMax: 0x33)),
        .price(
            DirectoryPrice(
                model: modelName("a/longer-name"),
                prices: PriceList(input: 0x11, cached: 0x22, output: 0x33, reasoning: 0x44),
                effectiveFromMs: 0x55, isRemoved: true)),
        .fee(DirectoryFee(basisPoints: 10_000, effectiveFromMs: 0x55)),
        .lease(
            DirectoryLease(
                account: 0x55, instance: 0x66, granted: 0x77, recalled: 0x11, expiresAtMs: 0x88,
                isDry: true, isClosed: true, share: 0x99)),
    ]

    @Test(arguments: entries) func anEntryRoundTripsAndDamageIsSeen(entry: DirectoryEntry) {
        var entry = entry
        entry.change = 0xAA
        let words = entry.words
        #expect(DirectoryEntry(words) == entry)
        #expect(bytes(words, 8..<16) == littleEndian(0xAA, 8))
        for word in 0..<16 {
            var damaged = words
            damaged[word] ^= 1 << UInt64(word * 3)
            #expect(DirectoryEntry(damaged) == nil)
        }
        var strange = words
        strange[0] = words[0] & ~0xFF00 | 0x7700
        #expect(DirectoryEntry(strange.sealed) == nil)
    }

    @Test func fieldsLieWhereFilesMdSays() {
        let words = Self.entries.map(\.words)
        #expect(bytes(words[0], 0..<4) == [1, 1, 2, 3])
        #expect(bytes(words[0], 16..<24) == littleEndian(0x11, 8))
        #expect(bytes(words[0], 40..<48) == littleEndian(0x44, 8))
        #expect(bytes(words[0], 48..<64) == littleEndian(0x55, 8) + littleEndian(0x66, 8))
        #expect(bytes(words[0], 64..<72) == [0x77, 0, 0, 0, 0x88, 0, 0, 0])
        #expect(bytes(words[0], 72..<88) == littleEndian(0x99, 8) + littleEndian(0xBB, 8))
        #expect(bytes(words[0], 88..<96) == littleEndian(4, 8))

        #expect(bytes(words[1], 0..<4) == [1, 2, 0, 2])
        #expect(bytes(words[1], 16..<24) == littleEndian(0x55, 8))
        #expect(bytes(words[1], 24..<32) == [0x11, 0, 0, 0, 0x22, 0, 0, 0])
        #expect(bytes(words[1], 32..<40) == littleEndian(0x33, 8))

        #expect(bytes(words[2], 0..<4) == [1, 3, 13, 1])
        #expect(bytes(words[2], 16..<24) == [0x11, 0, 0, 0, 0x22, 0, 0, 0])
        #expect(bytes(words[2], 24..<32) == [0x33, 0, 0, 0, 0x44, 0, 0, 0])
        #expect(bytes(words[2], 32..<40) == littleEndian(0x55, 8))
        #expect(bytes(words[2], 40..<53) == Array("a/longer-name".utf8))

        #expect(bytes(words[3], 0..<4) == [1, 4, 0, 0])
        #expect(bytes(words[3], 16..<32) == littleEndian(10_000, 8) + littleEndian(0x55, 8))

        #expect(bytes(words[4], 0..<4) == [1, 5, 0, 3])
        #expect(bytes(words[4], 16..<32) == littleEndian(0x55, 8) + littleEndian(0x66, 8))
        #expect(bytes(words[4], 32..<48) == littleEndian(0x77, 8) + littleEndian(0x11, 8))
        #expect(bytes(words[4], 48..<64) == littleEndian(0x88, 8) + littleEndian(0x99, 8))
    }

    @Test func aNameOfTheLargestSizeFits() {
        let name = modelName(String(repeating: "x", count: ModelName.byteCountMax))
        let entry = DirectoryEntry.price(
            DirectoryPrice(model: name, prices: .free, effectiveFromMs: .max))
        #expect(DirectoryEntry(entry.words) == entry)
    }

    @Test func valuesOutOfRangeAreNoEntry() {
        var fee = Self.entries[3].words
        fee[2] = 10_001
        #expect(DirectoryEntry(fee.sealed) == nil)
        for (word, value) in [
            (4, UInt64(bitPattern: -1)), (5, UInt64(bitPattern: -1)), (7, 0), (7, 65_537),
        ] {
            var lease = Self.entries[4].words
            lease[word] = value
            #expect(DirectoryEntry(lease.sealed) == nil)
        }
        var price = Self.entries[2].words
        price[0] = price[0] & ~0xFF_0000 | 89 << 16
        #expect(DirectoryEntry(price.sealed) == nil)
        price[0] = price[0] & ~0xFF_0000
        #expect(DirectoryEntry(price.sealed) == nil)
        var credential = Self.entries[0].words
        credential[0] |= 0xFF << 16
        #expect(DirectoryEntry(credential.sealed) == nil)
    }

    @Test func aKeyNamesWhatIsReplaced() {
        #expect(Set(Self.entries.map(\.key)).count == 5)
        func price(_ effectiveFromMs: UInt64, _ input: UInt32) -> DirectoryEntry {
            .price(
                DirectoryPrice(
                    model: modelName("m"),
                    prices: PriceList(input: input, cached: 0, output: 0, reasoning: 0),
                    effectiveFromMs: effectiveFromMs))
        }
        #expect(price(1, 1).key == price(1, 2).key)
        #expect(price(1, 1).key != price(2, 1).key)
    }

    @Test func anEmptySetOfOperationsAllowsAll() {
        var credential = DirectoryCredential(
            digest: Digest256(1, 2, 3, 4), account: 1, role: .client)
        #expect(TaskOperation.allCases.allSatisfy { credential.allows($0) })
        credential.operations = OperationSet(.chat)
        #expect(credential.allows(.chat))
        #expect(!credential.allows(.image))
    }

    @Test func validityEndsAtExpiryAndRevocation() {
        var entry = DirectoryCredential(
            digest: Digest256(1, 2, 3, 4), account: 1, role: .client, expiresAtMs: 100)
        #expect(entry.isValid(nowMs: 99))
        #expect(!entry.isValid(nowMs: 100))
        entry.expiresAtMs = 0
        #expect(entry.isValid(nowMs: .max))
        entry.isRevoked = true
        #expect(!entry.isValid(nowMs: 0))
    }

    @Test func rolesAllowOnlyThemselves() {
        #expect(DirectoryRole.client.allows(.client))
        #expect(!DirectoryRole.client.allows(.supplier))
        #expect(!DirectoryRole.supplier.allows(.client))
        #expect(DirectoryRole.both.allows(.client) && DirectoryRole.both.allows(.supplier))
    }

    @Test func aFileHeaderRoundTrips() {
        let header = BlockFileHeader(
            kind: .directorySnapshot, number: 3, entryCount: 4, lastChange: 5)
        #expect(BlockFileHeader(header.words) == header)
        var damaged = header.words
        damaged[2] += 1
        #expect(BlockFileHeader(damaged) == nil)
    }
}
