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
        DirectoryEntry(
            digest: Digest256(number, 2, 3, 4), account: number, role: .client,
            isRevoked: revoked)
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
