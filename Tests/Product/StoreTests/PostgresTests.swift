import Foundation
import Glibc
import PostgresConnection
import RecordTestSupport
import SluiceLedgerCore
import SluiceRecordFormat
import SluiceWire
import Store
import Testing

/// What only a server can get wrong.
@Suite(.serialized) struct PostgresTests {
    @Test func nothingIsListeningIsSaid() throws {
        let scratch = ScratchDirectory()
        #expect(throws: StoreError.unreachable) {
            _ = try Store(
                .postgres(address: "host=\(scratch.path) user=test dbname=test"),
                durability: .checkpoint)
        }
        #expect(throws: StoreError.self) {
            _ = try Store(.postgres(address: "postgresql://[x"), durability: .checkpoint)
        }
    }

    /// The server dies and comes back; what was committed is there, and the same store object goes
    /// on.
    @Test func aServerThatWasAwayIsCaughtUpWith() throws {
        let server = try PostgresServer()
        let store = try Store(
            .postgres(address: try server.newDatabase()), durability: .checkpoint)
        var journal = JournalSketch(instance: 9)
        journal.accept(1)
        _ = try store.applyBatch(journal.records)
        server.stop()
        journal.end(1)
        #expect(throws: StoreError.unreachable) { _ = try store.applyBatch(journal.records) }
        #expect(throws: StoreError.unreachable) { _ = try store.counts() }
        server.start()
        #expect(try store.applyBatch(journal.records).applied == 1)
        #expect(
            try store.counts() == RecordCounts(accepted: 1, final: 1, open: 0, duplicates: 0))
    }

    @Test func whatEarlierVersionsAcceptedIsKnown() throws {
        let address = try PostgresServer.shared.get().newDatabase()
        var journal = JournalSketch(instance: 9)
        for counter in 1...3 as ClosedRange<UInt64> { journal.accept(counter) }
        journal.end(1)
        _ = try Store(.postgres(address: address), durability: .checkpoint)
            .applyBatch(journal.records)
        let connection = try PostgresConnection(address)
        try connection.run(
            """
            ALTER TABLE journal_cursor DROP COLUMN newest_task;
            DELETE FROM store_migration WHERE name = '7 newest tasks';
            """)
        let moved = try Store(.postgres(address: address), durability: .checkpoint)
        for counter in 1...4 as ClosedRange<UInt64> {
            journal.accept(counter, atUs: 1_792_900_000_000_000)
        }
        let batch = try moved.applyBatch(journal.records)
        #expect(batch.applied == 1 && batch.duplicates == 3)
        #expect(
            try moved.counts() == RecordCounts(accepted: 4, final: 1, open: 3, duplicates: 3))
    }

    /// The connection breaks while COMMIT is on its way: with `reaches` the server has done it,
    /// else not. Applying the same records again makes both the same.
    @Test(arguments: [true, false])
    func anUnknownCommitIsResolvedByTheCursor(reaches: Bool) throws {
        let server = try PostgresServer.shared.get()
        let scratch = ScratchDirectory()
        let relay = try CommitBreaker(
            listening: scratch.path, server: server.socketDirectory)
        let store = try Store(
            .postgres(address: try server.newDatabase(socketDirectory: scratch.path)),
            durability: .checkpoint)
        var journal = JournalSketch(instance: 9)
        for counter in 1...10 as ClosedRange<UInt64> {
            journal.accept(counter)
            journal.end(counter)
        }
        relay.breakNextCommit(reaches: reaches)
        #expect(throws: StoreError.outcomeUnknown) { _ = try store.applyBatch(journal.records) }
        let batch = try store.applyBatch(journal.records)
        #expect(batch.applied == (reaches ? 0 : 20))
        #expect(batch.skipped == (reaches ? 20 : 0))
        #expect(
            try store.counts() == RecordCounts(accepted: 10, final: 10, open: 0, duplicates: 0))
        #expect(try store.ledgerCheck().isSound)
    }

    @Test func partitionsAreMadeAheadAndOldOnesGo() throws {
        let test = try TestStore(.postgres)
        let nowUs: UInt64 = 1_792_800_000_000_000
        try test.store.prepareDays(nowUs: nowUs)
        try test.store.prepareDays(nowUs: nowUs)
        var journal = JournalSketch(instance: 9)
        journal.accept(1, atUs: nowUs)
        journal.end(1)
        journal.accept(2, atUs: nowUs + 86_400_000_000)
        journal.end(2)
        // A day that nobody prepared.
        journal.accept(3, atUs: 5)
        journal.end(3)
        _ = try test.store.applyBatch(journal.records)
        #expect(try test.store.counts().final == 3)
        _ = try removeExpired(
            test.store, .taskRecords, cutoffUs: nowUs + 86_400_000_000)
        #expect(
            try test.store.counts() == RecordCounts(accepted: 1, final: 1, open: 0, duplicates: 0))
        #expect(try test.store.finalRecords(last: 5).map(\.task.counter) == [2])
    }

    @Test(arguments: TestEngine.allCases)
    func whatWasPostedIsNeitherChangedNorRemoved(_ engine: TestEngine) throws {
        let market = try Market(engine)
        _ = try market.store.topUp(market.consumer.id, 5, reference: "a", nowUs: 1)
        let statements = ["posting", "ledger_entry"].flatMap {
            ["UPDATE \($0) SET low = low + 1", "DELETE FROM \($0)"]
        }
        for sql in statements {
            switch market.test.location {
            case .sqlite(let path):
                let process = Process()
                process.executableURL = URL(fileURLWithPath: "/usr/bin/env")
                process.arguments = ["python3", "-c", Self.run, path, sql]
                process.standardError = FileHandle.nullDevice
                try process.run()
                process.waitUntilExit()
                #expect(process.terminationStatus == 7, "\(sql)")
            case .postgres(let address):
                let connection = try PostgresConnection(address)
                #expect(throws: PostgresError.constraint) { try connection.run(sql) }
            }
        }
        try market.expectSound()
    }

    private static let run = """
        import sqlite3, sys
        connection = sqlite3.connect(sys.argv[1])
        try:
            connection.execute(sys.argv[2])
        except sqlite3.IntegrityError:
            sys.exit(7)
        """

    /// Two sidecars and an operator work on one wallet at once; no change is lost or told in the
    /// wrong order.
    @Test func writersBesideEachOtherLoseNothing() async throws {
        let market = try Market(.postgres)
        let id = market.consumer.id
        let supplier = market.token.entry.supplier
        let location = market.test.location
        _ = try market.store.topUp(id, 100_000, reference: "first", nowUs: 1)
        let threads = (1...3 as ClosedRange<UInt64>).map { instance in
            WorkerThread {
                let store = try Store(location, durability: .everyTransaction)
                var journal = JournalSketch(instance: instance)
                journal.start()
                for counter in 1...40 as ClosedRange<UInt64> {
                    journal.lease(id, wanted: Int64(counter) * 100)
                    journal.accept(counter, account: id)
                    journal.end(counter, charge: charge(100, 90), supplier: supplier)
                    _ = try store.applyBatch(Array(journal.records.suffix(4)), node: instance)
                    _ = try store.topUp(
                        id, 10, reference: "\(instance)-\(counter)", nowUs: 1)
                }
            }
        }
        var last: UInt64 = 0
        var seen = 0
        while threads.contains(where: { !$0.isDone }) {
            let changes = try market.store.changes(after: last, node: 1) ?? []
            seen += changes.count
            last = changes.last?.id ?? last
        }
        for thread in threads { #expect(thread.error == nil) }
        seen += (try market.store.changes(after: last, node: 1) ?? []).count
        #expect(seen == (try market.store.changes(after: 0, node: 1)?.count))
        let check = try market.store.ledgerCheck()
        #expect(check.isSound && check.tasks == 120 && check.unsettled == 0, "\(check.json)")
        #expect(try market.store.wallet(id).balance == 89_200)
    }
}

/// Work on a thread of its own: blocking calls have no place on the tests' own.
final class WorkerThread: @unchecked Sendable {
    private let lock = NSLock()
    private var state: (isDone: Bool, error: (any Error)?) = (false, nil)

    init(_ body: @escaping @Sendable () throws -> Void) {
        Thread.detachNewThread { [self] in
            var caught: (any Error)?
            do { try body() } catch { caught = error }
            lock.withLock { state = (true, caught) }
        }
    }

    var isDone: Bool { lock.withLock { state.isDone } }
    var error: (any Error)? { lock.withLock { state.error } }
}

/// Stands between client and server on a unix socket, and breaks a connection at its COMMIT.
final class CommitBreaker: @unchecked Sendable {
    private let lock = NSLock()
    private var order: Bool?
    private let listener: Int32
    private let path: String

    init(listening directory: String, server: String) throws {
        path = directory + "/.s.PGSQL.5432"
        let listener = Self.socket()
        self.listener = listener
        let bound = Self.withAddress(path) { bind(listener, $0, $1) }
        #expect(bound == 0)
        #expect(listen(listener, 8) == 0)
        let target = server + "/.s.PGSQL.5432"
        Thread.detachNewThread { [weak self] in
            while true {
                let client = accept(listener, nil, nil)
                guard client >= 0 else { return }
                let upstream = Self.socket()
                guard Self.withAddress(target, { connect(upstream, $0, $1) }) == 0 else { return }
                Thread.detachNewThread { Self.pump(from: upstream, to: client) { _ in true } }
                Thread.detachNewThread { [weak self] in
                    Self.pump(from: client, to: upstream) { bytes in
                        self?.passes(bytes, client, upstream) ?? true
                    }
                }
            }
        }
    }

    deinit {
        shutdown(listener, Int32(SHUT_RDWR))
        close(listener)
    }

    /// The next COMMIT is the last thing its connection carries; with `reaches` the server gets
    /// it.
    func breakNextCommit(reaches: Bool) {
        lock.withLock { order = reaches }
    }

    private func passes(_ bytes: [UInt8], _ client: Int32, _ server: Int32) -> Bool {
        let word = Array("COMMIT".utf8)
        guard let reaches = lock.withLock({ order }), bytes.count >= 6,
            (0...bytes.count - 6).contains(where: { Array(bytes[$0..<$0 + 6]) == word })
        else { return true }
        lock.withLock { order = nil }
        shutdown(client, Int32(SHUT_RDWR))
        if reaches {
            _ = write(server, bytes, bytes.count)
            // The answer must not be read: it could not be delivered.
            usleep(200_000)
        }
        shutdown(server, Int32(SHUT_RDWR))
        return false
    }

    private static func pump(from: Int32, to: Int32, _ passes: ([UInt8]) -> Bool) {
        var buffer = [UInt8](repeating: 0, count: 65_536)
        while true {
            let count = read(from, &buffer, buffer.count)
            guard count > 0, passes(Array(buffer[0..<count])) else { break }
            var sent = 0
            while sent < count {
                let some = send(
                    to, Array(buffer[sent..<count]), count - sent, Int32(MSG_NOSIGNAL))
                guard some > 0 else { break }
                sent += some
            }
        }
        shutdown(to, Int32(SHUT_RDWR))
    }

    private static func socket() -> Int32 {
        Glibc.socket(AF_UNIX, Int32(SOCK_STREAM.rawValue), 0)
    }

    private static func withAddress(
        _ path: String, _ body: (UnsafePointer<sockaddr>, socklen_t) -> Int32
    ) -> Int32 {
        var address = sockaddr_un()
        address.sun_family = sa_family_t(AF_UNIX)
        withUnsafeMutableBytes(of: &address.sun_path) { $0.copyBytes(from: path.utf8) }
        return withUnsafePointer(to: &address) { pointer in
            pointer.withMemoryRebound(to: sockaddr.self, capacity: 1) {
                body($0, socklen_t(MemoryLayout<sockaddr_un>.size))
            }
        }
    }
}
