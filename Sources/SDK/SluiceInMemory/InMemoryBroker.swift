import BasicContainers
package import SluiceBrokerCore
package import SluiceRecordFormat
package import SluiceWire

/// A whole broker without socket, clock, thread or file: the real core of shards and dispatcher in
/// a shell that keeps bytes in arrays.
///
/// The caller is the network: it hands over what peers sent with `receive`, runs one loop turn
/// with `turn`, and fetches what goes to each peer with `take`. Time is an argument; the same
/// calls give the same bytes. Owned by one thread.
///
/// With several shards each of them is a thread of its own in the real broker. Here a turn runs
/// them in an order, and lets each hear as many messages, as the seed decides; `hasWork` says that
/// more turns are due.
package struct InMemoryBroker: ~Copyable {
    package private(set) var dispatcher: Dispatcher
    /// The files; a harvest for the next instance once this one is dead.
    package var instance: InMemoryInstance {
        get { files.instance }
        set { files.instance = newValue }
    }

    private let files: InMemoryFiles
    private let shards: [InMemoryShard]
    private let connectionsPerShard: UInt32
    /// Shard 0 is the dispatcher's thread: what they tell each other takes no time.
    private let dispatcherIsAtShard0: Bool
    private var dispatch = DispatcherOutput()
    private var interleaving: SplitMix64
    private var nowUs: UInt64
    private var wallUs: UInt64
    private var lastSecondUs: UInt64

    /// A new instance that knows these credentials. `seed` decides its jitter, and in which order
    /// several shards run.
    package init(
        limits: BrokerLimits, instance: consuming InMemoryInstance,
        credentials: [DirectoryCredential], directory: [DirectoryEntry] = [],
        socketBytes: Int = 65_536, shardCount: Int = 1, dispatcherIsAtShard0: Bool = true,
        seed: UInt64, nowUs: UInt64, wallUs: UInt64
    ) {
        precondition(shardCount > 0 && (dispatcherIsAtShard0 || shardCount > 1))
        let id = instance.id
        let capacity = instance.capacity
        let files = InMemoryFiles(instance)
        shards = (0..<shardCount).map {
            InMemoryShard(
                limits: limits, index: UInt16($0), shardCount: UInt16(shardCount), files: files,
                socketBytes: socketBytes, nowUs: nowUs)
        }
        dispatcher = Dispatcher(
            limits: limits, instance: id,
            openTasksMax: JournalReserve.openTasksMax(
                ringRecords: capacity, slots: limits.openTasks),
            seed: seed)
        self.files = files
        self.dispatcherIsAtShard0 = dispatcherIsAtShard0
        connectionsPerShard = UInt32(limits.connections)
        interleaving = SplitMix64(seed: seed &+ 1)
        self.nowUs = nowUs
        self.wallUs = wallUs
        lastSecondUs = nowUs
        for entry in credentials.map({ .credential($0) }) + directory {
            dispatcher.directoryChanged(entry, nowUs: nowUs, wallUs: wallUs, out: &dispatch)
        }
    }

    /// The digest under which this broker looks up a secret. Not a cryptographic hash: secrets
    /// here are made up.
    package static func digest(of secret: [UInt8]) -> Digest256 {
        var mix = SplitMix64(seed: UInt64(secret.count))
        for byte in secret { mix = SplitMix64(seed: mix.next() ^ UInt64(byte)) }
        return Digest256(mix.next(), mix.next(), mix.next(), mix.next())
    }

    // MARK: The network

    /// The instance's process is dead: nothing happens any more.
    package var isDead: Bool { instance.isDead }

    /// A peer's connection is up, at a shard that the seed decides; nil when that has no room.
    /// `certificate` is the SHA-256 of the one that its TLS session would have verified.
    package mutating func connect(
        certificate: Digest256? = nil, nowUs: UInt64
    ) -> UInt32? {
        guard !isDead else { return nil }
        let shard = pick(shards.count)
        guard let connection = shards[shard].connect(certificate: certificate, nowUs: nowUs)
        else { return nil }
        return UInt32(shard) * connectionsPerShard + connection
    }

    /// One chunk of plaintext from the peer, cut anywhere.
    package mutating func receive(_ connection: UInt32, _ bytes: [UInt8], nowUs: UInt64) {
        guard !isDead else { return }
        self.nowUs = nowUs
        dispatcher.journalHasRoom(records: instance.freeRecords)
        let (shard, local) = place(connection)
        shard.receive(local, bytes, nowUs: nowUs)
        settle()
    }

    /// The peer's connection is gone.
    package mutating func disconnected(_ connection: UInt32, nowUs: UInt64) {
        guard !isDead else { return }
        self.nowUs = nowUs
        dispatcher.journalHasRoom(records: instance.freeRecords)
        let (shard, local) = place(connection)
        shard.disconnected(local, nowUs: nowUs)
        settle()
    }

    /// Bytes for the peer, at most `byteCount` of them.
    package mutating func take(_ connection: UInt32, atMost byteCount: Int) -> [UInt8] {
        guard !isDead else { return [] }
        let (shard, local) = place(connection)
        return shard.take(local, atMost: byteCount)
    }

    /// Bytes that wait to be taken.
    package func waitingBytes(_ connection: UInt32) -> Int { line(connection).outbox.count }

    /// False once the connection is closed; its number may then name another.
    package func isOpen(_ connection: UInt32) -> Bool { !isDead && line(connection).isOpen }

    /// The core ordered the connection closed; what waits may still be taken.
    package func isClosing(_ connection: UInt32) -> Bool {
        line(connection).closingSinceUs != nil
    }

    private func place(_ connection: UInt32) -> (InMemoryShard, UInt32) {
        (shards[Int(connection / connectionsPerShard)], connection % connectionsPerShard)
    }

    private func line(_ connection: UInt32) -> InMemoryShard.Line {
        let (shard, local) = place(connection)
        return shard.lines[Int(local)]
    }

    // MARK: Operators

    /// A credential was added, changed or revoked.
    package mutating func credentialChanged(_ entry: DirectoryCredential, wallUs: UInt64) {
        guard !isDead else { return }
        directoryChanged(.credential(entry), wallUs: wallUs)
    }

    /// An entry of the directory is new or changed. What the dispatcher says to it is heard from
    /// the next turn on.
    package mutating func directoryChanged(_ entry: DirectoryEntry, wallUs: UInt64) {
        guard !isDead else { return }
        self.wallUs = wallUs
        dispatcher.journalHasRoom(records: instance.freeRecords)
        dispatcher.directoryChanged(entry, nowUs: nowUs, wallUs: wallUs, out: &dispatch)
        publish()
    }

    /// GO-AWAY to everyone; no new tasks.
    package mutating func drain(nowUs: UInt64) {
        guard !isDead else { return }
        for shard in shards { shard.drain(nowUs: nowUs) }
    }

    /// Ends the instance in order, once it has drained.
    package mutating func closeInOrder() {
        instance.closeInOrder(wallUs: wallUs)
    }

    /// Writes ENDED for every open task of a dead instance.
    package mutating func close(_ dead: inout InMemoryInstance, all: [InMemoryInstance]) {
        instance.close(&dead, all: all, wallUs: wallUs)
    }

    // MARK: A turn

    /// Messages between the shards and the dispatcher wait to be heard.
    package var hasWork: Bool {
        !isDead && (!dispatch.messages.isEmpty || !shards.allSatisfy(\.isQuiet))
    }

    /// One turn of every shard's loop: time passes, some of what waits for it is heard, and what
    /// its connections have to say is sealed.
    package mutating func turn(nowUs: UInt64, wallUs: UInt64) {
        guard !isDead else { return }
        self.nowUs = nowUs
        self.wallUs = wallUs
        dispatcher.journalHasRoom(records: instance.freeRecords)
        if dispatcher.isLeaseAwaited {
            dispatcher.advanceLeases(nowUs: nowUs, wallUs: wallUs, out: &dispatch)
        }
        if nowUs - lastSecondUs >= 1_000_000 {
            lastSecondUs = nowUs
            dispatcher.advance(nowUs: nowUs, wallUs: wallUs, out: &dispatch)
        }
        publish()
        let first = pick(shards.count)
        for offset in shards.indices where !isDead {
            turn(shards[(first + offset) % shards.count])
        }
    }

    private mutating func turn(_ shard: InMemoryShard) {
        dispatcher.journalHasRoom(records: instance.freeRecords)
        shard.advance(nowUs: nowUs)
        settle()
        if shards.count > 1 {
            for other in shards.indices where !isDead {
                shard.takeParcels(of: other, pick(shard.inbox[other].count + 1))
            }
            shard.takeMessages(pick(shard.messages.count + 1))
            askDispatcher()
            settle()
        }
        guard !isDead else { return }
        let isAtDispatcher = dispatcherIsAtShard0 && shard === shards[0]
        shard.send { if isAtDispatcher { settleShard0() } }
        collect()
    }

    /// A number below `bound`; with one shard there is nothing to decide.
    private mutating func pick(_ bound: Int) -> Int {
        bound <= 1 || shards.count == 1 ? 0 : Int(interleaving.next(below: UInt64(bound)))
    }

    // MARK: Shards and dispatcher

    /// Lets shard 0 and the dispatcher talk until neither has anything to say, if they share a
    /// thread.
    private mutating func settle() {
        settleShard0()
        collect()
    }

    private mutating func settleShard0() {
        guard dispatcherIsAtShard0 else { return }
        let shard = shards[0]
        while !instance.isDead, !shard.requests.isEmpty || !dispatch.messages.isEmpty {
            let requests = shard.requests
            shard.requests.removeAll(keepingCapacity: true)
            ask(requests)
            shard.takeMessages(.max)
        }
    }

    /// What shards asked, as many of their requests as the seed decides.
    private mutating func askDispatcher() {
        for shard in shards where !isDead {
            let count = pick(shard.requests.count + 1)
            let requests = Array(shard.requests.prefix(count))
            shard.requests.removeFirst(count)
            ask(requests)
        }
    }

    /// What the dispatcher wrote is published before any shard can hear its answers.
    private mutating func ask(_ requests: [DispatchRequest]) {
        for request in requests {
            dispatcher.received(request, nowUs: nowUs, wallUs: wallUs, out: &dispatch)
        }
        publish()
        guard !instance.isDead else { return }
        for position in dispatch.messages.indices {
            let message = dispatch.messages[position]
            shards[Int(message.shard)].messages.append(message)
        }
        dispatch.messages.removeAll(keepingCapacity: true)
    }

    private mutating func publish() {
        guard !dispatch.journal.isEmpty else { return }
        files.instance.write(dispatch.journal)
        dispatch.journal.removeAll(keepingCapacity: true)
        guard !instance.isDead else { return }
        dispatcher.published()
    }

    /// Moves what shards have for each other to where it is heard.
    private mutating func collect() {
        for (index, shard) in shards.enumerated() {
            for (target, parcel) in shard.parcels {
                shards[Int(target)].arrived(parcel, from: UInt16(index))
            }
            shard.parcels.removeAll(keepingCapacity: true)
        }
    }

    // MARK: What a checker asks

    /// Set, every record that is sealed is also kept until `takeSealed`.
    package var keepsSealed: Bool {
        get { files.keepsSealed }
        set { files.keepsSealed = newValue }
    }

    /// The records that were sealed, in order. An empty one says that the connection is closed.
    package mutating func takeSealed() -> [(connection: UInt32, bytes: [UInt8])] {
        let sealed = files.sealed
        files.sealed.removeAll(keepingCapacity: true)
        return sealed
    }

    /// A task waits for an entry of the directory.
    package var isLeaseAwaited: Bool {
        mutating get { dispatcher.isLeaseAwaited }
    }

    /// Client streams of all shards that are not idle.
    package var openStreams: Int { shards.reduce(0) { $0 + $1.machine.openTasks } }

    /// The counters of all shards together.
    package var counters: ShardCounters {
        shards.dropFirst().reduce(into: shards[0].machine.counters) {
            $0.add($1.machine.counters)
        }
    }

    /// Gaps between deliveries of all shards together, by `HistogramBucket`.
    package var tokenGaps: [UInt64] {
        shards.dropFirst().reduce(into: shards[0].machine.tokenGaps) { sum, shard in
            for (bucket, count) in shard.machine.tokenGaps.enumerated() { sum[bucket] += count }
        }
    }

    /// Bytes of content in memory: bodies in whole chunks, and answer frames queued or under way
    /// between shards.
    package var heldBytes: (bodies: Int, answers: Int) {
        shards.reduce((0, 0)) { ($0.0 + $1.bodyBytesHeld, $0.1 + $1.answerBytesHeld) }
    }

    /// Control bytes that wait on the connection, and the start of a cut frame.
    package func heldBytes(_ connection: UInt32) -> (control: Int, kept: Int) {
        (line(connection).control.count, line(connection).kept.count)
    }
}

/// What dispatcher and shards share: the instance's files, and the order in which records were
/// sealed.
final class InMemoryFiles {
    var instance: InMemoryInstance
    var keepsSealed = false
    var sealed: [(connection: UInt32, bytes: [UInt8])] = []

    init(_ instance: InMemoryInstance) {
        self.instance = instance
    }

    func note(_ connection: UInt32, _ record: [UInt8]) {
        if keepsSealed { sealed.append((connection, record)) }
    }
}
