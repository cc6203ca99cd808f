import Foundation
import GRDB
import RecordTestSupport
import SharedMemory
import Sidecar
import SluiceRecordFormat
import SluiceWire
import Store
import Testing

/// Run and data directory of one test, and what goes on in them.
final class Deployment: Sendable {
    let scratch: ScratchDirectory
    let options: Sidecar.Options

    init(dataDirectory: String? = nil, change: (inout Sidecar.Options) -> Void = { _ in }) {
        scratch = ScratchDirectory()
        var options = Sidecar.Options(
            dataDirectory: dataDirectory ?? scratch.path + "/data",
            runDirectory: scratch.path + "/run")
        // SQLite resolves links itself, and so cannot look through /proc/PID/root.
        if dataDirectory != nil { options.store = .sqlite(path: scratch.path + "/sluice.sqlite") }
        options.pollMs = 2
        options.applyEveryMs = 10
        change(&options)
        self.options = options
    }

    /// With its store in a new database of the tests' PostgreSQL.
    static func onPostgres() throws -> Deployment {
        let address = try PostgresServer.shared.get().newDatabase()
        return Deployment { $0.store = .postgres(address: address) }
    }

    /// What a sidecar of its own process is told: a program takes only a URL for an address.
    var environment: [String: String] {
        var environment = ProcessInfo.processInfo.environment
        if case .postgres(let address) = options.store {
            environment[StoreLocation.variable] = Self.url(address)
        }
        return environment
    }

    private static func url(_ address: String) -> String {
        let pairs = address.split(separator: " ").map { $0.split(separator: "=") }
        return "postgresql:///?" + pairs.map { "\($0[0])=\($0[1])" }.joined(separator: "&")
    }

    func newBroker(slots: Int = 64) throws -> BrokerInstance {
        var sizes = InstanceSizes()
        sizes.ringBytes = RingLayout.minimumByteCount
        sizes.tableSlots = slots
        sizes.shards = 1
        return try .create(
            runDirectory: options.runDirectory, sizes: sizes,
            wallMicroseconds: LocalFileSystem.wallUs())
    }

    func openStore() throws -> Store {
        try Store(options.store, durability: .checkpoint)
    }

    /// The file that holds the store, in the tests that do not say PostgreSQL.
    var databasePath: String {
        guard case .sqlite(let path) = options.store else { return "" }
        return path
    }

    /// The same file beside the sidecar, which may be writing just now: that is waited out.
    func openDatabase() throws -> DatabaseQueue {
        var configuration = Configuration()
        configuration.busyMode = .timeout(60)
        return try DatabaseQueue(path: databasePath, configuration: configuration)
    }

    /// What the store counts; nil as long as it cannot say.
    func counts() -> RecordCounts? {
        guard let store = try? openStore() else { return nil }
        return try? store.counts()
    }
}

/// A sidecar on a thread of this process.
final class RunningSidecar {
    private let sidecar: Sidecar
    private let box: ExitBox

    private final class ExitBox: @unchecked Sendable {
        let done = DispatchSemaphore(value: 0)
        var exit: Sidecar.Exit?
    }

    init(_ deployment: Deployment) {
        let sidecar = Sidecar(deployment.options)
        let box = ExitBox()
        self.sidecar = sidecar
        self.box = box
        Thread.detachNewThread {
            box.exit = sidecar.run()
            box.done.signal()
        }
    }

    /// Ends it in order.
    @discardableResult
    func stop() -> Sidecar.Exit? {
        sidecar.stop()
        box.done.wait()
        box.done.signal()
        return box.exit
    }

    deinit {
        stop()
    }
}

extension BrokerInstance {
    /// Now: what was accepted in 1970 would be removed by the sidecar as soon as it has ended.
    mutating func accept(_ counter: UInt64, slot: Int) {
        let atUs = LocalFileSystem.wallUs()
        table.openSlot(
            slot, OpenTaskSlot(counter: counter, acceptedAtUs: atUs, maxInputTokens: 0))
        table.setAcceptSequence(slot, journal.lastSequence + 1)
        journal.append(
            AcceptedRecord(
                counter: counter, acceptedAtUs: atUs, account: 1, keyDigestPrefix: 2, model: 1,
                operation: .chat, encoding: .text, priority: 128, preference: .balanced,
                deadlineMs: 1_000, bodyBytes: 10
            ).record)
    }

    mutating func end(_ counter: UInt64, slot: Int) {
        table.setEndSequence(slot, instance: id, journal.lastSequence + 1)
        journal.append(
            EndedRecord(
                task: TaskID(instance: id, counter: counter), status: .completed, code: .completed
            ).record)
        journal.publish()
        table.clearSlot(slot)
    }
}

/// Accepts and ends tasks, waiting for room like admission does. False if none came.
func runTasks(_ counters: ClosedRange<UInt64>, on broker: inout BrokerInstance) -> Bool {
    for counter in counters {
        let isRoom = eventually { broker.journal.freeRecords > 2 }
        guard isRoom else { return false }
        broker.accept(counter, slot: 0)
        broker.end(counter, slot: 0)
    }
    return true
}

/// Waits, a minute at most, until something holds. Says whether, never how long it took.
func eventually(_ condition: () throws -> Bool) rethrows -> Bool {
    let end = LocalFileSystem.monotonicUs() + 60_000_000
    while LocalFileSystem.monotonicUs() < end {
        if try condition() { return true }
        usleep(5_000)
    }
    return false
}

/// The program that was built beside the tests.
func sidecarExecutable() throws -> URL {
    let own = try FileManager.default.destinationOfSymbolicLink(atPath: "/proc/self/exe")
    let beside = URL(fileURLWithPath: own).deletingLastPathComponent()
    for argument in [beside.path] + CommandLine.arguments {
        var folder = URL(fileURLWithPath: argument)
        for _ in 0..<4 {
            let candidate = folder.appendingPathComponent("sluice-sidecar")
            if FileManager.default.isExecutableFile(atPath: candidate.path) { return candidate }
            folder = folder.deletingLastPathComponent()
        }
    }
    throw CocoaError(.fileNoSuchFile)
}
