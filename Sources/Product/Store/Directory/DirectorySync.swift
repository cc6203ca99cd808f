package import SharedMemory
import SluiceRecordFormat
import SluiceWire

/// Carries what the store has committed into the directory that the brokers of one node read.
///
/// It holds the directory's lock for as long as it lives. One thread uses it.
package struct DirectorySync: ~Copyable {
    private var writer: DirectoryWriter
    private let node: UInt64
    /// The last change of the store that the directory has; nil until the whole was compared.
    private var lastChange: UInt64?

    /// Opens the directory, making it if need be. `locked` if another process holds it and `wait`
    /// is false.
    package init(directory: String, node: UInt64, wait: Bool) throws(InstanceError) {
        writer = try DirectoryWriter(directory: directory, wait: wait)
        self.node = node
    }

    /// Why the directory does not hold what the store has.
    package enum Failure: Error, Equatable, Sendable {
        case store(StoreError)
        case directory(InstanceError)
    }

    /// Brings the directory up to date; durable when this returns. Gives the number of entries
    /// that were written. After an error the next call goes on where this one came to.
    @discardableResult
    package mutating func run(_ store: Store) throws(Failure) -> Int {
        var count = 0
        while let last = lastChange {
            guard
                let changes = try Self.from({ () throws(StoreError) in
                    try store.changes(after: last, node: node)
                })
            else { break }
            guard let newest = changes.last else { return count }
            try write(changes.map(\.entry))
            count += changes.count
            lastChange = newest.id
        }
        return count + (try compareAll(store))
    }

    /// The first time, and after a pause so long that changes are gone: writes what differs.
    private mutating func compareAll(_ store: Store) throws(Failure) -> Int {
        let whole = try Self.from { () throws(StoreError) in
            try store.directoryEntries(node: node)
        }
        var known: [DirectoryEntry.Key: DirectoryEntry] = [:]
        for var entry in writer.entries {
            entry.change = 0
            known[entry.key] = entry
        }
        var missing = whole.entries.filter { known[$0.key] != $0 }
        // A lease that the store no longer holds open was closed.
        let open = Set(whole.entries.map(\.key))
        for case .lease(var lease) in known.values where !lease.isClosed {
            guard !open.contains(DirectoryEntry.lease(lease).key) else { continue }
            lease.isClosed = true
            missing.append(.lease(lease))
        }
        try write(missing)
        lastChange = whole.lastChange
        return missing.count
    }

    private mutating func write(_ entries: [DirectoryEntry]) throws(Failure) {
        guard !entries.isEmpty else { return }
        do {
            try writer.upsert(entries)
        } catch {
            throw .directory(error)
        }
    }

    private static func from<Value>(
        _ body: () throws(StoreError) -> Value
    ) throws(Failure) -> Value {
        do {
            return try body()
        } catch {
            throw .store(error)
        }
    }
}
