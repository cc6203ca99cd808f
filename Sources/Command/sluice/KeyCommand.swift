import ArgumentParser
import Development
import Foundation
import SluiceRecordFormat
import Store

/// `sluice key`
struct KeyCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "key",
        abstract: "Issue, list and revoke client keys and supplier tokens.",
        discussion: """
            Running brokers follow within a moment. A secret is shown once, when it is issued; \
            only its SHA-256 is kept.
            """,
        subcommands: [Issue.self, List.self, Revoke.self])

    /// `sluice key issue`
    struct Issue: ParsableCommand {
        static let configuration = CommandConfiguration(
            abstract: "Make a client key, or a supplier token.")

        @Option(help: "Data directory, as given to `sluice dev` or the sidecar.")
        var data: String

        @Flag(help: "Make a supplier token instead of a client key.")
        var supplier = false

        @Option(help: "Label of the account that pays or earns; made if it is new.")
        var account: String?

        @Option(help: "Days until it expires; never if not given.")
        var days: UInt64?

        func validate() throws {
            guard days.map({ (1...36_500).contains($0) }) ?? true else {
                throw ValidationError("--days must be 1 to 36500")
            }
        }

        func run() throws {
            do {
                let book = try KeyBook(try DevelopmentHome(data))
                let standard =
                    supplier ? DevelopmentKeys.supplierAccount : DevelopmentKeys.clientAccount
                let nowMs = UInt64(Date().timeIntervalSince1970 * 1_000)
                let issued = try book.issue(
                    supplier ? .supplier : .client, account: account ?? standard,
                    expiresAtMs: days.map { nowMs + $0 * 86_400_000 } ?? 0)
                var line = JSONLine()
                line.add("prefix", issued.prefix)
                line.add("secret", issued.secret)
                line.add("role", issued.entry.role.word)
                line.add("account", account ?? standard)
                Output.line(line)
            } catch {
                throw Output.failure(error)
            }
        }
    }

    /// `sluice key list`
    struct List: ParsableCommand {
        static let configuration = CommandConfiguration(
            abstract: "List all credentials as JSON lines, without their secrets.")

        @Option(help: "Data directory, as given to `sluice dev` or the sidecar.")
        var data: String

        func run() throws {
            do {
                let book = try KeyBook(try DevelopmentHome(data))
                for key in try book.keys() { Output.line(Self.line(key)) }
            } catch {
                throw Output.failure(error)
            }
        }

        private static func line(_ key: KeyRow) -> JSONLine {
            var line = JSONLine()
            line.add("prefix", key.prefix)
            line.add("role", key.role.word)
            line.add("account", key.accountLabel)
            line.add("createdAtUs", key.createdAtUs)
            line.add("revoked", key.isRevoked)
            return line
        }
    }

    /// `sluice key revoke`
    struct Revoke: ParsableCommand {
        static let configuration = CommandConfiguration(
            abstract: "Revoke a credential for good.")

        @Option(help: "Data directory, as given to `sluice dev` or the sidecar.")
        var data: String

        @Argument(help: "Its first ten characters, as `sluice key list` shows them.")
        var prefix: String

        func run() throws {
            do {
                try KeyBook(try DevelopmentHome(data)).revoke(prefix: prefix)
            } catch {
                throw Output.failure(error)
            }
        }
    }
}

extension DirectoryRole {
    /// The word that the command prints.
    var word: String {
        switch self {
        case .client: "client"
        case .supplier: "supplier"
        case .both: "both"
        }
    }
}
