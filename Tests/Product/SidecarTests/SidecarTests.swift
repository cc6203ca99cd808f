import Foundation
import GRDB
import RecordTestSupport
import SharedMemory
import Sidecar
import SluiceRecordFormat
import SluiceWire
import Store
import TLSEngine
import Testing

@Suite(.serialized) struct SidecarTests {
    @Test func recordsReachTheStoreAndTheRingIsReleased() throws {
        let deployment = Deployment()
        let sidecar = RunningSidecar(deployment)
        #expect(eventually { access(deployment.options.runDirectory, W_OK) == 0 })
        var broker = try deployment.newBroker()
        // More than a ring of records.
        #expect(runTasks(1...20_000, on: &broker) == true)
        #expect(
            eventually {
                deployment.counts()
                    == RecordCounts(accepted: 20_000, final: 20_000, open: 0, duplicates: 0)
            })
        let capacity = broker.journal.recordCapacity
        #expect(eventually { broker.journal.freeRecords == capacity })
        #expect(sidecar.stop() == .ended)
    }

    @Test func anInstanceIsRemovedOnlyWhenClosedAndDrained() throws {
        let deployment = Deployment()
        let first = RunningSidecar(deployment)
        #expect(eventually { access(deployment.options.runDirectory, W_OK) == 0 })
        var dead = try deployment.newBroker()
        dead.accept(1, slot: 0)
        dead.accept(2, slot: 1)
        dead.end(2, slot: 1)
        let deadID = dead.id
        _ = consume dead
        #expect(eventually { deployment.counts()?.accepted == 2 })
        // Dead and drained, but nobody closed it: its open-task table is still needed.
        first.stop()
        #expect(
            try InstanceDirectory.findInstances(deployment.options.runDirectory) == [deadID])
        let second = RunningSidecar(deployment)
        var successor = try deployment.newBroker()
        let closed = try InstanceDirectory.closeDeadInstances(
            runDirectory: deployment.options.runDirectory, into: &successor, openTasks: 0,
            wallMicroseconds: LocalFileSystem.wallUs())
        #expect(closed.map(\.instance) == [deadID])
        #expect(closed.map(\.endedCount) == [1])
        let successorID = successor.id
        #expect(
            try eventually {
                try InstanceDirectory.findInstances(deployment.options.runDirectory)
                    == [successorID]
            })
        successor.close(wallMicroseconds: 9)
        #expect(
            try eventually {
                try InstanceDirectory.findInstances(deployment.options.runDirectory) == []
            })
        second.stop()
        #expect(
            deployment.counts()
                == RecordCounts(accepted: 2, final: 2, open: 0, duplicates: 0))
        let statuses = try deployment.openStore().finalRecords(last: 5).map(\.status)
        #expect(Set(statuses) == [.completed, .brokerLost])
        // The successor ended in order: its row waits for nobody either.
        let openRows = try deployment.openDatabase().read { database in
            try Int.fetchOne(
                database, sql: "SELECT count(*) FROM instance WHERE closed_at_us IS NULL")
        }
        #expect(openRows == 0)
    }

    /// The real program is killed at random moments; nothing is lost and nothing counted twice.
    @Test(arguments: [false, true])
    func killedAtAnyMomentItLosesAndDoublesNothing(isPostgres: Bool) throws {
        let deployment = try isPostgres ? Deployment.onPostgres() : Deployment()
        try FileManager.default.createDirectory(
            atPath: deployment.options.runDirectory, withIntermediateDirectories: false,
            attributes: [.posixPermissions: 0o700])
        var broker = try deployment.newBroker()
        let executable = try sidecarExecutable()
        let masterKey = String(repeating: "5a", count: 32)
        func start() throws -> Process {
            let process = Process()
            process.executableURL = executable
            process.arguments = [
                "--data", deployment.options.dataDirectory, "--run",
                deployment.options.runDirectory,
            ]
            process.environment = deployment.environment
            // One in clear and one sealed.
            if isPostgres { process.environment?[MasterKeySource.variable] = masterKey }
            process.standardError = FileHandle.nullDevice
            try process.run()
            return process
        }
        var counter: UInt64 = 0
        var random = SystemRandomNumberGenerator()
        var killed = 0
        for _ in 0..<25 {
            let process = try start()
            for _ in 0..<Int.random(in: 1...60, using: &random) {
                for _ in 0..<200 where broker.journal.freeRecords > 2 {
                    counter += 1
                    broker.accept(counter, slot: 0)
                    broker.end(counter, slot: 0)
                }
                usleep(UInt32.random(in: 500...5_000, using: &random))
            }
            kill(process.processIdentifier, SIGKILL)
            process.waitUntilExit()
            if process.terminationReason == .uncaughtSignal { killed += 1 }
        }
        #expect(killed == 25)
        let last = try start()
        #expect(eventually { broker.journal.freeRecords == broker.journal.recordCapacity })
        last.terminate()
        last.waitUntilExit()
        #expect(last.terminationStatus == 0)
        #expect(counter > 1_000)
        let expected = RecordCounts(
            accepted: Int(counter), final: Int(counter), open: 0, duplicates: 0)
        #expect(deployment.counts() == expected)
        let check = try deployment.openStore().ledgerCheck()
        #expect(check.isSound && check.unsettled == 0, "\(check.json)")
        let cursors = try deployment.openStore().cursors()
        #expect(cursors == [broker.id: broker.journal.publishedSequence])
    }

    /// PostgreSQL dies under load and comes back: segments pile up, then all is caught up.
    @Test func postgresThatWasAwayIsCaughtUpWith() throws {
        let server = try PostgresServer()
        let location = StoreLocation.postgres(address: try server.newDatabase())
        let deployment = Deployment { $0.store = location }
        let sidecar = RunningSidecar(deployment)
        #expect(eventually { deployment.counts() != nil })
        var broker = try deployment.newBroker()
        #expect(runTasks(1...2_000, on: &broker))
        server.stop()
        #expect(runTasks(2_001...20_000, on: &broker))
        server.start()
        #expect(runTasks(20_001...22_000, on: &broker))
        #expect(
            eventually {
                deployment.counts()
                    == RecordCounts(accepted: 22_000, final: 22_000, open: 0, duplicates: 0)
            })
        #expect(sidecar.stop() == .ended)
    }

    /// PostgreSQL was away while nothing was to be settled: what is committed then still reaches
    /// the directory, without a task that would show that the store takes records again.
    @Test func theDirectoryFollowsAStoreThatWasAwayWhileNothingRan() throws {
        let server = try PostgresServer()
        let location = StoreLocation.postgres(address: try server.newDatabase())
        let deployment = Deployment { $0.store = location }
        let sidecar = RunningSidecar(deployment)
        #expect(eventually { deployment.counts() != nil })
        server.stop()
        #expect(
            eventually {
                SettlementReport.read(
                    runDirectory: deployment.options.runDirectory, nowUs: 0
                )?.isStoreRefusing == true
            })
        server.start()
        let account = try deployment.openStore().makeAccount(
            label: "shop", kinds: .consumer, isPrepaid: false, nowUs: 1)
        var reader = DirectoryReader(
            directory: Sidecar.Options.directoryPath(
                dataDirectory: deployment.options.dataDirectory))
        #expect(
            try eventually {
                try reader.poll().contains { $0.key == .account(account.id) }
            })
        #expect(sidecar.stop() == .ended)
    }

    /// What another process commits reaches the directory that this sidecar holds; a lease is
    /// asked for, granted and, when its instance is gone, closed.
    @Test(arguments: [false, true])
    func theDirectoryFollowsTheStore(isPostgres: Bool) throws {
        let deployment = try isPostgres ? Deployment.onPostgres() : Deployment()
        let sidecar = RunningSidecar(deployment)
        #expect(eventually { deployment.counts() != nil })
        let store = try deployment.openStore()
        let account = try store.makeAccount(
            label: "shop", kinds: .consumer, isPrepaid: true, nowUs: 1)
        _ = try store.topUp(account.id, 500, reference: "a", nowUs: 1)
        var reader = DirectoryReader(
            directory: Sidecar.Options.directoryPath(
                dataDirectory: deployment.options.dataDirectory))
        var entries: [DirectoryEntry] = []
        func told(_ condition: (DirectoryEntry) -> Bool) throws -> Bool {
            try eventually {
                entries += try reader.poll()
                return entries.contains(where: condition)
            }
        }
        let isAccountTold = try told { $0.key == .account(account.id) }
        #expect(isAccountTold)
        var broker = try deployment.newBroker()
        let instance = broker.id
        broker.journal.append(
            LeaseRecord(
                account: account.id, wanted: 300, returned: 0, spent: 0, held: 0, atUs: 1
            ).record)
        broker.journal.publish()
        let isGranted = try told {
            if case .lease(let lease) = $0 {
                lease.granted == 300 && !lease.isClosed
            } else {
                false
            }
        }
        #expect(isGranted)
        broker.close(wallMicroseconds: 9)
        let isClosed = try told {
            if case .lease(let lease) = $0 {
                lease.instance == instance && lease.isClosed
            } else {
                false
            }
        }
        #expect(isClosed)
        #expect(try store.wallet(account.id).available == 500)
        #expect(sidecar.stop() == .ended)
    }

    @Test func aLockedDatabaseDoesNotStopTheCopying() throws {
        let deployment = Deployment()
        let sidecar = RunningSidecar(deployment)
        #expect(eventually { deployment.counts() != nil })
        var broker = try deployment.newBroker()
        let other = try deployment.openDatabase()
        let finished = try other.writeWithoutTransaction { database in
            try database.execute(sql: "BEGIN IMMEDIATE")
            let finished = runTasks(1...20_000, on: &broker)
            try database.execute(sql: "ROLLBACK")
            return finished
        }
        #expect(finished)
        #expect(
            eventually {
                deployment.counts()
                    == RecordCounts(accepted: 20_000, final: 20_000, open: 0, duplicates: 0)
            })
        #expect(sidecar.stop() == .ended)
    }

    @Test func theBudgetStopsCopyingAndAppliedSegmentsGo() throws {
        let deployment = Deployment { options in
            options.segmentBytes = 64 * 1_024
            options.segmentBudgetBytes = 512 * 1_024
        }
        let sidecar = RunningSidecar(deployment)
        #expect(eventually { deployment.counts() != nil })
        var broker = try deployment.newBroker()
        let journal = deployment.options.dataDirectory + "/journal"
        let other = try deployment.openDatabase()
        try other.writeWithoutTransaction { database in
            try database.execute(sql: "BEGIN IMMEDIATE")
            var counter: UInt64 = 0
            while broker.journal.freeRecords > 2 {
                counter += 1
                broker.accept(counter, slot: 0)
                broker.end(counter, slot: 0)
            }
            // Enough was taken to use the budget, and then nothing more.
            let before = broker.journal.freeRecords
            usleep(300_000)
            let after = broker.journal.freeRecords
            #expect(after < broker.journal.recordCapacity)
            #expect(after - before <= 2 * 4_096 + 512 * 1_024 / 128)
            try database.execute(sql: "ROLLBACK")
        }
        let capacity = broker.journal.recordCapacity
        #expect(eventually { broker.journal.freeRecords == capacity })
        let tasks = Int(broker.journal.lastSequence - 1) / 2
        #expect(eventually { deployment.counts()?.final == tasks })
        #expect(
            try eventually {
                try FileManager.default.contentsOfDirectory(atPath: journal).count == 1
            })
        #expect(sidecar.stop() == .ended)
    }

    @Test func aFullDiskIsWaitedOut() throws {
        guard let small = SmallFileSystem(megabytes: 48) else { return }
        let deployment = Deployment(dataDirectory: small.path + "/data")
        let sidecar = RunningSidecar(deployment)
        #expect(eventually { deployment.counts() != nil })
        var broker = try deployment.newBroker()
        #expect(runTasks(1...100, on: &broker) == true)
        #expect(eventually { deployment.counts()?.final == 100 })
        small.fill(sparedBytes: 0)
        for counter in 101...4_000 as ClosedRange<UInt64> {
            broker.accept(counter, slot: 0)
            broker.end(counter, slot: 0)
        }
        // Until nothing has moved for a second and a half: by then it has met the full disk.
        var (free, still) = (-1, 0)
        while still < 15 {
            usleep(100_000)
            still = broker.journal.freeRecords == free ? still + 1 : 0
            free = broker.journal.freeRecords
        }
        #expect(free < broker.journal.recordCapacity)
        small.empty()
        #expect(
            eventually {
                deployment.counts()
                    == RecordCounts(accepted: 4_000, final: 4_000, open: 0, duplicates: 0)
            })
        #expect(sidecar.stop() == .ended)
    }

    @Test func aTornTailIsCutAndDamageHidesNothingBehindIt() throws {
        let deployment = Deployment()
        let first = RunningSidecar(deployment)
        #expect(eventually { deployment.counts() != nil })
        var broker = try deployment.newBroker()
        #expect(runTasks(1...50, on: &broker) == true)
        #expect(eventually { deployment.counts()?.final == 50 })
        first.stop()
        let segment = deployment.options.dataDirectory + "/journal/segment-000000000001"
        let file = try FileHandle(forUpdating: URL(fileURLWithPath: segment))
        // One damaged record in the middle, which the store has; half a record behind the end.
        try file.seek(toOffset: 128 * 20 + 64)
        try file.write(contentsOf: Data([0xEE, 0xEE, 0xEE]))
        let size = try file.seekToEnd()
        try file.write(contentsOf: Data(repeating: 7, count: 333))
        try file.close()
        let second = RunningSidecar(deployment)
        #expect(runTasks(51...100, on: &broker) == true)
        #expect(eventually { deployment.counts()?.final == 100 })
        second.stop()
        #expect(
            deployment.counts()
                == RecordCounts(accepted: 100, final: 100, open: 0, duplicates: 0))
        let attributes = try FileManager.default.attributesOfItem(atPath: segment)
        #expect(attributes[.size] as? UInt64 == size + 100 * 128)
    }

    @Test func aTaskIsLostOnlyWhenItsInstanceHasVanished() throws {
        let deployment = Deployment { $0.lostAfterUs = 1_000 }
        let sidecar = RunningSidecar(deployment)
        #expect(eventually { deployment.counts() != nil })
        var vanishing = try deployment.newBroker()
        vanishing.accept(1, slot: 0)
        vanishing.journal.publish()
        var staying = try deployment.newBroker()
        staying.accept(1, slot: 0)
        staying.journal.publish()
        #expect(eventually { deployment.counts()?.open == 2 })
        let path = InstanceDirectory.path(deployment.options.runDirectory, vanishing.id)
        try FileManager.default.removeItem(atPath: path)
        #expect(eventually { deployment.counts()?.open == 1 })
        let final = try deployment.openStore().finalRecords(last: 5)
        #expect(final.map(\.status) == [.lost])
        #expect(final.map(\.task.instance) == [vanishing.id])
        staying.end(1, slot: 0)
        #expect(eventually { deployment.counts()?.open == 0 })
        #expect(sidecar.stop() == .ended)
    }

    /// A store full of what should be gone, and a broker that goes on.
    @Test(arguments: [false, true])
    func whatIsTooOldGoesWhileTasksAreSettled(isPostgres: Bool) throws {
        let deployment = try isPostgres ? Deployment.onPostgres() : Deployment()
        try FileManager.default.createDirectory(
            atPath: deployment.options.dataDirectory, withIntermediateDirectories: false,
            attributes: [.posixPermissions: 0o700])
        let store = try deployment.openStore()
        // More than one batch of the schedule.
        let old = 3_000 as UInt64
        var records: [JournalRecord] = []
        for counter in 1...old {
            var accepted = AcceptedRecord(
                counter: counter, acceptedAtUs: 1_000, account: 1, keyDigestPrefix: 2, model: 1,
                operation: .chat, encoding: .text, priority: 128, preference: .balanced,
                deadlineMs: 1_000, bodyBytes: 10
            ).record
            accepted.instance = 77
            accepted.sequence = 2 * counter - 1
            records.append(accepted)
            var ended = EndedRecord(
                task: TaskID(instance: 77, counter: counter), status: .completed,
                code: .completed
            ).record
            ended.instance = 77
            ended.sequence = 2 * counter
            records.append(ended)
        }
        _ = try store.applyBatch(records)
        #expect(try store.counts().final == Int(old))
        let sidecar = RunningSidecar(deployment)
        #expect(eventually { access(deployment.options.runDirectory, W_OK) == 0 })
        var broker = try deployment.newBroker()
        #expect(runTasks(1...500, on: &broker) == true)
        #expect(
            eventually {
                deployment.counts()
                    == RecordCounts(accepted: 500, final: 500, open: 0, duplicates: 0)
            })
        let check = try store.ledgerCheck()
        #expect(check.isSound && check.unsettled == 0, "\(check.json)")
        #expect(sidecar.stop() == .ended)
    }

    @Test func oneSidecarPerDirectory() throws {
        let deployment = Deployment()
        let first = RunningSidecar(deployment)
        #expect(eventually { deployment.counts() != nil })
        #expect(Sidecar(deployment.options).run() == .unusable)
        let sameRun = Deployment { $0.runDirectory = deployment.options.runDirectory }
        #expect(Sidecar(sameRun.options).run() == .unusable)
        #expect(first.stop() == .ended)
    }
}
