import SluiceBrokerCore
import SluiceInMemory
import SluiceRecordFormat
import SluiceWire

/// After healing: everything ends, nothing is left, every slot can still be used.
extension Simulation {
    /// Nothing is going on any more.
    var isQuiet: Bool {
        for node in nodes {
            guard !node.isBrokerDown, !node.isDraining, node.broker.openStreams == 0 else {
                return false
            }
        }
        guard clients.allSatisfy(\.isIdle) else { return false }
        for (index, peer) in peers.enumerated() where peer.isHonest {
            guard let link = linkOfPeer[index], let state = links[link] else { return false }
            guard state.toBroker.isEmpty,
                nodes[state.node].broker.waitingBytes(state.connection) == 0
            else { return false }
        }
        return suppliers.allSatisfy { $0.grantedSlots > 0 }
            && stubborn.allSatisfy { $0.grantedSlots > 0 }
    }

    var unrest: String {
        "down \(nodes.map(\.isBrokerDown)), draining \(nodes.map(\.isDraining)), "
            + "open \(nodes.map { $0.broker.openStreams }), "
            + "clients \(clients.map(\.openTasks)), links \(linkOfPeer.map { $0 != nil })"
    }

    mutating func checkNothingLeft() {
        for node in nodes {
            // What came in last may not have had its turn yet.
            repeat { turn(node) } while node.broker.hasWork
            let held = node.broker.heldBytes
            oracle.check(held.bodies == 0 && held.answers == 0, "[I10] content is left: \(held)")
            let dispatcher = node.broker.dispatcher.openTasks
            oracle.check(dispatcher == 0, "[I12] the dispatcher has open tasks")
            let reserved = node.broker.dispatcher.reservedBytes
            oracle.check(reserved == 0, "[I11] arena bytes are still reserved")
            let slots = node.broker.instance.takenSlots
            oracle.check(slots == 0, "[I12] open-task slots are still taken")
        }
        for (id, task) in oracle.tasks where task.acceptedRecords > 0 {
            oracle.check(
                task.ended != nil || task.isForgiven || task.isCutOff, "[I1] \(id) never ended")
        }
    }

    /// Every record reaches the store, every lease goes back.
    mutating func settle() {
        isSettling = true
        // What a power failure left open ends when no task could last longer; leases go back
        // once they have been idle.
        if options.powerFailures, options.clockJumps, !options.prepaid {
            // Records of a clock that was months ahead come of age.
            for node in nodes { node.wallShiftUs = 2 * 2_160 * 3_600_000_000 }
        }
        let patienceUs: UInt64 = options.powerFailures ? 2_000_000_000 : 900_000_000
        run(untilUs: nowUs + patienceUs) { $0.isSettled }
        oracle.check(isSettled, "[L5] not settled: \(unsettled)")
        if oracle.failures.isEmpty { checkRecords() }
        oracle.count("settled", store.wallets.settled.count)
    }

    /// Every slot still works: as many tasks as there are slots run at once, and complete.
    mutating func probe() {
        guard !options.tinyArena, !options.tinyQueue, !options.tinyRing, !options.tinyControl,
            stubborn.isEmpty
        else { return }
        let slots = suppliers.reduce(0) {
            $0 + min($1.grantedSlots, Int(options.limits.maxStreams))
        }
        let perClient = options.fewStreams ? 2 : min(16, max(1, slots))
        // With several brokers clients may all be at one of them.
        let wanted =
            options.models == 1 && nodes.count == 1 ? min(slots, perClient * clients.count) : 1
        // A sidecar may still be in the pause of a slow one, or down, and a task that waits for its
        // account's lease for longer than its limit is told to come again.
        if options.prepaid { run(untilUs: nowUs + 5_000_000) { _ in false } }
        var peak = 0
        // A breaker that faults have opened tries its supplier with one task at a time, after a
        // while: every slot is usable again once those have gone well.
        for round in 0..<6 where peak < wanted && oracle.failures.isEmpty {
            if round > 0 { run(untilUs: nowUs + 35_000_000) { _ in false } }
            peak = probe(perClient)
        }
        guard oracle.failures.isEmpty else { return }
        oracle.check(peak >= wanted, "[I12] only \(peak) of \(wanted) slots are usable")
        oracle.count("probed")
    }

    /// Runs so many tasks of each client at once; answers how many slots were used together.
    mutating func probe(_ perClient: Int) -> Int {
        for supplier in suppliers { supplier.probe() }
        for (index, client) in clients.enumerated() {
            client.probe(perClient, nowUs: nowUs)
            if let peer = peers.firstIndex(where: { $0.identity == clients[index].identity }) {
                pump(peer)
            }
        }
        run(untilUs: nowUs + 100_000_000) { $0.clients.allSatisfy(\.isIdle) }
        guard oracle.failures.isEmpty else { return 0 }
        for client in clients {
            oracle.check(
                client.probeEnds.count == perClient
                    && client.probeEnds.allSatisfy { $0 == .completed },
                "[I12] after healing tasks ended \(client.probeEnds)")
        }
        return suppliers.reduce(0) { $0 + $1.peakJobs }
    }
}
