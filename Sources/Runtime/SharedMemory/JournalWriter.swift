import CLinuxIO
package import SluiceRecordFormat

/// The writing end of a journal ring. One thread owns it: the dispatcher's.
///
/// Records are appended, then made visible together by `publish`, which must come before any
/// message that tells of them leaves the process.
package struct JournalWriter: ~Copyable {
    private let file: MappedFile
    private let instance: UInt64
    private let capacity: UInt64
    /// Sequence of the last appended record.
    package private(set) var lastSequence: UInt64
    /// Sequence of the last published record.
    package private(set) var publishedSequence: UInt64
    /// Place of the next record, 0..<capacity.
    private var nextPlace: UInt64

    /// Takes over an empty ring.
    init(file: consuming MappedFile, instance: UInt64) {
        self.instance = instance
        capacity = UInt64(file.capacity)
        self.file = file
        lastSequence = 0
        publishedSequence = 0
        nextPlace = 0
    }

    /// Records that the ring holds when empty.
    package var recordCapacity: Int { Int(capacity) }

    /// Records that can be appended now: those never used and those the sidecar has released.
    package var freeRecords: Int {
        let released = file.loadAcquire(at: RingLayout.headOffset)
        // A reader that releases more than was published breaks the ring: stop here rather than
        // overwrite what was not read.
        precondition(released <= publishedSequence)
        return Int(capacity - (lastSequence - released))
    }

    /// Appends a record and numbers it; not visible before `publish`. `freeRecords` must be > 0.
    @discardableResult
    package mutating func append(_ record: JournalRecord) -> UInt64 {
        precondition(freeRecords > 0)
        lastSequence += 1
        var words = record.words
        words[1] = instance
        words[2] = lastSequence
        let offset = FileHeader.byteCount + Int(nextPlace) * RecordWords.byteCount
        // SAFETY: nextPlace < capacity, and the file was made for `capacity` records; the reader
        // does not look at a place between its release and the next publish.
        unsafe (file.base + offset).storeBytes(of: words, as: RecordWords.self)
        nextPlace = nextPlace + 1 == capacity ? 0 : nextPlace + 1
        return lastSequence
    }

    /// Makes everything appended visible to the reader.
    package mutating func publish() {
        guard publishedSequence != lastSequence else { return }
        publishedSequence = lastSequence
        file.storeRelease(publishedSequence, at: RingLayout.tailOffset)
    }

    /// Marks the ring as closed; the last word ever stored in it.
    func markClosed(by closer: UInt64) {
        file.storeRelease(closer, at: RingLayout.closedByOffset)
    }
}
