package import PostgresConnection

/// Where a store is.
package enum StoreLocation: Equatable, Sendable {
    /// A file, made if it is missing.
    case sqlite(path: String)
    /// A database that exists, by URL or libpq's `key=value` pairs. May hold a password: it is
    /// never printed.
    case postgres(address: String)

    /// The environment variable that names a store.
    package static let variable = "SLUICE_STORE"

    /// A `postgresql://` or `postgres://` URL, or the path of an SQLite file.
    package init(_ text: String) {
        let isAddress = ["postgresql://", "postgres://"].contains { text.hasPrefix($0) }
        self = isAddress ? .postgres(address: text) : .sqlite(path: text)
    }

    /// The store of a data directory: what the environment names, else `sluice.sqlite` in it.
    package static func ofDirectory(
        _ dataDirectory: String, environment: [String: String]
    ) -> StoreLocation {
        if let named = environment[variable], !named.isEmpty { return StoreLocation(named) }
        return .sqlite(path: dataDirectory + "/sluice.sqlite")
    }

    /// Whether it names a password, which has no place on a command line: everybody can read
    /// that.
    package var holdsPassword: Bool {
        guard case .postgres(let address) = self else { return false }
        let authority = address.drop { $0 != "/" }.dropFirst(2).prefix { $0 != "/" && $0 != "?" }
        let user = authority.split(separator: "@", omittingEmptySubsequences: false)
        return user.count > 1 && user[0].contains(":") || address.contains("password=")
    }
}

/// The database of one deployment: task records, names, refusals, the cursor of every journal,
/// accounts, keys, prices, leases and the ledger. In an SQLite file (the default), or in
/// PostgreSQL, where any number of sidecars share it.
///
/// Any thread may call it; calls take turns. Each process opens its own.
package final class Store: Sendable {
    /// When a transaction of SQLite is on the device. PostgreSQL's is when a call returns.
    package enum Durability: Sendable {
        /// When the call returns: for what stands nowhere else (accounts, keys).
        case everyTransaction
        /// After `checkpoint()`: for records, which stand in the journal's segments until then.
        case checkpoint
    }

    /// How long a call waits for another process's lock, in seconds.
    package static let busyTimeoutSeconds = 5.0

    let engine: any StoreEngine

    /// Opens the store and brings its schema up to date.
    package init(
        _ location: StoreLocation, durability: Durability,
        busyTimeoutSeconds: Double = Store.busyTimeoutSeconds,
        timeouts: PostgresConnection.Timeouts = PostgresConnection.Timeouts()
    ) throws(StoreError) {
        switch location {
        case .sqlite(let path):
            engine = try SQLiteEngine(
                path: path, durability: durability, busyTimeoutSeconds: busyTimeoutSeconds)
        case .postgres(let address):
            engine = try PostgresEngine(address: address, timeouts: timeouts)
        }
    }

    /// Opens the SQLite database at `path`, makes it if need be (mode 0600) and brings its schema
    /// up to date.
    package convenience init(
        path: String, durability: Durability,
        busyTimeoutSeconds: Double = Store.busyTimeoutSeconds
    ) throws(StoreError) {
        try self.init(
            .sqlite(path: path), durability: durability, busyTimeoutSeconds: busyTimeoutSeconds)
    }

    /// Brings everything that was committed to the device. False if a reader was in the way; then
    /// nothing may be relied on and the caller tries again later.
    package func checkpoint() throws(StoreError) -> Bool {
        try engine.checkpoint()
    }

    func read<Value: Sendable>(
        _ body: (any StoreTransaction) throws(StoreError) -> Value
    ) throws(StoreError) -> Value {
        try engine.read(body)
    }

    func write<Value: Sendable>(
        _ body: (any StoreTransaction) throws(StoreError) -> Value
    ) throws(StoreError) -> Value {
        try engine.write(body)
    }
}
