import ArgumentParser
import Development
import Foundation
import LinuxIO
import Privacy
import Store
import TLSEngine

/// `sluice account person`
struct PersonCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "person",
        abstract: "Set, show and erase what is known of the person behind an account.",
        discussion: """
            Personal data is sealed under a key of the account, which a master key wraps. The \
            master key is a file that only its owner may read (`person make-key FILE`), or stands \
            in SLUICE_MASTER_KEY; without it nothing is shown. What is set, shown, erased or wrapped again is audited.
            """,
        subcommands: [Set.self, Show.self, Erase.self, Rewrap.self, MakeKey.self])

    /// Where the master keys are.
    struct KeyOptions: ParsableArguments {
        @Option(help: "File of the master key; SLUICE_MASTER_KEY in the environment if not given.")
        var masterKeyFile: String?

        /// First of all in a command, and before its standard input is read: the process may start
        /// itself again.
        func read() throws -> MasterKeys {
            guard ProcessGuard.harden() else {
                throw CommandFailure(
                    "cannot start again with crash backtraces off; is /proc mounted?")
            }
            let source: MasterKeySource =
                masterKeyFile.map { .file($0) } ?? .environment(MasterKeySource.variable)
            do throws(SealingError) {
                return try source.read()
            } catch {
                throw CommandFailure(error.words)
            }
        }
    }

    /// `sluice account person set`
    struct Set: ParsableCommand {
        static let configuration = CommandConfiguration(
            abstract: "Set the whole personal data of an account, from standard input.",
            discussion: """
                One field a line, `email: ada@example.org`; the command line would show it to \
                everybody on the machine. Fields are \
                \(PersonalField.allCases.map(\.text).joined(separator: ", ")). What is not named \
                is removed.
                """)

        @OptionGroup var whose: AccountOptions
        @OptionGroup var keys: KeyOptions

        func run() throws {
            try reportingPrivacy {
                let masterKeys = try keys.read()
                let (book, account) = try whose.find()
                let fields = try PersonCommand.fields(
                    FileHandle.standardInput.readDataToEndOfFile())
                try PersonVault(book.store, masterKeys).set(
                    account.id, fields, nowUs: WallClock.nowUs)
                Listing(
                    ["account", "label", "fields"],
                    [
                        [
                            .number(account.id), .text(account.label),
                            .texts(fields.keys.map(\.text).sorted()),
                        ]
                    ]
                ).write(json: whose.json)
            }
        }
    }

    /// `sluice account person show`
    struct Show: ParsableCommand {
        static let configuration = CommandConfiguration(
            abstract: "Show the personal data of an account.")

        @OptionGroup var whose: AccountOptions
        @OptionGroup var keys: KeyOptions

        func run() throws {
            try reportingPrivacy {
                let masterKeys = try keys.read()
                let (book, account) = try whose.find()
                let known = try PersonVault(book.store, masterKeys).show(
                    account.id, nowUs: WallClock.nowUs)
                guard let known else {
                    throw CommandFailure(
                        "nothing is known of the person behind “\(account.label)”: it was never "
                            + "set, or it was erased")
                }
                Listing(
                    ["field", "value"],
                    known.sorted { $0.key.rawValue < $1.key.rawValue }.map {
                        [.text($0.key.text), .text($0.value)]
                    }
                ).write(json: whose.json)
            }
        }
    }

    /// `sluice account person erase`
    struct Erase: ParsableCommand {
        static let configuration = CommandConfiguration(
            abstract: "Destroy the account's key and what it seals, for good.",
            discussion: """
                Needs no master key. The account stays, by label and number; its wallet events go \
                365 days later.
                """)

        @OptionGroup var whose: AccountOptions

        func run() throws {
            try reportingPrivacy {
                let (book, account) = try whose.find()
                try book.store.erasePerson(account.id, nowUs: WallClock.nowUs)
                // False is no failure: the key is gone from the store.
                let isOverwritten = try book.store.overwriteRemains()
                Listing(
                    ["account", "label", "erased", "remainsOverwritten"],
                    [
                        [
                            .number(account.id), .text(account.label), .flag(true),
                            .flag(isOverwritten),
                        ]
                    ]
                ).write(json: whose.json)
            }
        }
    }

    /// `sluice account person rewrap`
    struct Rewrap: ParsableCommand {
        static let configuration = CommandConfiguration(
            abstract: "Wrap all keys under the first master key; then the others can be destroyed.")

        @OptionGroup var place: StoreOptions
        @OptionGroup var keys: KeyOptions

        func run() throws {
            try reportingPrivacy {
                let masterKeys = try keys.read()
                try PersonVault(place.open().store, masterKeys).rewrap(nowUs: WallClock.nowUs)
            }
        }
    }

    /// `sluice account person make-key`
    struct MakeKey: ParsableCommand {
        static let configuration = CommandConfiguration(
            commandName: "make-key", abstract: "Make a file with a new master key, mode 0600.")

        @Argument(help: "The file, which must not exist.")
        var file: String

        func run() throws {
            try reportingPrivacy {
                do throws(SealingError) {
                    try MasterKeySource.makeFile(file)
                } catch {
                    throw CommandFailure(
                        "\(file) was not made: it exists, or its folder cannot be written")
                }
            }
        }
    }

    /// Reads `field: value` lines. What is wrong is told by line number: a value is never printed.
    private static func fields(_ input: Data) throws -> [PersonalField: String] {
        var fields: [PersonalField: String] = [:]
        let lines = String(decoding: input, as: UTF8.self)
            .split(separator: "\n", omittingEmptySubsequences: false)
        for (index, line) in lines.enumerated() {
            let parts = line.split(separator: ":", maxSplits: 1)
                .map { $0.trimmingCharacters(in: .whitespaces) }
            guard parts.contains(where: { !$0.isEmpty }) else { continue }
            guard parts.count == 2, let field = PersonalField(text: parts[0]),
                !parts[1].isEmpty, fields.updateValue(parts[1], forKey: field) == nil
            else {
                throw CommandFailure(
                    "line \(index + 1) of the input is not `field: value` with a field of its "
                        + "own; fields are "
                        + PersonalField.allCases.map(\.text).joined(separator: ", "))
            }
        }
        guard !fields.isEmpty else {
            throw CommandFailure(
                "the input is empty: give one field a line, `email: …`; to remove everything, "
                    + "`sluice account person erase`")
        }
        return fields
    }
}

/// `reporting`, with what sealing may refuse in words.
func reportingPrivacy(_ body: () throws -> Void) throws {
    try reporting {
        do {
            try body()
        } catch let error as PrivacyError {
            switch error {
            case .store(let error): throw error
            case .sealing(let error): throw CommandFailure(error.words)
            case .invalidValue:
                throw CommandFailure(
                    "a value is longer than \(PersonalField.bytesMax) bytes; shorten it")
            }
        }
    }
}
