import SluiceWire

// The usual way of a TOKENS frame: nothing of its stream waits and its connection takes bytes,
// so it goes into the connection's next record at once, beside those of other streams. Only
// what that record has no room for waits in a queue of its stream, where it can be dropped.
extension ShardMachine {
    /// Takes room in the connection's next record for a frame; false where it must be queued.
    mutating func stage(
        _ header: FrameHeader, of client: UInt32, out: inout ShardOutput
    ) -> Bool {
        let connection = clients[Int(client)].connection
        // What comes first waits for its turn's end: until something is forwarded, a loss or an END
        // can send the task elsewhere, and what is queued is dropped [D8].
        guard connection != noIndex, clients[Int(client)].canStage(tokens: header.tokens)
        else { return false }
        let slot = Int(connection)
        let cost = UInt32(truncatingIfNeeded: header.frameBytes)
        guard cost <= connections[slot].stagingFreeBytes else { return false }
        if connections[slot].stagedBytes == 0 {
            guard stagingFreeConnections > 0 else { return false }
            stagingFreeConnections -= 1
        }
        connections[slot].stagingFreeBytes -= cost
        connections[slot].stagedBytes += cost
        markDirty(connection, out: &out)
        if !clients[Int(client)].isStaging {
            clients[Int(client)].isStaging = true
            staging.append(client)
        }
        return true
    }

    /// Enters what was staged in the books. Once a turn, before anything is sealed.
    package mutating func commitStaged(nowUs: UInt64, out: inout ShardOutput) {
        for stream in staging { commitStaged(stream, nowUs: nowUs, out: &out) }
    }

    /// The same for one stream whose end is about to be reported.
    mutating func commitStaged(_ stream: UInt32, nowUs: UInt64, out: inout ShardOutput) {
        let index = Int(stream)
        guard clients[index].isStaging else { return }
        clients[index].isStaging = false
        let staged = clients[index].staged
        clients[index].staged = .none
        countDelivered(staged, of: stream, nowUs: nowUs, out: &out)
    }

    /// Tells suppliers that what was staged has made room. Once a turn, after it was sealed [C8].
    package mutating func creditStaged(nowUs: UInt64, out: inout ShardOutput) {
        for stream in staging {
            clients[Int(stream)].stagedBytes = 0
            refreshSupplierLimit(stream, nowUs: nowUs, out: &out)
        }
        staging.removeAll(keepingCapacity: true)
    }

    /// Staged bytes of the connection were sealed.
    package mutating func sealedStaged(_ connection: UInt32, byteCount: Int) {
        let count = UInt32(byteCount)
        precondition(count <= connections[Int(connection)].stagedBytes, "sealed too much")
        connections[Int(connection)].stagedBytes -= count
        if connections[Int(connection)].stagedBytes == 0 { stagingFreeConnections += 1 }
    }

    /// How much the connection can seal now, `byteCount` bytes: as much less what it keeps for one
    /// more record may be staged, unless something waits already.
    package mutating func sealRoom(_ connection: UInt32, byteCount: Int) {
        let slot = Int(connection)
        let kept = WireLimits.frameBytesMax + 256 + Int(connections[slot].stagedBytes)
        let isWaiting = connections[slot].controlBytes > 0 || !connections[slot].ready.isEmpty
        guard connections[slot].phase == .open, !isWaiting, byteCount > kept else {
            connections[slot].stagingFreeBytes = 0
            return
        }
        connections[slot].stagingFreeBytes = UInt32(byteCount - kept)
    }
}
