import ContentArena
import LinuxIO
import SecureTransport
import SharedMemory
import SluiceBrokerCore
import SluiceRecordFormat
import SluiceWire
import TLSEngine

/// Assembles one broker process and runs it until it is drained. `ProcessGuard.harden` comes
/// first, in `main`.
package enum BrokerProcess {
    /// Serves until SIGTERM or SIGINT has drained it. Prints one JSON line on standard output
    /// when it listens.
    package static func run(
        _ configuration: BrokerConfiguration
    ) throws(BrokerStartError) {
        let log = BrokerLog()
        let certificate = ServerCertificate(try tlsContext(configuration))
        let instance = try makeInstance(configuration, log)
        let openTasksMax = instance.openTasksMax
        var journal = InstanceJournal(instance, runDirectory: configuration.runDirectory)
        try recover(&journal, log)
        let pool = try contentPool(configuration)
        let listener = try listen(configuration)
        let decision = configuration.backend.resolve()
        if let refusal = decision.refusal {
            log.event("ring_refused", ("errno", UInt64(max(0, refusal.code))))
        }
        journal.setBackend(isRing: decision.kind == .ring)
        let ready =
            "{\"event\":\"listening\",\"host\":\"\(configuration.host)\",\"port\":\(listener.port),"
            + "\"instance\":\"\(hexadecimal(journal.id))\",\"backend\":\"\(decision.kind.rawValue)\","
            + "\"shards\":\(configuration.shards)}\n"
        let assembly = Assembly(
            configuration: configuration, certificate: certificate, openTasksMax: openTasksMax,
            pool: pool, ready: ready, log: log)
        do {
            // Blocks the signals: every thread that is made must be made after it.
            let signals = try SignalDescriptor()
            if configuration.stopsWithParent { ProcessGuard.stopWithParent() }
            switch decision.kind {
            case .ring:
                try assembly.run(on: RingBackend.self, listener, signals, journal)
            case .epoll:
                try assembly.run(on: EpollBackend.self, listener, signals, journal)
            }
        } catch let error as BrokerStartError {
            throw error
        } catch {
            throw .network("\(error)")
        }
    }

    private static func tlsContext(
        _ configuration: BrokerConfiguration
    ) throws(BrokerStartError) -> TLSContext {
        do {
            return try TLSContext(
                serverCertificateFile: configuration.certificateFile,
                privateKeyFile: configuration.privateKeyFile,
                clientAuthoritiesFile: configuration.clientAuthoritiesFile)
        } catch .trustUnreadable {
            throw .clientAuthorities(
                file: configuration.clientAuthoritiesFile ?? "",
                reason: "it cannot be read or holds no certificate")
        } catch {
            throw .certificate("\(error)")
        }
    }

    private static func makeInstance(
        _ configuration: BrokerConfiguration, _ log: BrokerLog
    ) throws(BrokerStartError) -> BrokerInstance {
        var sizes = InstanceSizes()
        sizes.tableSlots = configuration.limits.openTasks
        sizes.shards = configuration.shards
        do {
            let instance = try BrokerInstance.create(
                runDirectory: configuration.runDirectory, sizes: sizes,
                wallMicroseconds: WallClock.nowUs)
            if instance.isRingReduced {
                log.event(
                    "ring_reduced", ("records", UInt64(instance.journal.recordCapacity)))
            }
            return instance
        } catch {
            throw .instance("\(error)")
        }
    }

    /// Final records for what earlier instances left open, before anything new is accepted.
    private static func recover(
        _ journal: inout InstanceJournal, _ log: BrokerLog
    ) throws(BrokerStartError) {
        do {
            try journal.closeDeadInstances(
                openTasks: 0, wallUs: WallClock.nowUs, waitMs: 2_000, log)
        } catch {
            throw .instance("\(error)")
        }
    }

    private static func contentPool(
        _ configuration: BrokerConfiguration
    ) throws(BrokerStartError) -> ChunkPool {
        do {
            return try ContentStore.makePool(
                limits: configuration.limits, shardCount: configuration.shards)
        } catch {
            throw .memory(
                byteCount: configuration.limits.arenaBytes(shardCount: configuration.shards))
        }
    }

    /// The listener that a supervisor keeps, which makes host and port its business; else one of
    /// this process.
    private static func listen(
        _ configuration: BrokerConfiguration
    ) throws(BrokerStartError) -> ListeningSocket {
        let inherited = ServiceSupervisor.listenerCount
        guard inherited <= 1 else {
            throw .inheritedListeners(count: inherited, reason: "there are too many")
        }
        do {
            if inherited == 1 { return try ServiceSupervisor.takeListener() }
        } catch {
            throw .inheritedListeners(count: inherited, reason: "\(error)")
        }
        do {
            return try ListeningSocket(address: configuration.host, port: configuration.port)
        } catch {
            throw .listen(
                host: configuration.host, port: configuration.port, reason: "\(error)")
        }
    }
}
