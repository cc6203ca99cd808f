import Foundation
import RecordTestSupport
import Store

/// A new store of one engine with one account.
final class TestStore {
    let store: Store
    let account: UInt64
    private let scratch = ScratchDirectory()

    init(_ engine: TestEngine) throws {
        let location = try engine.newLocation(in: scratch)
        store = try Store(location, durability: .everyTransaction)
        account = try store.makeAccount(label: "alice", kinds: .consumer, nowUs: 1).id
    }

    /// The bytes of all files of an SQLite store, the log too.
    func fileBytes() throws -> Data {
        var all = Data()
        for name in try FileManager.default.contentsOfDirectory(atPath: scratch.path) {
            all += try Data(contentsOf: URL(fileURLWithPath: scratch.path + "/" + name))
        }
        return all
    }
}
