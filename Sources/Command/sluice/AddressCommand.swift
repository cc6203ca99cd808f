import ArgumentParser
import Development
import Foundation
import Privacy
import SluiceLedgerCore
import Store

/// `sluice account address`
struct AddressCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "address",
        abstract: "Note from which network address an account was used, and find the others.",
        discussion: """
            For whoever signs people in, and against many accounts of one person. Only a keyed \
            hash is kept, under a secret that is destroyed after 90 days. The address is read \
            from standard input, one line: the command line would show it to everybody.
            """,
        subcommands: [Note.self, Find.self])

    /// `sluice account address note`
    struct Note: ParsableCommand {
        static let configuration = CommandConfiguration(
            abstract: "Note that an account was used from the address on standard input.")

        @OptionGroup var place: StoreOptions
        @OptionGroup var keys: PersonCommand.KeyOptions

        @Argument(help: "The account's label or number.")
        var account: String

        func run() throws {
            try reportingPrivacy {
                let masterKeys = try keys.read()
                let book = try place.open()
                let account = try book.account(account)
                try AddressBook(book.store, masterKeys).note(
                    AddressCommand.readAddress(), account: account.id, nowUs: WallClock.nowUs)
            }
        }
    }

    /// `sluice account address find`
    struct Find: ParsableCommand {
        static let configuration = CommandConfiguration(
            abstract: "List the accounts that were used from the address on standard input.")

        @OptionGroup var place: StoreOptions
        @OptionGroup var keys: PersonCommand.KeyOptions

        @Flag(help: "Print JSON lines.")
        var json = false

        func run() throws {
            try reportingPrivacy {
                let masterKeys = try keys.read()
                let store = try place.open().store
                let found = try AddressBook(store, masterKeys).accounts(
                    from: AddressCommand.readAddress())
                Listing(["account"], found.map { [.number($0)] }).write(json: json)
            }
        }
    }

    /// The address on standard input as 4 or 16 bytes. What is wrong is said without it.
    private static func readAddress() throws -> [UInt8] {
        let input = FileHandle.standardInput.readDataToEndOfFile()
        let text = String(decoding: input, as: UTF8.self)
            .trimmingCharacters(in: .whitespacesAndNewlines)
        guard let bytes = NetworkAddress.bytes(text) else {
            throw CommandFailure(
                "the input is no network address: give one of IPv4 or IPv6, without a port, as "
                    + "192.0.2.7 or 2001:db8::7")
        }
        return bytes
    }
}

/// `sluice account rotate-addresses`
struct RotateAddressesCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "rotate-addresses",
        abstract: "Destroy the secret of address hashes with all of them, before its 90 days.")

    @OptionGroup var place: StoreOptions

    @Flag(help: "Print a JSON object.")
    var json = false

    func run() throws {
        try reportingPrivacy {
            let store = try place.open().store
            let secrets = try store.destroyAddressSecrets(nowUs: WallClock.nowUs)
            var batch = RetentionBatch(
                .addressHashes, cutoffUs: 0, rows: RetentionSchedule.batchRows)
            var hashes = 0
            while true {
                let outcome = try store.removeExpired(batch)
                hashes += outcome.removed
                guard let next = outcome.next else { break }
                batch.after = next
            }
            _ = try store.overwriteRemains()
            Listing(
                ["secrets", "hashes"], [[.number(UInt64(secrets)), .number(UInt64(hashes))]]
            ).write(json: json)
        }
    }
}
