import SluiceBrokerCore
import SluiceInMemory
import SluiceRecordFormat
import SluiceWire

/// What one seed came to.
package struct SimulationResult: Sendable {
    package let seed: UInt64
    package let options: SimulationOptions
    package let hash: UInt64
    package let steps: Int
    package let failures: [String]
    package let events: [String]
    package let sometimes: [String: Int]
}

/// One run: clients, suppliers, network, broker and its files in one thread, from one seed.
///
/// Faults run for a while; then everything heals, every accepted task must end, nothing may be
/// left over, and every slot must still be usable.
package struct Simulation: ~Copyable {
    private struct Link {
        var peer: Int
        var connection: UInt32
        var toBroker: [UInt8] = []
        var isBrokerDue = false
        var isPeerDue = false
        /// Nothing passes until then, either way.
        var stalledUntilUs: UInt64 = 0
    }

    private enum Event {
        case tick
        case turn
        case connect(peer: Int)
        case toBroker(link: Int)
        case toPeer(link: Int)
        case wake(peer: Int)
        case fault
        case restart
        case release
    }

    private let seed: UInt64
    private let options: SimulationOptions
    private let oracle: Oracle
    private let tap: WireTap
    private var network: RandomStream
    private var schedule: RandomStream
    private var faults: RandomStream

    private var broker: InMemoryBroker
    /// Dead instances, oldest first.
    private var graveyard: [InMemoryInstance] = []
    private var readRecords = 0
    private var nextInstance: UInt64 = 1
    private var isBrokerDown = false
    private var isDraining = false
    private var credentials: [DirectoryCredential]

    private var peers: [any Peer] = []
    private var clients: [ClientPeer] = []
    private var suppliers: [SupplierPeer] = []
    private var stubborn: [StubbornSupplier] = []
    private var wakeUs: [UInt64] = []
    /// By peer: its link, or nil while it is not connected.
    private var linkOfPeer: [Int?] = []
    private var isReconnecting: [Bool] = []
    private var links: [Link?] = []
    private var timeline = Timeline<Event>()
    private var nowUs: UInt64 = 1_000_000
    private var isTurnDue = false
    private var isHealed = false
    private var steps = 0

    private static let wallOffsetUs: UInt64 = 1_790_000_000_000_000
    private var wallUs: UInt64 { nowUs + Self.wallOffsetUs }

    package init(seed: UInt64, keepsEvents: Bool = false) {
        self.init(seed: seed, options: SimulationOptions(seed: seed), keepsEvents: keepsEvents)
    }

    package init(seed: UInt64, options: SimulationOptions, keepsEvents: Bool) {
        self.seed = seed
        self.options = options
        oracle = Oracle(keepsEvents: keepsEvents)
        tap = WireTap(oracle)
        network = RandomStream(root: seed, name: "network")
        schedule = RandomStream(root: seed, name: "schedule")
        faults = RandomStream(root: seed, name: "faults")
        credentials = []
        broker = InMemoryBroker(
            limits: options.limits, instance: InMemoryInstance(id: 1, capacity: 4_096),
            credentials: [], seed: 0, nowUs: 0, wallUs: 0)
        addPeers()
        startBroker()
    }

    private mutating func addPeers() {
        var identity: UInt64 = 1
        var roots = RandomStream(root: seed, name: "peers")
        func setting(_ secret: [UInt8]) -> PeerSetting {
            PeerSetting(
                options: options, oracle: oracle,
                random: RandomStream(root: roots.next(), name: "peer"), secret: secret)
        }
        for number in 0..<options.clients {
            let account = UInt64(100 + number % options.accounts)
            let secret = Array("key-\(account)".utf8)
            let client = ClientPeer(
                identity: identity, account: account, setting: setting(secret))
            add(client, secret, account: account, role: .client)
            clients.append(client)
            identity += 1
        }
        for number in 0..<options.suppliers {
            let secret = Array("token-\(number)".utf8)
            if options.stubbornSuppliers, number == 0 {
                let supplier = StubbornSupplier(identity: identity, setting: setting(secret))
                add(supplier, secret, account: 900, role: .supplier)
                stubborn.append(supplier)
            } else {
                let supplier = SupplierPeer(identity: identity, setting: setting(secret))
                add(supplier, secret, account: 900, role: .supplier)
                suppliers.append(supplier)
            }
            identity += 1
        }
        guard options.byzantine else { return }
        for role in [PeerRole.client, .supplier] {
            let secret = Array("byzantine-\(role.rawValue)".utf8)
            add(
                ByzantinePeer(identity: identity, role: role, setting: setting(secret)), secret,
                account: 700 + UInt64(role.rawValue), role: role)
            identity += 1
        }
    }

    private mutating func add(
        _ peer: any Peer, _ secret: [UInt8], account: UInt64, role: PeerRole
    ) {
        peers.append(peer)
        wakeUs.append(.max)
        linkOfPeer.append(nil)
        isReconnecting.append(false)
        let entry = DirectoryCredential(
            digest: InMemoryBroker.digest(of: secret), account: account,
            role: role == .client ? .client : .supplier,
            supplier: role == .supplier ? peer.identity : 0)
        if !credentials.contains(where: { $0.digest == entry.digest }) {
            credentials.append(entry)
        }
    }

    // MARK: Running

    package consuming func run() -> SimulationResult {
        for peer in peers.indices {
            // In calm seeds supply stands before demand, so that nothing is refused.
            let isLate = options.isCalm && peer < clients.count
            let delayUs = schedule.pick(0...400_000) + (isLate ? 2_000_000 : 0)
            at(nowUs + UInt64(delayUs), .connect(peer: peer))
        }
        at(nowUs, .tick)
        at(nowUs, .release)
        at(nowUs + UInt64(faults.pick(200_000...3_000_000)), .fault)
        let healUs = nowUs + options.faultsMs * 1_000
        run(untilUs: healUs) { _ in false }
        heal()
        run(untilUs: healUs + 200_000_000) { $0.isQuiet }
        oracle.check(isQuiet, "[L1] not quiet 200 s after healing: \(unrest)")
        if oracle.failures.isEmpty { checkNothingLeft() }
        if oracle.failures.isEmpty { probe() }
        if !isBrokerDown { countRareBranches() }
        return SimulationResult(
            seed: seed, options: options, hash: oracle.hash.value, steps: steps,
            failures: oracle.failures, events: oracle.events, sometimes: oracle.sometimes)
    }

    private mutating func run(
        untilUs endUs: UInt64, until isDone: (borrowing Simulation) -> Bool
    ) {
        while oracle.failures.isEmpty, let next = timeline.first, next.atUs <= endUs {
            if isDone(self) { return }
            timeline.removeFirst()
            nowUs = max(nowUs, next.atUs)
            oracle.nowUs = nowUs
            steps += 1
            oracle.hash.add(nowUs)
            perform(next.event)
            if steps > 3_000_000 { return oracle.fail("more than 3,000,000 steps") }
        }
        nowUs = max(nowUs, timeline.first == nil ? endUs : nowUs)
    }

    private mutating func perform(_ event: Event) {
        switch event {
        case .tick:
            at(nowUs + 200_000, .tick)
            for peer in peers.indices where linkOfPeer[peer] != nil { wake(peer) }
            turn()
        case .turn:
            isTurnDue = false
            turn()
        case .connect(let peer): connect(peer)
        case .toBroker(let link): deliverToBroker(link)
        case .toPeer(let link): deliverToPeer(link)
        case .wake(let peer):
            wakeUs[peer] = .max
            guard linkOfPeer[peer] != nil else { return }
            wake(peer)
        case .fault: fault()
        case .restart: startBroker()
        case .release:
            if !broker.isDead { broker.instance.release() }
            let pause = options.tinyRing && !isHealed ? 3_000_000 : 200_000
            at(nowUs + UInt64(schedule.pick(10_000...pause)), .release)
        }
    }

    // MARK: Peers and links

    private mutating func wake(_ peer: Int) {
        peers[peer].wake(nowUs: nowUs)
        pump(peer)
    }

    /// Moves what the peer wants to say into its link and plans its next wake.
    private mutating func pump(_ peer: Int) {
        guard let link = linkOfPeer[peer] else { return }
        while (links[link]?.toBroker.count ?? .max) < 65_536 {
            let bytes = peers[peer].output(nowUs: nowUs)
            if bytes.isEmpty { break }
            links[link]?.toBroker += bytes
        }
        planToBroker(link)
        let dueUs = max(peers[peer].dueUs, nowUs + 1)
        if dueUs < wakeUs[peer], dueUs != .max {
            wakeUs[peer] = dueUs
            at(dueUs, .wake(peer: peer))
        }
    }

    private mutating func connect(_ peer: Int) {
        isReconnecting[peer] = false
        guard linkOfPeer[peer] == nil, !(isHealed && !peers[peer].isHonest) else { return }
        guard !isBrokerDown, let connection = broker.connect(nowUs: nowUs) else {
            return reconnect(peer)
        }
        tap.opened(connection, isHonest: peers[peer].isHonest, identity: peers[peer].identity)
        let link = links.count
        links.append(Link(peer: peer, connection: connection))
        linkOfPeer[peer] = link
        oracle.note("peer \(peers[peer].identity) on connection \(connection)")
        peers[peer].connected(nowUs: nowUs)
        pump(peer)
    }

    private mutating func reconnect(_ peer: Int) {
        guard !isReconnecting[peer] else { return }
        isReconnecting[peer] = true
        at(nowUs + UInt64(schedule.pick(1_000...2_000_000)), .connect(peer: peer))
    }

    /// The link is gone for the peer; the broker was or is told by the caller.
    private mutating func drop(_ link: Int) {
        guard let state = links[link] else { return }
        links[link] = nil
        linkOfPeer[state.peer] = nil
        oracle.note("connection \(state.connection) is gone")
        peers[state.peer].disconnected(nowUs: nowUs)
        reconnect(state.peer)
    }

    private mutating func reset(_ link: Int) {
        guard let state = links[link] else { return }
        broker.disconnected(state.connection, nowUs: nowUs)
        drop(link)
        afterBroker()
    }

    private mutating func delayUs(_ link: Int) -> UInt64 {
        let stalledUs = links[link]?.stalledUntilUs ?? 0
        return max(nowUs, stalledUs)
            + UInt64(
                network.pick(1...(isHealed ? min(options.delayUsMax, 2_000) : options.delayUsMax)))
    }

    private mutating func planToBroker(_ link: Int) {
        guard let state = links[link], !state.isBrokerDue else { return }
        guard !state.toBroker.isEmpty || peers[state.peer].isOver else { return }
        links[link]?.isBrokerDue = true
        at(delayUs(link), .toBroker(link: link))
    }

    private mutating func deliverToBroker(_ link: Int) {
        guard let state = links[link] else { return }
        links[link]?.isBrokerDue = false
        if state.stalledUntilUs > nowUs { return planToBroker(link) }
        guard !state.toBroker.isEmpty else {
            if peers[state.peer].isOver { reset(link) }
            return
        }
        let count = min(state.toBroker.count, piece())
        let bytes = Array(state.toBroker.prefix(count))
        links[link]?.toBroker.removeFirst(count)
        oracle.hash.add(bytes)
        if !broker.isClosing(state.connection) { tap.received(state.connection, bytes) }
        broker.receive(state.connection, bytes, nowUs: nowUs)
        pump(state.peer)
        afterBroker()
    }

    private mutating func deliverToPeer(_ link: Int) {
        guard let state = links[link] else { return }
        links[link]?.isPeerDue = false
        guard state.stalledUntilUs <= nowUs else { return planToPeer(link) }
        let bytes = broker.take(state.connection, atMost: piece())
        guard !bytes.isEmpty else { return }
        oracle.hash.add(bytes)
        peers[state.peer].receive(bytes, nowUs: nowUs)
        pump(state.peer)
        planToPeer(link)
        planTurn()
    }

    private mutating func planToPeer(_ link: Int) {
        guard let state = links[link], !state.isPeerDue,
            broker.waitingBytes(state.connection) > 0
        else { return }
        links[link]?.isPeerDue = true
        at(delayUs(link), .toPeer(link: link))
    }

    /// How many bytes arrive at once.
    private mutating func piece() -> Int {
        // Tiny pieces for a while only: large bodies would take millions of steps.
        let most = network.chance(70) ? options.pieceBytesMax : max(options.pieceBytesMax, 3_000)
        return network.pick(1...most)
    }

    // MARK: Broker

    private mutating func planTurn() {
        guard !isTurnDue else { return }
        isTurnDue = true
        at(nowUs + UInt64(schedule.pick([1, 1, 20, 1_000])), .turn)
    }

    /// After bytes came in: mostly a turn at once, sometimes more bytes first.
    private mutating func afterBroker() {
        if schedule.chance(70) { turn() } else { planTurn() }
    }

    private mutating func turn() {
        broker.turn(nowUs: nowUs, wallUs: wallUs)
        readJournal()
        for (connection, bytes) in broker.takeSealed() {
            if bytes.isEmpty { tap.closed(connection) } else { tap.sealed(connection, bytes) }
        }
        let held = broker.heldBytes
        oracle.check(
            held.bodies <= options.limits.bodyArenaBytes
                + options.shards * options.limits.landingArenaBytes,
            "[I11] \(held.bodies) bytes of bodies")
        oracle.check(
            held.answers <= options.limits.answerArenaBytes, "[I11] \(held.answers) of answers")
        if broker.isDead { return brokerDied() }
        tap.check { broker.isOpen($0) && !broker.isClosing($0) }
        for link in links.indices {
            guard let state = links[link] else { continue }
            if !broker.isOpen(state.connection) { drop(link) } else { planToPeer(link) }
        }
        if isDraining, broker.openStreams == 0, !broker.hasWork { restartAfterDrain() }
        if !isBrokerDown, broker.hasWork { planTurn() }
    }

    private mutating func readJournal() {
        let instance = broker.instance
        while readRecords < instance.tail {
            oracle.published(instance.records[readRecords])
            readRecords += 1
        }
    }

    private func countRareBranches() {
        let counters = broker.counters
        oracle.count("quarantined", Int(counters.quarantinedSlots))
        oracle.count("late frames", Int(counters.lateFrames))
        oracle.count("discarded TOKENS", Int(counters.discardedTokenFrames))
        oracle.count("stalled readers", Int(counters.stalledReaders))
    }

    private mutating func brokerDied() {
        guard !isBrokerDown else { return }
        countRareBranches()
        oracle.note("the broker is dead")
        oracle.count("broker died")
        isBrokerDown = true
        isDraining = false
        graveyard.append(broker.instance)
        tap.brokerDied()
        for link in links.indices { drop(link) }
        at(nowUs + UInt64(faults.pick(1_000...3_000_000)), .restart)
    }

    private mutating func startBroker() {
        nextInstance += 1
        broker = InMemoryBroker(
            limits: options.limits,
            instance: InMemoryInstance(id: nextInstance, capacity: options.ringRecords),
            credentials: credentials, shardCount: options.shards,
            dispatcherIsAtShard0: !options.dispatcherIsApart, seed: seed, nowUs: nowUs,
            wallUs: wallUs)
        broker.keepsSealed = true
        readRecords = 0
        if options.brokerCrashes, !isHealed, faults.chance(20), !graveyard.isEmpty {
            broker.instance.die(afterWrites: faults.pick(1...12))
        }
        for index in graveyard.indices where graveyard[index].closedBy == 0 {
            var dead = graveyard[index]
            broker.close(&dead, all: graveyard)
            graveyard[index] = dead
            if broker.isDead { break }
        }
        readJournal()
        isBrokerDown = false
        if broker.isDead {
            oracle.count("closer died")
            return brokerDied()
        }
        oracle.note("broker \(nextInstance) is up")
    }

    private mutating func restartAfterDrain() {
        oracle.count("drained out")
        broker.instance.die(afterWrites: 0)
        brokerDied()
    }

    // MARK: Faults

    private mutating func fault() {
        guard !isHealed else { return }
        at(nowUs + UInt64(faults.pick(100_000...4_000_000)), .fault)
        let alive = links.indices.filter { links[$0] != nil }
        switch faults.pick(0...6) {
        case 0 where options.stalls && !alive.isEmpty:
            let link = faults.pick(alive)
            let forUs = UInt64(faults.pick([500_000, 3_000_000, 16_000_000, 40_000_000]))
            links[link]?.stalledUntilUs = nowUs + forUs
            oracle.note("connection \(links[link]?.connection ?? 0) stalls for \(forUs / 1_000) ms")
            oracle.count("stall")
        case 1 where options.resets && !alive.isEmpty:
            oracle.count("reset")
            reset(faults.pick(alive))
        case 2 where options.brokerCrashes && !isBrokerDown && faults.chance(40):
            broker.instance.die(afterWrites: faults.pick([0, 1, 2, 3, 4, 5, 8, 20]))
            turn()
        case 3 where options.drains && !isBrokerDown && !isDraining && faults.chance(70):
            isDraining = true
            oracle.count("drain")
            broker.drain(nowUs: nowUs)
            turn()
        case 4 where options.revocations && faults.chance(40):
            revoke(faults.pick(0...credentials.count - 1), isRevoked: true)
        case 5 where options.revocations:
            for index in credentials.indices { revoke(index, isRevoked: false) }
        default: break
        }
    }

    private mutating func revoke(_ index: Int, isRevoked: Bool) {
        guard credentials[index].isRevoked != isRevoked else { return }
        credentials[index].isRevoked = isRevoked
        oracle.note("credential \(index) revoked: \(isRevoked)")
        guard !isBrokerDown else { return }
        broker.credentialChanged(credentials[index], wallUs: wallUs)
        turn()
    }

    private mutating func heal() {
        isHealed = true
        oracle.note("healing")
        broker.instance.live()
        for index in credentials.indices { revoke(index, isRevoked: false) }
        for link in links.indices { links[link]?.stalledUntilUs = 0 }
        for peer in peers.indices {
            peers[peer].heal(nowUs: nowUs)
            if linkOfPeer[peer] != nil { pump(peer) }
        }
        for link in links.indices { planToBroker(link) }
    }

    // MARK: The end

    /// Nothing is going on any more.
    private var isQuiet: Bool {
        guard !isBrokerDown, !isDraining else { return false }
        guard clients.allSatisfy(\.isIdle), broker.openStreams == 0 else { return false }
        for (index, peer) in peers.enumerated() where peer.isHonest {
            guard let link = linkOfPeer[index] else { return false }
            guard links[link]?.toBroker.isEmpty == true,
                broker.waitingBytes(links[link]?.connection ?? 0) == 0
            else { return false }
        }
        return suppliers.allSatisfy { $0.grantedSlots > 0 }
            && stubborn.allSatisfy { $0.grantedSlots > 0 }
    }

    private var unrest: String {
        "down \(isBrokerDown), draining \(isDraining), open \(broker.openStreams), "
            + "clients \(clients.map(\.openTasks)), links \(linkOfPeer.map { $0 != nil })"
    }

    private mutating func checkNothingLeft() {
        // What came in last may not have had its turn yet.
        repeat { turn() } while broker.hasWork
        let held = broker.heldBytes
        oracle.check(held.bodies == 0 && held.answers == 0, "[I10] content is left: \(held)")
        oracle.check(broker.dispatcher.openTasks == 0, "[I12] the dispatcher has open tasks")
        oracle.check(broker.dispatcher.reservedBytes == 0, "[I11] arena bytes are still reserved")
        oracle.check(broker.instance.takenSlots == 0, "[I12] open-task slots are still taken")
        for (id, task) in oracle.tasks where task.acceptedRecords > 0 {
            oracle.check(task.ended != nil, "[I1] \(id) never ended")
        }
    }

    /// Every slot still works: as many tasks as there are slots run at once, and complete.
    private mutating func probe() {
        guard !options.tinyArena, !options.tinyQueue, !options.tinyRing, !options.tinyControl,
            stubborn.isEmpty
        else { return }
        let slots = suppliers.reduce(0) {
            $0 + min($1.grantedSlots, Int(options.limits.maxStreams))
        }
        let perClient = options.fewStreams ? 2 : min(16, max(1, slots))
        let wanted = options.models == 1 ? min(slots, perClient * clients.count) : 1
        var peak = 0
        // A breaker that faults have opened tries its supplier with one task at a time, after a
        // while: every slot is usable again once those have gone well.
        for round in 0..<6 where peak < wanted && oracle.failures.isEmpty {
            if round > 0 { run(untilUs: nowUs + 35_000_000) { _ in false } }
            peak = probe(perClient)
        }
        oracle.check(peak >= wanted, "[I12] only \(peak) of \(wanted) slots are usable")
        oracle.count("probed")
    }

    /// Runs so many tasks of each client at once; answers how many slots were used together.
    private mutating func probe(_ perClient: Int) -> Int {
        for supplier in suppliers { supplier.probe() }
        for (index, client) in clients.enumerated() {
            client.probe(perClient, nowUs: nowUs)
            if let peer = peers.firstIndex(where: { $0.identity == clients[index].identity }) {
                pump(peer)
            }
        }
        run(untilUs: nowUs + 100_000_000) { $0.clients.allSatisfy(\.isIdle) }
        for client in clients {
            oracle.check(
                client.probeEnds.count == perClient
                    && client.probeEnds.allSatisfy { $0 == .completed },
                "[I12] after healing tasks ended \(client.probeEnds)")
        }
        return suppliers.reduce(0) { $0 + $1.peakJobs }
    }

    private mutating func at(_ atUs: UInt64, _ event: Event) {
        timeline.add(event, atUs: atUs)
    }
}
