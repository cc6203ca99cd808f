import SluiceBrokerCore
import SluiceInMemory
import SluiceRecordFormat
import SluiceWire

/// What goes wrong, one thing after the other, until everything heals.
extension Simulation {
    /// The next fault of the run's list. Its numbers are its own, so that leaving one out shifts
    /// no other.
    mutating func fault() {
        guard !isHealed else { return }
        let number = faultCount
        faultCount += 1
        faults = RandomStream(root: seed &+ UInt64(number) &* 0x9E37_79B9_7F4A_7C15, name: "fault")
        at(nowUs + UInt64(faults.pick(100_000...4_000_000)), .fault)
        guard !options.skippedFaults.contains(number), strike() else { return }
        performedFaults.append(number)
    }

    /// One fault; false where the kind that was drawn cannot strike.
    private mutating func strike() -> Bool {
        let alive = links.indices.filter { links[$0].map { !$0.isPeerGone } ?? false }
        let node = faults.pick(nodes)
        switch faults.pick(0...11) {
        case 0 where options.stalls && !alive.isEmpty:
            stall(faults.pick(alive))
        case 1 where options.resets && !alive.isEmpty:
            oracle.count("reset")
            wasReset = true
            reset(faults.pick(alive))
        case 2 where options.brokerCrashes && !node.isBrokerDown && faults.chance(40):
            node.broker.instance.die(afterWrites: faults.pick([0, 1, 2, 3, 4, 5, 8, 20]))
            turn(node)
        case 3 where options.drains && !node.isBrokerDown && !node.isDraining && faults.chance(70):
            node.isDraining = true
            oracle.count("drain")
            // What crosses the broker's go-away is refused, and lost by nobody.
            for client in clients.indices where faults.chance(50) {
                clients[client].hurry(nowUs: nowUs)
                wake(client)
            }
            node.broker.drain(nowUs: nowUs)
            turn(node)
        case 4 where options.revocations && faults.chance(40):
            revoke(faults.pick(0...credentials.count - 1), isRevoked: true)
        case 5 where options.revocations:
            for index in credentials.indices { revoke(index, isRevoked: false) }
        case 6 where options.halfOpen && !alive.isEmpty:
            oracle.count("half-open link")
            halfOpen(faults.pick(alive))
        case 7 where options.clockJumps:
            jumpClock(node)
        case 8 where options.powerFailures && !node.isBrokerDown && faults.chance(50):
            losePower(node)
        case 9 where options.fullDisks:
            node.disk.isFull = true
            oracle.note("the disk of node \(node.number) is full")
            at(nowUs + UInt64(faults.pick(100_000...6_000_000)), .diskFreed(node: node.number))
        case 10 where options.storeFaults:
            store.isDown = true
            oracle.note("the store is down")
            at(nowUs + UInt64(faults.pick(100_000...6_000_000)), .storeUp)
        case 11 where options.prepaid:
            topUp(Int64(faults.pick([300, 5_000, 100_000])))
        default: return false
        }
        return true
    }

    private mutating func stall(_ link: Int) {
        let forUs = UInt64(faults.pick([500_000, 3_000_000, 16_000_000, 40_000_000]))
        links[link]?.stalledUntilUs = nowUs + forUs
        oracle.note("connection \(links[link]?.connection ?? 0) stalls for \(forUs / 1_000) ms")
        oracle.count("stall")
    }

    private mutating func jumpClock(_ node: Node) {
        let hourUs: Int64 = 3_600_000_000
        // Leases compare the clocks of several machines; they stand minutes, not hours.
        // One machine alone may be months off.
        node.wallShiftUs =
            options.prepaid
            ? faults.pick([-hourUs / 6, -1_000_000, 0, 1_000_000, hourUs / 6])
            : faults.pick(
                [-hourUs, -1_000_000, 0, hourUs]
                    + (nodes.count > 1 ? [] : [-2_160 * hourUs, 2_160 * hourUs]))
        oracle.note("node \(node.number)'s wall clock is \(node.wallShiftUs / 1_000_000) s off")
        oracle.count("clock jump")
    }

    mutating func revoke(_ index: Int, isRevoked: Bool) {
        guard credentials[index].isRevoked != isRevoked else { return }
        credentials[index].isRevoked = isRevoked
        oracle.note("credential \(index) revoked: \(isRevoked)")
        for node in nodes where !node.isBrokerDown {
            node.broker.credentialChanged(credentials[index], wallUs: wallUs(node))
            turn(node)
        }
    }

    mutating func heal() {
        isHealed = true
        oracle.note("healing")
        store.isDown = false
        for node in nodes {
            node.disk.isFull = false
            if !node.isBrokerDown { node.broker.instance.live() }
        }
        topUp(10_000_000_000)
        for index in credentials.indices { revoke(index, isRevoked: false) }
        for link in links.indices {
            links[link]?.stalledUntilUs = 0
            discover(link)
        }
        for peer in peers.indices {
            peers[peer].heal(nowUs: nowUs)
            if linkOfPeer[peer] != nil { pump(peer) }
        }
        for link in links.indices { planToBroker(link) }
    }
}
