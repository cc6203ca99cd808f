import Foundation
import GRDB
import RecordTestSupport
import SluiceRecordFormat
import SluiceWire
import Store
import Testing

/// What only a file can get wrong.
@Suite struct SQLiteFileTests {
    let scratch = ScratchDirectory()
    var path: String { scratch.path + "/sluice.sqlite" }

    private func open() throws -> Store {
        try Store(path: path, durability: .checkpoint, busyTimeoutSeconds: 0.05)
    }

    @Test func aLockedDatabaseIsSaidAndNothingIsHalfDone() throws {
        var journal = JournalSketch(instance: 9)
        journal.accept(1)
        let store = try open()
        let other = try DatabaseQueue(path: path)
        try other.writeWithoutTransaction { database in
            try database.execute(sql: "BEGIN IMMEDIATE")
            #expect(throws: StoreError.locked) { _ = try store.applyBatch(journal.records) }
            try database.execute(sql: "ROLLBACK")
        }
        #expect(try store.cursors().isEmpty)
        #expect(try store.applyBatch(journal.records).applied == 1)
    }

    @Test func nobodyElseMayReadTheFiles() throws {
        let store = try open()
        var journal = JournalSketch(instance: 7)
        journal.accept(1)
        _ = try store.applyBatch(journal.records)
        let folder = (path as NSString).deletingLastPathComponent
        let files = try FileManager.default.contentsOfDirectory(atPath: folder)
            .filter { $0.hasPrefix((path as NSString).lastPathComponent) }
        #expect(files.count >= 2, "the database and its log: \(files)")
        for file in files {
            let attributes = try FileManager.default.attributesOfItem(
                atPath: folder + "/" + file)
            #expect(attributes[.posixPermissions] as? Int == 0o600, "\(file)")
        }
    }

    @Test func whatIsNoDatabaseIsRefused() throws {
        try Data(repeating: 0x41, count: 8_192).write(to: URL(fileURLWithPath: path))
        #expect(throws: StoreError.damaged) { _ = try open() }
        let bytes = try Data(contentsOf: URL(fileURLWithPath: path))
        #expect(bytes == Data(repeating: 0x41, count: 8_192))
    }

    @Test func aNewerSchemaIsRefused() throws {
        _ = try open()
        let other = try DatabaseQueue(path: path)
        try other.write { database in
            try database.execute(
                sql: "INSERT INTO grdb_migrations (identifier) VALUES ('99 from the future')")
        }
        #expect(throws: StoreError.newerSchema) { _ = try open() }
    }

    @Test func checkpointIsRefusedWhileAReaderLooks() throws {
        let store = try open()
        var journal = JournalSketch(instance: 9)
        let other = try DatabaseQueue(path: path)
        try other.inDatabase { database in
            try database.execute(sql: "BEGIN")
            _ = try Row.fetchAll(database, sql: "SELECT * FROM task")
            journal.accept(1)
            _ = try store.applyBatch(journal.records)
            #expect(try store.checkpoint() == false)
            try database.execute(sql: "COMMIT")
        }
        #expect(try store.checkpoint() == true)
    }
}
