import BasicContainers
import SluiceRecordFormat
import SluiceWire

/// Refusals of one account above 100 a second are written as one record with a count.
struct RefusalLedger {
    static let singlesPerSecond: UInt64 = 100

    struct Window {
        var account: UInt64
        var second: UInt64 = 0
        var written: UInt64 = 0
        var pending: UInt64 = 0
        var code: WireCode = .invalidRequest
        var model: UInt32 = 0
    }

    var windows: [Window] = []
    var windowByAccount: [UInt64: Int] = [:]
    /// Positions in `windows` with something pending.
    var pending: [Int] = []
}

extension Dispatcher {
    /// Writes a refusal down, or counts it where there are too many for single records.
    mutating func recordRefusal(
        account: UInt64, _ code: WireCode, model: UInt32, wallUs: UInt64,
        out: inout DispatcherOutput
    ) {
        counters.refused += 1
        if code == .journalFull { counters.journalFullRefusals += 1 }
        let position: Int
        if let known = refusals.windowByAccount[account] {
            position = known
        } else {
            position = refusals.windows.count
            refusals.windows.append(RefusalLedger.Window(account: account))
            refusals.windowByAccount[account] = position
        }
        let second = wallUs / 1_000_000
        if refusals.windows[position].second != second {
            refusals.windows[position].second = second
            refusals.windows[position].written = 0
        }
        guard refusals.windows[position].written < RefusalLedger.singlesPerSecond else {
            if refusals.windows[position].pending == 0 { refusals.pending.append(position) }
            refusals.windows[position].pending += 1
            refusals.windows[position].code = code
            refusals.windows[position].model = model
            return
        }
        refusals.windows[position].written += 1
        writeRefusal(account, code, model, count: 1, wallUs: wallUs, out: &out)
    }

    mutating func writePendingRefusals(wallUs: UInt64, out: inout DispatcherOutput) {
        for position in refusals.pending {
            let window = refusals.windows[position]
            writeRefusal(
                window.account, window.code, window.model, count: window.pending,
                wallUs: wallUs, out: &out)
            refusals.windows[position].pending = 0
        }
        refusals.pending.removeAll(keepingCapacity: true)
    }

    private mutating func writeRefusal(
        _ account: UInt64, _ code: WireCode, _ model: UInt32, count: UInt64, wallUs: UInt64,
        out: inout DispatcherOutput
    ) {
        // What open tasks need comes first; a refusal is then only counted.
        guard hasJournalRoom else {
            counters.refusalsUnwritten += count
            return
        }
        journalFreeRecords -= 1
        out.journal.append(
            .refused(
                RefusedRecord(
                    account: account, refusedAtUs: wallUs, code: code, model: model,
                    count: count)))
    }

    /// Room for one more record beyond what open tasks have reserved.
    var hasJournalRoom: Bool {
        mutating get {
            JournalReserve.admits(freeRecords: journalFreeRecords, openTasks: openTasks)
        }
    }
}
