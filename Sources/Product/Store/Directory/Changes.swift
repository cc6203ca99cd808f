package import SluiceRecordFormat
import SluiceWire

/// Something that the brokers must learn, in the order in which it was committed.
package struct StoreChange: Equatable, Sendable {
    /// Ascending; not dense.
    package var id: UInt64
    package var entry: DirectoryEntry
}

extension Store {
    /// Changes after `id` that concern `node`, oldest first, at most `count`. Nil where some of
    /// them are no longer there: then `directoryEntries` holds the whole.
    package func changes(
        after id: UInt64, node: UInt64, count: Int = 4_096
    ) throws(StoreError) -> [StoreChange]? {
        try read { (transaction) throws(StoreError) in
            let oldest = try transaction.query("SELECT min(id) FROM changes")
            if let oldest = try oldest.first?.optionalInteger(0), unsigned(oldest) > id + 1,
                id > 0 || unsigned(oldest) > 1
            {
                return nil
            }
            let rows = try transaction.query(
                """
                SELECT id, block FROM changes WHERE id > $1 AND (node = 0 OR node = $2)
                ORDER BY id LIMIT $3
                """, [.integer(signed(id)), .integer(signed(node)), .integer(Int64(count))])
            var changes: [StoreChange] = []
            for row in rows {
                let bytes = try row.bytes(1)
                guard let words = RecordWords(bytes.span), let entry = DirectoryEntry(words)
                else { throw .damaged }
                changes.append(StoreChange(id: try row.unsigned(0), entry: entry))
            }
            return changes
        }
    }

    /// Everything that the directory of `node` holds now, and the last change that is in it.
    package func directoryEntries(
        node: UInt64
    ) throws(StoreError) -> (entries: [DirectoryEntry], lastChange: UInt64) {
        try read { (transaction) throws(StoreError) in
            var entries: [DirectoryEntry] = []
            for account in try transaction.allAccounts() { entries.append(account.entry) }
            for credential in try transaction.credentials() {
                entries.append(.credential(credential))
            }
            for price in try transaction.prices() { entries.append(.price(price)) }
            for fee in try transaction.fees() { entries.append(.fee(fee)) }
            for lease in try transaction.openLeases(node: node) {
                entries.append(.lease(lease))
            }
            let last = try transaction.query("SELECT max(id) FROM changes")
            return (entries, unsigned(try last.first?.optionalInteger(0) ?? 0))
        }
    }
}

extension StoreTransaction {
    /// Notes what the brokers must learn; `node` is that of a lease's instance, 0 = every node.
    func addChange(_ entry: DirectoryEntry, node: UInt64 = 0) throws(StoreError) {
        var bytes: [UInt8] = []
        entry.words.append(to: &bytes)
        try execute(
            "INSERT INTO changes (node, block) VALUES ($1, $2)",
            [.integer(signed(node)), .bytes(bytes)])
    }
}
