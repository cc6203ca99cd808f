import BasicContainers
import SluiceBrokerCore
import SluiceLedgerCore
import SluiceRecordFormat
import SluiceWire

/// A dispatcher without shards: the test is every shard, and keeps book of who runs what.
struct DispatchRig: ~Copyable {
    struct Running {
        let task: TaskIndex
        let stream: UInt32
        let account: UInt64
        let supplier: Int
    }

    var dispatcher: Dispatcher
    var nowMs: UInt64 = 1_000
    private var out = DispatcherOutput()
    private var generation: UInt32 = 0
    private var suppliers: [ConnectionRef] = []
    private var identities: [UInt64] = []
    private var clients: [UInt64: ConnectionRef] = [:]
    private var idleStreams: [UInt32] = []
    private var streams: UInt32 = 0
    /// By stream.
    private var accountOf: [UInt64] = []
    private var shardOf: [UInt16] = []
    private var taskOf: [TaskIndex] = []
    private(set) var codes: [(stream: UInt32, code: WireCode, retryAfterMs: UInt32)] = []

    /// Dispatched and not over, the oldest first.
    private(set) var running: [Running] = []
    private(set) var ended: [EndedRecord] = []
    private(set) var assignments: [Assignment] = []
    private(set) var refusals: [RefusedRecord] = []
    private(set) var leases: [LeaseRecord] = []
    private(set) var refusedConnections: [ConnectionRef] = []
    /// Answers to ASK, each of whole frames.
    private(set) var reports: Reports = []
    typealias Reports = [[UInt8]]
    private(set) var duplicates: [(stream: UInt32, task: TaskID, end: EndFrame)] = []
    /// The last that was said of each stream.
    private(set) var held: [UInt32: HeldTokens] = [:]
    private(set) var ends: [UInt32: EndFrame] = [:]

    let instance: UInt64

    init(instance: UInt64 = 5, _ edit: (inout BrokerLimits) -> Void = { _ in }) {
        var limits = BrokerLimits()
        edit(&limits)
        self.instance = instance
        dispatcher = Dispatcher(
            limits: limits, instance: instance, openTasksMax: 20_000, seed: 1)
    }

    /// What the keys of clients that are still to come are like.
    var credentialEdit: (inout DirectoryCredential) -> Void = { _ in }

    private var nowUs: UInt64 { nowMs * 1_000 }

    mutating func send(_ request: DispatchRequest) {
        dispatcher.journalHasRoom(records: 1 << 20)
        dispatcher.received(request, nowUs: nowUs, wallUs: nowUs, out: &out)
        note()
    }

    /// An entry of the directory is new or changed.
    mutating func directory(_ entry: DirectoryEntry) {
        dispatcher.journalHasRoom(records: 1 << 20)
        dispatcher.directoryChanged(entry, nowUs: nowUs, wallUs: nowUs, out: &out)
        note()
    }

    /// What the shell does while a lease is awaited.
    mutating func passAwaiting(ms: UInt64) {
        let end = nowMs + ms
        while nowMs < end {
            nowMs = min(end, nowMs + 5)
            dispatcher.advanceLeases(nowUs: nowUs, wallUs: nowUs, out: &out)
            note()
        }
    }

    mutating func pass(ms: UInt64) {
        let end = nowMs + ms
        while nowMs < end {
            nowMs = min(end, nowMs + 1_000)
            dispatcher.advance(nowUs: nowUs, wallUs: nowUs, out: &out)
            note()
        }
    }

    private mutating func note() {
        for position in out.journal.indices {
            switch out.journal[position] {
            case .ended(_, let record): ended.append(record)
            case .assigned(_, let assignment): assignments.append(assignment)
            case .refused(let record): refusals.append(record)
            case .lease(let record): leases.append(record)
            case .accepted, .name: break
            }
        }
        for position in out.messages.indices {
            switch out.messages[position] {
            case .accepted(let stream, let task, _, _): taskOf[Int(stream.index)] = task
            case .assign(let stream, let connection, _, _, let held):
                self.held[stream.index] = held
                let supplier = suppliers.firstIndex(of: connection) ?? -1
                running.append(
                    Running(
                        task: taskOf[Int(stream.index)], stream: stream.index,
                        account: accountOf[Int(stream.index)], supplier: supplier))
            case .refused(let stream, let code, let retryAfterMs):
                codes.append((stream.index, code, retryAfterMs))
            case .held(let stream, let held): self.held[stream.index] = held
            case .duplicate(let stream, let task, let end):
                duplicates.append((stream.index, task, end))
                idleStreams.append(stream.index)
            case .end(let stream, let frame):
                ends[stream.index] = frame
                idleStreams.append(stream.index)
            case .refuseConnection(let connection, _): refusedConnections.append(connection)
            case .report(_, let frames): reports.append(frames)
            case .welcome, .admitted: break
            }
        }
        out.messages.removeAll()
        out.journal.removeAll()
        dispatcher.published()
    }

    // MARK: Supply

    /// A supplier with one offer of model `m`; its number counts from 0.
    @discardableResult
    mutating func supplier(
        slots: UInt32 = 1, identity: UInt64? = nil, shard: UInt16 = 0,
        edit: (inout OfferFrame) -> Void = { _ in }
    ) -> Int {
        let number = suppliers.count
        generation += 1
        let connection = ConnectionRef(
            shard: shard, index: UInt32(10_000 + number), generation: generation)
        suppliers.append(connection)
        identities.append(identity ?? UInt64(number + 1))
        let digest = Digest256(2, identities[number], 0, 0)
        let entry = DirectoryCredential(
            digest: digest, account: 9, role: .supplier, supplier: identities[number])
        directory(.credential(entry))
        send(.authenticate(connection, .supplier, .supplierToken, digest))
        offer(number, 1, slots: slots, edit: edit)
        return number
    }

    mutating func offer(
        _ supplier: Int, _ id: UInt32, model: ModelName = Rig.model, slots: UInt32,
        edit: (inout OfferFrame) -> Void = { _ in }
    ) {
        var frame = OfferFrame(offer: OfferID(id), model: model)
        edit(&frame)
        send(.offer(suppliers[supplier], frame))
        send(.grant(suppliers[supplier], GrantFrame(offer: OfferID(id), slots: slots)))
    }

    mutating func ask(_ supplier: Int, question: UInt32) {
        send(.ask(suppliers[supplier], AskFrame(question: question)))
    }

    /// Offer 0: the connection as a whole.
    mutating func grant(_ supplier: Int, _ offer: UInt32 = 1, slots: UInt32) {
        send(.grant(suppliers[supplier], GrantFrame(offer: OfferID(offer), slots: slots)))
    }

    mutating func hangUp(_ supplier: Int) {
        while let position = running.firstIndex(where: { $0.supplier == supplier }) {
            let one = running.remove(at: position)
            send(
                .redispatch(
                    one.task, reference(one.stream),
                    TaskReport(task: one.task, status: .supplierLost, code: .supplierLost)))
        }
        send(.connectionClosed(suppliers[supplier]))
    }

    func lost(_ supplier: Int, _ reason: LossReason) -> UInt64 {
        dispatcher.lostMatches(suppliers[supplier], OfferID(1), reason) ?? 0
    }

    // MARK: Tasks

    /// Submits a whole task; its stream.
    @discardableResult
    mutating func submit(
        account: UInt64 = 7, shard: UInt16 = 0, bodyBytes: UInt32 = 4,
        model: ModelName = Rig.model, keys: [UInt64] = [],
        edit: (inout TaskTerms, inout OfferFilters) -> Void = { _, _ in },
        alter: (inout Submission) -> Void = { _ in }
    ) -> UInt32 {
        let connection = client(account, shard: shard)
        let stream: UInt32
        if let idle = idleStreams.popLast() {
            stream = idle
        } else {
            stream = streams
            streams += 1
            accountOf.append(0)
            shardOf.append(0)
            taskOf.append(noIndex)
        }
        accountOf[Int(stream)] = account
        shardOf[Int(stream)] = shard
        var terms = TaskTerms(operation: .chat, encoding: .text, bodyBytes: bodyBytes)
        var filters = OfferFilters()
        edit(&terms, &filters)
        var affinity = AffinityKeys()
        for key in keys { affinity.append(key) }
        var submission = Submission(
            stream: StreamRef(shard: shard, index: stream, generation: 1),
            connection: connection, terms: terms, model: model, filters: filters,
            affinityKeys: affinity, trace: nil, reserveBytes: 4_096, bodyComplete: true)
        alter(&submission)
        send(.submit(submission))
        return stream
    }

    /// A client's connection that submits nothing.
    mutating func connect(account: UInt64, shard: UInt16 = 0) {
        _ = client(account, shard: shard)
    }

    private mutating func client(_ account: UInt64, shard: UInt16) -> ConnectionRef {
        let key = account << 8 | UInt64(shard)
        if let known = clients[key] { return known }
        generation += 1
        let connection = ConnectionRef(
            shard: shard, index: UInt32(clients.count), generation: generation)
        clients[key] = connection
        let digest = Digest256(1, account, 0, 0)
        var credential = DirectoryCredential(digest: digest, account: account, role: .client)
        credentialEdit(&credential)
        directory(.credential(credential))
        send(.authenticate(connection, .client, .apiKey, digest))
        return connection
    }

    private func reference(_ stream: UInt32) -> StreamRef {
        StreamRef(shard: shardOf[Int(stream)], index: stream, generation: 1)
    }

    /// The one that runs on this stream, if any.
    func run(_ stream: UInt32) -> Running? { running.last { $0.stream == stream } }

    /// The supplier that runs this stream's task.
    func supplier(of stream: UInt32) -> Int? { run(stream)?.supplier }

    var lastRefusal: (code: WireCode, retryAfterMs: UInt32)? {
        codes.last.map { ($0.code, $0.retryAfterMs) }
    }

    /// Ends what runs on the stream: its slot is free, then its end is told.
    mutating func end(
        _ stream: UInt32, _ status: TaskStatus = .completed, code: WireCode = .completed,
        offer: UInt32 = 1, inputTokens: UInt32 = 1, outputTokens: UInt32 = 1,
        ttftUs: UInt64? = 1_000, edit: (inout TaskReport) -> Void = { _ in }
    ) {
        guard let position = running.firstIndex(where: { $0.stream == stream }) else {
            preconditionFailure("nothing runs on \(stream)")
        }
        let one = running.remove(at: position)
        var report = TaskReport(task: one.task, status: status, code: code)
        if status == .completed {
            report.claim = Usage(inputTokens: inputTokens, outputTokens: outputTokens)
            report.deliveredTokens = UInt64(outputTokens)
            report.deliveredPayloadBytes = UInt64(outputTokens) * 4
            report.ttftUs = ttftUs
        }
        edit(&report)
        send(.slotFreed(suppliers[one.supplier], OfferID(offer)))
        send(.finished(reference(stream), report))
    }

    /// The answer of the stream nears what is held for.
    mutating func holdLow(_ stream: UInt32) {
        guard let one = run(stream) else { preconditionFailure("nothing runs on \(stream)") }
        send(.holdLow(one.task, reference(stream)))
    }

    // MARK: Money

    var isLeaseAwaited: Bool { mutating get { dispatcher.isLeaseAwaited } }
    var openTasks: Int { dispatcher.openTasks }
    var reservedBytes: Int { dispatcher.reservedBytes }
    var counters: DispatchCounters { dispatcher.counters }

    /// The account prepays, with these limits.
    mutating func account(
        _ number: UInt64, isPrepaid: Bool = true, edit: (inout DirectoryAccount) -> Void = { _ in }
    ) {
        var entry = DirectoryAccount(account: number, isPrepaid: isPrepaid)
        edit(&entry)
        directory(.account(entry))
    }

    /// The wallet gave so much in all.
    mutating func lease(
        _ account: UInt64, granted: Int64, recalled: Int64 = 0, isDry: Bool = false,
        lifetimeMs: UInt64 = BrokerLease.lifetimeMs
    ) {
        directory(
            .lease(
                DirectoryLease(
                    account: account, instance: instance, granted: MicroUSD(granted),
                    recalled: MicroUSD(recalled), expiresAtMs: nowMs + lifetimeMs, isDry: isDry)))
    }

    /// The supplier gives the task back, undone.
    mutating func giveBack(
        _ stream: UInt32, offer: UInt32 = 1, isDeclined: Bool = false
    ) {
        guard let position = running.firstIndex(where: { $0.stream == stream }) else {
            preconditionFailure("nothing runs on \(stream)")
        }
        let one = running.remove(at: position)
        var report = TaskReport(task: one.task, status: .supplierFailed, code: .supplierFailed)
        report.isDeclined = isDeclined
        send(.slotFreed(suppliers[one.supplier], OfferID(offer)))
        send(.redispatch(one.task, reference(stream), report))
    }
}
