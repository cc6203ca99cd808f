import ArgumentParser
import Development
import Foundation
import Store

/// Which store a command works on.
struct StoreOptions: ParsableArguments {
    @Option(help: "Data directory, as given to `sluice dev` or the sidecar.")
    var data: String?

    @Option(
        help: ArgumentHelp(
            "The database itself, in place of --data: postgresql://…, or an SQLite file.",
            discussion: """
                Sidecars tell their brokers of changes within a moment. A URL with a password is \
                taken from --store-file or SLUICE_STORE only.
                """))
    var store: String?

    @Option(help: "File whose first line names the database, in place of --store.")
    var storeFile: String?

    func validate() throws {
        let named = [data, store, storeFile].compactMap { $0 }.count
        guard named == 1 else {
            throw ValidationError(
                "name the store once: --data DIR, --store postgresql://… or --store-file FILE")
        }
        if let store, StoreLocation(store).holdsPassword {
            throw ValidationError(
                "a password has no place on a command line, which everybody can read: put the "
                    + "URL into a file and give --store-file FILE")
        }
    }

    /// Opens the store. An SQLite file is made only by commands that begin something.
    func open(making: Bool = false) throws -> KeyBook {
        let location = try location()
        if case .sqlite(let path) = location, !making,
            !FileManager.default.fileExists(atPath: path)
        {
            throw CommandFailure(
                "there is no store: \(path) does not exist; start `sluice dev` or a sidecar on "
                    + "that directory first, or make an account with `sluice account create`")
        }
        if let data { return try KeyBook(DevelopmentHome(data)) }
        return try KeyBook(store: location)
    }

    private func location() throws -> StoreLocation {
        if let store { return StoreLocation(store) }
        if let storeFile {
            guard let text = try? String(contentsOfFile: storeFile, encoding: .utf8),
                let line = text.split(separator: "\n").first
            else {
                throw CommandFailure(
                    "\(storeFile) cannot be read, or is empty; its first line must name the "
                        + "database")
            }
            return StoreLocation(line.trimmingCharacters(in: .whitespaces))
        }
        return .ofDirectory(data ?? ".", environment: ProcessInfo.processInfo.environment)
    }
}

/// An account of the store, and how to print what is told of it.
struct AccountOptions: ParsableArguments {
    @OptionGroup var place: StoreOptions

    @Argument(help: "The account's label or number.")
    var account: String

    @Flag(help: "Print JSON lines.")
    var json = false

    /// Opens the store and finds the account.
    func find() throws -> (book: KeyBook, account: Account) {
        let book = try place.open()
        return (book, try book.account(account))
    }
}

/// A failure in words for a person: what was wrong, what was expected, what to do next.
struct CommandFailure: Error, CustomStringConvertible {
    let description: String

    init(_ description: String) {
        self.description = description
    }
}

extension KeyBook {
    /// The account of this label, or else of this number.
    func account(_ name: String) throws -> Account {
        if let account = try store.account(label: name) { return account }
        if let number = UInt64(name), let account = try store.account(number) { return account }
        throw CommandFailure(
            "there is no account “\(name)”; `sluice account list` shows all, "
                + "`sluice account create` makes one")
    }

    /// Runs what changes the store, says what a refusal means, and tells the brokers.
    func change<Value>(
        _ refusals: KeyValuePairs<StoreError, String> = [:], _ body: (Store) throws -> Value
    ) throws -> Value {
        let value: Value
        do {
            value = try body(store)
        } catch let error as StoreError {
            if let known = refusals.first(where: { $0.key == error }) {
                throw CommandFailure(known.value)
            }
            throw DevelopmentError(error)
        }
        try syncDirectory()
        return value
    }
}

/// Wall clock.
enum WallClock {
    /// Microseconds since 1970.
    static var nowUs: UInt64 { UInt64(Date().timeIntervalSince1970 * 1_000_000) }
    /// Milliseconds since 1970.
    static var nowMs: UInt64 { nowUs / 1_000 }
}

/// A time on the command line: RFC 3339, or milliseconds since 1970.
struct Moment: ExpressibleByArgument {
    let ms: UInt64

    /// The end of the year 9999: whoever means microseconds or nanoseconds is told.
    private static let latestMs: UInt64 = 253_402_300_799_999

    init?(argument: String) {
        if let number = UInt64(argument) {
            guard number <= Self.latestMs else { return nil }
            ms = number
            return
        }
        let formatter = ISO8601DateFormatter()
        guard let date = formatter.date(from: argument), date.timeIntervalSince1970 >= 0,
            date.timeIntervalSince1970 * 1_000 <= Double(Self.latestMs)
        else { return nil }
        ms = UInt64(date.timeIntervalSince1970 * 1_000)
    }
}
