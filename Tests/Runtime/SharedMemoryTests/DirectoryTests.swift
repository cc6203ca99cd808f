import Foundation
import RecordTestSupport
import SharedMemory
import SluiceRecordFormat
import SluiceWire
import Testing

@Suite struct DirectoryTests {
    let scratch = ScratchDirectory()
    var path: String { scratch.path + "/directory" }

    private func entry(_ number: UInt64, revoked: Bool = false) -> DirectoryEntry {
        .credential(
            DirectoryCredential(
                digest: Digest256(number, 2, 3, 4), account: number, role: .client,
                isRevoked: revoked))
    }

    private func lease(_ instance: UInt64, closed: Bool = false) -> DirectoryEntry {
        .lease(
            DirectoryLease(
                account: 1, instance: instance, granted: 5, expiresAtMs: 9, isClosed: closed))
    }

    /// An entry of a kind that only a later version knows.
    private func later(change: UInt64) -> RecordWords {
        var words = RecordWords()
        words[0] = .byte(1, at: 0) | .byte(0x30, at: 1)
        words[1] = change
        words[2] = 77
        return words.sealed
    }

    private func append(_ words: RecordWords, to file: String) throws {
        var bytes: [UInt8] = []
        words.append(to: &bytes)
        let log = try FileHandle(forWritingTo: URL(fileURLWithPath: path + "/" + file))
        try log.seekToEnd()
        try log.write(contentsOf: Data(bytes))
    }

    private func blocks(_ file: String) throws -> [RecordWords] {
        let bytes = try Array(Data(contentsOf: URL(fileURLWithPath: path + "/" + file)))
        return stride(from: 0, to: bytes.count, by: 128).compactMap {
            RecordWords(bytes[$0..<min($0 + 128, bytes.count)].span)
        }
    }

    @Test func aReaderSeesEverythingThenChanges() throws {
        var reader = DirectoryReader(directory: path)
        #expect(try reader.poll().isEmpty)
        var writer = try DirectoryWriter(directory: path)
        try writer.upsert([entry(1), entry(2)])
        #expect(try reader.poll().map(\.account) == [1, 2])
        #expect(try reader.poll().isEmpty)
        try writer.upsert([entry(1, revoked: true)])
        let changed = try reader.poll()
        #expect(changed.map(\.account) == [1])
        #expect(changed[0].isRevoked)
        var late = DirectoryReader(directory: path)
        #expect(try late.poll().map(\.account) == [1, 2, 1])
    }

    @Test func aReaderFollowsEveryRotation() throws {
        var reader = DirectoryReader(directory: path)
        var writer = try DirectoryWriter(directory: path)
        try writer.upsert([entry(1)])
        #expect(try reader.poll().map(\.account) == [1])
        try writer.upsert([entry(2)])
        try writer.compact()
        try writer.upsert([entry(3)])
        try writer.compact()
        try writer.upsert([entry(1, revoked: true)])
        #expect(try reader.poll().map(\.account) == [2, 3, 1])
        #expect(try reader.poll().isEmpty)
    }

    @Test func compactionKeepsRevocations() throws {
        var writer = try DirectoryWriter(directory: path)
        try writer.upsert([entry(1), entry(1, revoked: true)])
        try writer.compact()
        var reader = DirectoryReader(directory: path)
        let entries = try reader.poll()
        #expect(entries.count == 1)
        #expect(entries[0].isRevoked)
    }

    @Test func manyChangesCompactByThemselves() throws {
        var reader = DirectoryReader(directory: path)
        var state: [UInt64: Bool] = [:]
        do {
            var writer = try DirectoryWriter(directory: path)
            for round in 0..<40 {
                try writer.upsert((0..<100).map { entry($0, revoked: round % 2 == 0) })
                if round % 7 == 0 {
                    for entry in try reader.poll() { state[entry.account] = entry.isRevoked }
                }
            }
        }
        for entry in try reader.poll() { state[entry.account] = entry.isRevoked }
        #expect(state.count == 100)
        #expect(state.values.allSatisfy { !$0 })
        let names = try FileManager.default.contentsOfDirectory(atPath: path)
        #expect(names.filter { $0.hasPrefix("snapshot-") }.count == 1)
        #expect(!names.contains("snapshot-1"))
    }

    @Test func everyKindReplacesByItsKey() throws {
        let model = try #require(ModelName("m"))
        func price(_ from: UInt64, _ input: UInt32) -> DirectoryEntry {
            .price(
                DirectoryPrice(
                    model: model,
                    prices: PriceList(input: input, cached: 0, output: 0, reasoning: 0),
                    effectiveFromMs: from))
        }
        var writer = try DirectoryWriter(directory: path)
        try writer.upsert([
            .account(DirectoryAccount(account: 1)), price(10, 1), price(20, 2),
            .fee(DirectoryFee(basisPoints: 1, effectiveFromMs: 0)), lease(1), lease(2),
        ])
        try writer.upsert([
            .account(DirectoryAccount(account: 1, isSuspended: true)), price(10, 3),
            .fee(DirectoryFee(basisPoints: 2, effectiveFromMs: 0)), lease(1, closed: true),
        ])
        #expect(writer.entries.count == 6)
        try writer.compact()
        var reader = DirectoryReader(directory: path)
        let entries = try reader.poll()
        #expect(entries.map(\.change) == [3, 6, 7, 8, 9])
        #expect(entries.map(\.key) == writer.entries.map(\.key))
        #expect(!entries.contains { $0.key == lease(1).key })
    }

    @Test func changeNumbersNeverGoBack() throws {
        do {
            var writer = try DirectoryWriter(directory: path)
            try writer.upsert([entry(1), lease(1), lease(1, closed: true)])
        }
        var reader = DirectoryReader(directory: path)
        #expect(try reader.poll().count == 3)
        do {
            var writer = try DirectoryWriter(directory: path)
            // The last change falls out of the snapshot.
            try writer.compact()
        }
        var writer = try DirectoryWriter(directory: path)
        try writer.upsert([entry(2)])
        #expect(try reader.poll().map(\.change) == [4])
    }

    @Test func aClosedLeaseIsSeenThoughItsGenerationIsGone() throws {
        var writer = try DirectoryWriter(directory: path)
        try writer.upsert([lease(1)])
        var reader = DirectoryReader(directory: path)
        #expect(try reader.poll().count == 1)
        try writer.upsert([lease(1, closed: true)])
        try writer.compact()
        #expect(try reader.poll().map(\.change) == [2])
    }

    @Test func kindsOfLaterVersionsArePassedOverAndKept() throws {
        do {
            var writer = try DirectoryWriter(directory: path)
            try writer.upsert([entry(1)])
        }
        try append(later(change: 2), to: "changes-1")
        var reader = DirectoryReader(directory: path)
        #expect(try reader.poll().map(\.change) == [1])
        var writer = try DirectoryWriter(directory: path)
        try writer.upsert([entry(2)])
        #expect(try reader.poll().map(\.change) == [3])
        try writer.compact()
        #expect(try blocks("snapshot-2").contains(later(change: 2)))
        #expect(try blocks("snapshot-2").dropFirst().map { $0[1] } == [1, 2, 3])
        try writer.upsert([entry(3)])
        #expect(try reader.poll().map(\.change) == [4])
    }

    @Test func whatWasReadBeforeADamagedSnapshotIsHandedOut() throws {
        var writer = try DirectoryWriter(directory: path)
        try writer.upsert([entry(1)])
        var reader = DirectoryReader(directory: path)
        #expect(try reader.poll().count == 1)
        try writer.upsert([entry(1, revoked: true)])
        try writer.compact()
        let file = try FileHandle(forWritingTo: URL(fileURLWithPath: path + "/snapshot-2"))
        try file.seek(toOffset: 128 + 48)
        try file.write(contentsOf: Data([0xFF]))
        #expect(try reader.poll().map(\.isRevoked) == [true])
        #expect(throws: InstanceError.damaged(.snapshot)) { _ = try reader.poll() }
    }

    @Test func aTornTailIsNotReadAndIsCutByTheNextWriter() throws {
        do {
            var writer = try DirectoryWriter(directory: path)
            try writer.upsert([entry(1)])
        }
        var reader = DirectoryReader(directory: path)
        #expect(try reader.poll().count == 1)
        let torn = entry(2)
        var bytes: [UInt8] = []
        torn.words.append(to: &bytes)
        let log = try FileHandle(forWritingTo: URL(fileURLWithPath: path + "/changes-1"))
        try log.seekToEnd()
        try log.write(contentsOf: Data(bytes.prefix(100)))
        #expect(try reader.poll().isEmpty)
        try log.write(contentsOf: Data(repeating: 9, count: 200))
        #expect(try reader.poll().isEmpty)
        var writer = try DirectoryWriter(directory: path)
        #expect(writer.entries.map(\.account) == [1])
        try writer.upsert([entry(3)])
        #expect(try reader.poll().map(\.account) == [3])
    }

    @Test func aDamagedSnapshotIsSaidAndNothingIsForgotten() throws {
        var writer = try DirectoryWriter(directory: path)
        try writer.upsert([entry(1), entry(2)])
        try writer.compact()
        let file = try FileHandle(forWritingTo: URL(fileURLWithPath: path + "/snapshot-2"))
        try file.seek(toOffset: 128 + 48)
        try file.write(contentsOf: Data([0xFF]))
        var reader = DirectoryReader(directory: path)
        #expect(throws: InstanceError.damaged(.snapshot)) { _ = try reader.poll() }
    }

    @Test func aFullDiskChangesNothing() throws {
        guard let small = SmallFileSystem(megabytes: 1) else { return }
        let path = small.path + "/directory"
        var writer = try DirectoryWriter(directory: path)
        try writer.upsert([entry(1)])
        small.fill(sparedBytes: 0)
        var reader = DirectoryReader(directory: path)
        #expect(throws: InstanceError.self) {
            try writer.upsert((10..<200).map { entry($0) })
        }
        #expect(try reader.poll().map(\.account) == [1])
        small.empty()
        try writer.upsert([entry(2)])
        #expect(try reader.poll().map(\.account) == [2])
    }
}

extension DirectoryEntry {
    /// Of a credential; 0 for other kinds.
    fileprivate var account: UInt64 {
        if case .credential(let credential) = self { credential.account } else { 0 }
    }

    fileprivate var isRevoked: Bool {
        if case .credential(let credential) = self { credential.isRevoked } else { false }
    }
}
