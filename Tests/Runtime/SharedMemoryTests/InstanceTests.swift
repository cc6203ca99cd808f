import Foundation
import RecordTestSupport
import SharedMemory
import SluiceRecordFormat
import SluiceWire
import Testing

@Suite struct InstanceTests {
    let scratch = ScratchDirectory()

    @Test func aNewInstanceIsPrivateAndAnnouncesItself() throws {
        let broker = try BrokerInstance.create(
            runDirectory: scratch.path + "/run", sizes: smallSizes(), wallMicroseconds: 77)
        let directory = InstanceDirectory.path(scratch.path + "/run", broker.id)
        let attributes = try FileManager.default.attributesOfItem(atPath: directory)
        #expect(attributes[.posixPermissions] as? Int == 0o700)
        for name in try FileManager.default.contentsOfDirectory(atPath: directory) {
            let file = try FileManager.default.attributesOfItem(atPath: directory + "/" + name)
            #expect(file[.posixPermissions] as? Int == 0o600)
        }
        let records = try publishedRecords(scratch.path + "/run")
        #expect(records.count == 1)
        #expect(
            InstanceStartRecord(records[0])
                == InstanceStartRecord(
                    startedAtUs: 77, ringRecords: UInt32(broker.journal.recordCapacity),
                    tableSlots: 64))
        #expect(try InstanceDirectory.findInstances(scratch.path + "/run") == [broker.id])
        #expect(broker.id != 0)
    }

    @Test func theLockIsHeldForLife() throws {
        var broker: BrokerInstance? = try .create(
            runDirectory: scratch.path, sizes: smallSizes(), wallMicroseconds: 1)
        let found = try InstanceDirectory.findInstances(scratch.path)
        let whileAlive = try InstanceDirectory.lockIfDead(scratch.path, found[0]) == nil
        #expect(whileAlive)
        broker = nil
        _ = consume broker
        let afterDeath = try InstanceDirectory.lockIfDead(scratch.path, found[0]) != nil
        #expect(afterDeath)
    }

    @Test func aWatchMissesNoChangeAndListsOnlyAfterOne() throws {
        var watch = InstanceWatch(runDirectory: scratch.path)
        var known: [UInt64] = try #require(try watch.poll())
        #expect(known == [])
        // Several within one tick of the kernel's clock, each seen by the very next poll.
        for _ in 1...20 {
            let broker = try BrokerInstance.create(
                runDirectory: scratch.path, sizes: smallSizes(), wallMicroseconds: 1)
            known = try #require(try watch.poll())
            #expect(known == [broker.id])
            try InstanceDirectory.remove(scratch.path, broker.id)
            known = try #require(try watch.poll())
            #expect(known == [])
        }
        while try watch.poll() != nil { usleep(1_000) }
        try FileManager.default.createDirectory(
            atPath: InstanceDirectory.path(scratch.path, 0xAB),
            withIntermediateDirectories: false)
        #expect(try watch.poll() == [0xAB])
    }

    @Test func aDirectoryThatOthersMayWriteIsRefused() throws {
        #expect(chmod(scratch.path, 0o777) == 0)
        #expect(throws: InstanceError.unsafeDirectory) {
            _ = try BrokerInstance.create(
                runDirectory: scratch.path, sizes: smallSizes(), wallMicroseconds: 1)
        }
    }

    @Test func leftoversOfADeadMakerAreRemoved() throws {
        let left = scratch.path + "/.new-00000000000000aa"
        try FileManager.default.createDirectory(atPath: left, withIntermediateDirectories: false)
        try Data([1]).write(to: URL(fileURLWithPath: left + "/ring"))
        let broker = try BrokerInstance.create(
            runDirectory: scratch.path, sizes: smallSizes(), wallMicroseconds: 1)
        #expect(!FileManager.default.fileExists(atPath: left))
        #expect(try InstanceDirectory.findInstances(scratch.path) == [broker.id])
    }

    @Test func aFullFileSystemIsAnErrorAndNoSignal() throws {
        guard let small = SmallFileSystem(megabytes: 1) else { return }
        #expect(throws: InstanceError.noSpace(neededBytes: RingLayout.minimumByteCount)) {
            _ = try BrokerInstance.create(
                runDirectory: small.path, sizes: smallSizes(), wallMicroseconds: 1)
        }
        // Nothing is left of the attempt.
        let left = try FileManager.default.contentsOfDirectory(atPath: small.path)
        #expect(left.filter { $0 != ".lock" } == [])
    }

    @Test func theRingIsHalvedUntilItFits() throws {
        guard let small = SmallFileSystem(megabytes: 5) else { return }
        var sizes = smallSizes()
        sizes.ringBytes = RingLayout.defaultByteCount
        var broker = try BrokerInstance.create(
            runDirectory: small.path, sizes: sizes, wallMicroseconds: 1)
        #expect(broker.isRingReduced == true)
        #expect(
            broker.journal.recordCapacity
                == RingLayout.capacity(byteCount: RingLayout.defaultByteCount / 4))
        // Every byte of it is there, even when nothing else is free.
        small.fill(sparedBytes: 0)
        for counter in 0..<UInt64(broker.journal.recordCapacity - 1) {
            broker.journal.append(acceptedRecord(counter + 1).record)
        }
        broker.journal.publish()
        #expect(broker.journal.freeRecords == 0)
    }

    @Test func statisticsAreReadFromOutside() throws {
        let broker = try BrokerInstance.create(
            runDirectory: scratch.path, sizes: smallSizes(), wallMicroseconds: 1)
        let page = broker.statistics(shard: 0)
        page.add(.tokensRelayed, 5)
        page.add(.tokensRelayed)
        page.set(.backendIsRing, 1)
        page.record(.ttftUs, 100)
        page.record(.ttftUs, 101)
        let reader = try StatisticsReader(runDirectory: scratch.path, instance: broker.id)
        #expect(reader.total(.tokensRelayed) == 6)
        #expect(reader.value(.backendIsRing, shard: 0) == 1)
        #expect(reader.buckets(.ttftUs)[HistogramBucket.index(of: 100)] == 2)
        #expect(reader.buckets(.ttftUs).reduce(0, +) == 2)
    }

    @Test func aDamagedHeaderIsRefused() throws {
        let broker = try BrokerInstance.create(
            runDirectory: scratch.path, sizes: smallSizes(), wallMicroseconds: 1)
        let path = InstanceDirectory.path(scratch.path, broker.id, .ring)
        let descriptor = open(path, O_RDWR)
        var capacity: UInt64 = 1 << 40
        #expect(pwrite(descriptor, &capacity, 8, FileHeader.capacityOffset) == 8)
        close(descriptor)
        #expect(throws: InstanceError.damaged(.ring)) {
            _ = try JournalReader(runDirectory: scratch.path, instance: broker.id)
        }
    }

    /// Head and tail as no broker and reader leave them: the ring would never be copied, or its
    /// next sequence overflows.
    @Test(arguments: [[9, 3], [.max, .max], [0, 1 << 40], [.max, 0]] as [[UInt64]])
    func aHeadAndTailThatCannotBothBeRightAreRefused(_ headAndTail: [UInt64]) throws {
        let broker = try BrokerInstance.create(
            runDirectory: scratch.path, sizes: smallSizes(), wallMicroseconds: 1)
        let path = InstanceDirectory.path(scratch.path, broker.id, .ring)
        let descriptor = open(path, O_RDWR)
        var (head, tail) = (headAndTail[0], headAndTail[1])
        #expect(pwrite(descriptor, &head, 8, RingLayout.headOffset) == 8)
        #expect(pwrite(descriptor, &tail, 8, RingLayout.tailOffset) == 8)
        close(descriptor)
        #expect(throws: InstanceError.damaged(.ring)) {
            _ = try JournalReader(runDirectory: scratch.path, instance: broker.id)
        }
    }
}

@Suite struct JournalRingTests {
    let scratch = ScratchDirectory()

    @Test func recordsComeOutInOrderOverManyTurnsOfTheRing() throws {
        var broker = try BrokerInstance.create(
            runDirectory: scratch.path, sizes: smallSizes(), wallMicroseconds: 1)
        let reader = try JournalReader(runDirectory: scratch.path, instance: broker.id)
        var random = SystemRandomNumberGenerator()
        var expected: UInt64 = 1
        while expected < UInt64(3 * broker.journal.recordCapacity) {
            for _ in 0..<min(broker.journal.freeRecords, Int.random(in: 1...5_000, using: &random))
            {
                broker.journal.append(acceptedRecord(broker.journal.lastSequence + 1).record)
            }
            #expect(reader.publishedSequence == broker.journal.publishedSequence)
            broker.journal.publish()
            let records = try reader.read(
                from: expected, count: Int.random(in: 1...6_000, using: &random))
            for record in records {
                guard record.sequence == expected, record.instance == broker.id else {
                    Issue.record("sequence \(record.sequence) where \(expected) was due")
                    return
                }
                if expected > 1, AcceptedRecord(record)?.counter != expected {
                    Issue.record("record \(expected) holds another's content")
                    return
                }
                expected += 1
            }
            reader.release(through: expected - 1)
        }
    }

    @Test func aFullRingHasNoFreeRecordUntilTheReaderReleases() throws {
        var broker = try BrokerInstance.create(
            runDirectory: scratch.path, sizes: smallSizes(), wallMicroseconds: 1)
        let reader = try JournalReader(runDirectory: scratch.path, instance: broker.id)
        while broker.journal.freeRecords > 0 {
            broker.journal.append(acceptedRecord(1).record)
        }
        broker.journal.publish()
        #expect(reader.publishedSequence == UInt64(broker.journal.recordCapacity))
        #expect(try reader.read(from: 1, count: .max).count == broker.journal.recordCapacity)
        reader.release(through: 3)
        #expect(broker.journal.freeRecords == 3)
    }

    @Test func whatIsNotPublishedIsNotSeen() throws {
        var broker = try BrokerInstance.create(
            runDirectory: scratch.path, sizes: smallSizes(), wallMicroseconds: 1)
        let reader = try JournalReader(runDirectory: scratch.path, instance: broker.id)
        broker.journal.append(acceptedRecord(1).record)
        #expect(try reader.read(from: 2, count: 10).isEmpty)
        broker.journal.publish()
        #expect(try reader.read(from: 2, count: 10).count == 1)
        #expect(try reader.read(from: 2, count: 0).isEmpty)
    }

    @Test func anOrderlyEndSaysSoInTheJournal() throws {
        var broker = try BrokerInstance.create(
            runDirectory: scratch.path, sizes: smallSizes(), wallMicroseconds: 1)
        broker.accept(1, slot: 0)
        broker.end(1, slot: 0)
        let id = broker.id
        broker.close(wallMicroseconds: 77)
        let records = try publishedRecords(scratch.path)
        #expect(
            records.last.flatMap { InstanceClosedRecord($0) }
                == InstanceClosedRecord(closed: id, closedAtUs: 77, endedCount: 0))
        #expect(records.count == 4)
        // A successor has nothing to add.
        var successor = try BrokerInstance.create(
            runDirectory: scratch.path, sizes: smallSizes(), wallMicroseconds: 1)
        let closed = try InstanceDirectory.closeDeadInstances(
            runDirectory: scratch.path, into: &successor, openTasks: 0, wallMicroseconds: 78)
        #expect(closed.isEmpty)
        #expect(try publishedRecords(scratch.path).count == 5)
    }

    @Test func withoutRoomForTheRecordAnOrderlyEndIsLeftToASuccessor() throws {
        var broker = try BrokerInstance.create(
            runDirectory: scratch.path, sizes: smallSizes(), wallMicroseconds: 1)
        while broker.journal.freeRecords > 0 {
            broker.journal.append(
                RefusedRecord(account: 1, refusedAtUs: 1, code: .queueFull, model: 0).record)
        }
        let ring = try JournalReader(runDirectory: scratch.path, instance: broker.id)
        broker.close(wallMicroseconds: 77)
        #expect(ring.closedBy == 0)
        #expect(ring.publishedSequence == UInt64(ring.recordCapacity))
    }

    @Test func anOrderlyEndClosesOnlyWithoutOpenTasks() throws {
        var first = try BrokerInstance.create(
            runDirectory: scratch.path, sizes: smallSizes(), wallMicroseconds: 1)
        first.accept(1, slot: 0)
        first.end(1, slot: 0)
        let ended = try JournalReader(runDirectory: scratch.path, instance: first.id)
        first.close(wallMicroseconds: 9)
        #expect(ended.closedBy == ended.instance)
        var second = try BrokerInstance.create(
            runDirectory: scratch.path, sizes: smallSizes(), wallMicroseconds: 1)
        second.accept(1, slot: 0)
        let open = try JournalReader(runDirectory: scratch.path, instance: second.id)
        second.close(wallMicroseconds: 9)
        #expect(open.closedBy == 0)
        #expect(open.publishedSequence == 2)
    }
}
