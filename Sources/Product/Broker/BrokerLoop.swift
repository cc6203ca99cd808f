import BasicContainers
import ContentArena
import LinuxIO
import LockFree
import SecureTransport
import SharedMemory
import SluiceBrokerCore
import SluiceRecordFormat
import SluiceWire
import Synchronization
import TLSEngine

/// The shell of one shard: one thread, its connections, and beside it, on shard 0, the dispatcher.
///
/// A turn reads top to bottom: what arrived goes to the core, the core's orders are performed,
/// its requests go to the dispatcher, what is written is published before any answer leaves,
/// everything that wants to go out is sealed into as few records as possible, and what is for
/// other threads is shown to them. The shell decides nothing about the protocol.
struct BrokerLoop<Backend: NetworkBackend & ~Copyable>: ~Copyable {
    var transport: SecureServer<Backend>
    var shard: ShardMachine
    var content: ContentStore
    /// Where the dispatcher is this thread's.
    var seat: DispatchSeat?
    /// Known apart: to compare `seat` with nil moves all of it to the stack.
    private let hasSeat: Bool
    let links: ShardLinks
    let gauge: ThreadGauge
    let table: TaskTable
    let statistics: StatisticsPage
    let log: BrokerLog
    let certificate: ServerCertificate
    let reread: @Sendable () -> BrokerConfiguration.Reloadable?
    /// The generation of the certificate that new connections of this shard get.
    private var certificateGeneration: UInt64 = 0

    /// To the dispatcher of another thread, and to each other shard.
    var requestOutlet: Outlet<DispatchRequest>
    var parcelOutlets: [Outlet<ShardParcel>]
    /// By shard: connections that this one handed to it.
    var connectionsGiven: [Int]

    /// By connection index.
    var channels: [ChannelID?]
    var control: [[UInt8]]
    /// A frame in front of body bytes, on its way into a record.
    var head: [UInt8] = []

    var output = ShardOutput()
    /// Requests that are being handed over, while the core may make new ones.
    private var requests = UniqueArray<DispatchRequest>()
    private var messages = UniqueArray<ShardMessage>()
    var closing: [(channel: ChannelID, afterSending: Bool)] = []
    /// Accepted in this turn. They get their places after its other events: a place that has just
    /// become free may still be another connection's for the core.
    var accepted: [AcceptedStream] = []
    var nowUs: UInt64 = 0
    private var wallUs: UInt64 = 0
    private var lastReportUs: UInt64 = 0
    private var gathering = GatherPolicy()
    private var tokensSeen: UInt64 = 0
    private var othersSeen: UInt64 = 0
    var stage = DrainStage.serving
    var closingSinceUs: UInt64 = 0

    /// What a shard's thread needs to build its loop; plain values and shared handles.
    struct Plan: Sendable {
        var index: UInt16
        var limits: BrokerLimits
        var instance: UInt64
        var links: ShardLinks
        var table: TaskTable
        var statistics: StatisticsPage
        var certificate: ServerCertificate
        var reread: @Sendable () -> BrokerConfiguration.Reloadable?
        var log: BrokerLog
    }

    /// What is made before the thread starts, and is then its own.
    struct Parts: ~Copyable, Sendable {
        var transport: SecureServer<Backend>
        var content: ContentStore
    }

    init(_ plan: Plan, _ parts: consuming Parts, seat: consuming DispatchSeat?) {
        let index = Int(plan.index)
        shard = ShardMachine(
            limits: plan.limits, index: plan.index, shardCount: UInt16(plan.links.shardCount),
            instance: plan.instance, nowUs: MonotonicClock.nowUs)
        transport = parts.transport
        content = parts.content
        hasSeat = seat != nil
        self.seat = seat
        links = plan.links
        gauge = plan.links.gauges[index]
        table = plan.table
        statistics = plan.statistics
        log = plan.log
        certificate = plan.certificate
        reread = plan.reread
        requestOutlet = Outlet(plan.links.requests[index], to: plan.links.dispatcherGauge)
        parcelOutlets = (0..<plan.links.shardCount).map {
            Outlet(plan.links.parcels[index][$0], to: plan.links.gauges[$0])
        }
        connectionsGiven = [Int](repeating: 0, count: plan.links.shardCount)
        channels = [ChannelID?](repeating: nil, count: plan.limits.connections)
        control = [[UInt8]](repeating: [], count: plan.limits.connections)
    }

    /// Serves until it is drained. Answers the dispatcher, if it was this thread's.
    consuming func run() -> DispatchSeat? {
        reportCertificate()
        while !isOver { turn() }
        return seat
    }

    // MARK: A turn

    private mutating func turn() {
        let beganUs = nowUs
        let waitedUs = MonotonicClock.nowUs
        let count = wait()
        nowUs = MonotonicClock.nowUs
        if beganUs > 0 { noteTurn(lastedUs: waitedUs - beganUs) }
        wallUs = WallClock.nowUs
        seat?.begin()
        // First of all in the first turn: nobody is answered before the credentials are known.
        seat?.poll(nowUs: nowUs, wallUs: wallUs)
        followCertificate()
        for position in 0..<count { handle(transport.event(at: position)) }
        placeAccepted()
        readMail()
        shard.advance(nowUs: nowUs, out: &output)
        perform()
        settle()
        followStage()
        // Before any answer of this turn: whoever hears one may act on it through another shard.
        requestOutlet.flush()
        send()
        flush()
    }

    /// Says how the turn before this wait went.
    private mutating func noteTurn(lastedUs: UInt64) {
        let received = shard.counters.tokenFramesRelayed
        let tokens = received &+ shard.counters.relayedFrames
        let others = shard.counters.framesReceived &- received
        statistics.add(.loopTurns)
        statistics.record(.turnUs, lastedUs)
        if gathering.turned(
            nowUs: nowUs, frames: tokens &- tokensSeen, others: others &- othersSeen)
        {
            let processorUs = MonotonicClock.threadNs / 1_000
            gathering.decide(nowUs: nowUs, processorUs: processorUs)
            statistics.set(.loopBusyUs, processorUs)
        }
        tokensSeen = tokens
        othersSeen = others
    }

    /// Before the turn's events: a connection that was accepted after a certificate was replaced
    /// is never answered with the old one.
    private mutating func followCertificate() {
        let generation = certificate.generation.load(ordering: .acquiring)
        guard generation != certificateGeneration else { return }
        certificateGeneration = generation
        transport.replaceContext(certificate.context)
        reportCertificate()
    }

    /// Sleeps until something happens: at the socket, or in the mail of another thread.
    private mutating func wait() -> Int {
        let idleMs = shard.openTasks > 0 ? 20 : 100
        let timeoutMs = shard.hasWaitingUploads ? 4 : isLeaseAwaited ? 5 : idleMs
        gauge.sleep.prepare()
        let count = transport.wait(
            timeoutMs: hasMail ? 0 : hasWaiting ? 1 : timeoutMs, gatherUs: gathering.waitUs)
        gauge.sleep.wake()
        return count
    }

    private mutating func handle(_ event: TransportEvent) {
        switch event {
        case .opened(let channel):
            opened(channel)
        case .established(let channel):
            shard.established(channel.index, nowUs: nowUs)
        case .received(let channel):
            receive(channel)
        case .sent(let channel):
            shard.sendProgressed(channel.index, nowUs: nowUs, out: &output)
            shard.sealRoom(channel.index, byteCount: transport.sealBudgetBytes(channel))
        case .closed(let channel, _):
            closed(channel)
        case .accepted(let stream):
            accepted.append(stream)
        case .acceptingPaused:
            log.event("accepting_paused")
        case .signal(let number):
            if number == ServiceSupervisor.reloadSignal { beginReload() } else { beginDrain() }
        case .doorbell:
            break
        }
    }

    mutating func opened(_ channel: ChannelID) {
        channels[Int(channel.index)] = channel
        shard.opened(channel.index, nowUs: nowUs)
    }

    /// Hands what has arrived to the core: one call for each run of plaintext.
    private mutating func receive(_ channel: ChannelID) {
        let connection = Int(channel.index)
        while channels[connection] == channel {
            let kept = content.restore(connection)
            let read = transport.read(channel, into: &content.incoming, at: kept)
            let total = kept + read.plaintextBytes
            if read.plaintextBytes > 0 {
                let used = Self.hand(
                    &shard, channel.index, content.incoming, total, nowUs: nowUs, &output)
                shard.commitStaged(nowUs: nowUs, out: &output)
                perform()
                keep(used..<total, of: channel)
                settle()
            } else {
                keep(0..<kept, of: channel)
            }
            content.incoming.wipe(0..<total)
            guard read.mayHaveMore else { return }
        }
    }

    /// Lends the first `count` bytes of `incoming` to the core for one call.
    private static func hand(
        _ shard: inout ShardMachine, _ connection: UInt32, _ incoming: borrowing ContentRegion,
        _ count: Int, nowUs: UInt64, _ output: inout ShardOutput
    ) -> Int {
        shard.received(
            connection, incoming.span.extracting(0..<count), nowUs: nowUs, out: &output)
    }

    private mutating func keep(_ place: Range<Int>, of channel: ChannelID) {
        guard content.keep(place, for: Int(channel.index)) else {
            log.event("reassembly_full")
            return closing.append((channel, false))
        }
    }

    private mutating func closed(_ channel: ChannelID) {
        let connection = Int(channel.index)
        shard.closed(channel.index, nowUs: nowUs, out: &output)
        perform()
        settle()
        content.forget(connection)
        content.dropStaged(connection)
        control[connection] = []
        channels[connection] = nil
        gauge.connectionsClosed.add(1, ordering: .relaxed)
    }

    // MARK: The core's orders

    /// Performs the shard's orders in order. Ranges are places in `content.incoming`.
    mutating func perform() {
        for position in 0..<output.staged.count { content.stage(output.staged[position]) }
        for position in 0..<output.actions.count {
            switch output.actions[position] {
            case .enqueueTokens(let stream, let headerWord, let streamID, let start, let count):
                content.enqueue(
                    stream, headerWord: headerWord, streamID: streamID,
                    payload: Int(start)..<Int(start + count))
            case .relayTokens(let shard, let headerWord, let client, let start, let count):
                relayTokens(
                    to: Int(shard), headerWord: headerWord, client: client,
                    payload: Int(start)..<Int(start + count))
            case .relay(let shard, let message):
                relay(output.relayed[Int(message)], to: Int(shard))
            case .send(let connection, let frame):
                frame.encode(into: &control[Int(connection)])
            case .storeBody(let stream, let start, let count):
                content.storeBody(stream, Int(start)..<Int(start + count))
            case .bindBody(let supplier, let client):
                content.bindBody(supplier, client: client, ownShard: shard.index)
            case .dropBody(let stream):
                content.dropBody(stream)
            case .dropTokens(let stream):
                content.dropAnswer(stream)
            case .firstOutput(let slot, let ttftUs):
                table.setFirstOutput(Int(slot), ttftUs: ttftUs)
            case .started(let slot, let frame):
                table.setStarted(
                    Int(slot), inputTokens: frame.inputTokens, cachedTokens: frame.cachedTokens)
            case .welcome(let connection):
                shard.welcome(connection).encode(into: &control[Int(connection)])
            case .report(let connection, let report):
                control[Int(connection)] += output.reports[Int(report)]
            case .authenticate(let connection, let start, let count, let kind):
                authenticate(connection, Int(start)..<Int(start + count), kind)
            case .verifyCertificate(let connection):
                verifyCertificate(connection)
            case .hashKey(let stream, let start, let count, let account):
                hashKey(of: stream, Int(start)..<Int(start + count), account: account)
            case .close(let connection, let afterSending):
                guard let channel = channels[Int(connection)] else { continue }
                closing.append((channel, afterSending))
            }
        }
        for position in 0..<output.delivered.count {
            let delivered = output.delivered[position]
            table.addDelivered(
                Int(delivered.slot), tokens: delivered.tokens,
                reasoningTokens: delivered.reasoningTokens,
                payloadBytes: UInt64(delivered.payloadBytes))
        }
        output.removeActions()
    }

    private mutating func authenticate(
        _ connection: UInt32, _ place: Range<Int>, _ kind: CredentialKind
    ) {
        let hash = sha256(content.incoming.span.extracting(place))
        content.incoming.wipe(place)
        shard.credential(
            connection, kind: kind, digest: Digest256(hash.0, hash.1, hash.2, hash.3),
            out: &output)
    }

    private mutating func verifyCertificate(_ connection: UInt32) {
        let words = channels[Int(connection)].flatMap { transport.peerCertificateDigest($0) }
        shard.certificate(
            connection, digest: words.map { Digest256($0.0, $0.1, $0.2, $0.3) }, out: &output)
    }

    private mutating func hashKey(of stream: StreamRef, _ place: Range<Int>, account: UInt64) {
        var salt: [UInt8] = []
        salt.appendLittleEndian(account)
        let hash = hmacSHA256(key: salt.span, content.incoming.span.extracting(place))
        shard.idempotencyKey(stream, digest: hash.0, out: &output)
    }

    // MARK: Dispatcher

    /// Lets shard and dispatcher talk until neither has anything to say, where they share the
    /// thread; else passes on what the shard asks.
    mutating func settle() {
        guard hasSeat else {
            for position in output.requests.indices {
                requestOutlet.send(output.requests[position])
            }
            output.requests.removeAll(keepingCapacity: true)
            return
        }
        while !output.requests.isEmpty || seat?.hasOwnMessages == true {
            swap(&requests, &output.requests)
            seat?.ask(requests, nowUs: nowUs, wallUs: wallUs)
            requests.removeAll(keepingCapacity: true)
            takeOwnMessages()
        }
    }

    private mutating func takeOwnMessages() {
        seat?.swapOwnMessages(&messages)
        for position in messages.indices {
            shard.received(messages[position], nowUs: nowUs, out: &output)
        }
        messages.removeAll(keepingCapacity: true)
        perform()
    }

    /// What other threads have sent: requests to the dispatcher, its answers, parcels of shards.
    private mutating func readMail() {
        seat?.answerShards(nowUs: nowUs, wallUs: wallUs)
        let messages = links.messages[Int(shard.index)]
        while let message = messages.pop() {
            shard.received(message, nowUs: nowUs, out: &output)
        }
        messages.release()
        perform()
        takeParcels()
        settle()
    }

    private var hasMail: Bool {
        mutating get {
            let index = Int(shard.index)
            if seat?.hasRequests == true || !links.messages[index].isEmpty { return true }
            return links.parcels.contains { !$0[index].isEmpty }
        }
    }

    private var isLeaseAwaited: Bool {
        mutating get { seat?.isLeaseAwaited == true }
    }

    /// Something found no room in the queue of another thread.
    private var hasWaiting: Bool {
        mutating get {
            if seat?.hasWaiting == true || requestOutlet.waitingCount > 0 { return true }
            return parcelOutlets.contains { $0.waitingCount > 0 }
        }
    }

    /// Ends a turn: what is for other threads is shown to them, and how much there is to do.
    private mutating func flush() {
        flushParcels()
        requestOutlet.flush()
        seat?.flush()
        gauge.openStreams.store(shard.openTasks + shard.openAssignments, ordering: .relaxed)
        gauge.openTasks.store(shard.openTasks, ordering: .relaxed)
        gauge.stage.store(stage, ordering: .releasing)
        guard nowUs - lastReportUs >= 100_000 else { return }
        lastReportUs = nowUs
        report()
    }

    /// Writes down when the certificate in use ends; one for all shards, so shard 0 does it.
    private func reportCertificate() {
        guard shard.index == 0 else { return }
        let seconds = UInt64(clamping: certificate.context.certificateExpiry ?? 0)
        statistics.set(.certificateExpiresUs, min(seconds, .max / 1_000_000) * 1_000_000)
    }

    /// Copies the counters of this shard to the statistics page.
    private func report() {
        let counters = shard.counters
        statistics.set(.lastTurnUs, wallUs)
        statistics.set(.connectionsAccepted, counters.connectionsAccepted)
        statistics.set(.connectionsOpen, UInt64(transport.channelCount))
        statistics.set(.framesRelayed, counters.tokenFramesRelayed)
        statistics.set(.tokensRelayed, counters.tokensDelivered)
        statistics.set(.bytesRelayed, counters.answerBytesDelivered)
        statistics.set(.lateFramesIgnored, counters.lateFrames)
        statistics.set(.protocolErrors, counters.protocolErrors)
        statistics.set(.readersStalled, counters.stalledReaders)
        statistics.set(.slotsQuarantined, counters.quarantinedSlots)
        statistics.set(.cancelsSent, counters.cancelsSent)
        statistics.set(.creditStalls, counters.creditStalls)
        statistics.set(.tokenGapUs, shard.tokenGaps)
        // One pool for all shards: shard 0 speaks for it.
        if shard.index == 0 {
            statistics.set(.arenaBytesInUse, UInt64(content.arena.heldBytes))
            statistics.set(.arenaBytesMax, UInt64(content.arena.heldBytesMax))
        }
        let transported = transport.counters
        statistics.set(.connectionsRefused, transported.refused)
        // A flood of KeyUpdates is cut below the core, which only hears that the channel closed.
        statistics.set(
            .connectionsCut, counters.connectionsCut + transported.keyUpdatesRefused)
        statistics.set(.handshakesCompleted, transported.handshakes)
        statistics.set(.handshakesFailed, transported.handshakeFailures)
        statistics.set(.keyUpdatesReceived, transported.keyUpdatesReceived)
        statistics.set(.keyUpdatesSent, transported.keyUpdatesSent)
        statistics.set(.wireBytesReceived, transported.bytesReceived)
        statistics.set(.wireBytesSent, transported.bytesSent)
    }
}
