import SluiceRecordFormat
import SluiceWire

/// A standing offer as the supplier's frames say.
struct Offering {
    let model: ModelName
    var slots: UInt32 = 0
}

/// What a task asks of an offer.
struct Wish {
    /// Nil until its SUBMIT is known.
    var model: ModelName?
    /// Any offer of the model will do.
    var isPlain = false
    var priority: UInt8 = 0
    var deadlineMs: UInt64 = 0
    /// No later than the broker may count it: its clock starts when it hears of the task.
    var deadlineUs: UInt64 = 0

    init() {}

    init(_ submit: SubmitFrame, nowUs: UInt64) {
        model = submit.model
        isPlain = submit.filters == OfferFilters()
        priority = submit.terms.priority
        deadlineMs = UInt64(
            submit.terms.deadlineMs == 0 ? WireLimits.deadlineMsMax : submit.terms.deadlineMs)
        deadlineUs = nowUs + deadlineMs * 1_000
    }
}

/// What a broker lets be known of the suppliers it trusts.
struct SupplyBook {
    /// Breakers that opened since the broker started.
    var breakersOpened: UInt64 = 0
    /// By supplier: how many breakers had opened when a task was accepted that it completed. With
    /// none opened since, its own is closed.
    var trusted: [UInt64: UInt64] = [:]
    /// The longest that a task ran: no first token is predicted for later than twice that.
    var longestRunUs: UInt64 = 0
}

/// [L2]: nobody waits while a slot is free that could run the task.
extension WireTap {
    /// What the dispatcher says of itself, to tell whether these books agree with its own.
    package struct DispatcherView {
        let queuedTasks: Int
        let slotsInUse: UInt64
        let breakersOpened: UInt64
    }

    func granted(_ connection: UInt32, _ grant: GrantFrame) {
        if grant.offer == .connection {
            lines[connection]?.slots = grant.slots
        } else {
            lines[connection]?.offers[grant.offer.rawValue]?.slots = grant.slots
        }
    }

    /// A record that the broker published, before anything that was sealed after it.
    func published(_ record: JournalRecord) {
        if let accepted = AcceptedRecord(record) {
            tasks[accepted.task, default: TaskBook()].breakersOpened = supply.breakersOpened
            openTasks.append(accepted.task)
        } else if let ended = EndedRecord(record) {
            openTasks.removeAll { $0 == ended.task }
            guard ended.dispatches > 0 else { return }
            let ranUs = ended.durationUs - min(ended.durationUs, UInt64(ended.queueUs))
            supply.longestRunUs = max(supply.longestRunUs, ranUs)
            if ended.status == .completed, let book = tasks[ended.task] {
                supply.trusted[ended.supplier] = book.breakersOpened
            }
        }
    }

    /// A turn is over, and nothing is on its way between shards and dispatcher. Where these books
    /// and the dispatcher's count the same tasks and slots, all frames have been sealed and read:
    /// then no task may wait that fits a free slot, not even for a moment (decision 50).
    package func checkQueues(_ view: DispatcherView, maxStreams: UInt32) {
        supply.breakersOpened = view.breakersOpened
        let waiting = openTasks.filter { tasks[$0]?.supplier == nil }
        guard waiting.count == view.queuedTasks, slotsInUse == view.slotsInUse else {
            return oracle.count("queues that are on their way")
        }
        oracle.count("queues looked at")
        let suppliers = lines.keys.sorted().filter {
            lines[$0].map { $0.role == .supplier && $0.isHonest && !$0.isOver } ?? false
        }
        for id in waiting {
            guard let book = tasks[id], let model = book.wish.model, book.wish.isPlain,
                isInTime(book.wish)
            else { continue }
            for connection in suppliers {
                guard let line = lines[connection], isTrusted(line.identity),
                    !book.suppliers.contains(line.identity),
                    let offer = freeOffer(line, of: model, maxStreams: maxStreams)
                else { continue }
                return oracle.fail("[L2] \(id) waits, and offer \(offer) of \(connection) is free")
            }
        }
    }

    /// Streams at suppliers for which no END came.
    var slotsInUse: UInt64 {
        lines.values.reduce(0) { $0 + ($1.role == .supplier ? UInt64($1.open[0] ?? 0) : 0) }
    }

    /// No offer is ruled out because its first token would come too late.
    private func isInTime(_ wish: Wish) -> Bool {
        oracle.nowUs + 2 * supply.longestRunUs + 1_000_000 < wish.deadlineUs
    }

    private func isTrusted(_ supplier: UInt64) -> Bool {
        supply.breakersOpened == 0 || supply.trusted[supplier] == supply.breakersOpened
    }

    private func freeOffer(_ line: Line, of model: ModelName, maxStreams: UInt32) -> UInt32? {
        guard line.open[0, default: 0] < min(line.slots, maxStreams) else { return nil }
        return line.offers.keys.sorted().first {
            guard let offering = line.offers[$0] else { return false }
            return offering.model == model && line.open[$0, default: 0] < offering.slots
        }
    }
}
