import SluiceRecordFormat
import SluiceWire

/// How large the files of an instance are.
package struct InstanceSizes: Sendable {
    /// Size of the journal ring's file.
    package var ringBytes = RingLayout.defaultByteCount
    /// Slots of the open-task table.
    package var tableSlots = TableLayout.defaultSlotCount
    /// Blocks of the statistics page, 1…63.
    package var shards = StatisticsLayout.shardsMax

    package init() {}
}

/// One start of a broker: its directory on tmpfs, locked for as long as this value lives, with
/// journal ring, open-task table and statistics page.
///
/// Made before the shards start and owned by the dispatcher's thread; the handles `table` and
/// `statistics(shard:)` may be copied to other threads, which end before this value does.
package struct BrokerInstance: ~Copyable {
    /// Random, never 0; the first half of its tasks' identities.
    package let id: UInt64
    /// Position among the instances of the run directory, in the order they were made.
    package let startNumber: UInt64
    /// The journal's writing end.
    package var journal: JournalWriter
    /// Handle on the open tasks.
    package let table: TaskTable
    /// The ring had to be made smaller than asked; the caller logs `journal.recordCapacity`.
    package let isRingReduced: Bool
    /// Most tasks that may be open at once, from ring and table together.
    package let openTasksMax: Int
    /// The last closing of dead instances stopped for want of room.
    var closingLacksRoom = false
    /// Instances whose ring could not be read at the start. They are left where they are.
    package let damagedInstances: [UInt64]

    private let lock: InstanceLock
    private let tableFile: MappedFile
    private let statisticsFile: MappedFile
    private let shards: Int

    /// Makes a new instance under `runDirectory`, which is made too if need be. All blocks of all
    /// files are reserved before anything is mapped; where the ring does not fit it is halved,
    /// down to 2 MiB, else `noSpace`. The first record, INSTANCE_START, is published.
    ///
    /// Where an earlier ring does not say its start number, this one's is the wall clock, which
    /// numbers that count starts never come to (decision 87).
    package static func create(
        runDirectory: String, sizes: InstanceSizes = InstanceSizes(), wallMicroseconds: UInt64
    ) throws(InstanceError) -> BrokerInstance {
        precondition((1...StatisticsLayout.shardsMax).contains(sizes.shards))
        precondition(sizes.tableSlots >= 1 && sizes.ringBytes >= RingLayout.minimumByteCount)
        try LocalFileSystem.makeDirectory(runDirectory)
        _ = try LocalFile.openDirectory(runDirectory)
        let runLock = try InstanceLock(path: runDirectory + "/.lock", create: true, wait: true)
        defer { _ = runLock }
        try InstanceDirectory.removeLeftovers(runDirectory)
        let earlier = try EarlierInstances(runDirectory: runDirectory)
        let startNumber = earlier.nextStartNumber(wallMicroseconds: wallMicroseconds)
        let id = UInt64.random(in: 1...UInt64.max)
        let files = try InstanceFiles.make(
            runDirectory: runDirectory, id: id, startNumber: startNumber, sizes: sizes)
        return BrokerInstance(
            files: files, id: id, startNumber: startNumber, sizes: sizes,
            damagedInstances: earlier.damaged, wallMicroseconds: wallMicroseconds)
    }

    private init(
        files: consuming InstanceFiles, id: UInt64, startNumber: UInt64, sizes: InstanceSizes,
        damagedInstances: [UInt64], wallMicroseconds: UInt64
    ) {
        self.id = id
        self.startNumber = startNumber
        self.damagedInstances = damagedInstances
        shards = sizes.shards
        let ringRecords = files.ring.capacity
        isRingReduced = ringRecords < RingLayout.capacity(byteCount: sizes.ringBytes)
        openTasksMax = JournalReserve.openTasksMax(
            ringRecords: ringRecords, slots: sizes.tableSlots)
        // SAFETY: the table's file is owned by this value and outlives the handle by contract.
        table = unsafe TaskTable(
            firstSlot: files.table.base + FileHeader.byteCount, slotCount: sizes.tableSlots)
        journal = JournalWriter(file: files.ring, instance: id)
        tableFile = files.table
        statisticsFile = files.statistics
        lock = files.lock
        journal.append(
            InstanceStartRecord(
                startedAtUs: wallMicroseconds, ringRecords: UInt32(ringRecords),
                tableSlots: UInt32(sizes.tableSlots)
            ).record)
        journal.publish()
    }

    /// Records that tasks may take now: all that are free; while a closing lacks room, what is free
    /// beyond `openTasksMax`, so that it goes on whatever load there is. May be below zero.
    package var roomForTasks: Int {
        journal.freeRecords - (closingLacksRoom ? openTasksMax : 0)
    }

    /// The counters of one shard, 0..<`sizes.shards`.
    package func statistics(shard: Int) -> StatisticsPage {
        precondition(shard >= 0 && shard < shards)
        // SAFETY: the file is owned by this value and outlives the handle by contract.
        return unsafe StatisticsPage(base: statisticsFile.base, shard: shard)
    }

    /// Ends the instance in order: publishes, and if no task is open, says so with INSTANCE_CLOSED
    /// and marks it closed, so that no successor looks at it. Without room for that record, which
    /// admission's slack rules out, it is left to a successor. The lock is released with this value.
    package consuming func close(wallMicroseconds: UInt64) {
        journal.publish()
        let published = journal.publishedSequence
        let isOpen = (0..<table.slotCount).contains { index in
            let slot = table.slot(index)
            return slot.acceptSequence != 0
                && !(slot.endSequence != 0 && slot.endInstance == id
                    && slot.endSequence <= published)
        }
        guard !isOpen, journal.freeRecords > 0 else { return }
        journal.append(
            InstanceClosedRecord(closed: id, closedAtUs: wallMicroseconds, endedCount: 0).record)
        journal.publish()
        journal.markClosed(by: id)
    }
}

/// What a new instance learns of those before it. The caller holds the run directory's lock.
private struct EarlierInstances {
    private var lastStartNumber: UInt64 = 0
    /// Of some instance.
    private var isNumberUnknown = false
    private(set) var damaged: [UInt64] = []

    init(runDirectory: String) throws(InstanceError) {
        for instance in try InstanceDirectory.findInstances(runDirectory) {
            do {
                let ring = try DeadRing(runDirectory: runDirectory, instance: instance)
                if let number = ring.startNumber {
                    lastStartNumber = max(lastStartNumber, number)
                } else {
                    isNumberUnknown = true
                }
            } catch .vanished {
                continue
            } catch .damaged {
                isNumberUnknown = true
                damaged.append(instance)
            }
        }
        damaged.sort()
    }

    /// Above every number that is known, and another one than any that is not.
    func nextStartNumber(wallMicroseconds: UInt64) -> UInt64 {
        max(lastStartNumber + 1, isNumberUnknown ? wallMicroseconds : 0)
    }
}

/// The files of a new instance.
private struct InstanceFiles: ~Copyable {
    let ring: MappedFile
    let table: MappedFile
    let statistics: MappedFile
    let lock: InstanceLock

    /// Made under another name and renamed when complete and locked: nobody can take a young
    /// instance for a dead one. The caller holds the run directory's lock.
    static func make(
        runDirectory: String, id: UInt64, startNumber: UInt64, sizes: InstanceSizes
    ) throws(InstanceError) -> InstanceFiles {
        let aside = runDirectory + "/.new-" + hexadecimal(id)
        try LocalFileSystem.makeDirectory(aside)
        do {
            let files = try InstanceFiles(directory: aside, id: id, sizes: sizes)
            files.ring.store(startNumber, at: RingLayout.startNumberOffset)
            try LocalFileSystem.rename(aside, to: InstanceDirectory.path(runDirectory, id))
            return files
        } catch {
            try InstanceDirectory.removeLeftovers(runDirectory)
            throw error
        }
    }

    private init(directory: String, id: UInt64, sizes: InstanceSizes) throws(InstanceError) {
        let lock = try InstanceLock(
            path: directory + "/" + SharedFile.lock.rawValue, create: true)
        let table = try MappedFile.create(
            directory + "/" + SharedFile.table.rawValue,
            byteCount: TableLayout.byteCount(slots: sizes.tableSlots), magic: TableLayout.magic,
            instance: id, capacity: sizes.tableSlots)
        let statistics = try MappedFile.create(
            directory + "/" + SharedFile.statistics.rawValue,
            byteCount: (sizes.shards + 1) * StatisticsLayout.blockByteCount,
            magic: StatisticsLayout.magic, instance: id, capacity: sizes.shards)
        let ring = try Self.largestRing(directory: directory, id: id, sizes: sizes)
        self.lock = lock
        self.table = table
        self.statistics = statistics
        self.ring = ring
    }

    private static func largestRing(
        directory: String, id: UInt64, sizes: InstanceSizes
    ) throws(InstanceError) -> MappedFile {
        var byteCount = sizes.ringBytes
        while true {
            do {
                return try MappedFile.create(
                    directory + "/" + SharedFile.ring.rawValue, byteCount: byteCount,
                    magic: RingLayout.magic, instance: id,
                    capacity: RingLayout.capacity(byteCount: byteCount))
            } catch .noSpace {
                let half = byteCount / 2
                guard half >= RingLayout.minimumByteCount else {
                    throw .noSpace(neededBytes: byteCount)
                }
                byteCount = half
            }
        }
    }
}
