import BasicContainers
import SluiceWire

/// Whose body may come next: credit for bodies goes out in the order of admission, for a bounded
/// number of bytes at a time [U4].
///
/// Bodies that are granted all at once arrive side by side, and all of them are whole only at the
/// end. One after the other, half of them are with their suppliers in half the time, and the
/// broker sends on what is whole while the next arrives. A client that sends slowly holds nobody
/// up: what it was granted counts for `freshUs` and no longer.
struct UploadOrder {
    /// Body bytes under way that further bodies wait for. One body is granted whatever its size.
    static let underWayBytesMax = 2 * 1_024 * 1_024
    /// How long a grant counts as under way. With the bytes above: at least 500 MB a second can be
    /// granted to clients however slow or distant they are.
    static let freshUs: UInt64 = 4_000

    /// Granted bytes that have not arrived and are fresh: the sum of the streams'
    /// `ClientTask.underWayBodyBytes`.
    private(set) var underWayBytes = 0
    private var waiting = StreamQueue()
    private var fresh = StreamQueue()

    var hasWaiting: Bool { !waiting.isEmpty }

    /// The stream's body is reserved; it is granted in its turn.
    mutating func wait(_ stream: StreamRef) { waiting.append(stream, atUs: 0) }

    /// The longest waiting stream. It left the line.
    mutating func takeWaiting() -> StreamRef? { waiting.takeFirst()?.stream }

    /// Whether a grant may be given now.
    var hasRoom: Bool { underWayBytes < Self.underWayBytesMax }

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
        guard let first = fresh.first, nowUs >= first.atUs + Self.freshUs else { return nil }
        return fresh.takeFirst()?.stream
    }
}

/// Streams, first in, first out. Keeps its memory.
private struct StreamQueue {
    struct Entry {
        var stream: StreamRef
        var atUs: UInt64
    }

    private var entries: [Entry] = []
    private var head = 0

    var isEmpty: Bool { head == entries.count }
    var first: Entry? { isEmpty ? nil : entries[head] }

    mutating func append(_ stream: StreamRef, atUs: UInt64) {
        // Moved forward when half of it is used up, so that an entry is moved once at most.
        if head > 0, head * 2 >= entries.count {
            entries.removeFirst(head)
            head = 0
        }
        entries.append(Entry(stream: stream, atUs: atUs))
    }

    mutating func takeFirst() -> Entry? {
        guard let entry = first else { return nil }
        head += 1
        if head == entries.count {
            entries.removeAll(keepingCapacity: true)
            head = 0
        }
        return entry
    }
}

// What the shard does with the order of uploads.
extension ShardMachine {
    /// Grants what there is room for, oldest admission first.
    mutating func grantUploads(nowUs: UInt64, out: inout ShardOutput) {
        while let stream = uploads.takeStale(nowUs: nowUs) {
            guard isCurrent(stream) else { continue }
            settleUpload(stream.index)
        }
        while uploads.hasRoom, let stream = uploads.takeWaiting() {
            let index = Int(stream.index)
            guard isCurrent(stream), clients[index].phase == .uploading else { continue }
            let declared = clientTasks[index].terms.bodyBytes
            let underWay = declared - clientTasks[index].receivedBodyBytes
            clientTasks[index].isGranted = true
            clientTasks[index].underWayBodyBytes = underWay
            uploads.granted(stream, byteCount: Int(underWay), nowUs: nowUs)
            send(
                .credit(clients[index].id, CreditFrame(limitBytes: UInt64(declared))),
                on: clients[index].connection, out: &out)
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
}
