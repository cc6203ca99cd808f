import BasicContainers
import SluiceWire

// The usual way of a TOKENS frame: nothing of its stream waits and its connection takes bytes,
// so it goes into the connection's next record at once, beside those of other streams. Only
// what that record has no room for waits in a queue of its stream, where it can be dropped.
extension ShardMachine {
    /// Stages a frame of the client's stream; nil where it must be queued.
    mutating func stage(
        _ header: FrameHeader, start: Int, of client: UInt32, out: inout ShardOutput
    ) -> ClientStream.Staged? {
        let index = Int(client)
        let connection = clients[index].connection
        let costBytes = UInt32(truncatingIfNeeded: header.frameBytes)
        guard connection != noIndex,
            connections[Int(connection)].canStage(
                costBytes, isRoomForAnother: stagingFreeConnections > 0),
            let staged = clients[index].stage(header)
        else { return nil }
        let before = connections[Int(connection)].stage(costBytes)
        if before.isEmpty { stagingFreeConnections -= 1 }
        if !before.isDirty { out.dirty.append(connection) }
        if staged.isFirst { staging.append(client) }
        out.staged.append(
            StagedFrame(
                headerWord: header.firstWord, stream: staged.id.rawValue, connection: connection,
                start: UInt32(truncatingIfNeeded: start)))
        return staged
    }

    /// Enters what was staged in the books: before anything is sealed, and best while the streams'
    /// entries are still in the cache.
    package mutating func commitStaged(nowUs: UInt64, out: inout ShardOutput) {
        while committedStaging < staging.count {
            commitStaged(staging[committedStaging], nowUs: nowUs, out: &out)
            committedStaging += 1
        }
    }

    /// The same for one stream whose end is about to be reported.
    mutating func commitStaged(_ stream: UInt32, nowUs: UInt64, out: inout ShardOutput) {
        guard let staged = clients[Int(stream)].takeStaged() else { return }
        countDelivered(staged, of: stream, nowUs: nowUs, out: &out)
    }

    /// Tells suppliers that what was staged has made room. Once a turn, after it was sealed [C8].
    package mutating func creditStaged(nowUs: UInt64, out: inout ShardOutput) {
        guard !staging.isEmpty else { return }
        for position in staging.indices {
            let stream = staging[position]
            clients[Int(stream)].stagedBytes = 0
            refreshSupplierLimit(stream, nowUs: nowUs, out: &out)
        }
        staging.removeAll(keepingCapacity: true)
        committedStaging = 0
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
