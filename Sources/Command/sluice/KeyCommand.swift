import ArgumentParser
import Development
import SluiceRecordFormat
import SluiceWire
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

    /// What a key may ask for.
    enum Operation: String, ExpressibleByArgument {
        case chat, completion, embedding, image

        var operationSet: OperationSet {
            switch self {
            case .chat: OperationSet(.chat)
            case .completion: OperationSet(.completion)
            case .embedding: OperationSet(.embedding)
            case .image: OperationSet(.image)
            }
        }
    }

    /// `sluice key issue`
    struct Issue: ParsableCommand {
        static let configuration = CommandConfiguration(
            abstract: "Make a client key, or a supplier token.")

        @OptionGroup var place: StoreOptions
        @OptionGroup var limits: AccountCommand.Limits

        @Flag(help: "Make a supplier token instead of a client key.")
        var supplier = false

        @Option(help: "Label of the account that pays or earns; made if it is new.")
        var account: String?

        @Option(help: "Days until it expires; never if not given.")
        var days: UInt64?

        @Option(
            help: """
                What a client key may ask for: chat, completion, embedding, image; may be given \
                several times. Everything if not given.
                """)
        var operation: [Operation] = []

        @Flag(help: "Print a JSON object; it always does.")
        var json = false

        func validate() throws {
            guard days.map({ (1...36_500).contains($0) }) ?? true else {
                throw ValidationError("--days must be 1 to 36500")
            }
        }

        func run() throws {
            try reporting {
                let book = try place.open(making: true)
                let standard =
                    supplier ? DevelopmentKeys.supplierAccount : DevelopmentKeys.clientAccount
                let issued = try book.issue(
                    supplier ? .supplier : .client, account: account ?? standard,
                    expiresAtMs: days.map { WallClock.nowMs + $0 * 86_400_000 } ?? 0,
                    limits: limits.value,
                    operations: OperationSet(operation.map(\.operationSet)))
                var line = JSONLine()
                line.add("prefix", issued.prefix)
                line.add("secret", issued.secret)
                line.add("role", issued.entry.role.word)
                line.add("account", account ?? standard)
                Output.line(line)
            }
        }
    }

    /// `sluice key list`
    struct List: ParsableCommand {
        static let configuration = CommandConfiguration(
            abstract: "List all credentials as JSON lines, without their secrets.")

        @OptionGroup var place: StoreOptions

        @Flag(help: "Print JSON lines; it always does.")
        var json = false

        func run() throws {
            try reporting {
                for key in try place.open().keys() { Output.line(Self.line(key)) }
            }
        }

        private static func line(_ key: KeyRow) -> JSONLine {
            var line = JSONLine()
            line.add("prefix", key.prefix)
            line.add("role", key.role.word)
            line.add("account", key.accountLabel)
            line.add("createdAtUs", key.createdAtUs)
            line.add("revoked", key.isRevoked)
            line.add("expiresAtMs", key.expiresAtMs as UInt64?)
            line.add(
                "operations",
                TaskOperation.allCases.filter { key.operations.contains(OperationSet($0)) }
                    .map { "\($0)" })
            line.add("concurrentTasks", key.limits.concurrentTasks as UInt32?)
            line.add("requestsPerMinute", key.limits.requestsPerMinute as UInt32?)
            line.add("tokensPerMinute", key.limits.tokensPerMinute as UInt64?)
            return line
        }
    }

    /// `sluice key revoke`
    struct Revoke: ParsableCommand {
        static let configuration = CommandConfiguration(
            abstract: "Revoke a credential for good.")

        @OptionGroup var place: StoreOptions

        @Argument(help: "Its first ten characters, as `sluice key list` shows them.")
        var prefix: String

        func run() throws {
            try reporting {
                let book = try place.open()
                guard try book.keys().contains(where: { $0.prefix == prefix }) else {
                    throw CommandFailure(
                        "no key begins with “\(prefix)”; `sluice key list` shows the first ten "
                            + "characters of each")
                }
                try book.revoke(prefix: prefix)
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
