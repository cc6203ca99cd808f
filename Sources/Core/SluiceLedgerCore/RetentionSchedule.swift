/// What is removed once it was kept long enough, in the order in which a run goes through it.
package enum RetentionDuty: UInt8, CaseIterable, Sendable {
    /// ENDED records with their ACCEPTED; never one that was not settled.
    case taskRecords
    case refusals
    case idempotencyKeys
    /// Wallet events of accounts that were anonymised and have no money anywhere.
    case walletEvents
    /// Secrets of address hashes, and the hashes that are left without theirs.
    case addressHashes
    /// Changes that every broker has seen or reads as a whole.
    case changes
    /// What an engine keeps for days that have become empty.
    case emptyDays
    /// Closed leases of instances that are long gone.
    case closedLeases
    /// Closed instances of which no record is left, with the names of their models.
    case instances
}

/// A place in the order in which a duty goes through its table.
package struct RetentionMark: Equatable, Sendable {
    package var high: Int64
    package var low: Int64

    package init(_ high: Int64, _ low: Int64 = 0) {
        self.high = high
        self.low = low
    }

    /// Before everything.
    package static let start = RetentionMark(.min, .min)
}

/// One bounded piece of work for the store.
package struct RetentionBatch: Equatable, Sendable {
    package var duty: RetentionDuty
    /// What is older than this goes; wall clock, microseconds since 1970.
    package var cutoffUs: UInt64
    /// Rows after this one are looked at.
    package var after: RetentionMark
    /// At most so many rows are looked at.
    package var rows: Int

    package init(
        _ duty: RetentionDuty, cutoffUs: UInt64, after: RetentionMark = .start, rows: Int
    ) {
        self.duty = duty
        self.cutoffUs = cutoffUs
        self.after = after
        self.rows = rows
    }
}

/// What a batch did.
package struct RetentionOutcome: Equatable, Sendable {
    package var removed: Int
    /// Where the next batch of the duty goes on; nil = the duty is done.
    package var next: RetentionMark?

    package init(removed: Int, next: RetentionMark?) {
        self.removed = removed
        self.next = next
    }
}

/// Decides when which batch of removals runs beside the settling of records.
///
/// A run goes through all duties, batch by batch. Settling comes first: while records wait, one
/// batch a second is given out; an engine's slowness so delays settling by one batch and no more.
/// Keys of idempotency stay while records wait, since a record may still ask for one by the time
/// that it carries.
///
/// What a wrong clock removed would be gone for good. So a wall clock that runs ahead of the
/// monotonic one by more than an hour is believed only when it has stood by that for a day.
package struct RetentionSchedule: Sendable {
    /// From the end of a run to the next.
    package static let runIntervalUs: UInt64 = 3_600_000_000
    /// Between two batches while nothing waits to be settled.
    package static let idleRestUs: UInt64 = 20_000
    /// Between two batches while records wait.
    package static let busyRestUs: UInt64 = 1_000_000
    /// After a batch that the store refused.
    package static let failureRestUs: UInt64 = 60_000_000
    /// Rows that a batch looks at.
    package static let batchRows = 1_024

    /// How far the wall clock may run ahead of the monotonic one.
    package static let clockToleranceUs: UInt64 = 3_600_000_000
    /// After this a wall clock that jumped ahead is believed.
    package static let clockDoubtUs: UInt64 = 86_400_000_000

    private var current: RetentionBatch?
    private var following: ArraySlice<RetentionDuty> = []
    private var isGivenOut = false
    private var nextUs: UInt64
    /// When the last batch ended.
    private var restedSinceUs: UInt64

    /// The wall clock as it was last believed, and when that was.
    private var believed: (wallUs: UInt64, atUs: UInt64)
    /// The batch at hand failed once.
    private var hasFailed = false
    /// Since when the wall clock is too far ahead.
    private var doubtedSinceUs: UInt64?

    /// The first run is due at once. Parameters as of `next`.
    package init(nowUs: UInt64, wallUs: UInt64) {
        nextUs = nowUs
        restedSinceUs = nowUs
        believed = (wallUs, nowUs)
    }

    /// The batch to be run now, or nil. Until `completed` or `failed` says how it went, no other
    /// is given out.
    ///
    /// - Parameters:
    ///   - nowUs: Monotonic.
    ///   - wallUs: Microseconds since 1970.
    ///   - isBehind: Records wait to be settled.
    package mutating func next(
        nowUs: UInt64, wallUs: UInt64, isBehind: Bool
    ) -> RetentionBatch? {
        let wallUs = believable(wallUs, nowUs: nowUs)
        guard !isGivenOut, nowUs >= nextUs else { return nil }
        let rest = isBehind ? Self.busyRestUs : Self.idleRestUs
        guard current == nil && following.isEmpty || nowUs - min(nowUs, restedSinceUs) >= rest
        else { return nil }
        if current == nil, following.isEmpty { following = RetentionDuty.allCases[...] }
        if current == nil {
            if isBehind, following.first == .idempotencyKeys { following.removeFirst() }
            guard let duty = following.popFirst() else { return nil }
            current = RetentionBatch(
                duty, cutoffUs: Self.cutoffUs(duty, wallUs: wallUs), rows: Self.batchRows)
        } else if isBehind, current?.duty == .idempotencyKeys {
            // Begun, and overtaken by records: what is left waits for the next run.
            current = nil
            return next(nowUs: nowUs, wallUs: wallUs, isBehind: isBehind)
        }
        isGivenOut = true
        return current
    }

    private mutating func believable(_ wallUs: UInt64, nowUs: UInt64) -> UInt64 {
        let expectedUs = believed.wallUs + (nowUs - min(nowUs, believed.atUs))
        if wallUs > expectedUs, wallUs - expectedUs > Self.clockToleranceUs {
            let sinceUs = doubtedSinceUs ?? nowUs
            doubtedSinceUs = sinceUs
            guard nowUs - min(nowUs, sinceUs) >= Self.clockDoubtUs else { return expectedUs }
        }
        doubtedSinceUs = nil
        believed = (wallUs, nowUs)
        return wallUs
    }

    /// The batch that was given out is done.
    package mutating func completed(_ outcome: RetentionOutcome, nowUs: UInt64) {
        guard isGivenOut, var batch = current else { return }
        isGivenOut = false
        hasFailed = false
        restedSinceUs = nowUs
        // A mark that does not move would go on for ever.
        if let mark = outcome.next, mark != batch.after || outcome.removed > 0 {
            batch.after = mark
            current = batch
            return
        }
        current = nil
        if following.isEmpty { nextUs = nowUs + Self.runIntervalUs }
    }

    /// The store did not take the batch: the same again later, and where that fails too, the other
    /// duties, so that one damaged row stops no other. The next run begins with it again.
    package mutating func failed(nowUs: UInt64) {
        guard isGivenOut else { return }
        isGivenOut = false
        restedSinceUs = nowUs
        nextUs = nowUs + Self.failureRestUs
        if hasFailed {
            current = nil
            if following.isEmpty { nextUs = nowUs + Self.runIntervalUs }
        }
        hasFailed.toggle()
    }

    /// What is older is removed by a duty that runs now.
    package static func cutoffUs(_ duty: RetentionDuty, wallUs: UInt64) -> UInt64 {
        switch duty {
        case .taskRecords, .refusals, .emptyDays, .closedLeases, .instances:
            Retention.cutoffUs(days: Retention.recordDays, nowUs: wallUs)
        case .idempotencyKeys:
            Retention.cutoffUs(hours: Retention.idempotencyHours, nowUs: wallUs)
        case .walletEvents:
            Retention.cutoffUs(days: Retention.walletEventDays, nowUs: wallUs)
        case .addressHashes:
            Retention.cutoffUs(days: Retention.addressHashDays, nowUs: wallUs)
        case .changes: wallUs
        }
    }
}
