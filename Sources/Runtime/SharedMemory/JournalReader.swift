import CLinuxIO
package import SluiceRecordFormat

/// The reading end of a journal ring, in the sidecar. One process reads one ring.
///
/// It maps the ring writable, but stores only the head.
package struct JournalReader: ~Copyable {
    private let file: MappedFile
    private let capacity: UInt64
    /// Whose journal this is.
    package let instance: UInt64

    /// Opens the ring of an instance, alive or dead; `damaged` where its head and tail cannot both
    /// be right.
    package init(runDirectory: String, instance: UInt64) throws(InstanceError) {
        let path = InstanceDirectory.path(runDirectory, instance, .ring)
        let opened = try MappedFile.open(
            path, as: .ring, magic: RingLayout.magic, instance: instance,
            byteCountForCapacity: { FileHeader.byteCount + $0 * RecordWords.byteCount })
        // The head first: until this reader moves it, only the tail does.
        let released = opened.load(at: RingLayout.headOffset)
        let published = opened.loadAcquire(at: RingLayout.tailOffset)
        guard
            RingLayout.arePositionsSound(
                head: released, tail: published, capacity: opened.capacity)
        else { throw .damaged(.ring) }
        file = opened
        capacity = UInt64(file.capacity)
        self.instance = instance
    }

    /// Records that the ring holds.
    package var recordCapacity: Int { Int(capacity) }
    /// Sequence of the last published record.
    package var publishedSequence: UInt64 { file.loadAcquire(at: RingLayout.tailOffset) }
    /// Sequence of the last released record.
    package var releasedSequence: UInt64 { file.load(at: RingLayout.headOffset) }
    /// 0, or the instance that closed this one.
    package var closedBy: UInt64 { file.loadAcquire(at: RingLayout.closedByOffset) }

    /// Copies published records from `sequence` on, at most `count`. `sequence` must lie above
    /// what was released.
    package func read(from sequence: UInt64, count: Int) throws(InstanceError) -> [JournalRecord] {
        let published = publishedSequence
        precondition(sequence > releasedSequence)
        // A tail further ahead than the ring is long cannot come from our writer.
        guard published < sequence || published - releasedSequence <= capacity else {
            throw .damaged(.ring)
        }
        guard published >= sequence else { return [] }
        let end = min(published, sequence + UInt64(max(count, 0)) - 1)
        var records: [JournalRecord] = []
        guard end >= sequence else { return records }
        records.reserveCapacity(Int(end - sequence + 1))
        for position in sequence...end {
            let place = Int((position - 1) % capacity)
            let offset = FileHeader.byteCount + place * RecordWords.byteCount
            // SAFETY: place < capacity, which the header check holds against the file's size; the
            // writer does not touch a published place until it is released.
            let words = unsafe (file.base + offset).load(as: RecordWords.self)
            let record = JournalRecord(words: words)
            guard record.sequence == position, record.instance == instance else {
                throw .damaged(.ring)
            }
            records.append(record)
        }
        return records
    }

    /// Gives the places up to `sequence` back to the writer. Call only when they are durable.
    package func release(through sequence: UInt64) {
        precondition(sequence <= publishedSequence && sequence >= releasedSequence)
        file.storeRelease(sequence, at: RingLayout.headOffset)
    }
}
