import BasicContainers
import SluiceWire

/// Whose body may come next: credit for bodies goes out for a bounded number of bytes at a time, to
/// one account after the other and in each in the order of admission [U4].
///
/// Bodies that are granted all at once arrive side by side, and all of them are whole only at the
/// end. One after the other, the first are with their suppliers while the last are still under way.
/// A client that sends slowly holds nobody up: what it was granted counts for `freshUs` and no
/// longer.
struct UploadOrder: ~Copyable {
    /// Body bytes under way that further bodies wait for. One body is granted whatever its size.
    static let underWayBytesMax = 2 * 1_024 * 1_024
    /// How long a grant counts as under way. With the bytes above: some 250 to 500 MB a second can be
    /// granted to clients however slow or distant they are.
    static let freshUs: UInt64 = 4_000

    /// Granted bytes that have not arrived and are fresh: the sum of the streams'
    /// `ClientTask.underWayBodyBytes`.
    private(set) var underWayBytes = 0
    private var fresh = FreshGrants()
    /// The streams of one account that wait, linked by their `ClientTask`, oldest first.
    private struct Line {
        var account: UInt64 = 0
        var first = noIndex
        var last = noIndex
        /// The line whose turn it is after this one's.
        var next = noIndex
    }
    private var lines = UniqueArray<Line>()
    private var idleLines = UniqueArray<UInt32>()
    private var lineOfAccount: [UInt64: UInt32] = [:]
    /// The lines with somebody in them, in the order of their turns.
    private var firstLine = noIndex
    private var lastLine = noIndex

    var hasWaiting: Bool { firstLine != noIndex }

    /// Whether a grant may be given now.
    var hasRoom: Bool { underWayBytes < Self.underWayBytesMax }

    /// The stream's body is reserved; it is granted in its turn.
    mutating func wait(
        _ stream: UInt32, account: UInt64, _ tasks: inout UniqueArray<ClientTask>
    ) {
        let line = lineOfAccount[account] ?? takeLine(account)
        let last = lines[Int(line)].last
        tasks[Int(stream)].uploadLine = line
        tasks[Int(stream)].waitingBefore = last
        tasks[Int(stream)].waitingAfter = noIndex
        if last == noIndex {
            lines[Int(line)].first = stream
        } else {
            tasks[Int(last)].waitingAfter = stream
        }
        lines[Int(line)].last = stream
    }

    /// The stream waits no longer; nothing where it did not.
    mutating func leave(_ stream: UInt32, _ tasks: inout UniqueArray<ClientTask>) {
        let line = Int(tasks[Int(stream)].uploadLine)
        guard line != Int(noIndex) else { return }
        tasks[Int(stream)].uploadLine = noIndex
        let (before, after) = (tasks[Int(stream)].waitingBefore, tasks[Int(stream)].waitingAfter)
        if before == noIndex {
            lines[line].first = after
        } else {
            tasks[Int(before)].waitingAfter = after
        }
        if after == noIndex {
            lines[line].last = before
        } else {
            tasks[Int(after)].waitingBefore = before
        }
    }

    /// The stream whose turn it is. It left its line, which goes behind the others.
    mutating func takeWaiting(_ tasks: inout UniqueArray<ClientTask>) -> UInt32? {
        while firstLine != noIndex {
            let line = firstLine
            firstLine = lines[Int(line)].next
            if firstLine == noIndex { lastLine = noIndex }
            let stream = lines[Int(line)].first
            // Those who waited there have left.
            guard stream != noIndex else {
                giveBack(line)
                continue
            }
            leave(stream, &tasks)
            if lines[Int(line)].first == noIndex { giveBack(line) } else { append(line) }
            return stream
        }
        return nil
    }

    /// `byteCount` bytes may come from now on.
    mutating func granted(_ stream: StreamRef, byteCount: Int, nowUs: UInt64) {
        underWayBytes += byteCount
        fresh.append(stream, atUs: nowUs)
    }

    /// Bytes that were granted have arrived, or never will, or take too long.
    mutating func settled(byteCount: Int) {
        underWayBytes -= byteCount
        precondition(underWayBytes >= 0, "settled what was not granted")
    }

    /// The oldest grant that is not fresh any more. It left the line.
    mutating func takeStale(nowUs: UInt64) -> StreamRef? {
        fresh.takeFirst(before: nowUs - min(nowUs, Self.freshUs))
    }

    private mutating func takeLine(_ account: UInt64) -> UInt32 {
        let line: UInt32
        if let idle = idleLines.popLast() {
            line = idle
        } else {
            line = UInt32(lines.count)
            lines.append(Line())
        }
        lines[Int(line)] = Line(account: account)
        lineOfAccount[account] = line
        append(line)
        return line
    }

    private mutating func append(_ line: UInt32) {
        lines[Int(line)].next = noIndex
        if lastLine == noIndex {
            firstLine = line
        } else {
            lines[Int(lastLine)].next = line
        }
        lastLine = line
    }

    private mutating func giveBack(_ line: UInt32) {
        lineOfAccount[lines[Int(line)].account] = nil
        idleLines.append(line)
    }
}

/// Grants, first in, first out: those of the last few milliseconds. Keeps its memory.
private struct FreshGrants: ~Copyable {
    private struct Grant {
        var stream: StreamRef
        var atUs: UInt64
    }

    private var grants = UniqueArray<Grant>()
    private var head = 0

    mutating func append(_ stream: StreamRef, atUs: UInt64) {
        grants.append(Grant(stream: stream, atUs: atUs))
    }

    /// The first, if it was given at `limitUs` or before.
    mutating func takeFirst(before limitUs: UInt64) -> StreamRef? {
        guard head < grants.count, grants[head].atUs <= limitUs else { return nil }
        let stream = grants[head].stream
        head += 1
        // Moved forward when half of it is used up, so that each is moved once at most.
        if head * 2 >= grants.count {
            grants.removeSubrange(0..<head)
            head = 0
        }
        return stream
    }
}

// What the shard does with the order of uploads.
extension ShardMachine {
    /// Bodies wait for others: a turn is due within `UploadOrder.freshUs`.
    /// Mutating, so that the machine is looked at where it lies.
    package var hasWaitingUploads: Bool {
        mutating get { uploads.hasWaiting }
    }

    /// Grants what there is room for.
    mutating func grantUploads(nowUs: UInt64, out: inout ShardOutput) {
        while let stream = uploads.takeStale(nowUs: nowUs) {
            guard isCurrent(stream) else { continue }
            settleUpload(stream.index)
        }
        while uploads.hasRoom, let stream = uploads.takeWaiting(&clientTasks) {
            let index = Int(stream)
            let connection = clients[index].connection
            // Its end is on the way.
            guard connection != noIndex, connections[Int(connection)].phase == .open else {
                continue
            }
            let declared = clientTasks[index].terms.bodyBytes
            let underWay = declared - clientTasks[index].receivedBodyBytes
            clientTasks[index].isGranted = true
            clientTasks[index].underWayBodyBytes = underWay
            uploads.granted(reference(ofStream: stream), byteCount: Int(underWay), nowUs: nowUs)
            // Only now is its next byte waited for [U9].
            streamTimers.schedule(
                stream, atMs: min(clientTasks[index].deadlineMs, nowUs / 1_000 + limits.uploadMs))
            send(
                .credit(clients[index].id, CreditFrame(limitBytes: UInt64(declared))),
                on: connection, out: &out)
        }
    }

    /// Some of what was granted has arrived.
    mutating func uploadArrived(_ stream: UInt32, byteCount: Int) {
        let arrived = min(UInt32(byteCount), clientTasks[Int(stream)].underWayBodyBytes)
        clientTasks[Int(stream)].underWayBodyBytes -= arrived
        uploads.settled(byteCount: Int(arrived))
    }

    /// Nothing of it counts as under way any more.
    mutating func settleUpload(_ stream: UInt32) {
        uploads.settled(byteCount: Int(clientTasks[Int(stream)].underWayBodyBytes))
        clientTasks[Int(stream)].underWayBodyBytes = 0
    }

    /// Whether the broker, and not the client, is what the stream's next byte waits for.
    func isUploadHeldBack(_ stream: UInt32) -> Bool {
        clientTasks[Int(stream)].uploadLine != noIndex
            && clientTasks[Int(stream)].receivedBodyBytes >= WireLimits.freeBodyBytesMax
    }
}
