import BasicContainers
import LockFree
import SharedMemory
import SluiceBrokerCore
import SluiceRecordFormat

/// The dispatcher with the files that it writes and the queues of the shards that ask it. Owned by
/// one thread: shard 0's, or its own.
struct DispatchSeat: ~Copyable {
    private var dispatcher: Dispatcher
    private var journal: InstanceJournal
    private var directory: DirectoryReader
    private var output = DispatcherOutput()
    private let links: ShardLinks
    /// By shard. Answers to the shard of this thread go to `ownMessages` instead.
    private var outlets: [Outlet<ShardMessage>]
    private let ownShard: UInt16?
    /// Answers for the shard of this thread, oldest first.
    private var ownMessages = UniqueArray<ShardMessage>()
    private let log: BrokerLog
    private var lastPollUs: UInt64 = 0
    private var lastReportUs: UInt64 = 0
    private var lastSecondUs: UInt64 = 0

    /// Requests of one shard that are looked at before the next one's turn.
    private static let requestsPerTurn = 256

    /// `ownShard` is the shard of the same thread, which calls `ask` for itself.
    init(
        journal: consuming InstanceJournal, directory: consuming DirectoryReader,
        limits: BrokerLimits, openTasksMax: Int, links: ShardLinks, ownShard: UInt16?,
        log: BrokerLog
    ) {
        dispatcher = Dispatcher(
            limits: limits, instance: journal.id, openTasksMax: openTasksMax, seed: journal.id)
        self.journal = journal
        self.directory = directory
        self.links = links
        self.ownShard = ownShard
        self.log = log
        outlets = (0..<links.shardCount).map { Outlet(links.messages[$0], to: links.gauges[$0]) }
    }

    // `mutating`, so that they are read in place where the seat is an optional: to look at one that
    // cannot be copied, all of it is moved to the stack, which is several KiB a turn.

    /// Whether another shard waits for an answer.
    var hasRequests: Bool {
        mutating get { links.requests.contains { !$0.isEmpty } }
    }

    /// Somebody waits for a lease, which comes by the directory.
    var isLeaseAwaited: Bool {
        mutating get { dispatcher.isLeaseAwaited }
    }

    /// Answers that found no room in a queue.
    var hasWaiting: Bool {
        mutating get { outlets.contains { $0.waitingCount > 0 } }
    }

    /// Begins a turn: looks how much room the journal has.
    mutating func begin() {
        dispatcher.journalHasRoom(records: journal.roomForTasks)
    }

    /// Answers what the shards of other threads asked; at most so many that others get their turn.
    mutating func answerShards(nowUs: UInt64, wallUs: UInt64) {
        for queue in links.requests {
            var left = Self.requestsPerTurn
            while left > 0, let request = queue.pop() {
                dispatcher.received(request, nowUs: nowUs, wallUs: wallUs, out: &output)
                left -= 1
            }
            queue.release()
        }
        finish()
    }

    /// Answers the shard of this thread.
    mutating func ask(
        _ requests: borrowing UniqueArray<DispatchRequest>, nowUs: UInt64, wallUs: UInt64
    ) {
        for position in requests.indices {
            dispatcher.received(requests[position], nowUs: nowUs, wallUs: wallUs, out: &output)
        }
        finish()
    }

    /// Answers for the shard of this thread.
    var hasOwnMessages: Bool {
        mutating get { !ownMessages.isEmpty }
    }

    /// Exchanges the answers to the shard of this thread, oldest first, for an empty list.
    mutating func swapOwnMessages(_ empty: inout UniqueArray<ShardMessage>) {
        swap(&empty, &ownMessages)
    }

    /// What was written is published before any shard can hear of it.
    private mutating func finish() {
        if !output.journal.isEmpty {
            journal.write(output.journal)
            output.journal.removeAll(keepingCapacity: true)
            dispatcher.published()
        }
        guard !output.messages.isEmpty else { return }
        // With one shard all of them are its own: nothing is copied.
        if ownShard != nil, outlets.count == 1, ownMessages.isEmpty {
            return swap(&ownMessages, &output.messages)
        }
        for position in output.messages.indices {
            let shard = output.messages[position].shard
            if shard == ownShard {
                ownMessages.append(output.messages[position])
            } else {
                outlets[Int(shard)].send(output.messages[position])
            }
        }
        output.messages.removeAll(keepingCapacity: true)
    }

    /// Ends a turn: what was said is shown to the shards.
    mutating func flush() {
        for shard in outlets.indices { outlets[shard].flush() }
    }

    /// What has time: entries of the directory that changed, numbers for operators, slow clocks.
    /// While somebody waits for a lease, the directory is looked at every few milliseconds.
    mutating func poll(nowUs: UInt64, wallUs: UInt64) {
        let sinceUs = nowUs - lastPollUs
        guard sinceUs >= 100_000 || (dispatcher.isLeaseAwaited && sinceUs >= 5_000) else { return }
        lastPollUs = nowUs
        do {
            for entry in try directory.poll() {
                dispatcher.directoryChanged(entry, nowUs: nowUs, wallUs: wallUs, out: &output)
            }
        } catch {
            log.event("directory_unreadable")
        }
        if dispatcher.isLeaseAwaited {
            dispatcher.advanceLeases(nowUs: nowUs, wallUs: wallUs, out: &output)
        }
        if nowUs - lastSecondUs >= 1_000_000 {
            lastSecondUs = nowUs
            dispatcher.advance(nowUs: nowUs, wallUs: wallUs, out: &output)
            // What it wrote has its place before a closing looks how many are left.
            finish()
            closeDeadInstances(wallUs: wallUs)
        }
        finish()
        // It walks all suppliers and offers: not every few milliseconds.
        guard nowUs - lastReportUs >= 100_000 else { return }
        lastReportUs = nowUs
        journal.report(dispatcher)
    }

    /// What the start could not finish for want of room in the ring.
    private mutating func closeDeadInstances(wallUs: UInt64) {
        guard !journal.isRecovered else { return }
        do {
            try journal.closeDeadInstances(
                openTasks: dispatcher.openTasks, wallUs: wallUs, waitMs: 0, log)
        } catch {
            log.event("recovery_failed")
        }
        // The closing took records that this turn's tasks would have counted on.
        begin()
    }

    /// Ends the instance in order. Every shard has ended before.
    consuming func close(wallUs: UInt64) {
        log.event("stopped", ("accepted", dispatcher.counters.accepted))
        journal.close(wallUs: wallUs)
    }
}
