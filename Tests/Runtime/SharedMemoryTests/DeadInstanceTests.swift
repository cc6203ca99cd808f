import Foundation
import RecordTestSupport
import SharedMemory
import SluiceRecordFormat
import SluiceWire
import Testing

@Suite struct DeadInstanceTests {
    let scratch: ScratchDirectory

    init() {
        scratch = ScratchDirectory()
    }

    private init(scratch: ScratchDirectory) {
        self.scratch = scratch
    }

    private func newBroker() throws -> BrokerInstance {
        try .create(runDirectory: scratch.path, sizes: smallSizes(), wallMicroseconds: 5_000)
    }

    /// An instance that dies with one task in every state; the tasks that are owed an ENDED.
    private func deadInstance() throws -> (owed: Set<TaskID>, notAccepted: Set<TaskID>) {
        var broker = try newBroker()
        let id = broker.id
        broker.accept(1, slot: 0)  // open
        broker.accept(2, slot: 1)  // ended
        broker.end(2, slot: 1)
        broker.accept(3, slot: 2)  // ended and cleared, the slot taken again
        broker.end(3, slot: 2)
        broker.journal.publish()
        broker.table.clearSlot(2)
        broker.accept(4, slot: 2)
        broker.accept(5, slot: 3)  // its end is noted but not published
        broker.journal.publish()
        broker.end(5, slot: 3)
        broker.accept(6, slot: 4)  // acceptance not published
        broker.table.openSlot(5, openSlot(7))  // opening cut short
        let owed = (1...5).map { TaskID(instance: id, counter: UInt64($0)) }
        let none = (6...7).map { TaskID(instance: id, counter: UInt64($0)) }
        return (Set(owed), Set(none))
    }

    private func expectOneEndEach(
        _ owed: Set<TaskID>, not none: Set<TaskID>, _ records: [JournalRecord], _ comment: Comment
    ) {
        let ends = endsByTask(records)
        #expect(Set(ends.keys) == owed, comment)
        #expect(ends.values.allSatisfy { $0 == 1 }, comment)
        #expect(none.isDisjoint(with: ends.keys), comment)
    }

    @Test func everyAcceptedTaskOfADeadBrokerGetsItsEnd() throws {
        let (owed, none) = try deadInstance()
        var successor = try newBroker()
        let results = try InstanceDirectory.closeDeadInstances(
            runDirectory: scratch.path, into: &successor, openTasks: 0, wallMicroseconds: 9_000)
        #expect(results.count == 1)
        #expect(results[0].endedCount == 3)
        #expect(results[0].isComplete)
        let records = try publishedRecords(scratch.path)
        expectOneEndEach(owed, not: none, records, "after one closing")
        let closed = records.compactMap { InstanceClosedRecord($0) }
        #expect(closed.map(\.closed) == [results[0].instance])
        let again = try InstanceDirectory.closeDeadInstances(
            runDirectory: scratch.path, into: &successor, openTasks: 0, wallMicroseconds: 9_000)
        #expect(again.isEmpty)
    }

    @Test func usageIsWhatWasDelivered() throws {
        var broker = try newBroker()
        broker.accept(1, slot: 0)
        broker.journal.publish()
        broker.table.setSupplier(
            0, supplier: 9,
            dispatchWord: OpenTaskSlot.dispatchWord(
                offerModel: 4, supplyType: .dedicated, dispatches: 1, winReason: 2,
                operation: .chat),
            prices: TaskPrices(
                ask: PriceList(
                    input: 1_000_000, cached: 1_000_000, output: 1_000_000, reasoning: 1_000_000),
                consumer: PriceList(
                    input: 2_000_000, cached: 2_000_000, output: 2_000_000, reasoning: 2_000_000)),
            queueUs: 33)
        broker.table.setStarted(0, inputTokens: 7, cachedTokens: 2)
        broker.table.setFirstOutput(0, ttftUs: 44)
        for _ in 0..<10 {
            broker.table.addDelivered(0, tokens: 3, reasoningTokens: 1, payloadBytes: 12)
        }
        broker.statistics(shard: 0).set(.lastTurnUs, 4_000)
        let id = broker.id
        _ = consume broker
        var successor = try newBroker()
        _ = try InstanceDirectory.closeDeadInstances(
            runDirectory: scratch.path, into: &successor, openTasks: 0, wallMicroseconds: 9_000)
        let ended = try publishedRecords(scratch.path).compactMap { EndedRecord($0) }
        #expect(ended.count == 1)
        #expect(ended[0].task == TaskID(instance: id, counter: 1))
        #expect(
            ended[0].usage
                == Usage(inputTokens: 7, outputTokens: 30, cachedTokens: 2, reasoningTokens: 10))
        #expect(ended[0].deliveredBytes == 120)
        #expect(ended[0].charge.consumerCost == 74)
        #expect(ended[0].charge.supplierEarning == 37)
        #expect(ended[0].ttftUs == 44)
        #expect(ended[0].queueUs == 33)
        #expect(ended[0].supplier == 9)
        #expect(ended[0].durationUs == 3_000)
    }

    /// Two dead brokers; a first closer dies at its k-th store, a second at its j-th.
    @Test(arguments: 0..<40) func aCloserMayDieAtEveryStore(k: Int) throws {
        for j in [0, 1, 2, 3, 5, 8, 13, 21] {
            let scratch = ScratchDirectory()
            let test = DeadInstanceTests(scratch: scratch)
            let first = try test.deadInstance()
            let second = try test.deadInstance()
            for limit in [k, j] {
                var closer = try test.newBroker()
                var stores = 0
                do {
                    _ = try InstanceDirectory.closeDeadInstances(
                        runDirectory: scratch.path, into: &closer, openTasks: 0,
                        wallMicroseconds: 9_000,
                        afterEachStore: { () throws(InstanceError) in
                            stores += 1
                            if stores > limit { throw .interrupted }
                        })
                } catch InstanceError.interrupted {}
            }
            var last = try test.newBroker()
            let results = try InstanceDirectory.closeDeadInstances(
                runDirectory: scratch.path, into: &last, openTasks: 0, wallMicroseconds: 9_000)
            #expect(results.allSatisfy { $0.isComplete })
            test.expectOneEndEach(
                first.owed.union(second.owed), not: first.notAccepted.union(second.notAccepted),
                try publishedRecords(scratch.path), "closers died at stores \(k) and \(j)")
        }
    }

    @Test func aClosingWithoutRoomIsFinishedLater() throws {
        var sizes = smallSizes(slots: 20_000)
        sizes.ringBytes = 8 * 1_024 * 1_024
        var dead = try BrokerInstance.create(
            runDirectory: scratch.path, sizes: sizes, wallMicroseconds: 1)
        for slot in 0..<20_000 { dead.accept(UInt64(slot + 1), slot: slot) }
        dead.journal.publish()
        _ = consume dead
        // A successor with a ring of 16,352 records.
        var successor = try newBroker()
        let start = try InstanceDirectory.closeDeadInstances(
            runDirectory: scratch.path, into: &successor, openTasks: 3_000, wallMicroseconds: 2,
            waitMs: 0)
        #expect(start.count == 1)
        #expect(!start[0].isComplete)
        // Its own open tasks end whatever becomes of the reader; no other is accepted meanwhile.
        #expect(successor.journal.freeRecords == 3_000 + JournalReserve.slack)
        #expect(
            !JournalReserve.admits(freeRecords: successor.roomForTasks, openTasks: 3_000))
        let reader = try JournalReader(runDirectory: scratch.path, instance: successor.id)
        var records = try reader.read(from: 1, count: .max)
        reader.release(through: reader.publishedSequence)
        #expect(
            successor.roomForTasks == successor.journal.freeRecords - successor.openTasksMax)
        let rest = try InstanceDirectory.closeDeadInstances(
            runDirectory: scratch.path, into: &successor, openTasks: 0, wallMicroseconds: 2,
            waitMs: 0)
        #expect(rest.map(\.isComplete) == [true])
        #expect(successor.roomForTasks == successor.journal.freeRecords)
        #expect(start[0].endedCount + rest[0].endedCount == 20_000)
        records += try reader.read(from: reader.releasedSequence + 1, count: .max)
        let ends = endsByTask(records)
        #expect(ends.count == 20_000)
        #expect(ends.values.allSatisfy { $0 == 1 })
    }

    @Test func aLivingInstanceIsLeftAlone() throws {
        var alive = try newBroker()
        alive.accept(1, slot: 0)
        alive.journal.publish()
        var other = try newBroker()
        let results = try InstanceDirectory.closeDeadInstances(
            runDirectory: scratch.path, into: &other, openTasks: 0, wallMicroseconds: 2)
        #expect(results.isEmpty)
        #expect(alive.table.slot(0).endSequence == 0)
    }

    /// A real process is killed while it accepts, delivers, ends and clears.
    @Test(arguments: 0..<12) func killedAtAnyMomentTheJournalIsWholeAndClosable(round: Int)
        async
        throws
    {
        let path = scratch.path
        await #expect(processExitsWith: .signal(SIGKILL)) { [path = path as String] in
            try runUntilKilled(runDirectory: path)
        }
        let instance = try #require(try InstanceDirectory.findInstances(path).first)
        let reader = try JournalReader(runDirectory: path, instance: instance)
        let published = try reader.read(from: reader.releasedSequence + 1, count: .max)
        #expect(published.count > 1)
        // Every published record is one that the writer meant to write.
        for record in published {
            let isWhole: Bool =
                switch record.kind {
                case .accepted: AcceptedRecord(record)?.acceptedAtUs == 1_000
                case .ended: EndedRecord(record)?.status == .completed
                case .instanceStart: true
                default: false
                }
            #expect(isWhole)
        }
        var successor = try BrokerInstance.create(
            runDirectory: path, sizes: smallSizes(slots: 20_000), wallMicroseconds: 2)
        _ = try InstanceDirectory.closeDeadInstances(
            runDirectory: path, into: &successor, openTasks: 0, wallMicroseconds: 2)
        let all = try publishedRecords(path)
        // Ended tasks whose ACCEPTED was released to the reader long ago also count once.
        let ends = endsByTask(all)
        #expect(ends.values.allSatisfy { $0 == 1 })
        let accepted = all.compactMap { AcceptedRecord($0)?.task }
        #expect(Set(accepted).isSubset(of: ends.keys))
    }
}

/// Accepts and ends tasks as fast as it can until a thread of its own kills the process.
private func runUntilKilled(runDirectory: String) throws {
    var broker = try BrokerInstance.create(
        runDirectory: runDirectory, sizes: smallSizes(slots: 32), wallMicroseconds: 1)
    let reader = try JournalReader(runDirectory: runDirectory, instance: broker.id)
    let delay = UInt32.random(in: 0...40_000)
    var counter: UInt64 = 0
    var open: [Int: UInt64] = [:]
    while true {
        if broker.journal.freeRecords < 100 {
            // Keep the newest: a task still in the ring must be judged by its whole story.
            reader.release(through: reader.publishedSequence - 1_000)
        }
        let slot = Int.random(in: 0..<32)
        if let task = open[slot] {
            broker.table.addDelivered(slot, tokens: 1, reasoningTokens: 0, payloadBytes: 4)
            broker.end(task, slot: slot)
            broker.journal.publish()
            broker.table.clearSlot(slot)
            open[slot] = nil
        } else {
            counter += 1
            if counter == 10 {
                Thread.detachNewThread {
                    usleep(delay)
                    kill(getpid(), SIGKILL)
                }
            }
            broker.accept(counter, slot: slot)
            if counter % 3 == 0 { broker.journal.publish() }
            open[slot] = counter
        }
    }
}
