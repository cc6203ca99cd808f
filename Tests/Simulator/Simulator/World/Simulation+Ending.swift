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
            let inUse = node.broker.dispatcher.supply.slotsInUse
            oracle.check(
                inUse == node.tap.slotsInUse,
                "[I12] \(inUse) of the suppliers' slots are in use, \(node.tap.slotsInUse) streams open"
            )
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
}
