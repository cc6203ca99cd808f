import ContentArena
import LinuxIO
import LockFree
import SecureTransport
import SluiceBrokerCore
import SluiceWire
import Synchronization

// What shards hand to each other: TOKENS frames in parcels, messages of tasks, connections.
extension BrokerLoop where Backend: ~Copyable {
    /// Parcels of one other shard that are looked at in one turn.
    private static var parcelsPerTurn: Int { 64 }

    // MARK: Out

    mutating func relayTokens(
        to target: Int, headerWord: UInt64, client: UInt32, payload: Range<Int>
    ) {
        if !content.hasParcelRoom(target, payloadBytes: payload.count) { sendParcel(to: target) }
        content.packTokens(target, headerWord: headerWord, client: client, payload: payload)
    }

    /// Messages go behind the frames that came before them.
    mutating func relay(_ message: RelayMessage, to target: Int) {
        sendParcel(to: target)
        var body = ChunkQueue()
        if case .open(let opening) = message { body = content.lendBody(opening.client.index) }
        parcelOutlets[target].send(.message(message, body: body))
    }

    private mutating func sendParcel(to target: Int) {
        guard let frames = content.takeParcel(target) else { return }
        parcelOutlets[target].send(.frames(frames))
    }

    /// Shows every parcel of this turn to its shard. Where the queue is full, the last one is
    /// packed further, so that waiting frames stay dense.
    mutating func flushParcels() {
        for target in parcelOutlets.indices {
            if parcelOutlets[target].waitingCount == 0 { sendParcel(to: target) }
            parcelOutlets[target].flush()
        }
    }

    // MARK: In

    mutating func takeParcels() {
        for source in links.parcels.indices {
            let queue = links.parcels[source][Int(shard.index)]
            var left = Self.parcelsPerTurn
            while left > 0, let parcel = queue.pop() {
                take(parcel)
                left -= 1
            }
            queue.release()
        }
    }

    private mutating func take(_ parcel: ShardParcel) {
        switch parcel {
        case .frames(let frames):
            let count = content.unpack(frames)
            Self.handRelay(&shard, content.incoming, count, nowUs: nowUs, &output)
            perform()
            content.incoming.wipe(0..<count)
        case .message(let message, let body):
            content.arrivingBody = body
            shard.received(message, nowUs: nowUs, out: &output)
            perform()
            content.arrivingBody = ChunkQueue()
        case .adopt(let stream):
            adopt(stream)
        }
    }

    private static func handRelay(
        _ shard: inout ShardMachine, _ incoming: borrowing ContentRegion, _ count: Int,
        nowUs: UInt64, _ output: inout ShardOutput
    ) {
        shard.receivedRelay(
            incoming.span.extracting(0..<count), nowUs: nowUs, out: &output)
    }

    // MARK: Connections

    mutating func placeAccepted() {
        guard !accepted.isEmpty else { return }
        for stream in accepted { place(stream) }
        accepted.removeAll(keepingCapacity: true)
    }

    /// Gives a new connection to the shard with the fewest open streams; of those that have equally
    /// few, to the one with the fewest connections.
    private mutating func place(_ stream: AcceptedStream) {
        var best = 0
        var least = (Int.max, Int.max)
        for (index, gauge) in links.gauges.enumerated() {
            let connections =
                connectionsGiven[index] - gauge.connectionsClosed.load(ordering: .relaxed)
            let load = (gauge.openStreams.load(ordering: .relaxed), connections)
            if load < least { (best, least) = (index, load) }
        }
        connectionsGiven[best] += 1
        if best == Int(shard.index) {
            adopt(stream)
        } else {
            parcelOutlets[best].send(.adopt(stream))
        }
    }

    private mutating func adopt(_ stream: AcceptedStream) {
        guard let channel = transport.adopt(stream) else {
            // No channel is free: the peer was turned away.
            gauge.connectionsClosed.add(1, ordering: .relaxed)
            return
        }
        opened(channel)
    }
}
