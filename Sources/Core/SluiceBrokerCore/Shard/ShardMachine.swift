import BasicContainers
import SluiceRecordFormat
package import SluiceWire

/// One broker core as a pure machine: the connections it owns, their streams and their credit.
///
/// The shell calls one method per event and performs the orders in `ShardOutput` in order. Time is
/// an argument (monotonic microseconds). Owned by one thread. A client's and a supplier's end of a
/// task meet only in `ShardMachine+Relay.swift`.
package struct ShardMachine: ~Copyable {
    package let limits: BrokerLimits
    package let index: UInt16
    /// Shards of this broker, told in WELCOME.
    package let shardCount: UInt16
    /// Identity of the broker process, told in WELCOME.
    package let instance: UInt64
    package internal(set) var counters = ShardCounters()
    /// Microseconds between two deliveries of tokens of one answer, by `HistogramBucket`.
    package internal(set) var tokenGaps = [UInt64](
        repeating: 0, count: StatisticsLayout.bucketCount)

    var connections: UniqueArray<Connection>
    var clients = UniqueArray<ClientStream>()
    var clientTasks = UniqueArray<ClientTask>()
    var suppliers = UniqueArray<SupplierStream>()
    var supplierTasks = UniqueArray<SupplierTask>()
    var idleClients = UniqueArray<UInt32>()
    var idleSuppliers = UniqueArray<UInt32>()
    /// By shard, then client stream: the supplier stream that it is bound to.
    var boundByClient = UniqueArray<UniqueArray<UInt32>>()
    /// Submissions whose idempotency key is being hashed.
    var keyedSubmissions: [Submission] = []
    /// By client stream: the frames behind its gate, oldest first.
    var gatedFrames: [UInt32: [GatedFrame]] = [:]
    /// First body bytes that may still land before the dispatcher has decided.
    var landingFreeBytes: Int
    var uploads = UploadOrder()
    /// Deadlines of connections, of client streams and of supplier streams, by index.
    var connectionTimers: TimerWheel
    var streamTimers: TimerWheel
    var supplierTimers: TimerWheel
    var expired: [UInt32] = []
    /// Connections that may still begin to stage.
    var stagingFreeConnections: Int
    /// Client streams of which frames were staged in this turn, and how many entries from the
    /// front were entered in the books. One that staged on after that stands in it again.
    var staging = UniqueArray<UInt32>()
    var committedStaging = 0
    /// GO-AWAY was sent; no new task is taken.
    package internal(set) var isDraining = false
    var drainDeadlineMs: UInt64 = .max
    /// Client streams that are not idle.
    package internal(set) var openTasks = 0
    /// Supplier streams that are not idle.
    package internal(set) var openAssignments = 0

    package init(
        limits: BrokerLimits, index: UInt16, shardCount: UInt16 = 1, instance: UInt64,
        nowUs: UInt64
    ) {
        precondition(index < shardCount)
        self.limits = limits
        self.index = index
        self.shardCount = shardCount
        landingFreeBytes = limits.landingArenaBytes
        stagingFreeConnections = limits.stagingConnections
        self.instance = instance
        connections = UniqueArray(repeating: Connection(), count: limits.connections)
        connectionTimers = TimerWheel(nowMs: nowUs / 1_000)
        streamTimers = TimerWheel(nowMs: nowUs / 1_000)
        supplierTimers = TimerWheel(nowMs: nowUs / 1_000)
    }

    // MARK: Connections

    /// TCP is up. `connection` is below `limits.connections` and closed.
    package mutating func opened(_ connection: UInt32, nowUs: UInt64) {
        let slot = Int(connection)
        precondition(connections[slot].phase == .closed, "connection is in use")
        let generation = connections[slot].generation &+ 1
        connections[slot] = Connection()
        connections[slot].generation = generation
        connections[slot].phase = .handshaking
        connections[slot].lastReceivedMs = nowUs / 1_000
        connections[slot].unproductive.reset(limits: limits, nowMs: nowUs / 1_000)
        connectionTimers.schedule(connection, atMs: nowUs / 1_000 + limits.handshakeMs)
        counters.connectionsAccepted += 1
    }

    /// TLS is up; HELLO must follow in time.
    package mutating func established(_ connection: UInt32, nowUs: UInt64) {
        precondition(connections[Int(connection)].phase == .handshaking)
        connections[Int(connection)].phase = .awaitingHello
        connectionTimers.schedule(connection, atMs: nowUs / 1_000 + limits.handshakeMs)
    }

    /// The credential that `authenticate` asked for, as its digest.
    package mutating func credential(
        _ connection: UInt32, kind: CredentialKind, digest: Digest256, out: inout ShardOutput
    ) {
        guard connections[Int(connection)].phase == .authenticating else { return }
        out.requests.append(
            .authenticate(reference(connection), connections[Int(connection)].role, kind, digest))
    }

    /// The certificate that `verifyCertificate` asked for, as its SHA-256; nil where TLS has verified
    /// none [H11].
    package mutating func certificate(
        _ connection: UInt32, digest: Digest256?, out: inout ShardOutput
    ) {
        // None is asked about as one that nobody has: it is called while actions are performed, and
        // so may leave requests only. The dispatcher refuses it like any that is not known.
        credential(
            connection, kind: .clientCertificate, digest: digest ?? Digest256(0, 0, 0, 0),
            out: &out)
    }

    /// The connection is gone, whoever ended it. Its index is free after this.
    package mutating func closed(_ connection: UInt32, nowUs: UInt64, out: inout ShardOutput) {
        let slot = Int(connection)
        guard connections[slot].phase != .closed else { return }
        connectionTimers.cancel(connection)
        connections[slot].phase = .closing
        let role = connections[slot].role
        out.requests.append(.connectionClosed(reference(connection)))
        // From the list's own copy: ending a stream changes the slots.
        let taken = connections[slot].slots.filter { $0 != noIndex }
        for stream in taken {
            switch role {
            case .client: clientLost(stream, nowUs: nowUs, out: &out)
            case .supplier: supplierStreamLost(stream, nowUs: nowUs, out: &out)
            }
        }
        if connections[slot].stagedBytes > 0 { stagingFreeConnections += 1 }
        let generation = connections[slot].generation
        connections[slot] = Connection()
        connections[slot].generation = generation
    }

    /// Whether the connection has had a stream. What an idle connection holds is multiplied by
    /// ten thousand: the shell keeps room only for those that were used.
    package func hasHadStreams(_ connection: UInt32) -> Bool {
        !connections[Int(connection)].slots.isEmpty
    }

    /// What WELCOME says on this connection.
    package func welcome(_ connection: UInt32) -> WelcomeFrame {
        var frame = WelcomeFrame(
            maxStreams: limits.maxStreams, maxBodyBytes: limits.maxBodyBytes,
            uploadLimitBytes: limits.uploadAllowanceBytes, instance: instance,
            keepAliveMs: UInt32(limits.keepAliveMs))
        frame.shard = index
        frame.shardCount = shardCount
        return frame
    }

    /// Stop taking tasks; what runs has `limits.drainMs` to end.
    package mutating func drain(nowUs: UInt64, out: inout ShardOutput) {
        guard !isDraining else { return }
        isDraining = true
        drainDeadlineMs = nowUs / 1_000 + limits.drainMs
        let frame = GoAwayFrame(code: .shuttingDown, graceMs: UInt32(limits.drainMs))
        for connection in connections.indices where connections[connection].phase == .open {
            send(.goAway(frame), on: UInt32(connection), out: &out)
        }
    }

    /// The peer broke a rule: ERROR is its last frame.
    mutating func fail(
        _ connection: UInt32, _ code: WireCode, header: FrameHeader? = nil,
        out: inout ShardOutput
    ) {
        guard connections[Int(connection)].phase != .closing else { return }
        counters.protocolErrors += 1
        cut(connection, code, header: header, out: &out)
    }

    /// ERROR, then close once it is sent.
    mutating func cut(
        _ connection: UInt32, _ code: WireCode, header: FrameHeader? = nil,
        out: inout ShardOutput
    ) {
        guard connections[Int(connection)].phase != .closing else { return }
        counters.connectionsCut += 1
        let frame = ErrorFrame(
            code: code, kindAtFault: header?.rawKind ?? 0,
            streamAtFault: header?.stream ?? .connection)
        connections[Int(connection)].controlBytes += ControlFrame.error(frame).frameBytes
        out.actions.append(.send(connection: connection, .error(frame)))
        close(connection, afterSending: true, out: &out)
    }

    /// Nothing more is read. Its streams end when the shell says that it is closed; until then no
    /// task is sent to it in vain.
    mutating func close(_ connection: UInt32, afterSending: Bool, out: inout ShardOutput) {
        let slot = Int(connection)
        if connections[slot].phase == .open, connections[slot].role == .supplier {
            out.requests.append(.withdrawAll(reference(connection)))
        }
        connections[slot].phase = .closing
        // ERROR is its last frame: nothing is staged behind it [L4].
        connections[slot].stagingFreeBytes = 0
        connectionTimers.cancel(connection)
        out.actions.append(.close(connection: connection, afterSending: afterSending))
    }

    func reference(_ connection: UInt32) -> ConnectionRef {
        ConnectionRef(
            shard: index, index: connection,
            generation: connections[Int(connection)].generation)
    }

    /// True while `reference` names the connection that is there now.
    func isCurrent(_ reference: ConnectionRef) -> Bool {
        // Field by field: a copy of the whole would count references.
        let index = Int(reference.index)
        guard connections[index].generation == reference.generation else { return false }
        return switch connections[index].phase {
        case .closed, .closing: false
        case .handshaking, .awaitingHello, .authenticating, .open: true
        }
    }

    // MARK: Sending

    /// Queues a control frame. A peer that lets too many pile up is cut.
    mutating func send(
        _ frame: ControlFrame, on connection: UInt32, out: inout ShardOutput
    ) {
        let slot = Int(connection)
        guard connections[slot].phase == .open else { return }
        connections[slot].controlBytes += frame.frameBytes
        guard connections[slot].controlBytes <= limits.controlBytesMax else {
            counters.stalledReaders += 1
            return close(connection, afterSending: false, out: &out)
        }
        out.actions.append(.send(connection: connection, frame))
        markDirty(connection, out: &out)
    }

    /// A report for a supplier that asked. It is left out where its connection already has much to
    /// read: nobody is cut for having asked.
    private mutating func sendReport(
        _ frames: [UInt8], on connection: UInt32, out: inout ShardOutput
    ) {
        let slot = Int(connection)
        guard connections[slot].phase == .open,
            connections[slot].controlBytes + frames.count <= limits.controlBytesMax / 2
        else { return }
        connections[slot].controlBytes += frames.count
        out.actions.append(
            .report(connection: connection, report: UInt32(out.reports.count)))
        out.reports.append(frames)
        markDirty(connection, out: &out)
    }

    mutating func markDirty(_ connection: UInt32, out: inout ShardOutput) {
        guard !connections[Int(connection)].isDirty else { return }
        connections[Int(connection)].isDirty = true
        out.dirty.append(connection)
    }

    /// The shell took the connection from the dirty list.
    package mutating func clearDirty(_ connection: UInt32) {
        connections[Int(connection)].isDirty = false
    }

    /// A send was done: what waited for the socket goes on.
    package mutating func sendProgressed(
        _ connection: UInt32, nowUs: UInt64, out: inout ShardOutput
    ) {
        connections[Int(connection)].waitingSinceMs = nil
        if hasWaiting(connection) { markDirty(connection, out: &out) }
    }

    /// The shell could not seal all there is: the socket is full.
    package mutating func sendBlocked(_ connection: UInt32, nowUs: UInt64) {
        let slot = Int(connection)
        connections[slot].stagingFreeBytes = 0
        guard connections[slot].waitingSinceMs == nil, connections[slot].phase == .open else {
            return
        }
        connections[slot].waitingSinceMs = nowUs / 1_000
        connectionTimers.schedule(connection, atMs: connectionDueMs(connection))
    }

    package func hasWaiting(_ connection: UInt32) -> Bool {
        connections[Int(connection)].controlBytes > 0
            || connections[Int(connection)].stagedBytes > 0
            || !connections[Int(connection)].ready.isEmpty
    }

    /// `byteCount` control bytes were sealed.
    package mutating func sealedControl(_ connection: UInt32, byteCount: Int) {
        connections[Int(connection)].controlBytes -= byteCount
        precondition(connections[Int(connection)].controlBytes >= 0, "sealed what was not queued")
    }

    // MARK: Time

    /// Runs every deadline that has passed.
    package mutating func advance(nowUs: UInt64, out: inout ShardOutput) {
        let nowMs = nowUs / 1_000
        connectionTimers.expire(nowMs: nowMs, into: &expired)
        if !expired.isEmpty {
            for position in expired.indices {
                connectionExpired(expired[position], nowUs: nowUs, out: &out)
            }
            expired.removeAll(keepingCapacity: true)
        }
        streamTimers.expire(nowMs: nowMs, into: &expired)
        if !expired.isEmpty {
            for position in expired.indices {
                streamExpired(expired[position], nowUs: nowUs, out: &out)
            }
            expired.removeAll(keepingCapacity: true)
        }
        supplierTimers.expire(nowMs: nowMs, into: &expired)
        if !expired.isEmpty {
            for position in expired.indices {
                supplierExpired(expired[position], nowUs: nowUs, out: &out)
            }
            expired.removeAll(keepingCapacity: true)
        }
        if uploads.hasWaiting { grantUploads(nowUs: nowUs, out: &out) }
        guard nowMs >= drainDeadlineMs else { return }
        drainDeadlineMs = .max
        for stream in clients.indices { drained(UInt32(stream), nowUs: nowUs, out: &out) }
    }

    private mutating func connectionExpired(
        _ connection: UInt32, nowUs: UInt64, out: inout ShardOutput
    ) {
        let slot = Int(connection)
        let nowMs = nowUs / 1_000
        switch connections[slot].phase {
        case .closed, .closing:
            return
        case .handshaking:
            counters.connectionsCut += 1
            close(connection, afterSending: false, out: &out)
        case .awaitingHello, .authenticating:
            cut(connection, .handshakeTimeout, out: &out)
        case .open:
            if let since = connections[slot].waitingSinceMs, nowMs >= since + limits.stalledMs {
                counters.stalledReaders += 1
                endStalled(connection, nowUs: nowUs, out: &out)
                return close(connection, afterSending: false, out: &out)
            }
            let silentMs = nowMs - min(nowMs, connections[slot].lastReceivedMs)
            if silentMs >= 2 * limits.keepAliveMs, connections[slot].pingOutstanding {
                cut(connection, .keepAliveTimeout, out: &out)
                return
            }
            if silentMs >= limits.keepAliveMs, !connections[slot].pingOutstanding {
                connections[slot].pingOutstanding = true
                send(.ping(PingFrame(value: nowMs)), on: connection, out: &out)
            }
            let dueMs = max(connectionDueMs(connection), nowMs + 1)
            connectionTimers.schedule(connection, atMs: dueMs)
        }
    }

    /// The client took nothing for too long: that is how its tasks end, not as a loss [E13].
    private mutating func endStalled(
        _ connection: UInt32, nowUs: UInt64, out: inout ShardOutput
    ) {
        guard connections[Int(connection)].role == .client else { return }
        for stream in connections[Int(connection)].slots where stream != noIndex {
            endEarly(stream, status: .cancelled, code: .stalled, nowUs: nowUs, out: &out)
        }
    }

    /// When an open connection must next be looked at.
    private func connectionDueMs(_ connection: UInt32) -> UInt64 {
        let index = Int(connection)
        let patience = limits.keepAliveMs * (connections[index].pingOutstanding ? 2 : 1)
        let silence = connections[index].lastReceivedMs + patience
        guard let since = connections[index].waitingSinceMs else { return silence }
        return min(silence, since + limits.stalledMs)
    }

    // MARK: Dispatcher

    /// A message of the dispatcher. Those for a connection or stream that is gone are answered so
    /// that the dispatcher's books stay right, or dropped where there is nothing left to do.
    package mutating func received(
        _ message: ShardMessage, nowUs: UInt64, out: inout ShardOutput
    ) {
        switch message {
        case .welcome(let connection, let account):
            guard isCurrent(connection) else { return }
            connections[Int(connection.index)].account = account
            connections[Int(connection.index)].phase = .open
            connections[Int(connection.index)].uploadLimitBytes = limits.uploadAllowanceBytes
            connections[Int(connection.index)].uploadLimitSentBytes = limits.uploadAllowanceBytes
            connections[Int(connection.index)].extraPoolFreeBytes = limits.extraPoolBytes
            connections[Int(connection.index)].controlBytes += welcome(connection.index).frameBytes
            out.actions.append(.welcome(connection: connection.index))
            markDirty(connection.index, out: &out)
            connectionTimers.schedule(
                connection.index, atMs: nowUs / 1_000 + limits.keepAliveMs)
            guard isDraining else { return }
            let frame = GoAwayFrame(code: .shuttingDown, graceMs: UInt32(limits.drainMs))
            send(.goAway(frame), on: connection.index, out: &out)
        case .refuseConnection(let connection, let code):
            guard isCurrent(connection) else { return }
            cut(connection.index, code, out: &out)
        case .report(let connection, let frames):
            guard isCurrent(connection) else { return }
            sendReport(frames, on: connection.index, out: &out)
        case .admitted(let stream, let task):
            admitted(stream, task, nowUs: nowUs, out: &out)
        case .accepted(let stream, let task, let taskID, let position):
            accepted(stream, task, taskID, position: position, nowUs: nowUs, out: &out)
        case .refused(let stream, let code, let retryAfterMs):
            guard isCurrent(stream) else { return }
            refuse(stream.index, code, retryAfterMs: retryAfterMs, out: &out)
        case .duplicate(let stream, let task, let frame):
            duplicate(stream, of: task, frame, out: &out)
        case .assign(let stream, let supplier, let offer, let taskID, let held):
            assign(stream, to: supplier, offer, taskID, held, nowUs: nowUs, out: &out)
        case .held(let stream, let held):
            holdChanged(stream, held, nowUs: nowUs, out: &out)
        case .end(let stream, let frame):
            guard isCurrent(stream) else { return }
            finishStream(stream.index, frame, out: &out)
        }
    }

    func isCurrent(_ reference: StreamRef) -> Bool {
        let index = Int(reference.index)
        guard clients[index].generation == reference.generation else { return false }
        return switch clients[index].phase {
        case .idle: false
        default: true
        }
    }

    func reference(ofStream stream: UInt32) -> StreamRef {
        StreamRef(shard: index, index: stream, generation: clients[Int(stream)].generation)
    }
}
