package import Store

/// The two engines that every rule of the store is proved on.
package enum TestEngine: String, CaseIterable, Sendable {
    case sqlite, postgres

    /// A new empty store, in a file of this directory or a database of the tests' server. Fails,
    /// and says why, where PostgreSQL is not installed.
    package func newLocation(in scratch: ScratchDirectory) throws -> StoreLocation {
        switch self {
        case .sqlite: .sqlite(path: scratch.path + "/sluice.sqlite")
        case .postgres: .postgres(address: try PostgresServer.shared.get().newDatabase())
        }
    }
}
