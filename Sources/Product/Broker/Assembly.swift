import ContentArena
import LinuxIO
import SecureTransport
import SharedMemory
import SluiceBrokerCore
import Synchronization
import TLSEngine

/// The last step of the start, for either backend: threads, and the ways between them.
struct Assembly {
    let configuration: BrokerConfiguration
    let certificate: ServerCertificate
    let openTasksMax: Int
    let pool: ChunkPool
    let ready: String
    let log: BrokerLog

    /// Runs shard 0 on the calling thread and each other shard on one of its own, until all have
    /// drained. The dispatcher is shard 0's neighbour, or has a thread of its own.
    func run<Backend: NetworkBackend & ~Copyable>(
        on _: Backend.Type, _ listener: consuming ListeningSocket,
        _ signals: consuming SignalDescriptor, _ journal: consuming sending InstanceJournal
    ) throws {
        let context = certificate.context
        let first = try SecureServer<Backend>(
            context: context, listener: listener, limits: transportLimits(), stop: signals)
        var doorbells = [first.doorbell]
        var waiting: [Seat<Backend>] = []
        for _ in 1..<max(1, configuration.shards) {
            let transport = try SecureServer<Backend>(
                context: context, listener: nil, limits: transportLimits())
            doorbells.append(transport.doorbell)
            waiting.append(Seat(try parts(transport)))
        }
        let dispatching =
            configuration.dispatcherHasThread ? try DispatchThread.Bell() : nil
        let links = ShardLinks(doorbells: doorbells, dispatcher: dispatching?.doorbell)
        let plans = doorbells.indices.map {
            plan(UInt16($0), links, journal) as BrokerLoop<Backend>.Plan
        }
        let seat = DispatchSeat(
            journal: journal, directory: DirectoryReader(directory: configuration.directory),
            limits: configuration.limits, openTasksMax: openTasksMax, links: links,
            ownShard: dispatching == nil ? 0 : nil, log: log)
        try run(plans, first: try parts(first), waiting, seat, dispatching)
    }

    private func run<Backend: NetworkBackend & ~Copyable>(
        _ plans: [BrokerLoop<Backend>.Plan], first: consuming BrokerLoop<Backend>.Parts,
        _ waiting: [Seat<Backend>], _ seat: consuming sending DispatchSeat,
        _ dispatching: DispatchThread.Bell?
    ) throws {
        let threads = try waiting.enumerated().map { index, seat in
            let plan = plans[index + 1]
            return Joined(try KernelThread { seat.run(plan) })
        }
        StandardStream.output.write(ready)
        ServiceSupervisor.notify(.ready)
        guard let dispatching else {
            let seat = BrokerLoop(plans[0], first, seat: seat).run()
            for thread in threads { thread.join() }
            seat?.close(wallUs: WallClock.nowUs)
            return
        }
        let dispatcher = try DispatchThread(seat, dispatching, links: plans[0].links)
        _ = BrokerLoop(plans[0], first, seat: nil).run()
        for thread in threads { thread.join() }
        dispatcher.stop()
    }

    private func plan<Backend: NetworkBackend & ~Copyable>(
        _ index: UInt16, _ links: ShardLinks, _ journal: borrowing InstanceJournal
    ) -> BrokerLoop<Backend>.Plan {
        BrokerLoop<Backend>.Plan(
            index: index, limits: configuration.limits, instance: journal.id, links: links,
            table: journal.table, statistics: journal.statistics(shard: Int(index)),
            certificate: certificate, reread: configuration.reread, log: log)
    }

    private func parts<Backend: NetworkBackend & ~Copyable>(
        _ transport: consuming SecureServer<Backend>
    ) throws(BrokerStartError) -> BrokerLoop<Backend>.Parts {
        do {
            return BrokerLoop<Backend>.Parts(
                transport: transport,
                content: try ContentStore(
                    limits: configuration.limits, pool: pool, shardCount: configuration.shards))
        } catch {
            throw .memory(byteCount: ContentStore.incomingBytes + ContentStore.outgoingBytes)
        }
    }

    private func transportLimits() -> TransportLimits {
        var limits = TransportLimits()
        limits.channelsMax = configuration.limits.connections
        limits.handsOverAccepted = configuration.shards > 1
        limits.sendsEndWaits = false
        return limits
    }
}

/// The parts of a shard whose thread has not taken them yet.
private final class Seat<Backend: NetworkBackend & ~Copyable>: Sendable {
    private let parts: Mutex<BrokerLoop<Backend>.Parts?>

    init(_ parts: consuming sending BrokerLoop<Backend>.Parts) {
        self.parts = Mutex(parts)
    }

    /// Serves as that shard; called once, on its thread.
    func run(_ plan: BrokerLoop<Backend>.Plan) {
        let taken = parts.withLock { $0.take() }
        guard let parts = taken else { preconditionFailure("a shard ran twice") }
        _ = BrokerLoop(plan, parts, seat: nil).run()
    }
}

/// A thread in a list.
private final class Joined {
    private var thread: KernelThread?

    init(_ thread: consuming KernelThread) {
        self.thread = consume thread
    }

    func join() {
        thread.take()?.join()
    }
}
