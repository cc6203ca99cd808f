import Foundation
import Glibc
import RecordTestSupport
import SharedMemory
import SluiceRecordFormat
import Testing

/// What another process wrote over is passed by, said, and left as it is.
@Suite struct DamagedInstanceTests {
    let scratch = ScratchDirectory()
    private let wallUs: UInt64 = 1_800_000_000_000_000

    private func newBroker() throws -> BrokerInstance {
        try .create(runDirectory: scratch.path, sizes: smallSizes(), wallMicroseconds: wallUs)
    }

    /// A dead instance with one open task, and a word of its ring overwritten.
    private func deadInstance(_ offset: Int, _ word: UInt64) throws -> UInt64 {
        var broker = try newBroker()
        broker.accept(1, slot: 0)
        broker.journal.publish()
        let id = broker.id
        _ = consume broker
        let descriptor = open(InstanceDirectory.path(scratch.path, id, .ring), O_RDWR)
        var word = word
        #expect(pwrite(descriptor, &word, 8, off_t(offset)) == 8)
        close(descriptor)
        return id
    }

    private func ringBytes(_ instance: UInt64) -> Data? {
        FileManager.default.contents(
            atPath: InstanceDirectory.path(scratch.path, instance, .ring))
    }

    /// Magic, version, instance, capacity.
    @Test(
        arguments: [
            (FileHeader.magicOffset, 7), (FileHeader.versionOffset, 9),
            (FileHeader.instanceOffset, 1), (FileHeader.capacityOffset, 1 << 40),
        ] as [(Int, UInt64)])
    func aNewBrokerStartsBesideADamagedHeader(_ offset: Int, _ word: UInt64) throws {
        for _ in 0..<3 { _ = try newBroker() }
        let damaged = try deadInstance(offset, word)
        let before = ringBytes(damaged)
        var broker = try newBroker()
        // Three are known and the fourth does not say; no count of starts comes to such a number.
        #expect(broker.startNumber == wallUs)
        #expect(broker.damagedInstances == [damaged])
        let next = try newBroker()
        #expect(next.startNumber == wallUs + 1)
        _ = try InstanceDirectory.closeDeadInstances(
            runDirectory: scratch.path, into: &broker, openTasks: 0, wallMicroseconds: wallUs)
        #expect(ringBytes(damaged) == before)
    }

    @Test func aStartNumberThatIsNoneIsPassedByAndItsInstanceClosed() throws {
        let odd = try deadInstance(RingLayout.startNumberOffset, .max)
        var broker = try newBroker()
        #expect(broker.startNumber == wallUs)
        #expect(broker.damagedInstances == [])
        let results = try InstanceDirectory.closeDeadInstances(
            runDirectory: scratch.path, into: &broker, openTasks: 0, wallMicroseconds: wallUs)
        #expect(results.map(\.instance) == [odd])
        #expect(results.map(\.endedCount) == [1])
        #expect(results.map(\.isComplete) == [true])
    }

    @Test func aDamagedInstanceHoldsUpNoOther() throws {
        let damaged = try deadInstance(FileHeader.magicOffset, 7)
        var whole = try newBroker()
        whole.accept(1, slot: 0)
        whole.journal.publish()
        let wholeID = whole.id
        _ = consume whole
        var broker = try newBroker()
        let results = try InstanceDirectory.closeDeadInstances(
            runDirectory: scratch.path, into: &broker, openTasks: 0, wallMicroseconds: wallUs)
        #expect(results.map(\.instance) == [damaged, wholeID])
        #expect(results.map(\.damage) == [.ring, nil])
        #expect(results.map(\.isComplete) == [false, true])
        #expect(results.map(\.endedCount) == [0, 1])
    }

    /// The sidecar copies no such ring: to end its tasks from its table would end some twice.
    @Test(
        arguments: [
            (RingLayout.headOffset, 1 << 40), (RingLayout.tailOffset, .max),
            (RingLayout.tailOffset, 1 << 30),
        ] as [(Int, UInt64)])
    func aRingWhosePositionsCannotBeRightIsNotClosed(_ offset: Int, _ word: UInt64) throws {
        let damaged = try deadInstance(offset, word)
        var broker = try newBroker()
        let results = try InstanceDirectory.closeDeadInstances(
            runDirectory: scratch.path, into: &broker, openTasks: 0, wallMicroseconds: wallUs)
        #expect(results.map(\.damage) == [.ring])
        #expect(broker.journal.lastSequence == 1)
        #expect(throws: InstanceError.damaged(.ring)) {
            _ = try JournalReader(runDirectory: scratch.path, instance: damaged)
        }
    }
}
