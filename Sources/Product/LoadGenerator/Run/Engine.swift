import ContentArena
import LinuxIO
import SecureTransport
import TLSEngine

/// One thread's mock clients and suppliers around one transport: the same backends and the same
/// TLS as the broker's.
///
/// A turn reads top to bottom: what arrived is taken, what ended is begun anew, what is due is
/// submitted and sent, and everything is sealed and goes out with the next wait.
struct Engine<
    Backend: NetworkBackend & ~Copyable, Client: ClientDialect, Supplier: SupplierDialect
>: ~Copyable {
    let plan: EnginePlan
    let control: GeneratorControl
    var transport: SecureServer<Backend>
    var incoming: ContentRegion
    /// A frame whose end has not arrived is shorter, in the protocols of slow connections.
    private static var carryBytesMax: Int { 65_536 }
    /// Reads of slow connections go through this, so that they end early.
    var trickle: ContentRegion

    var clients: [MockClient<Client>] = []
    var suppliers: [MockSupplier<Supplier>] = []
    /// By channel index: a client's place, or below 0 a supplier's.
    var owners: [Int]
    var tasks: ClientTasks
    var supply = SupplierTasks()

    /// By slot of `tasks`.
    var slots: [StreamSlot] = []
    var arrivals = TaskArrivals()
    /// Supplier tasks whose next token is due.
    var tokensDue = DueQueue()
    /// Slow connections that may read again.
    var readsDue = DueQueue()

    var dirtyClients: [Int] = []
    var dirtySuppliers: [Int] = []
    var nowNs: UInt64
    var phase = RunPhase.suppliers
    var reached: RunPhase?
    var publishedNs: UInt64 = 0
    var windowStartProcessorNs: UInt64 = 0
    var result = EngineResult()
    var nextClient = 0
    var closingChurn = 0
    var isProducing = false

    init(plan: EnginePlan, control: GeneratorControl) throws {
        let transport = try Self.makeTransport(plan)
        let incoming = try ContentRegion(byteCount: 2 << 20)
        let slowest = plan.workload.groups.map(\.readBytesPerSecond).max() ?? 0
        let trickle = try ContentRegion(byteCount: Self.carryBytesMax + max(64, slowest / 10))
        self.plan = plan
        self.control = control
        self.transport = transport
        self.incoming = incoming
        self.trickle = trickle
        owners = [Int](repeating: .max, count: plan.channelsMax)
        tasks = ClientTasks(groupCount: plan.workload.groups.count)
        nowNs = MonotonicClock.nowNs
        control.attach(plan.number, self.transport.doorbell)
    }

    private static func makeTransport(_ plan: EnginePlan) throws -> SecureServer<Backend> {
        var limits = TransportLimits()
        limits.channelsMax = plan.channelsMax
        // Three full records and their overhead: larger blocks are mapped anew for every send.
        limits.sealedBytesMax = 60_000
        limits.heldBuffersMax = 16
        var settings = BackendSettings()
        settings.bufferCount = 1_024
        if case .listen(let descriptor) = plan.supplierSide, plan.playsSuppliers {
            let listener = try ListeningSocket(adopting: descriptor)
            return try SecureServer<Backend>(
                context: plan.serverTLS, listener: listener, limits: limits, settings: settings)
        }
        return try SecureServer<Backend>(
            context: plan.clientTLS, listener: nil, limits: limits, settings: settings)
    }

    /// Runs until it is told to stop.
    consuming func run() {
        if plan.playsClients { makeClients() }
        connectSuppliers()
        while phase != .stop { turn() }
        result.last = snapshot
        result.measures = tasks.measures
        control.detach(plan.number)
        control.finish(plan.number, result)
    }

    private mutating func turn() {
        let count = transport.wait(timeoutNs: isProducing ? 0 : waitNs)
        nowNs = MonotonicClock.nowNs
        for position in 0..<count { handle(transport.event(at: position)) }
        followPhase()
        if phase == .clients { connectClients() }
        beginAnew()
        submitDue()
        wakeTasks()
        sendDue()
        isProducing = produce()
        flush()
        publish()
    }

    /// Until the next thing that is due, at most 50 ms.
    private var waitNs: Int64 {
        let latest = nowNs + 50_000_000
        let nextNs = min(
            arrivals.firstNs ?? latest, tokensDue.firstNs ?? latest, readsDue.firstNs ?? latest,
            latest)
        let now = MonotonicClock.nowNs
        return nextNs > now ? Int64(nextNs - now) : 0
    }

    private mutating func handle(_ event: TransportEvent) {
        switch event {
        case .established(let channel): established(channel)
        case .received(let channel): received(channel)
        case .opened(let channel): accepted(channel)
        case .closed(let channel, _): closed(channel)
        case .sent(let channel):
            let owner = owners[Int(channel.index)]
            if owner == .max { return }
            if owner >= 0 { markClient(owner) } else { markSupplier(-owner - 1) }
        case .doorbell, .accepted, .acceptingPaused, .signal:
            break
        }
    }

    // MARK: Receiving

    private mutating func received(_ channel: ChannelID) {
        let owner = owners[Int(channel.index)]
        if owner == .max { return }
        if owner < 0 { return receive(supplier: -owner - 1, channel) }
        let rate = plan.workload.groups[clients[owner].group].readBytesPerSecond
        guard rate > 0, phase != .drain else { return receive(client: owner, channel) }
        guard !clients[owner].isReadDue else { return }
        clients[owner].isReadDue = true
        readsDue.push(DueQueue.Entry(ns: nowNs + 100_000_000, id: Int32(owner)))
    }

    private mutating func receive(client place: Int, _ channel: ChannelID) {
        while true {
            let kept = clients[place].carry.count
            incoming.copy(from: clients[place].carry.span, at: 0)
            let read = transport.read(channel, into: &incoming, at: kept)
            if read.plaintextBytes > 0 {
                nowNs = MonotonicClock.nowNs
                Self.hand(
                    &clients[place], incoming, 0..<kept + read.plaintextBytes, nowNs, &tasks)
                markClient(place)
            }
            if !read.mayHaveMore { return }
        }
    }

    private static func hand(
        _ client: inout MockClient<Client>, _ incoming: borrowing ContentRegion,
        _ place: Range<Int>, _ nowNs: UInt64, _ tasks: inout ClientTasks
    ) {
        let bytes = incoming.span.extracting(place)
        let used = client.dialect.receive(bytes, nowNs: nowNs, tasks: &tasks)
        keep(bytes.extracting(used..<bytes.count), in: &client.carry)
    }

    private mutating func receive(supplier place: Int, _ channel: ChannelID) {
        while true {
            let kept = suppliers[place].carry.count
            incoming.copy(from: suppliers[place].carry.span, at: 0)
            let read = transport.read(channel, into: &incoming, at: kept)
            if read.plaintextBytes > 0 {
                nowNs = MonotonicClock.nowNs
                Self.hand(
                    &suppliers[place], place, incoming, kept + read.plaintextBytes, nowNs,
                    &supply)
                markSupplier(place)
            }
            if !read.mayHaveMore { return }
        }
    }

    private static func hand(
        _ supplier: inout MockSupplier<Supplier>, _ place: Int,
        _ incoming: borrowing ContentRegion, _ count: Int, _ nowNs: UInt64,
        _ supply: inout SupplierTasks
    ) {
        let bytes = incoming.span.extracting(0..<count)
        let used = supplier.dialect.receive(
            bytes, connection: place, nowNs: nowNs, tasks: &supply)
        keep(bytes.extracting(used..<count), in: &supplier.carry)
    }

    private static func keep(_ bytes: Span<UInt8>, in carry: inout [UInt8]) {
        carry.removeAll(keepingCapacity: true)
        for position in bytes.indices { carry.append(bytes[position]) }
    }

    /// Slow connections read a tenth of a second's worth, ten times a second.
    mutating func readDue() {
        while let entry = readsDue.pop(dueAt: nowNs) {
            let place = Int(entry.id)
            clients[place].isReadDue = false
            guard let channel = clients[place].channel else { continue }
            if phase == .drain {
                receive(client: place, channel)
            } else if readTrickle(place, channel) {
                clients[place].isReadDue = true
                readsDue.push(DueQueue.Entry(ns: entry.ns + 100_000_000, id: entry.id))
            }
        }
    }

    /// Whether there is more.
    private mutating func readTrickle(_ place: Int, _ channel: ChannelID) -> Bool {
        // The beginning of a frame goes right in front of what is read.
        let start = Self.carryBytesMax - clients[place].carry.count
        trickle.copy(from: clients[place].carry.span, at: start)
        let read = transport.read(channel, into: &trickle, at: Self.carryBytesMax)
        if read.plaintextBytes > 0 {
            let end = Self.carryBytesMax + read.plaintextBytes
            Self.hand(&clients[place], trickle, start..<end, nowNs, &tasks)
            markClient(place)
        }
        return read.mayHaveMore
    }

    // MARK: Sending

    mutating func markClient(_ place: Int) {
        guard !clients[place].isDirty else { return }
        clients[place].isDirty = true
        dirtyClients.append(place)
    }

    mutating func markSupplier(_ place: Int) {
        guard !suppliers[place].isDirty else { return }
        suppliers[place].isDirty = true
        dirtySuppliers.append(place)
    }

    private mutating func flush() {
        for place in dirtyClients {
            clients[place].isDirty = false
            guard let channel = clients[place].channel else { continue }
            Self.seal(&transport, channel, &clients[place].dialect.output)
            transport.flush(channel)
        }
        dirtyClients.removeAll(keepingCapacity: true)
        for place in dirtySuppliers {
            suppliers[place].isDirty = false
            guard let channel = suppliers[place].channel else { continue }
            Self.seal(&transport, channel, &suppliers[place].dialect.output)
            transport.flush(channel)
        }
        dirtySuppliers.removeAll(keepingCapacity: true)
    }

    /// Seals what waits, in full records, as far as the transport takes it.
    static func seal(
        _ transport: inout SecureServer<Backend>, _ channel: ChannelID,
        _ output: inout OutputQueue
    ) {
        while !output.isEmpty {
            let record = output.record
            guard transport.seal(channel, output.bytes.span.extracting(record)) else { return }
            output.sealed(record.count)
        }
    }

    // MARK: Telling

    var snapshot: EngineSnapshot {
        var snapshot = EngineSnapshot()
        snapshot.nowNs = nowNs
        snapshot.processorNs = MonotonicClock.threadNs
        snapshot.tokensSent = supply.tokensSent
        snapshot.tokensReceived = tasks.tokensReceived
        snapshot.submitted = tasks.submitted
        snapshot.ended = tasks.ended
        snapshot.faults = tasks.faults
        snapshot.faults[RunFault.badFrame.rawValue] += supply.badFrames
        return snapshot
    }

    private mutating func publish() {
        let isNews = reached != phase && isGoalReached
        guard isNews || nowNs - publishedNs > 100_000_000 else { return }
        publishedNs = nowNs
        if isNews { reached = phase }
        control.publish(plan.number, snapshot, reached: reached)
    }
}

/// One client connection.
struct MockClient<Dialect: ClientDialect> {
    var dialect: Dialect
    let settings: ClientSettings
    let group: Int
    var channel: ChannelID?
    /// A frame whose end has not arrived.
    var carry: [UInt8] = []
    var isDirty = false
    var isReadDue = false
    /// The churn's: when its connection was meant to be opened.
    var intendedNs: UInt64 = 0
    /// It closes by its own wish.
    var isLeaving = false
}

/// One supplier connection.
struct MockSupplier<Dialect: SupplierDialect> {
    var dialect: Dialect
    var channel: ChannelID?
    var carry: [UInt8] = []
    var isDirty = false
    /// Tasks that are not paced and have something to send, in turn.
    var ring = TaskRing()
}

/// One stream of a client connection.
struct StreamSlot {
    var client: Int32
    var stream: Int32
}
