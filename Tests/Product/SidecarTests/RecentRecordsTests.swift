import Sidecar
import RecordTestSupport
import SluiceRecordFormat
import TLSEngine
import Testing

/// Durable records on their way from the copying to the applying thread.
@Suite struct RecentRecordsTests {
    private func records(_ count: Int, from sequence: UInt64) -> [JournalRecord] {
        (0..<UInt64(count)).map { index in
            var record = JournalRecord(kind: .accepted)
            record.sequence = sequence + index
            return record
        }
    }

    private func place(_ offset: Int, in segment: UInt64 = 1) -> SegmentPosition {
        SegmentPosition(segment: segment, offset: offset)
    }

    @Test func whatFollowsWithoutAGapIsTakenAtOnceAndOnlyOnce() throws {
        var recent = RecentRecords()
        recent.append(records(2, from: 1), from: place(128), to: place(384))
        recent.append(records(3, from: 3), from: place(384), to: place(768))
        let found1 = recent.take(from: place(128), count: 100)
        let taken = try #require(found1)
        #expect(taken.records.map(\.sequence) == [1, 2, 3, 4, 5])
        #expect(taken.end == place(768))
        let none2 = recent.take(from: place(128), count: 100)
        #expect(none2 == nil)
        let none3 = recent.take(from: place(768), count: 100)
        #expect(none3 == nil)
    }

    @Test func aReaderThatIsElsewhereReadsTheSegments() throws {
        var recent = RecentRecords()
        recent.append(records(2, from: 1), from: place(384), to: place(640))
        // Behind: what lies between stands in the segment only.
        let none4 = recent.take(from: place(128), count: 100)
        #expect(none4 == nil)
        // In the midst of it: what was read from the segment ended there.
        let none5 = recent.take(from: place(512), count: 100)
        #expect(none5 == nil)
        recent.append(records(1, from: 3), from: place(640), to: place(768))
        let found6 = recent.take(from: place(640), count: 100)
        #expect(found6?.end == place(768))
    }

    @Test func oneTakingEndsWithItsSegment() throws {
        var recent = RecentRecords()
        recent.append(records(1, from: 1), from: place(128), to: place(256))
        recent.append(records(1, from: 2), from: place(128, in: 2), to: place(256, in: 2))
        let found7 = recent.take(from: place(128), count: 100)
        #expect(found7?.end == place(256))
        let found8 = recent.take(from: place(128, in: 2), count: 100)
        let next = try #require(found8)
        #expect(next.records.map(\.sequence) == [2])
    }

    @Test func aTakingIsBounded() throws {
        var recent = RecentRecords()
        for block in 0..<4 {
            recent.append(
                records(10, from: UInt64(block * 10)), from: place(block * 1_280),
                to: place((block + 1) * 1_280))
        }
        let found9 = recent.take(from: place(0), count: 25)
        #expect(found9?.records.count == 20)
        // A block is never split.
        let found10 = recent.take(from: place(2_560), count: 5)
        #expect(found10?.records.count == 10)
    }

    /// Sealed and in clear, the log says where its runs begin, and a reader may go on from each.
    @Test(arguments: [true, false]) func oneAppendIsTakenRunByRun(_ isSealed: Bool) throws {
        let scratch = ScratchDirectory()
        let master = isSealed ? MasterKeys(SealingKey.random()) : nil
        let files = SegmentFiles(directory: scratch.path, masterKeys: master)
        var log = try SegmentLog(files)
        let start = log.end
        let all = records(10_000, from: 1)
        let starts = try log.append(all)
        var recent = RecentRecords()
        recent.append(all, inRunsFrom: starts, to: log.end)
        var position = start
        var taken: [UInt64] = []
        for count in [8_192, 1_808] {
            let found = recent.take(from: position, count: 8_192)
            let part = try #require(found)
            #expect(part.records.count == count)
            taken += part.records.map(\.sequence)
            let fromFile = try files.records(from: position, before: log.end.offset)
            #expect(fromFile.records.first?.sequence == part.records.first?.sequence)
            position = part.end
        }
        #expect(position == log.end)
        #expect(taken == all.map(\.sequence))
    }

    @Test func theOldestMakesRoom() throws {
        var recent = RecentRecords()
        let half = RecentRecords.recordsMax / 2
        for block in 0..<3 {
            recent.append(
                records(half, from: UInt64(block * half)), from: place(block * half * 128),
                to: place((block + 1) * half * 128))
        }
        let none11 = recent.take(from: place(0), count: .max)
        #expect(none11 == nil)
        let found12 = recent.take(from: place(half * 128), count: .max)
        let kept = try #require(found12)
        #expect(kept.records.count == 2 * half)
        #expect(kept.records.first?.sequence == UInt64(half))
    }
}
