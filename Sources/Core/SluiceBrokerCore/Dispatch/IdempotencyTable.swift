import SluiceWire

/// Which task has which idempotency key, by account: while it is open and for a while after, so
/// that a repeated SUBMIT runs nothing. Bounded per account; the one that ended longest ago makes
/// room. Keys are digests salted with their account.
struct IdempotencyTable {
    /// What a key names.
    struct Entry {
        fileprivate(set) var digest: UInt64 = 0
        fileprivate(set) var account = noIndex
        /// Nil until it is accepted.
        fileprivate(set) var task: TaskID?
        fileprivate(set) var usage = Usage()
        fileprivate(set) var cost = MicroUSD.zero
        /// Nil while it is open.
        fileprivate(set) var endedUs: UInt64?
        fileprivate var next = noIndex
    }

    private struct Key: Hashable {
        let account: UInt32
        let digest: UInt64
    }

    /// The keys of one account that ended, the oldest first.
    private struct Line {
        var count = 0
        var head = noIndex
        var tail = noIndex
        /// It is in `accountsToSweep`.
        var isListed = false
    }

    private let perAccount: Int
    private let keepUs: UInt64
    private var entries: [Entry] = []
    private var idle: [UInt32] = []
    private var place: [Key: UInt32] = [:]
    /// By account index.
    private var lines: [Line] = []
    /// Accounts with an entry that ended, at most once each.
    private var accountsToSweep: [UInt32] = []

    /// `keepUs` counts from a task's end.
    init(perAccount: Int, keepUs: UInt64) {
        self.perAccount = perAccount
        self.keepUs = keepUs
    }

    /// Keys that are remembered.
    var count: Int { place.count }

    mutating func find(_ account: UInt32, _ digest: UInt64, nowUs: UInt64) -> Entry? {
        sweep(account, nowUs: nowUs)
        return place[Key(account: account, digest: digest)].map { entries[Int($0)] }
    }

    /// Remembers a key that `find` did not find; nil when the account has too many open ones.
    mutating func reserve(_ account: UInt32, _ digest: UInt64) -> UInt32? {
        while lines.count <= Int(account) { lines.append(Line()) }
        if lines[Int(account)].count >= perAccount {
            guard lines[Int(account)].head != noIndex else { return nil }
            dropOldest(account)
        }
        lines[Int(account)].count += 1
        var entry = Entry()
        entry.account = account
        entry.digest = digest
        let position: UInt32
        if let free = idle.popLast() {
            position = free
            entries[Int(free)] = entry
        } else {
            position = UInt32(entries.count)
            entries.append(entry)
        }
        place[Key(account: account, digest: digest)] = position
        return position
    }

    mutating func accepted(_ position: UInt32, _ task: TaskID) {
        entries[Int(position)].task = task
    }

    mutating func ended(_ position: UInt32, _ usage: Usage, cost: MicroUSD, nowUs: UInt64) {
        let account = Int(entries[Int(position)].account)
        entries[Int(position)].usage = usage
        entries[Int(position)].cost = cost
        entries[Int(position)].endedUs = nowUs
        entries[Int(position)].next = noIndex
        if lines[account].tail == noIndex {
            lines[account].head = position
            if !lines[account].isListed { accountsToSweep.append(UInt32(account)) }
            lines[account].isListed = true
        } else {
            entries[Int(lines[account].tail)].next = position
        }
        lines[account].tail = position
    }

    /// Its task was refused: the key may be used again.
    mutating func forget(_ position: UInt32) {
        precondition(entries[Int(position)].endedUs == nil, "forgotten in the middle of a line")
        remove(position)
    }

    /// Drops what ended too long ago. Called about once a second.
    mutating func sweep(nowUs: UInt64) {
        var kept = 0
        for index in accountsToSweep.indices {
            let account = accountsToSweep[index]
            sweep(account, nowUs: nowUs)
            lines[Int(account)].isListed = lines[Int(account)].head != noIndex
            guard lines[Int(account)].isListed else { continue }
            accountsToSweep[kept] = account
            kept += 1
        }
        accountsToSweep.removeLast(accountsToSweep.count - kept)
    }

    private mutating func sweep(_ account: UInt32, nowUs: UInt64) {
        guard Int(account) < lines.count else { return }
        while lines[Int(account)].head != noIndex {
            let oldest = entries[Int(lines[Int(account)].head)]
            guard let endedUs = oldest.endedUs, nowUs >= endedUs + keepUs else { return }
            dropOldest(account)
        }
    }

    private mutating func dropOldest(_ account: UInt32) {
        let oldest = lines[Int(account)].head
        lines[Int(account)].head = entries[Int(oldest)].next
        if lines[Int(account)].head == noIndex { lines[Int(account)].tail = noIndex }
        remove(oldest)
    }

    private mutating func remove(_ position: UInt32) {
        let entry = entries[Int(position)]
        place[Key(account: entry.account, digest: entry.digest)] = nil
        lines[Int(entry.account)].count -= 1
        entries[Int(position)] = Entry()
        idle.append(position)
    }
}
