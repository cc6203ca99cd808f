import SluiceBrokerCore
import SluiceInMemory
import SluiceRecordFormat
import SluiceWire

/// The network: connections, bytes cut anywhere, links of which one side is gone.
extension Simulation {
    mutating func wake(_ peer: Int) {
        peers[peer].wake(nowUs: nowUs)
        pump(peer)
    }

    /// Moves what the peer wants to say into its link and plans its next wake.
    mutating func pump(_ peer: Int) {
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

    mutating func connect(_ peer: Int) {
        isReconnecting[peer] = false
        if sabotage == .neverReconnected, isHealed { return }
        guard linkOfPeer[peer] == nil, !(isHealed && !peers[peer].isHonest) else { return }
        let node = home(of: peer)
        guard !node.isBrokerDown, let connection = node.broker.connect(nowUs: nowUs) else {
            return reconnect(peer)
        }
        node.isTouched = true
        // The number may be that of a connection whose end was sealed and not read yet.
        readJournal(node)
        readSealed(node)
        node.tap.opened(
            connection, isHonest: peers[peer].isHonest, identity: peers[peer].identity)
        let link = links.count
        links.append(Link(peer: peer, node: node.number, connection: connection))
        if let sabotage, sabotage.isOfWhatBrokerReads, peers[peer].isHonest {
            links[link]?.tampering = Tampering(sabotage)
        }
        linkOfPeer[peer] = link
        oracle.note("peer \(peers[peer].identity) on connection \(connection)")
        peers[peer].connected(nowUs: nowUs)
        pump(peer)
    }

    /// Suppliers keep to their broker, so that each has one; everyone else goes to any.
    private mutating func home(of peer: Int) -> Node {
        let supplier = peer - clients.count
        let isSupplier = supplier >= 0 && supplier < options.suppliers
        return nodes[isSupplier ? supplier % nodes.count : network.pick(0...nodes.count - 1)]
    }

    mutating func reconnect(_ peer: Int) {
        guard !isReconnecting[peer] else { return }
        isReconnecting[peer] = true
        at(nowUs + UInt64(schedule.pick(1_000...2_000_000)), .connect(peer: peer))
    }

    /// The link is gone for the peer; the broker was or is told by the caller.
    mutating func drop(_ link: Int) {
        guard let state = links[link] else { return }
        links[link] = nil
        oracle.note("connection \(state.connection) is gone")
        guard !state.isPeerGone else { return }
        linkOfPeer[state.peer] = nil
        peers[state.peer].disconnected(nowUs: nowUs)
        reconnect(state.peer)
    }

    mutating func reset(_ link: Int) {
        guard let state = links[link] else { return }
        nodes[state.node].broker.disconnected(state.connection, nowUs: nowUs)
        drop(link)
        afterBroker(nodes[state.node])
    }

    /// The peer loses its connection; the broker goes on as if it had not.
    mutating func halfOpen(_ link: Int) {
        guard let state = links[link], !state.isPeerGone else { return }
        links[link]?.isPeerGone = true
        linkOfPeer[state.peer] = nil
        oracle.note("connection \(state.connection) is half open")
        peers[state.peer].disconnected(nowUs: nowUs)
        reconnect(state.peer)
        // The kernel finds out after a while, if the broker's own keep-alive has not before.
        let forUs = faults.pick([300_000, 5_000_000, 60_000_000])
        at(nowUs + UInt64(forUs), .discover(link: link))
    }

    mutating func discover(_ link: Int) {
        guard let state = links[link], state.isPeerGone else { return }
        links[link] = nil
        nodes[state.node].broker.disconnected(state.connection, nowUs: nowUs)
        afterBroker(nodes[state.node])
    }

    mutating func delayUs(_ link: Int) -> UInt64 {
        let stalledUs = links[link]?.stalledUntilUs ?? 0
        return max(nowUs, stalledUs)
            + UInt64(
                network.pick(1...(isHealed ? min(options.delayUsMax, 2_000) : options.delayUsMax)))
    }

    mutating func planToBroker(_ link: Int) {
        guard let state = links[link], !state.isBrokerDue, !state.isPeerGone else { return }
        guard !state.toBroker.isEmpty || peers[state.peer].isOver else { return }
        links[link]?.isBrokerDue = true
        at(delayUs(link), .toBroker(link: link))
    }

    mutating func deliverToBroker(_ link: Int) {
        guard let state = links[link], !state.isPeerGone else { return }
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
        let node = nodes[state.node]
        if !node.broker.isClosing(state.connection) { node.tap.received(state.connection, bytes) }
        let read = links[link]?.tampering?.read(bytes) ?? bytes
        node.broker.receive(state.connection, read, nowUs: nowUs)
        pump(state.peer)
        afterBroker(node)
    }

    mutating func deliverToPeer(_ link: Int) {
        guard let state = links[link], !state.isPeerGone else { return }
        links[link]?.isPeerDue = false
        guard state.stalledUntilUs <= nowUs else { return planToPeer(link) }
        let bytes = nodes[state.node].broker.take(state.connection, atMost: piece())
        guard !bytes.isEmpty else { return }
        oracle.hash.add(bytes)
        peers[state.peer].receive(bytes, nowUs: nowUs)
        pump(state.peer)
        planToPeer(link)
        planTurn(nodes[state.node])
    }

    mutating func planToPeer(_ link: Int) {
        guard let state = links[link], !state.isPeerDue, !state.isPeerGone,
            nodes[state.node].broker.waitingBytes(state.connection) > 0
        else { return }
        links[link]?.isPeerDue = true
        at(delayUs(link), .toPeer(link: link))
    }

    /// How many bytes arrive at once.
    mutating func piece() -> Int {
        // Tiny pieces for a while only: large bodies would take millions of steps.
        let most = network.chance(70) ? options.pieceBytesMax : max(options.pieceBytesMax, 3_000)
        return network.pick(1...most)
    }
}
