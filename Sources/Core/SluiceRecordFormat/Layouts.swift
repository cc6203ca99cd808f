// Where things lie in the three files of an instance. All numbers are little-endian.

/// First bytes of every instance file.
///
///     0 u64 magic  8 u64 layout version  16 u64 instance  24 u64 capacity
package enum FileHeader {
    /// Each file begins with a header of one page.
    package static let byteCount = 4_096
    package static let layoutVersion: UInt32 = 1
    package static let magicOffset = 0
    package static let versionOffset = 8
    package static let instanceOffset = 16
    /// Records of a ring, slots of a table, shard blocks of a statistics page.
    package static let capacityOffset = 24
}

/// The journal ring: one header page, then records. Record n lies in place (n - 1) mod capacity.
///
/// Tail is stored by the writer, head by the reader; each has a cache line pair of its own.
@usableFromInline
package enum RingLayout {
    /// "SLCRING1".
    package static let magic: UInt64 = 0x3147_4E49_5243_4C53
    /// u64: position among the instances of the run directory, in the order they were made.
    package static let startNumberOffset = 32
    /// u64: sequence of the last published record.
    @inlinable package static var tailOffset: Int { 128 }
    /// u64: sequence of the last record that the reader has made durable and released.
    @inlinable package static var headOffset: Int { 256 }
    /// u64: 0, or the instance that closed this one (its own id after an orderly end). Written
    /// last.
    package static let closedByOffset = 384

    package static let defaultByteCount = 12 * 1_024 * 1_024
    package static let minimumByteCount = 2 * 1_024 * 1_024

    /// Whether head and tail can both be right. No broker comes to half of all numbers, so none
    /// that follows can overflow.
    package static func arePositionsSound(head: UInt64, tail: UInt64, capacity: Int) -> Bool {
        head <= tail && tail - head <= UInt64(capacity) && tail <= .max / 2
    }

    /// Records that a file of this size holds.
    package static func capacity(byteCount: Int) -> Int {
        (byteCount - FileHeader.byteCount) / RecordWords.byteCount
    }
}

/// The open-task table: one header page, then slots.
@usableFromInline
package enum TableLayout {
    /// "SLCTABL1".
    package static let magic: UInt64 = 0x314C_4241_5443_4C53
    package static let defaultSlotCount = 65_536

    package static func byteCount(slots: Int) -> Int {
        FileHeader.byteCount + slots * RecordWords.byteCount
    }
}

/// How many tasks may be open, so that the ring can always take what must be written.
package enum JournalReserve {
    /// Records beyond those promised to open tasks: more than what one admission writes.
    package static let slack = 1_024

    /// Largest number of open tasks: each needs room for its ENDED, and as much again is left for
    /// what comes while they are open (ACCEPTED, or the closing of a dead instance).
    package static func openTasksMax(ringRecords: Int, slots: Int) -> Int {
        max(0, min(slots, (ringRecords - slack) / 2))
    }

    /// Whether a record may be written now that no open task was promised, or one more task be
    /// accepted (it takes its ACCEPTED, a possible NAME and reserves its ENDED): more room than for
    /// the end of all open tasks and `slack`.
    package static func admits(freeRecords: Int, openTasks: Int) -> Bool {
        freeRecords > openTasks + slack
    }
}

/// A 64-bit number in the statistics page, one per shard. Gauges are set, the rest only grow.
@frozen @usableFromInline
package enum Counter: Int, CaseIterable, Sendable {
    case connectionsAccepted, connectionsOpen, connectionsRefused, connectionsCut
    case handshakesCompleted, handshakesFailed
    case suppliersConnected, offersOpen, slotsGranted, slotsInUse, slotsQuarantined
    case tasksAccepted, tasksOpen, tasksQueued, tasksEnded, tasksCompleted, tasksRefused
    case tasksDispatched, tasksDispatchedAgain
    case tokensRelayed, framesRelayed, bytesRelayed
    case wireBytesReceived, wireBytesSent
    case lateFramesIgnored, protocolErrors, cancelsSent, deadlinesPassed, readersStalled
    case keyUpdatesSent, keyUpdatesReceived
    case arenaBytesInUse, arenaBytesMax, bodyBytesInUse, reserveBytesInUse
    case backendIsRing
    case journalRecords, journalRecordsFree, journalFullRefusals, refusalsCounted
    case instancesClosed
    case directoryEntries, accountsKnown, breakersOpen
    case loopTurns, loopBusyUs, doorbellsRung, queueSpills
    /// Wall clock of the dispatcher's last turn, microseconds since 1970.
    case lastTurnUs
    /// Tasks that found a free slot at once, those that went where their prefix had been read,
    /// and those that ended because the retry budget was spent.
    case tasksMatchedAtOnce, affinityHits, retriesRefused
    /// Microseconds from acceptance to the first dispatch, all tasks together.
    case queueUsTotal
    /// Prepaid tasks refused for want of money, those that waited for their account's lease, and
    /// how often a lease was asked to grow.
    case holdsRefused, leaseWaits, leaseAsks
    /// Tasks refused by the limits of an account or key, and those answered with an earlier task
    /// of their idempotency key.
    case limitRefusals, duplicatesAnswered
    /// Times that an answer had to wait for its client's credit.
    case creditStalls
    /// When the certificate in use ends, microseconds since 1970.
    case certificateExpiresUs
}

/// A histogram in the statistics page, one per shard: 256 buckets, see `HistogramBucket`.
@frozen @usableFromInline
package enum Histogram: Int, CaseIterable, Sendable {
    case ttftUs, durationUs, queueUs, turnUs, sealedBytes
    /// Between two deliveries of tokens of one answer.
    case tokenGapUs
}

/// The statistics page: one header block of 16 KiB, then one block of 16 KiB per shard: 256
/// counters, then histograms of 256 buckets, all u64.
@usableFromInline
package enum StatisticsLayout {
    /// "SLCSTAT1".
    package static let magic: UInt64 = 0x3154_4154_5343_4C53
    package static let defaultByteCount = 1_024 * 1_024
    /// Of the header block and of each shard's block.
    @inlinable package static var blockByteCount: Int { 16_384 }
    @inlinable package static var counterCapacity: Int { 256 }
    @inlinable package static var bucketCount: Int { 256 }
    package static let shardsMax = defaultByteCount / 16_384 - 1

    /// Offset of a counter in the file.
    @inlinable
    package static func offset(of counter: Counter, shard: Int) -> Int {
        (shard &+ 1) &* blockByteCount &+ counter.rawValue &* 8
    }

    /// Offset of a histogram's bucket in the file.
    @inlinable
    package static func offset(of histogram: Histogram, bucket: Int, shard: Int) -> Int {
        (shard &+ 1) &* blockByteCount
            &+ (counterCapacity &+ histogram.rawValue &* bucketCount &+ bucket) &* 8
    }
}

/// Buckets of eight to the octave: a value below 8 has its own, above the width is an eighth of
/// the octave, so a bucket names its values within 12.5 %. The last bucket takes all the rest
/// (from 2^34 on: over four hours in microseconds).
@usableFromInline
package enum HistogramBucket {
    /// Bucket of `value`, 0…255.
    @inlinable
    package static func index(of value: UInt64) -> Int {
        guard value >= 8 else { return Int(value) }
        let octave = 63 &- value.leadingZeroBitCount
        let eighth = Int(truncatingIfNeeded: value >> UInt64(octave &- 3)) & 7
        return min((octave &- 2) &* 8 &+ eighth, 255)
    }

    /// Smallest value of a bucket.
    package static func lowerBound(of bucket: Int) -> UInt64 {
        guard bucket >= 8 else { return UInt64(max(bucket, 0)) }
        return UInt64(8 + bucket & 7) << UInt64(bucket / 8 - 1)
    }
}
