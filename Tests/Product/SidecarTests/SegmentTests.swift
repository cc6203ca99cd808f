import Foundation
import RecordTestSupport
import SharedMemory
import Sidecar
import SluiceRecordFormat
import TLSEngine
import Testing

/// The journal on disk, in clear and sealed (`Protocol/Files.md`, Sealed segments).
@Suite struct SegmentTests {
    private static let master = MasterKeys(SealingKey.random())

    /// Records of one instance with these sequences, each with a text to look for.
    private func records(_ sequences: ClosedRange<UInt64>) -> [JournalRecord] {
        sequences.map { sequence in
            var record = JournalRecord(kind: .accepted)
            record.instance = 7
            record.sequence = sequence
            record.words[5] = 0x5245_5453_4E4F_4D53  // "SMONSTER"
            return record
        }
    }

    private func readAll(_ files: SegmentFiles) throws -> [JournalRecord] {
        var found: [JournalRecord] = []
        for number in try files.numbers() {
            let size = try files.byteCount(number)
            var offset = RecordWords.byteCount
            while offset < size {
                let part = try files.records(
                    from: SegmentPosition(segment: number, offset: offset), before: size)
                #expect(part.next > offset && part.next <= size)
                #expect(part.records.count <= 4_096)
                offset = part.next
                found += part.records
            }
        }
        return found
    }

    private func contents(_ files: SegmentFiles, _ number: UInt64 = 1) throws -> Data {
        try Data(contentsOf: URL(fileURLWithPath: files.path(number)))
    }

    /// A log of three blocks, the file's bytes, and where each block begins.
    private func threeBlocks(_ files: SegmentFiles) throws -> (bytes: Data, starts: [Int]) {
        var log = try SegmentLog(files)
        var starts: [Int] = []
        for range in [1...2, 3...3, 4...5] as [ClosedRange<UInt64>] {
            starts.append(log.end.offset)
            try log.append(records(range))
        }
        return (try contents(files), starts)
    }

    @Test func sealedRecordsComeBackAndNoneStandsInClear() throws {
        let scratch = ScratchDirectory()
        let files = SegmentFiles(directory: scratch.path, masterKeys: Self.master)
        var log = try SegmentLog(files)
        // More than a block takes.
        try log.append(records(1...5_000))
        try log.append(records(5_001...5_001))
        #expect(try readAll(files) == records(1...5_001))
        let text = Data("SMONSTER".utf8)
        #expect(try contents(files).range(of: text) == nil)
        let clear = ScratchDirectory()
        let open = SegmentFiles(directory: clear.path, masterKeys: nil)
        var plain = try SegmentLog(open)
        try plain.append(records(1...2))
        #expect(try contents(open).range(of: text) != nil)
        #expect(try readAll(open) == records(1...2))
        #expect(try SegmentLog(files).lastSequences == [7: 5_001])
    }

    /// A file that ends at any byte of its last block, as a kill or a loss of power leaves it.
    @Test(arguments: [true, false])
    func aTailThatIsTornAtAnyByteIsCutAndWrittenAnew(isSealed: Bool) throws {
        let scratch = ScratchDirectory()
        let files = SegmentFiles(
            directory: scratch.path, masterKeys: isSealed ? Self.master : nil)
        let (bytes, starts) = try threeBlocks(files)
        let url = URL(fileURLWithPath: files.path(1))
        let last = try #require(starts.last)
        for size in last...bytes.count {
            try bytes.prefix(size).write(to: url)
            var log = try SegmentLog(files)
            // In clear each record stands for itself.
            let isFirstThere = size >= last + 128
            let whole: UInt64 =
                size == bytes.count ? 5 : !isSealed && isFirstThere ? 4 : 3
            #expect(log.lastSequences == [7: whole], "\(size)")
            #expect(log.damagedCount == 0)
            try log.append(records(whole + 1...9))
            #expect(try readAll(files) == records(1...9), "\(size)")
        }
    }

    /// Power can be lost while the pages of a block are written in any order.
    @Test func aLastBlockWithAnyByteWrongIsCut() throws {
        let scratch = ScratchDirectory()
        let files = SegmentFiles(directory: scratch.path, masterKeys: Self.master)
        let (bytes, starts) = try threeBlocks(files)
        let last = try #require(starts.last)
        for place in last..<bytes.count {
            var torn = bytes
            torn[place] ^= 0x10
            try torn.write(to: URL(fileURLWithPath: files.path(1)))
            let log = try SegmentLog(files)
            #expect(log.lastSequences == [7: 3], "\(place)")
            #expect(log.damagedCount == 0)
            #expect(log.end == SegmentPosition(segment: 1, offset: last))
            #expect(try files.byteCount(1) == last)
        }
    }

    @Test func damageInsideHidesNothingBehindIt() throws {
        let scratch = ScratchDirectory()
        let files = SegmentFiles(directory: scratch.path, masterKeys: Self.master)
        let (bytes, starts) = try threeBlocks(files)
        for place in starts[1]..<starts[2] {
            var damaged = bytes
            damaged[place] ^= 0x01
            try damaged.write(to: URL(fileURLWithPath: files.path(1)))
            let log = try SegmentLog(files)
            #expect(log.damagedCount > 0, "\(place)")
            #expect(log.lastSequences == [7: 5])
            #expect(try readAll(files) == records(1...2) + records(4...5), "\(place)")
        }
    }

    /// A block that was moved, within its segment or from another one, is no record.
    @Test func aBlockCountsOnlyWhereItWasWritten() throws {
        let scratch = ScratchDirectory()
        let files = SegmentFiles(directory: scratch.path, masterKeys: Self.master)
        let (bytes, starts) = try threeBlocks(files)
        var log = try SegmentLog(files)
        try log.rotate()
        try log.append(records(6...7))
        let moved = bytes[starts[2]...]
        let twice = URL(fileURLWithPath: files.path(1))
        try (bytes + moved).write(to: twice)
        #expect(try readAll(files) == records(1...7))
        try bytes.write(to: twice)
        let other = try contents(files, 2)
        try (other + moved).write(to: URL(fileURLWithPath: files.path(2)))
        #expect(try readAll(files) == records(1...7))
        // Nor is a whole segment under another number.
        try bytes.write(to: URL(fileURLWithPath: files.path(3)))
        #expect(try readAll(files) == records(1...7))
    }

    /// Every byte of a file may be anything: that ends in bounded time with what is intact.
    @Test func randomContentIsReadThroughAndGivesNothing() throws {
        var random = SystemRandomNumberGenerator()
        let scratch = ScratchDirectory()
        let files = SegmentFiles(directory: scratch.path, masterKeys: Self.master)
        let (bytes, _) = try threeBlocks(files)
        let header = bytes.prefix(128)
        for _ in 0..<50 {
            let size = Int.random(in: 0...20_000, using: &random)
            let noise = Data((0..<size).map { _ in UInt8.random(in: 0...255, using: &random) })
            try (header + noise).write(to: URL(fileURLWithPath: files.path(1)))
            #expect(try readAll(files) == [])
            let log = try SegmentLog(files)
            #expect(log.end == SegmentPosition(segment: 1, offset: 128))
        }
        // A header that promises more than there is, though its checksum holds.
        var promise = SealedBlockHeader(segment: 1, offset: 128, recordCount: 4_096)
        promise.nonce = [UInt8](repeating: 1, count: 12)
        var block: [UInt8] = []
        promise.words.append(to: &block)
        try (header + Data(block)).write(to: URL(fileURLWithPath: files.path(1)))
        #expect(try readAll(files) == [])
    }

    @Test func noNonceIsUsedTwiceUnderOneKeyWhateverWasCut() throws {
        let scratch = ScratchDirectory()
        let files = SegmentFiles(directory: scratch.path, masterKeys: Self.master)
        var nonces: Set<Data> = []
        var keys: Set<Data> = []
        let rounds = 100
        for round in 1...UInt64(rounds) {
            var log = try SegmentLog(files)
            let start = log.end.offset
            try log.append(records(round...round))
            let bytes = try contents(files)
            keys.insert(bytes[40..<110])
            nonces.insert(bytes[(start + 40)..<(start + 52)])
            // Cut off, so that the next start writes the same place again.
            try bytes.dropLast().write(to: URL(fileURLWithPath: files.path(1)))
        }
        #expect(keys.count == 1)
        #expect(nonces.count == rounds)
    }

    @Test func withoutTheRightKeyNothingIsTouched() throws {
        let scratch = ScratchDirectory()
        let files = SegmentFiles(directory: scratch.path, masterKeys: Self.master)
        let (bytes, _) = try threeBlocks(files)
        func problem(_ keys: MasterKeys?) -> SealingError? {
            do {
                try SegmentFiles(directory: scratch.path, masterKeys: keys).checkKeys()
                return nil
            } catch {
                return (error as? SegmentFiles.KeyFailure)?.reason
            }
        }
        #expect(problem(Self.master) == nil)
        #expect(problem(nil) == .keyMissing)
        #expect(problem(MasterKeys(SealingKey.random())) == .keyUnknown)
        // And so says the whole sidecar, which leaves the file as it is.
        for keys in [nil, MasterKeys(SealingKey.random())] {
            let deployment = Deployment { $0.masterKeys = keys }
            let journal = deployment.options.dataDirectory + "/journal"
            try FileManager.default.createDirectory(
                atPath: journal, withIntermediateDirectories: true,
                attributes: [.posixPermissions: 0o700])
            let copy = URL(fileURLWithPath: journal + "/segment-000000000001")
            try bytes.write(to: copy)
            #expect(Sidecar(deployment.options).run() == .unusable)
            #expect(try Data(contentsOf: copy) == bytes)
        }
    }

    @Test func aNewMasterKeyBeginsANewSegmentAndTheOldOneOpensTheOld() throws {
        let scratch = ScratchDirectory()
        let (old, new) = (SealingKey.random(), SealingKey.random())
        func files(_ keys: MasterKeys?) -> SegmentFiles {
            SegmentFiles(directory: scratch.path, masterKeys: keys)
        }
        var clear = try SegmentLog(files(nil))
        try clear.append(records(1...3))
        var first = try SegmentLog(files(MasterKeys(old)))
        #expect(first.lastSequences == [7: 3])
        try first.append(records(4...6))
        #expect(try SegmentLog(files(MasterKeys(old))).end.segment == 2)
        let both = MasterKeys(new, earlier: [old])
        var second = try SegmentLog(files(both))
        #expect(second.lastSequences == [7: 6])
        try second.append(records(7...9))
        #expect(try files(both).numbers() == [1, 2, 3])
        #expect(try readAll(files(both)) == records(1...9))
        #expect(throws: SegmentFiles.KeyFailure.self) {
            try files(MasterKeys(new)).checkKeys()
        }
        // Once the old ones are applied and gone, the new key is enough.
        try FileManager.default.removeItem(atPath: files(nil).path(2))
        try files(MasterKeys(new)).checkKeys()
        #expect(try readAll(files(MasterKeys(new))) == records(1...3) + records(7...9))
    }

    @Test func aSegmentWhoseHeaderWasNotWrittenIsMadeAnew() throws {
        let scratch = ScratchDirectory()
        let files = SegmentFiles(directory: scratch.path, masterKeys: Self.master)
        let (bytes, _) = try threeBlocks(files)
        var log = try SegmentLog(files)
        try log.rotate()
        let header = try contents(files, 2)
        #expect(header.count == 128)
        for size in 0..<128 {
            try header.prefix(size).write(to: URL(fileURLWithPath: files.path(2)))
            var again = try SegmentLog(files)
            #expect(again.end == SegmentPosition(segment: 1, offset: bytes.count))
            try again.rotate()
        }
    }
}
