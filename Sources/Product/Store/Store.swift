import Foundation
import GRDB
package import SluiceRecordFormat
package import SluiceWire

/// What one transaction did.
package struct AppliedBatch: Equatable, Sendable {
    /// Records that are new to the store.
    package var applied = 0
    /// Records at or below their instance's cursor: seen before.
    package var skipped = 0
    /// ACCEPTED or ENDED of a task that has one already; the first one counts.
    package var duplicates = 0
    /// Records of a kind or content that this version does not know.
    package var unreadable = 0

    package init() {}
}

/// A task that has an ACCEPTED and no ENDED.
package struct OpenTask: Equatable, Sendable {
    package var task: TaskID
    /// Wall clock, microseconds since 1970.
    package var acceptedAtUs: UInt64
}

/// The database of one deployment (SQLite): task records, names, refusals, the cursor of every
/// journal, accounts and keys.
///
/// Any thread may call it; calls take turns. Each process opens its own.
package final class Store: Sendable {
    /// When a transaction is on the device.
    package enum Durability: Sendable {
        /// When the call returns: for what stands nowhere else (accounts, keys).
        case everyTransaction
        /// After `checkpoint()`: for records, which stand in the journal's segments until then.
        case checkpoint
    }

    /// How long a call waits for another process's lock, in seconds.
    package static let busyTimeoutSeconds = 5.0

    let database: DatabaseQueue

    /// Opens the database at `path`, makes it if need be (mode as the umask says) and brings its
    /// schema up to date.
    package init(
        path: String, durability: Durability,
        busyTimeoutSeconds: Double = Store.busyTimeoutSeconds
    ) throws(StoreError) {
        var configuration = Configuration()
        configuration.busyMode = .timeout(busyTimeoutSeconds)
        configuration.journalMode = .wal
        configuration.prepareDatabase { database in
            let synchronous =
                switch durability {
                case .everyTransaction: "FULL"
                case .checkpoint: "NORMAL"
                }
            try database.execute(sql: "PRAGMA synchronous = \(synchronous)")
            try database.execute(sql: "PRAGMA secure_delete = ON")
        }
        // SQLite would make it for everyone to read; its other files get the mode of this one.
        if !FileManager.default.fileExists(atPath: path) {
            _ = FileManager.default.createFile(
                atPath: path, contents: nil, attributes: [.posixPermissions: 0o600])
        }
        do {
            database = try DatabaseQueue(path: path, configuration: configuration)
            let migrator = Schema.migrator
            if try database.read({ try migrator.hasBeenSuperseded($0) }) {
                throw StoreError.newerSchema
            }
            try Self.migrate(database, by: migrator)
        } catch {
            throw StoreError(error)
        }
    }

    /// Two processes may find the same old schema: the one that comes second fails to make a table
    /// that is there by then, and finds its work done when it looks again.
    private static func migrate(_ database: DatabaseQueue, by migrator: DatabaseMigrator) throws {
        for _ in 0..<4 {
            do {
                return try migrator.migrate(database)
            } catch let error as DatabaseError where error.resultCode != .SQLITE_ERROR {
                throw error
            } catch {}
        }
        try migrator.migrate(database)
    }

    /// Applies records in the order of their journals and moves the cursors, in one transaction:
    /// both happen or neither. Applying the same records again changes nothing.
    package func applyBatch(_ records: [JournalRecord]) throws(StoreError) -> AppliedBatch {
        try write { database in
            var batch = AppliedBatch()
            var cursors: [UInt64: UInt64] = [:]
            for record in records {
                let instance = record.instance
                let cursor = try cursors[instance] ?? Self.cursor(of: instance, in: database)
                guard record.sequence > cursor else {
                    batch.skipped += 1
                    continue
                }
                try Self.apply(record, to: database, counting: &batch)
                cursors[instance] = record.sequence
            }
            for (instance, sequence) in cursors {
                try database.cachedStatement(
                    sql: """
                        INSERT INTO journal_cursor (instance, sequence) VALUES (?, ?)
                        ON CONFLICT (instance) DO UPDATE SET sequence = excluded.sequence
                        """
                ).execute(arguments: [signed(instance), signed(sequence)])
            }
            try Self.tally("duplicates", batch.duplicates, in: database)
            try Self.tally("unreadable", batch.unreadable, in: database)
            return batch
        }
    }

    /// Sequence of the last applied record of every instance.
    package func cursors() throws(StoreError) -> [UInt64: UInt64] {
        try read { database in
            var cursors: [UInt64: UInt64] = [:]
            let rows = try Row.fetchCursor(
                database, sql: "SELECT instance, sequence FROM journal_cursor")
            while let row = try rows.next() {
                cursors[unsigned(row[0])] = unsigned(row[1])
            }
            return cursors
        }
    }

    /// Brings everything that was committed to the device. False if a reader was in the way; then
    /// nothing may be relied on and the caller tries again later.
    package func checkpoint() throws(StoreError) -> Bool {
        do {
            return try database.writeWithoutTransaction { database in
                let row = try Row.fetchOne(database, sql: "PRAGMA wal_checkpoint(FULL)")
                let busy: Int? = row?[0]
                return busy == 0
            }
        } catch {
            let error = StoreError(error)
            if error == .locked { return false }
            throw error
        }
    }

    /// Tasks accepted at or before `acceptedAtUs` that have not ended, oldest first, at most
    /// `count`.
    package func openTasks(
        acceptedBefore acceptedAtUs: UInt64, count: Int = 10_000
    ) throws(StoreError) -> [OpenTask] {
        try read { database in
            try Row.fetchAll(
                database,
                sql: """
                    SELECT a.instance, a.counter, a.accepted_at_us FROM accepted a
                    LEFT JOIN ended e ON e.instance = a.instance AND e.counter = a.counter
                    WHERE e.id IS NULL AND a.accepted_at_us <= ? ORDER BY a.id LIMIT ?
                    """, arguments: [signed(acceptedAtUs), count]
            ).map { row in
                OpenTask(
                    task: TaskID(instance: unsigned(row[0]), counter: unsigned(row[1])),
                    acceptedAtUs: unsigned(row[2]))
            }
        }
    }

    /// Ends tasks as `lost`, at no cost; one that has ended is left as it is.
    package func closeAsLost(_ tasks: [OpenTask], atUs: UInt64) throws(StoreError) {
        try write { database in
            for open in tasks {
                let ended = EndedRecord(
                    task: open.task, status: .lost, code: .internalFault,
                    durationUs: atUs > open.acceptedAtUs ? atUs - open.acceptedAtUs : 0)
                _ = try Self.insert(ended, into: database)
            }
        }
    }

    func read<Value>(_ body: (Database) throws -> Value) throws(StoreError) -> Value {
        do {
            return try database.read(body)
        } catch {
            throw StoreError(error)
        }
    }

    func write<Value>(_ body: (Database) throws -> Value) throws(StoreError) -> Value {
        do {
            return try database.write(body)
        } catch {
            throw StoreError(error)
        }
    }

    private static func cursor(of instance: UInt64, in database: Database) throws -> UInt64 {
        let statement = try database.cachedStatement(
            sql: "SELECT sequence FROM journal_cursor WHERE instance = ?")
        return unsigned(try Int64.fetchOne(statement, arguments: [signed(instance)]) ?? 0)
    }

    private static func tally(_ name: String, _ amount: Int, in database: Database) throws {
        guard amount > 0 else { return }
        try database.execute(
            sql: "UPDATE tally SET value = value + ? WHERE name = ?", arguments: [amount, name])
    }

    private static func apply(
        _ record: JournalRecord, to database: Database, counting batch: inout AppliedBatch
    ) throws {
        var isNew = true
        if let accepted = AcceptedRecord(record) {
            isNew = try insert(accepted, into: database)
        } else if let ended = EndedRecord(record) {
            isNew = try insert(ended, into: database)
        } else if let refused = RefusedRecord(record) {
            try insert(refused, of: record, into: database)
        } else if let name = NameRecord(record) {
            try database.cachedStatement(
                sql: "INSERT OR IGNORE INTO model_name (instance, model, name) VALUES (?, ?, ?)"
            ).execute(
                arguments: [signed(record.instance), name.model, name.name.description])
        } else if record.kind != .instanceStart, record.kind != .instanceClosed {
            batch.unreadable += 1
            return
        }
        if isNew { batch.applied += 1 } else { batch.duplicates += 1 }
    }

    private static func insert(
        _ accepted: AcceptedRecord, into database: Database
    ) throws -> Bool {
        try database.cachedStatement(
            sql: """
                INSERT OR IGNORE INTO accepted (
                    instance, counter, accepted_at_us, account, key_digest_prefix, model,
                    operation, encoding, priority, preference, deadline_ms, body_bytes,
                    max_input_tokens, max_output_tokens, input_price, output_price, trace_high,
                    trace_low, trace_span, idempotency_digest)
                VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
                """
        ).execute(arguments: [
            signed(accepted.instance), signed(accepted.counter), signed(accepted.acceptedAtUs),
            signed(accepted.account), signed(accepted.keyDigestPrefix), accepted.model,
            accepted.operation.rawValue, accepted.encoding.rawValue, accepted.priority,
            accepted.preference.rawValue, accepted.deadlineMs, accepted.bodyBytes,
            accepted.maxInputTokens, accepted.maxOutputTokens, signed(accepted.inputPrice),
            signed(accepted.outputPrice), accepted.trace.map { signed($0.traceHigh) },
            accepted.trace.map { signed($0.traceLow) }, accepted.trace.map { signed($0.span) },
            signed(accepted.idempotencyDigest),
        ])
        return database.changesCount > 0
    }

    private static func insert(_ ended: EndedRecord, into database: Database) throws -> Bool {
        try database.cachedStatement(
            sql: """
                INSERT OR IGNORE INTO ended (
                    instance, counter, status, code, finish_reason, input_tokens, cached_tokens,
                    output_tokens, reasoning_tokens, delivered_bytes, ttft_us, duration_us,
                    queue_us, consumer_cost, supplier_earning, platform_fee, supplier,
                    offer_model, supply_type, dispatches, win_reason)
                VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
                """
        ).execute(arguments: [
            signed(ended.task.instance), signed(ended.task.counter), ended.status.rawValue,
            Int(ended.code.rawValue), ended.finishReason?.rawValue, ended.usage.inputTokens,
            ended.usage.cachedTokens, ended.usage.outputTokens, ended.usage.reasoningTokens,
            signed(ended.deliveredBytes), ended.ttftUs.map { signed($0) },
            signed(ended.durationUs), ended.queueUs, ended.charge.consumerCost.rawValue,
            ended.charge.supplierEarning.rawValue, ended.charge.platformFee.rawValue,
            signed(ended.supplier), ended.offerModel, ended.supplyType?.rawValue ?? 0,
            ended.dispatches, ended.winReason,
        ])
        return database.changesCount > 0
    }

    private static func insert(
        _ refused: RefusedRecord, of record: JournalRecord, into database: Database
    ) throws {
        try database.cachedStatement(
            sql: """
                INSERT OR IGNORE INTO refused (
                    instance, sequence, account, refused_at_us, code, model, count)
                VALUES (?, ?, ?, ?, ?, ?, ?)
                """
        ).execute(arguments: [
            signed(record.instance), signed(record.sequence), signed(refused.account),
            signed(refused.refusedAtUs), Int(refused.code.rawValue), refused.model,
            signed(refused.count),
        ])
    }
}

/// SQLite knows signed integers only; the bits stay the same.
func signed(_ value: UInt64) -> Int64 { Int64(bitPattern: value) }

/// The reverse of `signed`.
func unsigned(_ value: Int64) -> UInt64 { UInt64(bitPattern: value) }
