import SluiceBrokerCore
import SluiceInMemory
import SluiceLedgerCore
import SluiceRecordFormat
import SluiceWire

/// Several brokers on the same wallets, one sidecar with its store, and clients who spend more
/// than they have: from one seed, in one thread.
///
/// Brokers and sidecar die at any write, entries of the directory come late, wallets are nearly
/// empty most of the time. After every step the rules of money are checked; at the end all tasks
/// end, all records are settled, and every lease is given back.
package struct MoneySimulation: ~Copyable {
    /// One place where brokers run, one after the other.
    private final class Node {
        var broker: InMemoryBroker
        var graveyard: [InMemoryInstance] = []
        /// Changes of the directory that it has seen.
        var seen = 0

        init(_ broker: consuming InMemoryBroker) {
            self.broker = broker
        }
    }

    private let seed: UInt64
    private let options: MoneyOptions
    private let nodes: [Node]
    private let clients: [MoneyClient]
    private let suppliers: [MoneySupplier]
    private let accounts: [UInt64] = [100, 101]
    private let credentials: [DirectoryCredential]
    private let crashes: Bool
    private let market: [DirectoryEntry]
    private var model: WalletModel
    /// Of this step alone.
    private var random: RandomStream
    private var nowUs: UInt64 = 1_000_000
    private var nextInstance: UInt64 = 1
    private var hash = RollingHash()
    private let faults = Faults()
    private var sometimes: [String: Int] = [:]
    private var steps = 0
    private let keepsEvents: Bool
    private var events: [String] = []

    /// What was found wrong; shared, so that a check may look at everything else.
    private final class Faults {
        var texts: [String] = []
    }

    private var failures: [String] { faults.texts }

    private static let wallOffsetUs: UInt64 = 1_790_000_000_000_000
    private var wallUs: UInt64 { nowUs + Self.wallOffsetUs }
    private var wallMs: UInt64 { wallUs / 1_000 }

    /// `sabotage` breaks a rule, for the checks to find.
    package init(
        seed: UInt64, options: MoneyOptions = MoneyOptions(), keepsEvents: Bool = false,
        sabotage: String? = nil
    ) {
        self.seed = seed
        self.options = options
        self.keepsEvents = keepsEvents
        random = RandomStream(root: seed, name: "money")
        crashes = random.chance(60)
        let nodeCount = random.pick(2...3)
        var clients: [MoneyClient] = []
        var suppliers: [MoneySupplier] = []
        var credentials: [DirectoryCredential] = []
        for number in 0..<random.pick(2...5) {
            let account = UInt64(100 + number % 2)
            let secret = Array("key-\(account)".utf8)
            clients.append(MoneyClient(account: account, secret: secret))
            credentials.append(
                DirectoryCredential(
                    digest: InMemoryBroker.digest(of: secret), account: account, role: .client,
                    needsAccount: true))
        }
        for number in 0..<nodeCount * 2 {
            let secret = Array("token-\(number)".utf8)
            let price = Int64(random.pick([0, 100_000, 1_000_000, 2_000_000]))
            suppliers.append(MoneySupplier(node: number % nodeCount, secret: secret, price: price))
            credentials.append(
                DirectoryCredential(
                    digest: InMemoryBroker.digest(of: secret), account: 900, role: .supplier,
                    supplier: UInt64(number + 1)))
        }
        var market = [UInt64(100), 101].map { number in
            DirectoryEntry.account(DirectoryAccount(account: number, isPrepaid: true))
        }
        if random.chance(50) {
            let basisPoints = UInt32(random.pick([1, 500, 10_000]))
            market.append(.fee(DirectoryFee(basisPoints: basisPoints, effectiveFromMs: 0)))
        }
        if random.chance(30) {
            let prices = PriceList(
                input: 1_000_000, cached: 500_000, output: 2_500_000, reasoning: 2_500_000)
            market.append(
                .price(
                    DirectoryPrice(
                        model: simulatedModel(0), prices: prices,
                        effectiveFromMs: Self.wallOffsetUs / 1_000 + 30_000)))
        }
        self.clients = clients
        self.suppliers = suppliers
        self.credentials = credentials
        self.market = market
        model = WalletModel(
            accounts: accounts, sabotage: sabotage.flatMap { WalletModel.Sabotage(rawValue: $0) })
        var nodes: [Node] = []
        for _ in 0..<nodeCount {
            nextInstance += 1
            nodes.append(
                Node(
                    Self.broker(
                        nextInstance, seed: seed, credentials, market, nowUs: nowUs,
                        wallUs: nowUs + Self.wallOffsetUs)))
        }
        self.nodes = nodes
        for account in accounts { topUp(account) }
    }

    /// The names of the rules that `sabotage` can break.
    package static var sabotages: [String] { WalletModel.Sabotage.allCases.map(\.rawValue) }

    private static func broker(
        _ id: UInt64, seed: UInt64, _ credentials: [DirectoryCredential],
        _ market: [DirectoryEntry], nowUs: UInt64, wallUs: UInt64
    ) -> InMemoryBroker {
        var limits = BrokerLimits()
        limits.connections = 16
        limits.openTasks = 64
        limits.affinityEntries = 16
        return InMemoryBroker(
            limits: limits, instance: InMemoryInstance(id: id, capacity: 8_192),
            credentials: credentials, directory: market, seed: seed &+ id, nowUs: nowUs,
            wallUs: wallUs)
    }

    // MARK: Running

    package consuming func run() -> MoneyResult {
        while steps < options.steps, failures.isEmpty { step() }
        if failures.isEmpty { end() }
        return MoneyResult(
            seed: seed, options: options, hash: hash.value, steps: steps, simulatedUs: nowUs,
            failures: failures, events: events, sometimes: sometimes)
    }

    private mutating func step() {
        steps += 1
        random = RandomStream(
            root: seed &+ UInt64(steps) &* 0x9E37_79B9_7F4A_7C15, name: "money step")
        if !options.skipped.contains(steps) { act() }
        pump()
        check()
        hash.add(nowUs)
        hash.add(UInt64(bitPattern: model.charged.rawValue))
    }

    private mutating func act() {
        switch random.pick(0...99) {
        case 0..<26:
            let client = random.pick(clients)
            note("a client of \(client.account) submits")
            if client.isWelcomed { client.submit(&random, nowMs: nowUs / 1_000) }
        case 26..<55:
            note("a supplier goes on")
            random.pick(suppliers).step(&random, endsAll: false)
        case 55..<68: sidecar()
        case 68..<80:
            let node = random.pick(0...nodes.count - 1)
            note("node \(node) reads the directory")
            readDirectory(node)
        case 80..<83:
            note("a client cancels")
            random.pick(clients).cancel(&random)
        case 83:
            note("a client hangs up")
            hangUp(random.pick(clients))
        case 84: loseSupplier(random.pick(suppliers))
        case 85 where crashes:
            let node = random.pick(0...nodes.count - 1)
            note("node \(node) dies within some writes")
            nodes[node].broker.instance.die(afterWrites: random.pick([0, 1, 2, 3, 5, 9]))
        case 86: topUp(random.pick(accounts))
        case 87: pass(random.pick([700_000, 20_000_000, 70_000_000]))
        case 88 where model.sabotage == .closeLiving:
            note("the lease of a living instance is closed")
            model.closeLiving(nodes[0].broker.instance.id, nowMs: wallMs)
        default: pass(random.pick([1_000, 6_000, 6_000, 90_000]))
        }
    }

    private mutating func pass(_ timeUs: Int) {
        note("\(timeUs / 1_000) ms pass")
        nowUs += UInt64(timeUs)
    }

    private mutating func loseSupplier(_ supplier: MoneySupplier) {
        guard let connection = supplier.connection else { return }
        note("a supplier is lost")
        nodes[supplier.node].broker.disconnected(connection, nowUs: nowUs)
        supplier.disconnected()
        // It comes back dearer or cheaper: what is queued was admitted at other prices.
        if random.chance(70) {
            supplier.price = Int64(random.pick([0, 100_000, 2_000_000, 40_000_000]))
        }
    }

    private mutating func note(_ event: @autoclosure () -> String) {
        if keepsEvents { events.append("step \(steps)  \(event())") }
    }

    private mutating func topUp(_ account: UInt64) {
        let amount = MicroUSD(Int64(random.pick([300, 5_000, 30_000])))
        note("\(amount.rawValue) for \(account)")
        model.topUp(amount, of: account, nowMs: wallMs)
    }

    private func hangUp(_ client: MoneyClient) {
        guard let place = client.place else { return }
        nodes[place.node].broker.disconnected(place.connection, nowUs: nowUs)
        client.disconnected()
    }

    // MARK: Sidecar

    /// One transaction over all journals; then the directory catches up. It may die in between.
    private mutating func sidecar(mayDie: Bool = true) {
        note("the sidecar copies")
        let before = model
        for node in nodes {
            for instance in node.graveyard + [node.broker.instance] {
                model.apply(
                    instance.records.prefix(instance.tail), node: 0, nowMs: wallMs)
            }
            for dead in node.graveyard where dead.closedBy != 0 {
                model.closeLeases(of: dead.id, tail: dead.tail, nowMs: wallMs)
            }
        }
        if mayDie, random.chance(10) {
            note("and dies before its commit")
            count("sidecar died before its commit")
            model = before
            return
        }
        for node in nodes where !node.broker.isDead { node.broker.instance.release() }
        if mayDie, random.chance(10) { return count("sidecar died before the directory") }
        model.publish()
    }

    /// A broker looks at the directory.
    private mutating func readDirectory(_ index: Int) {
        let node = nodes[index]
        for entry in model.changes[node.seen..<max(node.seen, model.published)] {
            node.broker.directoryChanged(.lease(entry), wallUs: wallUs)
        }
        node.seen = max(node.seen, model.published)
    }

    // MARK: Brokers and peers

    private mutating func pump() {
        for index in nodes.indices where nodes[index].broker.isDead { restart(index) }
        connect()
        var isMoving = true
        var rounds = 0
        while isMoving, rounds < 60 {
            rounds += 1
            isMoving = false
            for node in nodes {
                repeat { node.broker.turn(nowUs: nowUs, wallUs: wallUs) } while node.broker.hasWork
            }
            for client in clients { if move(client) { isMoving = true } }
            for supplier in suppliers { if move(supplier) { isMoving = true } }
        }
        for index in nodes.indices where nodes[index].broker.isDead { restart(index) }
    }

    private func move(_ client: MoneyClient) -> Bool {
        guard let place = client.place else { return false }
        let node = nodes[place.node]
        client.tick(nowMs: nowUs / 1_000)
        let sent = client.output(nowMs: nowUs / 1_000)
        if !sent.isEmpty { node.broker.receive(place.connection, sent, nowUs: nowUs) }
        let taken = node.broker.take(place.connection, atMost: 1 << 20)
        if !taken.isEmpty { client.receive(taken, nowMs: nowUs / 1_000) }
        guard node.broker.isOpen(place.connection) else {
            client.disconnected()
            return true
        }
        return !sent.isEmpty || !taken.isEmpty
    }

    private func move(_ supplier: MoneySupplier) -> Bool {
        guard let connection = supplier.connection else { return false }
        let node = nodes[supplier.node]
        supplier.tick(nowMs: nowUs / 1_000)
        let sent = supplier.output(nowMs: nowUs / 1_000)
        if !sent.isEmpty { node.broker.receive(connection, sent, nowUs: nowUs) }
        let taken = node.broker.take(connection, atMost: 1 << 20)
        if !taken.isEmpty { supplier.receive(taken, nowMs: nowUs / 1_000) }
        guard node.broker.isOpen(connection) else {
            supplier.disconnected()
            return true
        }
        return !sent.isEmpty || !taken.isEmpty
    }

    private mutating func connect() {
        for supplier in suppliers where supplier.connection == nil {
            supplier.connection = nodes[supplier.node].broker.connect(nowUs: nowUs)
            if supplier.connection != nil { supplier.connected(nowMs: nowUs / 1_000) }
        }
        for client in clients where client.place == nil {
            let node = random.pick(0...nodes.count - 1)
            guard let connection = nodes[node].broker.connect(nowUs: nowUs) else { continue }
            client.place = (node, connection)
            client.connected(nowMs: nowUs / 1_000)
        }
    }

    private mutating func restart(_ index: Int) {
        let node = nodes[index]
        note("broker \(node.broker.instance.id) of node \(index) is dead")
        count("broker died")
        let dead = node.broker.instance
        node.graveyard.append(dead)
        for client in clients where client.place?.node == index { client.disconnected() }
        for supplier in suppliers where supplier.node == index && supplier.connection != nil {
            supplier.disconnected()
        }
        nextInstance += 1
        node.broker = Self.broker(
            nextInstance, seed: seed, credentials, market, nowUs: nowUs, wallUs: wallUs)
        for place in node.graveyard.indices where node.graveyard[place].closedBy == 0 {
            var dead = node.graveyard[place]
            node.broker.close(&dead, all: node.graveyard)
            node.graveyard[place] = dead
        }
        // It reads the directory from its snapshot on.
        node.seen = 0
        readDirectory(index)
    }

    // MARK: Checks

    private func check() {
        faults.texts += model.failures
        expect(model.ledger.sum == 0, "the ledger's sum is \(model.ledger.sum.debugDescription)")
        expect(model.ledger.negativeAccounts.isEmpty, "\(model.ledger.negativeAccounts) below 0")
        expect(model.lost == 0, "the platform lost \(model.lost)")
        for client in clients { expect(client.failure == nil, client.failure ?? "") }
        for account in accounts {
            guard let wallet = model.wallets[account] else { continue }
            expect(wallet.available >= 0, "more of \(account) is leased than there is")
            expect(
                wallet.balance == model.ledger.balance(of: .consumer(account)),
                "wallet and ledger of \(account) differ")
            for node in nodes {
                guard let lease = node.broker.dispatcher.lease(ofAccount: account) else { continue }
                let held = node.broker.dispatcher.heldForTasks(ofAccount: account)
                expect(lease.held == held, "\(lease.held) held for tasks that hold \(held)")
                let row = wallet.leases.first { $0.instance == node.broker.instance.id }
                expect(
                    lease.granted <= row?.granted ?? 0,
                    "\(account) at a broker has \(lease.granted) of \(row?.granted ?? 0) granted")
                expect(lease.returned >= row?.returned ?? 0, "more was returned than given back")
            }
        }
        let owed = accounts.reduce(Int64(0)) {
            $0 + (model.wallets[$1]?.balance.rawValue ?? 0)
        }
        expect(
            owed + model.charged.rawValue == model.paidIn.rawValue,
            "paid in \(model.paidIn), charged \(model.charged), left \(owed)")
    }

    private func expect(_ holds: Bool, _ text: @autoclosure () -> String) {
        if !holds { faults.texts.append("step \(steps): \(text())") }
    }

    private mutating func count(_ name: String) { sometimes[name, default: 0] += 1 }

    // MARK: The end

    /// Faults are over: everything ends, is settled, and goes back to the wallets.
    private mutating func end() {
        for node in nodes { node.broker.instance.live() }
        for _ in 0..<200 where failures.isEmpty {
            steps += 1
            for supplier in suppliers {
                while !supplier.isIdle { supplier.step(&random, endsAll: true) }
            }
            sidecar(mayDie: false)
            for index in nodes.indices { readDirectory(index) }
            nowUs += 2_000_000
            pump()
            check()
        }
        sidecar(mayDie: false)
        for node in nodes {
            expect(node.broker.dispatcher.openTasks == 0, "tasks are open at the end")
        }
        for client in clients {
            expect(client.open.isEmpty, "a client waits for its END")
            for code in client.ends { count("end \(code)") }
        }
        for node in nodes {
            let counters = node.broker.dispatcher.counters
            sometimes["lease waits", default: 0] += Int(counters.leaseWaits)
            sometimes["lease asks", default: 0] += Int(counters.leaseAsks)
            sometimes["holds refused", default: 0] += Int(counters.holdsRefused)
            sometimes["queued lease waits", default: 0] += Int(counters.queuedLeaseWaits)
            sometimes["queued lease grants", default: 0] += Int(counters.queuedLeaseGrants)
        }
        for account in accounts {
            guard let wallet = model.wallets[account] else { continue }
            expect(
                wallet.available == wallet.balance,
                "\(wallet.balance.rawValue - wallet.available.rawValue) of \(account) is still leased"
            )
        }
        let accepted = nodes.reduce(0) { sum, node in
            sum
                + (node.graveyard + [node.broker.instance]).reduce(0) {
                    $0 + $1.records.prefix($1.tail).count { $0.kind == .accepted }
                }
        }
        expect(
            accepted == model.settled.count, "\(accepted) accepted, \(model.settled.count) settled")
        sometimes["settled", default: 0] += model.settled.count
    }
}

/// What one seed of the money came to.
package struct MoneyResult: Sendable {
    package let seed: UInt64
    package let options: MoneyOptions
    package let hash: UInt64
    package let steps: Int
    package let simulatedUs: UInt64
    package let failures: [String]
    package let events: [String]
    package let sometimes: [String: Int]
}
