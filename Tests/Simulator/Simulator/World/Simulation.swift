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
    /// How long it was for those inside.
    package let simulatedUs: UInt64
    package let failures: [String]
    package let events: [String]
    package let sometimes: [String: Int]
    /// Places in the run's list of faults of those that had an effect.
    package let performedFaults: [Int]
}

/// One run: clients, suppliers, network, brokers with their files, disks and sidecars, and the store
/// in one thread, from one seed.
///
/// Faults run for a while; then everything heals, every accepted task must end and stand in the
/// store once, nothing may be left over, and every slot must still be usable.
package struct Simulation: ~Copyable {
    struct Link {
        var peer: Int
        var node: Int
        var connection: UInt32
        var toBroker: [UInt8] = []
        var isBrokerDue = false
        var isPeerDue = false
        /// Nothing passes until then, either way.
        var stalledUntilUs: UInt64 = 0
        /// The peer has gone and the broker was not told: it hears nothing any more.
        var isPeerGone = false
        /// What a sabotage makes of the peer's frames.
        var tampering: Tampering?
    }

    enum Event {
        case tick
        case turn(node: Int)
        case connect(peer: Int)
        case toBroker(link: Int)
        case toPeer(link: Int)
        case wake(peer: Int)
        case fault
        case restart(node: Int)
        case sidecar(node: Int)
        case storeUp
        case diskFreed(node: Int)
        /// The broker learns that the peer of a half-open link is gone.
        case discover(link: Int)
    }

    let seed: UInt64
    let options: SimulationOptions
    let oracle: Oracle
    var network: RandomStream
    var schedule: RandomStream
    var faults: RandomStream
    /// Sidecars, disks, store.
    var durability: RandomStream
    let sabotage: Sabotage?
    var faultCount = 0
    var performedFaults: [Int] = []
    var wasReset = false

    let nodes: [Node]
    var store: StoreModel
    var nextInstance: UInt64 = 1
    var credentials: [DirectoryCredential]

    var peers: [any Peer] = []
    var clients: [ClientPeer] = []
    var suppliers: [SupplierPeer] = []
    var stubborn: [StubbornSupplier] = []
    var wakeUs: [UInt64] = []
    /// By peer: its link, or nil while it is not connected.
    var linkOfPeer: [Int?] = []
    var isReconnecting: [Bool] = []
    var links: [Link?] = []
    var timeline = Timeline<Event>()
    var nowUs: UInt64 = 1_000_000
    var isHealed = false
    /// Only money and records are still on their way: time may pass faster.
    var isSettling = false
    /// Accounts compete for all slots, on purpose.
    var isCompeting = false
    var steps = 0

    static let wallOffsetUs: UInt64 = 1_790_000_000_000_000
    func wallUs(_ node: Node) -> UInt64 {
        UInt64(Int64(nowUs + Self.wallOffsetUs) + node.wallShiftUs)
    }

    package init(seed: UInt64, keepsEvents: Bool = false) {
        self.init(seed: seed, options: SimulationOptions(seed: seed), keepsEvents: keepsEvents)
    }

    package init(
        seed: UInt64, options: SimulationOptions, keepsEvents: Bool, sabotage: Sabotage? = nil
    ) {
        self.sabotage = sabotage
        self.seed = seed
        self.options = options
        oracle = Oracle(keepsEvents: keepsEvents)
        network = RandomStream(root: seed, name: "network")
        schedule = RandomStream(root: seed, name: "schedule")
        faults = RandomStream(root: seed, name: "faults")
        durability = RandomStream(root: seed, name: "durability")
        credentials = []
        let oracle = self.oracle
        nodes = (0..<options.brokers).map {
            Node(number: $0, oracle: oracle, limits: options.limits)
        }
        store = StoreModel(
            accounts: options.prepaid ? (0..<options.accounts).map { UInt64(100 + $0) } : [],
            sabotage: sabotage)
        addPeers()
        for node in nodes { startBroker(node) }
        topUp(2_000_000)
    }

    mutating func addPeers() {
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

    mutating func add(
        _ peer: any Peer, _ secret: [UInt8], account: UInt64, role: PeerRole
    ) {
        peers.append(peer)
        wakeUs.append(.max)
        linkOfPeer.append(nil)
        isReconnecting.append(false)
        let entry = DirectoryCredential(
            digest: InMemoryBroker.digest(of: secret), account: account,
            role: role == .client ? .client : .supplier,
            supplier: role == .supplier ? peer.identity : 0,
            needsAccount: options.prepaid && role == .client)
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
        for node in nodes { at(nowUs, .sidecar(node: node.number)) }
        at(nowUs + UInt64(faults.pick(200_000...3_000_000)), .fault)
        let healUs = nowUs + UInt64(options.faultsMs) * 1_000
        run(untilUs: healUs) { _ in false }
        heal()
        run(untilUs: healUs + 200_000_000) { $0.isQuiet }
        if oracle.failures.isEmpty {
            oracle.check(isQuiet, "[L1] not quiet 200 s after healing: \(unrest)")
        }
        if oracle.failures.isEmpty { checkNothingLeft() }
        if oracle.failures.isEmpty { checkOrder() }
        if oracle.failures.isEmpty { probe() }
        if oracle.failures.isEmpty { compete() }
        if oracle.failures.isEmpty { settle() }
        for node in nodes where !node.isBrokerDown { countRareBranches(node) }
        return SimulationResult(
            seed: seed, options: options, hash: oracle.hash.value, steps: steps,
            simulatedUs: nowUs, failures: oracle.failures, events: oracle.events,
            sometimes: oracle.sometimes,
            performedFaults: performedFaults)
    }

    mutating func run(
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

    mutating func perform(_ event: Event) {
        switch event {
        case .tick:
            at(nowUs + (isSettling ? 1_000_000 : 200_000), .tick)
            for peer in peers.indices where linkOfPeer[peer] != nil { wake(peer) }
            for node in nodes {
                checkAsleep(node)
                turn(node)
            }
        case .turn(let number):
            nodes[number].isTurnDue = false
            turn(nodes[number])
        case .connect(let peer): connect(peer)
        case .toBroker(let link): deliverToBroker(link)
        case .toPeer(let link): deliverToPeer(link)
        case .wake(let peer):
            // An earlier one was set meanwhile, and has come: it has set the next. Followed all the
            // same, each would set one more of its own.
            guard wakeUs[peer] <= nowUs else { return }
            wakeUs[peer] = .max
            guard linkOfPeer[peer] != nil else { return }
            wake(peer)
        case .fault: fault()
        case .restart(let number): startBroker(nodes[number])
        case .discover(let link): discover(link)
        case .sidecar(let number): sidecarTurn(nodes[number])
        case .storeUp: store.isDown = false
        case .diskFreed(let number): nodes[number].disk.isFull = false
        }
    }

    mutating func at(_ atUs: UInt64, _ event: Event) {
        timeline.add(event, atUs: atUs)
    }
}
