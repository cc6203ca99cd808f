import SharedMemory
import SluiceLedgerCore
import SluiceRecordFormat
import SluiceWire
import Store

/// Applies the segment log to the store at the store's own pace, deletes segments that are applied
/// and on the device, ends tasks and closes leases whose instance has vanished, and tells the
/// directory what the store has committed. One thread owns it.
struct RecordApplier: ~Copyable {
    private static let lostCheckIntervalUs: UInt64 = 5_000_000
    /// Another node's sidecar may be behind for a while: only what it has not told for so long is
    /// ended for it.
    private static let foreignLostAfterUs: UInt64 = 86_400_000_000
    /// Between two looks at what others have committed: less than the applying thread's longest
    /// sleep, so that each of its turns looks.
    private static let syncIntervalUs: UInt64 = 80_000
    /// The more, the more tasks begin and end in one transaction and never stand in `open_task`.
    private static let recordsPerTransaction = 8_192
    private static let daysIntervalUs: UInt64 = 3_600_000_000
    private static let reportIntervalUs: UInt64 = 1_000_000
    private static let fullPauseUs: UInt64 = 60_000_000

    private let files: SegmentFiles
    private let runDirectory: String
    private let directory: String
    private let lostAfterUs: UInt64
    private let location: StoreLocation
    private let node: UInt64
    private var store: Store?
    private var openAgainUs: UInt64 = 0
    private var sync: DirectorySync?
    private var nextSyncUs: UInt64 = 0
    private var nextDaysUs: UInt64 = 0
    private let progress: SharedProgress
    private var position: SegmentPosition
    private var busyGate = EventGate()
    private var directoryGate = EventGate()
    private var isFailing = false
    private var lostCheck: LostCheck?
    private var nextLostCheckUs: UInt64 = 0
    private var retention = RetentionSchedule(
        nowUs: LocalFileSystem.monotonicUs(), wallUs: LocalFileSystem.wallUs())
    private var tally = SettlementTally()
    private var nextReportUs: UInt64 = 0
    /// Rows that the duty at hand has removed so far.
    private var expiredCount: UInt64 = 0

    /// Instances that were there at one moment, and the pass that began after it. What is judged
    /// absent must be absent at the end of the check too: an instance that was made in between
    /// was not there at its beginning, and is alive.
    private struct LostCheck {
        var present: Set<UInt64>
        var pass: UInt64
    }

    /// Starts at the oldest segment; the store's cursors skip what it has.
    init(
        _ files: SegmentFiles, options: Sidecar.Options, node: UInt64,
        progress: SharedProgress
    ) throws(InstanceError) {
        self.files = files
        runDirectory = options.runDirectory
        directory = Sidecar.Options.directoryPath(dataDirectory: options.dataDirectory)
        lostAfterUs = options.lostAfterUs
        location = options.store
        self.node = node
        self.progress = progress
        let first = try files.numbers().first ?? 1
        position = SegmentPosition(segment: first, offset: RecordWords.byteCount)
    }

    /// The store did not take the last batch; wait before trying again.
    var isStoreRefusing: Bool { isFailing }

    /// Everything durable is in the store.
    var isCaughtUp: Bool { position >= progress.snapshot.end }

    /// Applies at most one batch. True if there was something to do and it was done.
    mutating func step() throws(InstanceError) -> Bool {
        let end = progress.snapshot.end
        if position >= end { return false }
        if position.segment < end.segment {
            let size = try files.byteCount(position.segment)
            if position.offset + RecordWords.byteCount > size { return try finishSegment() }
            return try apply(upTo: size)
        }
        return try apply(upTo: end.offset)
    }

    private mutating func apply(upTo limit: Int) throws(InstanceError) -> Bool {
        let (records, next) = try records(before: limit)
        do {
            // An unknown outcome is no different from a failure: the next try begins at the
            // store's cursors and does what is left.
            let store = try openStore()
            let batch = try store.applyBatch(
                records, node: node, nowUs: LocalFileSystem.wallUs())
            if batch.hasChanges { nextSyncUs = 0 }
            count(batch, store)
        } catch {
            report(error)
            return false
        }
        recovered()
        position.offset = next
        syncDirectory()
        return true
    }

    private mutating func count(_ batch: AppliedBatch, _ store: Store) {
        tally.settled(batch, wallUs: LocalFileSystem.wallUs()) { model in
            // A name is worth no failure: its tasks are counted without one.
            try? store.modelName(model)
        }
        if batch.unposted > 0 {
            SidecarLog.write(.tasksUnposted, [.count: UInt64(batch.unposted)])
        }
    }

    /// Durable records from `position` on and the offset behind them: from memory, or where they
    /// are not there any more from the segment.
    private func records(
        before limit: Int
    ) throws(InstanceError) -> (records: [JournalRecord], next: Int) {
        let recent = progress.takeRecent(from: position, count: Self.recordsPerTransaction)
        if let recent { return (recent.records, recent.end.offset) }
        return try files.records(from: position, before: limit)
    }

    /// The segment is applied: once that is on the device, the segment has done its work.
    private mutating func finishSegment() throws(InstanceError) -> Bool {
        do {
            guard try openStore().checkpoint() else { return false }
        } catch {
            report(error)
            return false
        }
        recovered()
        let path = files.path(position.segment)
        let size = try files.byteCount(position.segment)
        try LocalFileSystem.remove(path)
        progress.update { $0.segmentBytes -= size }
        let following = try files.numbers()
        position = SegmentPosition(
            segment: following.first { $0 > position.segment } ?? position.segment + 1,
            offset: RecordWords.byteCount)
        return true
    }

    /// Tells the directory what was committed, by this process at once and by others soon. A
    /// directory that another process is writing is left to that one for now.
    mutating func syncDirectory() {
        let nowUs = LocalFileSystem.monotonicUs()
        guard nowUs >= nextSyncUs else { return }
        nextSyncUs = nowUs + Self.syncIntervalUs
        do {
            let store = try openStore()
            if sync == nil {
                sync = try DirectorySync(directory: directory, node: node, wait: false)
            }
            try sync?.run(store)
            if nowUs >= nextDaysUs {
                nextDaysUs = nowUs + Self.daysIntervalUs
                try store.prepareDays(nowUs: LocalFileSystem.wallUs())
            }
            // While records wait, only one that is settled says that the store takes them.
            if isCaughtUp { recovered() }
        } catch let error as StoreError {
            report(error)
        } catch DirectorySync.Failure.store(let error) {
            report(error)
        } catch {
            guard error as? InstanceError != .locked else { return }
            // What cannot be written now is compared anew.
            sync = nil
            guard directoryGate.opens(nowUs: nowUs) else { return }
            SidecarLog.write(.directoryFailed)
        }
    }

    /// Removes what was kept long enough: one bounded batch at most, and only when the schedule
    /// says that settling can spare the time.
    mutating func removeExpired() {
        guard !isFailing else { return }
        let nowUs = LocalFileSystem.monotonicUs()
        guard
            let batch = retention.next(
                nowUs: nowUs, wallUs: LocalFileSystem.wallUs(), isBehind: !isCaughtUp)
        else { return }
        do {
            let outcome = try openStore().removeExpired(batch)
            retention.completed(outcome, nowUs: LocalFileSystem.monotonicUs())
            expiredCount += UInt64(outcome.removed)
            guard outcome.next == nil else { return }
            if expiredCount > 0 {
                SidecarLog.write(
                    .expiredRemoved,
                    [.duty: UInt64(batch.duty.rawValue), .count: expiredCount])
            }
            expiredCount = 0
        } catch {
            // Settling says by itself whether the store takes anything.
            retention.failed(nowUs: LocalFileSystem.monotonicUs())
            SidecarLog.write(.retentionFailed, [.duty: UInt64(batch.duty.rawValue)])
        }
    }

    /// Ends tasks as `lost` that were accepted longer ago than any deadline and whose instance is
    /// gone, when nothing about them can still be on its way.
    mutating func endLostTasks() throws(InstanceError) {
        let nowUs = LocalFileSystem.monotonicUs()
        guard let check = lostCheck else {
            guard nowUs >= nextLostCheckUs else { return }
            lostCheck = LostCheck(
                present: Set(try InstanceDirectory.findInstances(runDirectory)),
                pass: progress.snapshot.passesBegun + 1)
            return
        }
        // An instance that was absent then had published everything about its tasks before. All
        // of that is copied once a later pass reached every ring's end, and applied now.
        let state = progress.snapshot
        guard state.drainedPass >= check.pass, position >= state.drainedEnd else { return }
        lostCheck = nil
        nextLostCheckUs = nowUs + Self.lostCheckIntervalUs
        let wallUs = LocalFileSystem.wallUs()
        guard wallUs > lostAfterUs else { return }
        let present = check.present.union(try InstanceDirectory.findInstances(runDirectory))
        do {
            let store = try openStore()
            let lost = try store.openTasks(
                acceptedBefore: wallUs - lostAfterUs, node: node,
                foreignBefore: wallUs - min(wallUs, lostAfterUs + Self.foreignLostAfterUs)
            )
            .filter { !present.contains($0.task.instance) }
            if !lost.isEmpty {
                count(try store.closeAsLost(lost, atUs: wallUs), store)
                SidecarLog.write(.tasksLost, [.count: UInt64(lost.count)])
            }
            let closed = try store.closeLeases(
                node: node, present: present, nowUs: wallUs)
            if closed > 0 {
                nextSyncUs = 0
                SidecarLog.write(.leasesClosed, [.count: UInt64(closed)])
            }
        } catch {
            report(error)
        }
    }

    /// Opened when first needed and again after a failure to open, so that a locked or broken
    /// database never keeps the copier waiting.
    private mutating func openStore() throws(StoreError) -> Store {
        if let store { return store }
        // To open it may be to migrate it: not time and again on a disk that is too small for it.
        let nowUs = LocalFileSystem.monotonicUs()
        guard nowUs >= openAgainUs else { throw .full }
        do {
            let opened = try Store(location, durability: .checkpoint)
            store = opened
            return opened
        } catch {
            if error == .full { openAgainUs = nowUs + Self.fullPauseUs }
            throw error
        }
    }

    /// Says once a second how settling goes.
    mutating func writeReport() {
        let nowUs = LocalFileSystem.monotonicUs()
        guard nowUs >= nextReportUs else { return }
        nextReportUs = nowUs + Self.reportIntervalUs
        let report = tally.report(
            wallUs: LocalFileSystem.wallUs(), segmentBytes: progress.snapshot.segmentBytes)
        // A run directory without room is for the copying thread to say; this is for looking at.
        try? report.write(runDirectory: runDirectory)
    }

    private mutating func report(_ error: StoreError) {
        isFailing = true
        tally.refused(wallUs: LocalFileSystem.wallUs())
        guard busyGate.opens(nowUs: LocalFileSystem.monotonicUs()) else { return }
        switch error {
        case .locked: SidecarLog.write(.storeBusy)
        case .full: SidecarLog.write(.storeFull)
        case .failed(let code): SidecarLog.write(.storeFailed, [.code: UInt64(code)])
        case .unreachable, .outcomeUnknown: SidecarLog.write(.storeUnreachable)
        case .refused: SidecarLog.write(.storeRefused)
        case .damaged, .unusable, .newerSchema, .unknownKey, .keyExists, .unknownAccount,
            .accountExists,
            .unknownPayout, .payoutSettled, .insufficientFunds, .referenceUsed, .invalidValue,
            .overflow:
            SidecarLog.write(.storeFailed)
        }
    }

    private mutating func recovered() {
        guard isFailing else { return }
        isFailing = false
        busyGate = EventGate()
        SidecarLog.write(.storeRecovered)
    }
}
