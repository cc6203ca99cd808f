import ArgumentParser
import Development
import SluiceRecordFormat
import SluiceWire
import Store
import TLSEngine

/// `sluice key`
struct KeyCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "key",
        abstract: "Issue, list and revoke client keys, supplier tokens and certificates.",
        discussion: """
            Running brokers follow within a moment. A secret is shown once, when it is issued; \
            only its SHA-256 is kept.
            """,
        subcommands: [Issue.self, AddCertificate.self, List.self, Revoke.self])

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

    /// Whose a key is, and what it may do.
    struct Terms: ParsableArguments {
        @OptionGroup var limits: AccountCommand.Limits

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

        func validate() throws {
            guard days.map({ (1...36_500).contains($0) }) ?? true else {
                throw ValidationError("--days must be 1 to 36500")
            }
        }

        /// The account that was named, else the one of `sluice dev`.
        func account(of role: DirectoryRole) -> String {
            account
                ?? (role == .supplier
                    ? DevelopmentKeys.supplierAccount : DevelopmentKeys.clientAccount)
        }

        /// Milliseconds since 1970; 0 = never.
        var expiresAtMs: UInt64 { days.map { WallClock.nowMs + $0 * 86_400_000 } ?? 0 }

        var operations: OperationSet { OperationSet(operation.map(\.operationSet)) }
    }

    /// `sluice key issue`
    struct Issue: ParsableCommand {
        static let configuration = CommandConfiguration(
            abstract: "Make a client key, or a supplier token.")

        @OptionGroup var place: StoreOptions
        @OptionGroup var terms: Terms

        @Flag(help: "Make a supplier token instead of a client key.")
        var supplier = false

        @Flag(help: "Print a JSON object; it always does.")
        var json = false

        func run() throws {
            try reporting {
                let role = supplier ? DirectoryRole.supplier : .client
                let issued = try place.open(making: true).issue(
                    role, account: terms.account(of: role), expiresAtMs: terms.expiresAtMs,
                    limits: terms.limits.value, operations: terms.operations)
                var line = JSONLine()
                line.add("prefix", issued.prefix)
                line.add("secret", issued.secret)
                line.add("role", issued.entry.role.word)
                line.add("account", terms.account(of: role))
                Output.line(line)
            }
        }
    }

    /// `sluice key add-certificate`
    struct AddCertificate: ParsableCommand {
        static let configuration = CommandConfiguration(
            commandName: "add-certificate",
            abstract: "Make a client certificate a key of an account.",
            discussion: """
                Its holder connects with the certificate and its private key instead of a secret, \
                to brokers that trust its authority (--client-ca). The key ends with the \
                certificate, or earlier with --days. The private key is not needed here.
                """)

        @OptionGroup var place: StoreOptions
        @OptionGroup var terms: Terms

        @Option(help: "PEM file of the certificate; the first in it counts.")
        var certificate: String

        @Flag(help: "It is a supplier's instead of a client's.")
        var supplier = false

        @Flag(help: "Print a JSON object; it always does.")
        var json = false

        func run() throws {
            try reporting {
                let facts = try read()
                let role = supplier ? DirectoryRole.supplier : .client
                let ends = UInt64(facts.expiry) * 1_000
                let wanted = terms.expiresAtMs
                let words = facts.digest
                let sha256 = Digest256(words.0, words.1, words.2, words.3)
                let key = try place.open(making: true).change([
                    .keyExists: """
                    the certificate is or was a key already (`sluice key list` shows which); \
                    one that was revoked stays so: issue its holder a new certificate
                    """
                ]) {
                    try $0.addCertificate(
                        sha256: sha256, account: terms.account(of: role), role: role,
                        nowUs: WallClock.nowUs, expiresAtMs: wanted == 0 ? ends : min(wanted, ends),
                        limits: terms.limits.value, operations: terms.operations)
                }
                var line = JSONLine()
                line.add("prefix", key.prefix)
                line.add("sha256", sha256.hexadecimal)
                line.add("role", key.entry.role.word)
                line.add("account", terms.account(of: role))
                line.add("expiresAtMs", key.entry.expiresAtMs as UInt64?)
                Output.line(line)
            }
        }

        private func read() throws -> ClientCertificateFacts {
            let facts: ClientCertificateFacts
            do {
                facts = try ClientCertificateFacts(file: certificate)
            } catch {
                throw CommandFailure(
                    "\(certificate) cannot be read, or holds no certificate; a PEM file is "
                        + "expected")
            }
            guard facts.isForClients else {
                throw CommandFailure(
                    "\(certificate) is an authority's or not for clients; brokers would refuse it: "
                        + "its extended key usage must allow clientAuth")
            }
            guard facts.expiry > Int64(WallClock.nowMs / 1_000) else {
                throw CommandFailure(
                    "\(certificate) has expired; its authority must issue another")
            }
            return facts
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
            if let certificate = key.certificate { line.add("sha256", certificate.hexadecimal) }
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

        @Argument(help: "Its prefix, as `sluice key list` shows it.")
        var prefix: String

        func run() throws {
            try reporting {
                let book = try place.open()
                guard try book.keys().contains(where: { $0.prefix == prefix }) else {
                    throw CommandFailure(
                        "no key has the prefix “\(prefix)”; `sluice key list` shows that of each")
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
