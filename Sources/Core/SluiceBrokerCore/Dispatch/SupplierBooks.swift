import SluiceRecordFormat
import SluiceWire

/// What the dispatcher did with each supplier's offers, counted for that supplier alone: by model,
/// across its connections and over reconnects. The ledger says what is paid, these numbers only
/// what to expect.
///
/// A row is about 300 bytes, and there are at most `rowsMax`. What is counted costs an addition; no
/// row is ever looked for but when an offer is made.
struct SupplierBooks {
    /// How a task left the supplier.
    enum End {
        case completed, declined, failed, other
        /// The supplier never heard of the task.
        case undelivered

        init(_ outcome: SupplierOutcome, _ report: TaskReport?) {
            guard let report else {
                self = .undelivered
                return
            }
            if report.status == .completed {
                self = .completed
            } else if report.isDeclined {
                self = .declined
            } else {
                self = outcome == .failure || outcome == .lost ? .failed : .other
            }
        }
    }

    /// What a row counts.
    struct Counts {
        var dispatched: UInt64 = 0
        var completed: UInt64 = 0
        var declined: UInt64 = 0
        var failed: UInt64 = 0
        var otherEnds: UInt64 = 0
        var inputTokens: UInt64 = 0
        var outputTokens: UInt64 = 0
        /// Micro-USD; of the day `day`, days since 1970, and in all.
        var earned: UInt64 = 0
        var earnedOfDay: UInt64 = 0
        var day: UInt64 = 0
        /// By `LossReason`.
        var lost = [UInt64](repeating: 0, count: LossReason.allCases.count)

        func earnedToday(wallUs: UInt64) -> UInt64 {
            wallUs / SupplierBooks.dayUs == day ? earnedOfDay : 0
        }

        mutating func add(_ other: Counts) {
            dispatched &+= other.dispatched
            completed &+= other.completed
            declined &+= other.declined
            failed &+= other.failed
            otherEnds &+= other.otherEnds
            inputTokens &+= other.inputTokens
            outputTokens &+= other.outputTokens
            earned &+= other.earned
            // What was earned on an earlier day than the other's latest counts no more.
            if day < other.day { earnedOfDay = 0 }
            if other.day >= day { earnedOfDay &+= other.earnedOfDay }
            day = max(day, other.day)
            for reason in lost.indices { lost[reason] &+= other.lost[reason] }
        }
    }

    /// A model of a supplier, or (the first of each) all that found no row of their own.
    struct Row {
        var isPresent = false
        var number: UInt64 = 0
        /// Its model; `noIndex` in the first row of a supplier.
        var model = noIndex
        /// Its place among its supplier's rows.
        var place = 0
        /// Offers that count here and are not gone.
        var offers = 0
        /// When the last of them went.
        var goneMs: UInt64 = 0
        var counts = Counts()
    }

    /// A supplier's rows.
    struct Book {
        /// The wall clock when it began, ms since 1970.
        let sinceMs: UInt64
        var rows: [UInt32]
    }

    static let dayUs: UInt64 = 86_400_000_000
    /// Rows without offers are kept for two days: longer than any supplier's "today".
    static let keepMs: UInt64 = 172_800_000

    private let rowsMax: Int
    private(set) var rows: [Row] = []
    private var idleRows: [UInt32] = []
    private var byNumber: [UInt64: Book] = [:]
    private var agedRow = 0

    init(rowsMax: Int) {
        self.rowsMax = rowsMax
    }

    /// The supplier's rows, that of no model first; nil where nothing is counted.
    func book(of number: UInt64) -> Book? { byNumber[number] }

    // MARK: Offers

    /// The supplier `number` offers the model: where that is counted. 0 has no books.
    mutating func offered(by number: UInt64, model: UInt32, wallMs: UInt64) -> UInt32 {
        guard number != 0 else { return noIndex }
        if byNumber[number] == nil {
            guard let first = add(Row(isPresent: true, number: number)) else { return noIndex }
            byNumber[number] = Book(sinceMs: wallMs, rows: [first])
        }
        guard let book = byNumber[number] else { return noIndex }
        let row =
            book.rows.first { rows[Int($0)].model == model }
            ?? addRow(of: number, model: model, place: book.rows.count) ?? book.rows[0]
        rows[Int(row)].offers += 1
        return row
    }

    /// One of the row's offers is gone.
    mutating func withdrawn(_ row: UInt32, nowMs: UInt64) {
        guard row != noIndex else { return }
        rows[Int(row)].offers -= 1
        rows[Int(row)].goneMs = nowMs
    }

    private mutating func addRow(of number: UInt64, model: UInt32, place: Int) -> UInt32? {
        guard place <= BrokerLimits.rowsPerSupplier else { return nil }
        let row = Row(isPresent: true, number: number, model: model, place: place)
        guard let added = add(row) else { return nil }
        byNumber[number]?.rows.append(added)
        return added
    }

    private mutating func add(_ row: Row) -> UInt32? {
        if let idle = idleRows.popLast() {
            rows[Int(idle)] = row
            return idle
        }
        guard rows.count < rowsMax else { return nil }
        rows.append(row)
        return UInt32(rows.count - 1)
    }

    // MARK: Tasks

    mutating func dispatched(_ row: UInt32) {
        guard row != noIndex else { return }
        rows[Int(row)].counts.dispatched &+= 1
    }

    mutating func done(_ row: UInt32, _ end: End) {
        guard row != noIndex else { return }
        switch end {
        case .completed: rows[Int(row)].counts.completed &+= 1
        case .declined: rows[Int(row)].counts.declined &+= 1
        case .failed: rows[Int(row)].counts.failed &+= 1
        case .other: rows[Int(row)].counts.otherEnds &+= 1
        case .undelivered: rows[Int(row)].counts.dispatched &-= 1
        }
    }

    /// What a task used is known, and what the supplier earns by it.
    mutating func earned(_ row: UInt32, _ usage: Usage, _ amount: MicroUSD, wallUs: UInt64) {
        guard row != noIndex else { return }
        let index = Int(row)
        rows[index].counts.inputTokens &+= UInt64(usage.inputTokens)
        rows[index].counts.outputTokens &+= UInt64(usage.outputTokens)
        let today = wallUs / Self.dayUs
        if rows[index].counts.day != today {
            rows[index].counts.day = today
            rows[index].counts.earnedOfDay = 0
        }
        let earned = UInt64(clamping: amount.rawValue)
        rows[index].counts.earned &+= earned
        rows[index].counts.earnedOfDay &+= earned
    }

    mutating func lost(_ row: UInt32, _ reason: LossReason, _ weight: UInt64) {
        guard row != noIndex else { return }
        rows[Int(row)].counts.lost[Int(reason.rawValue)] &+= weight
    }

    // MARK: Time

    /// Rows of models that were not offered for long join the first one of their supplier, and a
    /// supplier whose only row that is, is forgotten. Some rows at each call, all in turn.
    mutating func age(nowMs: UInt64) {
        for _ in 0..<min(256, rows.count) {
            agedRow = agedRow + 1 < rows.count ? agedRow + 1 : 0
            let row = rows[agedRow]
            guard row.isPresent, row.offers == 0, nowMs >= row.goneMs + Self.keepMs,
                let book = byNumber[row.number]
            else { continue }
            if row.model == noIndex {
                guard book.rows.count == 1 else { continue }
                byNumber[row.number] = nil
            } else {
                rows[Int(book.rows[0])].counts.add(row.counts)
                rows[Int(book.rows[0])].goneMs = max(rows[Int(book.rows[0])].goneMs, row.goneMs)
                remove(row.place, of: row.number, book)
            }
            rows[agedRow] = Row()
            idleRows.append(UInt32(agedRow))
        }
    }

    private mutating func remove(_ place: Int, of number: UInt64, _ book: Book) {
        var book = book
        let last = book.rows.removeLast()
        if place < book.rows.count {
            book.rows[place] = last
            rows[Int(last)].place = place
        }
        byNumber[number] = book
    }
}
