import SluiceInMemory
import SluiceRecordFormat

/// What a sidecar keeps in memory while it lives: how far each ring is copied, and how far the
/// segments are applied. Its files, the rings and the store outlive it.
///
/// Follows the order of `JournalCopier` and `RecordApplier`: read, append, sync, release; apply in
/// one transaction with the cursors; then delete what is applied.
struct SidecarModel {
    /// Where it may die in a pass.
    enum Death: CaseIterable {
        case beforeSync
        case beforeRelease
        case beforeCommit
        case afterCommit
        case beforeDirectory
    }

    /// By instance: sequence of the next record to copy.
    private var next: [UInt64: UInt64] = [:]
    /// From what stood in the segments at its start.
    let lastSequences: [UInt64: UInt64]
    /// Where it applies: a segment and an offset in it.
    private(set) var segment: UInt64
    private(set) var offset = 0

    /// Starts: reads what earlier ones left. Their last block may never have been synced; the
    /// caller sees to that.
    init(_ disk: inout SimulatedDisk) {
        var last: [UInt64: UInt64] = [:]
        for record in disk.scan() {
            last[record.instance] = max(last[record.instance] ?? 0, record.sequence)
        }
        lastSequences = last
        segment = disk.segments[0].number
    }

    /// The instance's next record to copy.
    mutating func position(_ instance: InMemoryInstance, _ oracle: Oracle) -> UInt64 {
        if let known = next[instance.id] { return known }
        let durable = lastSequences[instance.id] ?? 0
        oracle.check(
            durable <= UInt64(instance.tail), "[I13] more of \(instance.id) is durable than it has")
        let position = max(durable, UInt64(instance.head)) + 1
        next[instance.id] = position
        return position
    }

    mutating func copied(_ instance: UInt64, through sequence: UInt64) {
        next[instance] = sequence + 1
    }

    mutating func forget(_ instance: UInt64) {
        next[instance] = nil
    }

    /// Durable records that are not applied yet, at most `count`, and where they end.
    func unapplied(_ disk: SimulatedDisk, atMost count: Int) -> (records: [JournalRecord], end: Int)
    {
        var records: [JournalRecord] = []
        var place = offset
        let bytes = disk.segments.first { $0.number == segment }?.durableCount ?? 0
        while place + RecordWords.byteCount <= bytes, records.count < count {
            if let record = disk.record(segment, at: place) { records.append(record) }
            place += RecordWords.byteCount
        }
        return (records, place)
    }

    mutating func applied(through end: Int) {
        offset = end
    }

    /// The segment is applied and another follows: its number, and on to the next.
    mutating func finishSegment(_ disk: SimulatedDisk) -> UInt64? {
        guard offset >= disk.byteCount(segment),
            let following = disk.segments.first(where: { $0.number > segment })
        else { return nil }
        defer {
            segment = following.number
            offset = 0
        }
        return segment
    }
}
