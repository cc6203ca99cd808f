import SluiceBrokerCore
import SluiceInMemory
import SluiceWire

/// After healing every slot can be used again, and those who want them all take turns.
extension Simulation {
    /// Where as many tasks as there are slots can run, and nothing but time keeps them from it.
    private var isAmple: Bool {
        !options.tinyArena && !options.tinyQueue && !options.tinyRing && !options.tinyControl
            && stubborn.isEmpty
    }

    /// As many tasks as there are slots run at once, and complete.
    mutating func probe() {
        guard isAmple else { return }
        let slots = suppliers.reduce(0) {
            $0 + min($1.grantedSlots, Int(options.limits.maxStreams))
        }
        let perClient = options.fewStreams ? 2 : min(16, max(1, slots))
        // A sidecar may still be in the pause of a slow one, or down, and a task that waits for its
        // account's lease for longer than its limit is told to come again.
        if options.prepaid { run(untilUs: nowUs + 5_000_000) { _ in false } }
        // A breaker that faults have opened tries its supplier with one task at a time, after a
        // while: every slot is usable again once those have gone well.
        var unused = ""
        for round in 0..<6 where oracle.failures.isEmpty {
            if round > 0 { run(untilUs: nowUs + 35_000_000) { _ in false } }
            submitProbes(perClient, taskUs: 1_000_000, inputTokens: 7)
            unused = nodes.compactMap { unusedSlots($0, perClient) }.joined(separator: ", ")
            if unused.isEmpty { break }
        }
        guard oracle.failures.isEmpty else { return }
        let hasOpened = nodes.contains { $0.broker.dispatcher.counters.breakersOpened > 0 }
        let rule = hasOpened ? "[L4]" : "[I12]"
        oracle.check(unused.isEmpty, "\(rule) only \(unused) slots are usable")
        checkBreakers()
        oracle.count("probed")
    }

    /// Runs so many tasks of each client at once; suppliers make them as long as it says.
    private mutating func submitProbes(_ perClient: Int, taskUs: UInt64, inputTokens: UInt32) {
        for supplier in suppliers { supplier.probe(taskUs: taskUs, inputTokens: inputTokens) }
        for (index, client) in clients.enumerated() {
            client.probe(perClient, nowUs: nowUs)
            if let peer = peers.firstIndex(where: { $0.identity == clients[index].identity }) {
                pump(peer)
            }
        }
        run(untilUs: nowUs + 100_000_000) { $0.clients.allSatisfy(\.isIdle) }
        guard oracle.failures.isEmpty else { return }
        for client in clients {
            oracle.check(
                client.probeEnds.count == perClient
                    && client.probeEnds.allSatisfy { $0 == .completed },
                "[I12] after healing tasks ended \(client.probeEnds)")
        }
    }

    /// Nil where as many slots of a node were used together as its clients had tasks for.
    private func unusedSlots(_ node: Node, _ perClient: Int) -> String? {
        let local = Set(links.compactMap { $0 }.filter { $0.node == node.number }.map(\.peer))
        let identities = Set(local.map { peers[$0].identity })
        let suppliers = suppliers.filter { identities.contains($0.identity) }
        let clientCount = clients.count { identities.contains($0.identity) }
        guard clientCount > 0 else { return nil }
        let peak = suppliers.reduce(0) { $0 + $1.peakJobs }
        var wanted = 0
        for model in 0..<options.models {
            let slots = suppliers.reduce(0) { $0 + $1.grantedSlots(ofModel: model) }
            wanted += min(slots, perClient / options.models * clientCount)
        }
        let connections = suppliers.reduce(0) {
            $0 + min($1.grantedSlots, Int(options.limits.maxStreams))
        }
        // Slots that models share may be taken so that one of them stays free.
        if options.models > 1, options.fewStreams { wanted = min(wanted, 1) }
        wanted = min(wanted, connections)
        return peak >= wanted ? nil : "\(peak) of \(wanted)"
    }

    /// [L4]: every breaker lets tasks through again once its back-off is over.
    private mutating func checkBreakers() {
        run(untilUs: nowUs + 60_000_000) {
            $0.nodes.allSatisfy { $0.broker.dispatcher.breakersOpen == 0 }
        }
        for node in nodes where oracle.failures.isEmpty {
            let open = node.broker.dispatcher.breakersOpen
            oracle.check(open == 0, "[L4] \(open) breakers are open after their back-off")
            if node.broker.dispatcher.counters.breakersOpened > 0 {
                oracle.count("breakers closed again")
            }
        }
    }

    // MARK: Waiting

    /// [L2]: the order inside accounts, over the whole run.
    mutating func checkOrder() {
        // Who waits for money lets others go first.
        if !options.prepaid { oracle.checkOrder() }
    }

    /// [L2]: every client has far more equal tasks than there are slots, and accounts take turns.
    mutating func compete() {
        let slots = suppliers.reduce(0) { $0 + $1.grantedSlots }
        let tasks = 60
        // What a task used is charged when it ends: until then an account may take all slots, and
        // another gets as many in its turn. A byzantine supplier's claims may put an account far
        // behind, which fades in time.
        let atMost = 3 * slots + 6
        guard isAmple, nodes.count == 1, options.models == 1, !options.fewStreams,
            !options.prepaid, !options.byzantine, min(options.accounts, clients.count) > 1,
            atMost < tasks / 2
        else { return }
        isCompeting = true
        let sinceUs = nowUs
        // So much is charged for each that what was charged before hardly counts.
        submitProbes(tasks, taskUs: 100_000, inputTokens: 50_000)
        isCompeting = false
        guard oracle.failures.isEmpty else { return }
        oracle.checkFairness(sinceUs: sinceUs, atMost: atMost)
    }
}
