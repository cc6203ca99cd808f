import BasicContainers
import SluiceLedgerCore
import SluiceRecordFormat
import SluiceWire

/// The one place of a broker process that decides about tasks: who may connect, what is admitted,
/// which supplier runs what, and how every accepted task ends, exactly once, in the journal.
///
/// Pure: requests in, messages and journal writes out, `now` an argument. Owned by one thread.
/// Tokens never pass through it.
///
/// Methods on a task's way that only look are `mutating` too: for others the compiler moves the
/// whole struct, which cannot be copied, to the stack and back.
package struct Dispatcher: ~Copyable {
    package let limits: BrokerLimits
    package let instance: UInt64
    package internal(set) var counters = DispatchCounters()

    /// Credentials by the digest of their secret or certificate.
    var credentials: [Digest256: DirectoryCredential] = [:]
    /// By shard, then connection index.
    var peers = UniqueArray<UniqueArray<Peer>>()
    var accounts = UniqueArray<Account>()
    var accountByNumber: [UInt64: UInt32] = [:]
    var keys = UniqueArray<Key>()
    var keyByDigest: [Digest256: UInt32] = [:]
    /// Of prepaid accounts, with those where somebody waits and those whose LEASE found no room.
    var leases = UniqueArray<AccountLease>()
    var waitingLeases: [UInt32] = []
    var dueLeases: [UInt32] = []
    var idempotency: IdempotencyTable
    /// What clients pay, and when that changes by itself the next time.
    var prices = PriceBook()
    var nextPriceChangeUs = UInt64.max
    /// The wall clock, as the shell last told it.
    var wallUs: UInt64 = 0
    var identities = UniqueArray<SupplierIdentity>()
    var idleIdentities = UniqueArray<UInt32>()
    var identityByNumber: [UInt64: UInt32] = [:]
    /// Identities whose breaker is open, and when the first of them may be tried.
    var openBreakers: [UInt32] = []
    var nextProbeUs = UInt64.max
    var suppliers = UniqueArray<Supplier>()
    var idleSuppliers = UniqueArray<UInt32>()
    var offers = UniqueArray<Offer>()
    var idleOffers = UniqueArray<UInt32>()
    /// Position of `ageOffers`.
    var agedOffer = 0
    var lost = LostMatches()
    var books: SupplierBooks
    var frontier = Frontier()
    var affinity: AffinityTable
    var models = UniqueArray<Model>()
    var modelByName: [ModelName: UInt32] = [:]
    var namesByIdentity: [UInt64: Int] = [:]
    /// Names that the journal had no room for yet; at most `limits.models`.
    var unwrittenNames: [NameRecord] = []

    var tasks = UniqueArray<DispatchTask>()
    var idleTasks = UniqueArray<TaskIndex>()
    /// Slots whose ENDED is not published yet.
    var endedTasks = UniqueArray<TaskIndex>()
    var taskCounter: UInt64 = 0
    /// How often a task was put into a queue.
    var arrivals: UInt64 = 0
    /// Microseconds from acceptance to the first dispatch, by `HistogramBucket`.
    package internal(set) var queueHistogram = [UInt64](
        repeating: 0, count: StatisticsLayout.bucketCount)
    /// Tasks that wait for a slot.
    package internal(set) var queuedTasks = 0
    /// Tasks accepted and not ended: each has its ENDED reserved in the journal.
    package internal(set) var openTasks = 0
    var arenas: ArenaBudget
    /// Records the journal can still take, as the shell last said, less what was written since.
    var journalFreeRecords = 0
    var openTasksMax: Int
    var random: SplitMix64
    var refusals = RefusalLedger()

    /// `openTasksMax` is what ring and table can hold (`JournalReserve`).
    package init(limits: BrokerLimits, instance: UInt64, openTasksMax: Int, seed: UInt64) {
        self.limits = limits
        self.instance = instance
        self.openTasksMax = min(openTasksMax, limits.openTasks)
        arenas = ArenaBudget(
            bodyBytes: limits.bodyArenaBytes, answerBytes: limits.answerArenaBytes)
        books = SupplierBooks(rowsMax: limits.supplierRows)
        affinity = AffinityTable(entries: limits.affinityEntries)
        idempotency = IdempotencyTable(
            perAccount: limits.idempotencyKeysPerAccount,
            keepUs: limits.idempotencyKeepMs * 1_000)
        random = SplitMix64(seed: seed)
    }

    /// Arena bytes that admitted and running tasks hold, bodies and answers of all shards.
    package var reservedBytes: Int { reservedBodyBytes + reservedAnswerBytes }

    /// Content memory that open tasks' bodies have been promised, in whole chunks.
    package var reservedBodyBytes: Int { arenas.reservedBodyBytes }

    /// Content memory that open tasks' answers have been promised, in whole chunks.
    package var reservedAnswerBytes: Int { arenas.reservedAnswerBytes }

    /// Breakers that let nothing through now.
    package var breakersOpen: Int { openBreakers.count }

    /// What suppliers offer now. Walks all suppliers and offers: for reports, not for tasks.
    package var supply: SupplyCount {
        var count = SupplyCount()
        for index in suppliers.indices where suppliers[index].isPresent {
            let supplier = suppliers[index]
            count.suppliers += 1
            count.slotsInUse += UInt64(supplier.inUse)
            var ofOffers: UInt64 = 0
            for offer in supplier.offers where offers[Int(offer)].isPresent {
                count.offers += 1
                ofOffers += UInt64(offers[Int(offer)].granted)
            }
            count.slotsGranted += min(UInt64(supplier.granted), ofOffers)
        }
        return count
    }

    /// One request of a shard. `wallUs` is microseconds since 1970, for records alone.
    package mutating func received(
        _ request: DispatchRequest, nowUs: UInt64, wallUs: UInt64,
        out: inout DispatcherOutput
    ) {
        self.wallUs = wallUs
        probeSuppliers(nowUs: nowUs, out: &out)
        followPrices(nowUs: nowUs, out: &out)
        switch request {
        case .authenticate(let connection, let role, let kind, let digest):
            authenticate(connection, role, kind, digest, nowUs: nowUs, out: &out)
        case .connectionClosed(let connection):
            connectionClosed(connection, nowUs: nowUs)
        case .offer(let connection, let frame):
            offered(connection, frame, nowUs: nowUs, out: &out)
        case .grant(let connection, let frame):
            granted(connection, frame, nowUs: nowUs, out: &out)
        case .withdraw(let connection, let frame):
            withdrawn(connection, frame, nowUs: nowUs, out: &out)
        case .ask(let connection, let frame):
            asked(connection, frame, nowUs: nowUs, out: &out)
        case .withdrawAll(let connection):
            withdrawnAll(connection, nowUs: nowUs)
        case .submit(let submission):
            submitted(submission, nowUs: nowUs, out: &out)
        case .bodyComplete(let task, let stream):
            guard isCurrent(task, stream), tasks[Int(task)].state == .admitted else { return }
            accept(task, nowUs: nowUs, out: &out)
        case .refusedAtShard(let connection, let code):
            guard let peer = peer(connection) else { return }
            recordRefusal(account: peer.account, code, model: 0, wallUs: wallUs, out: &out)
        case .abandoned(let task, let stream, let code):
            abandoned(task, stream, code, nowUs: nowUs, out: &out)
        case .slotFreed(let connection, let offer):
            slotFreed(connection, offer, nowUs: nowUs, out: &out)
        case .redispatch(let task, let stream, let report):
            redispatch(task, stream, report, nowUs: nowUs, out: &out)
        case .undelivered(let task, let stream):
            undelivered(task, stream, nowUs: nowUs, out: &out)
        case .holdLow(let task, let stream):
            holdLow(task, stream, nowUs: nowUs, out: &out)
        case .finished(let stream, let report):
            guard isCurrent(report.task, stream) else { return }
            finish(report, nowUs: nowUs, out: &out)
        }
    }

    /// How many records the journal can take now, less what others were promised. Called once a
    /// turn, before the requests; may be below zero.
    package mutating func journalHasRoom(records: Int) {
        journalFreeRecords = records
    }

    /// Everything written so far is published: slots of ended tasks are free again.
    package mutating func published() {
        for position in endedTasks.indices {
            let task = endedTasks[position]
            tasks[Int(task)].state = .idle
            idleTasks.append(task)
        }
        endedTasks.removeAll(keepingCapacity: true)
    }

    /// Time passes: coalesced refusals are written, suppliers tried again, expired credentials
    /// cut. Called about once a second.
    package mutating func advance(nowUs: UInt64, wallUs: UInt64, out: inout DispatcherOutput) {
        self.wallUs = wallUs
        writePendingRefusals(wallUs: wallUs, out: &out)
        followPrices(nowUs: nowUs, out: &out)
        keepLeases(nowUs: nowUs, out: &out)
        idempotency.sweep(nowUs: nowUs)
        probeSuppliers(nowUs: nowUs, out: &out)
        ageOffers(nowUs: nowUs, out: &out)
        books.age(nowMs: nowUs / 1_000)
        for shard in peers.indices {
            for index in peers[shard].indices where peers[shard][index].isPresent {
                let peer = peers[shard][index]
                guard let entry = credentials[peer.digest],
                    !isUsable(entry, wallUs: wallUs)
                else { continue }
                out.messages.append(.refuseConnection(peer.reference, .unauthenticated))
            }
        }
    }

    // MARK: Peers

    private mutating func authenticate(
        _ connection: ConnectionRef, _ role: PeerRole, _ kind: CredentialKind,
        _ sha256: Digest256, nowUs: UInt64, out: inout DispatcherOutput
    ) {
        let isCertificate = kind == .clientCertificate
        let digest = isCertificate ? DirectoryCredential.certificateDigest(sha256) : sha256
        guard let entry = credentials[digest], isUsable(entry, wallUs: wallUs) else {
            out.messages.append(.refuseConnection(connection, .unauthenticated))
            return
        }
        let isRightKind = isCertificate || (kind == .supplierToken) == (role == .supplier)
        guard entry.role.allows(role), isRightKind else {
            out.messages.append(.refuseConnection(connection, .forbidden))
            return
        }
        var peer = Peer()
        peer.isPresent = true
        peer.reference = connection
        peer.digest = digest
        peer.account = entry.account
        peer.accountIndex = account(entry.account)
        peer.key = key(entry, account: peer.accountIndex, nowUs: nowUs)
        if role == .supplier {
            peer.supplier = addSupplier(connection, identity: entry.supplier)
        }
        setPeer(connection, peer)
        out.messages.append(.welcome(connection, account: entry.account))
    }

    private mutating func addSupplier(_ connection: ConnectionRef, identity: UInt64) -> UInt32 {
        let index: UInt32
        if let idle = idleSuppliers.popLast() {
            index = idle
        } else {
            index = UInt32(suppliers.count)
            suppliers.append(Supplier())
        }
        var supplier = Supplier()
        supplier.isPresent = true
        supplier.connection = connection
        supplier.identity = addConnection(index, of: identity)
        supplier.granted = limits.maxStreams
        suppliers[Int(index)] = supplier
        return index
    }

    private mutating func connectionClosed(_ connection: ConnectionRef, nowUs: UInt64) {
        guard let peer = peer(connection) else { return }
        setPeer(connection, Peer())
        guard peer.supplier != noIndex else { return }
        let supplier = Int(peer.supplier)
        for offer in suppliers[supplier].offers { removeOffer(offer, nowUs: nowUs) }
        removeConnection(peer.supplier, of: suppliers[supplier].identity)
        suppliers[supplier] = Supplier()
        idleSuppliers.append(peer.supplier)
    }

    mutating func peer(_ connection: ConnectionRef) -> Peer? { Self.peer(connection, in: peers) }

    static func peer(
        _ connection: ConnectionRef, in peers: borrowing UniqueArray<UniqueArray<Peer>>
    ) -> Peer? {
        let shard = Int(connection.shard)
        guard shard < peers.count, Int(connection.index) < peers[shard].count else { return nil }
        let peer = peers[shard][Int(connection.index)]
        return peer.isPresent && peer.reference == connection ? peer : nil
    }

    private mutating func setPeer(_ connection: ConnectionRef, _ peer: Peer) {
        while peers.count <= Int(connection.shard) { peers.append(UniqueArray()) }
        while peers[Int(connection.shard)].count <= Int(connection.index) {
            peers[Int(connection.shard)].append(Peer())
        }
        peers[Int(connection.shard)][Int(connection.index)] = peer
    }

    /// The task of this index is still the one that this stream submitted.
    mutating func isCurrent(_ task: TaskIndex, _ stream: StreamRef) -> Bool {
        Int(task) < tasks.count && tasks[Int(task)].stream == stream
            && tasks[Int(task)].state != .idle && tasks[Int(task)].state != .ended
    }
}
