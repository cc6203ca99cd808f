import ArgumentParser
import Development
import SluiceWire
import Store

/// `sluice account`
struct AccountCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "account",
        abstract: "Make, list, suspend and resume accounts, and keep what is personal of them.",
        subcommands: [
            Create.self, List.self, Show.self, Suspend.self, Resume.self, PersonCommand.self,
            AddressCommand.self, RotateAddressesCommand.self,
        ])

    /// What an account may be.
    enum Kind: String, CaseIterable, ExpressibleByArgument {
        case consumer, supplier, `operator`

        var kinds: AccountKinds {
            switch self {
            case .consumer: .consumer
            case .supplier: .supplier
            case .operator: .operator
            }
        }
    }

    /// Limits of an account or a key.
    struct Limits: ParsableArguments {
        @Option(help: "Most tasks at once; 0 = no limit of its own.")
        var concurrentTasks: UInt32 = 0

        @Option(help: "Most requests a minute; 0 = no limit of its own.")
        var requestsPerMinute: UInt32 = 0

        @Option(help: "Most tokens a minute; 0 = no limit of its own.")
        var tokensPerMinute: UInt64 = 0

        var value: AccountLimits {
            AccountLimits(
                concurrentTasks: concurrentTasks, requestsPerMinute: requestsPerMinute,
                tokensPerMinute: tokensPerMinute)
        }
    }

    /// `sluice account create`
    struct Create: ParsableCommand {
        static let configuration = CommandConfiguration(abstract: "Make an account.")

        @OptionGroup var place: StoreOptions
        @OptionGroup var limits: Limits

        @Argument(help: "Its label: 1 to 128 printable ASCII characters, unique.")
        var label: String

        @Option(help: "What it may be: consumer, supplier, operator; may be given several times.")
        var kind: [Kind] = [.consumer]

        @Flag(
            inversion: .prefixedNo,
            help: "Its tasks are paid from its wallet. Consumers are, if neither is given.")
        var prepaid: Bool?

        @Flag(help: "Print a JSON object.")
        var json = false

        func run() throws {
            try reporting {
                let book = try place.open(making: true)
                let kinds = AccountKinds(kind.map(\.kinds))
                let account = try book.change([
                    .accountExists: "there is an account “\(label)” already; choose another label",
                    .invalidValue:
                        "“\(label)” is no label: 1 to 128 printable ASCII characters are",
                ]) {
                    try $0.makeAccount(
                        label: label, kinds: kinds,
                        isPrepaid: prepaid ?? kinds.contains(.consumer), limits: limits.value,
                        nowUs: WallClock.nowUs)
                }
                AccountCommand.listing([account]).write(json: json)
            }
        }
    }

    /// `sluice account list`
    struct List: ParsableCommand {
        static let configuration = CommandConfiguration(abstract: "List all accounts.")

        @OptionGroup var place: StoreOptions

        @Flag(help: "Print JSON lines.")
        var json = false

        func run() throws {
            try reporting {
                AccountCommand.listing(try place.open().store.accounts()).write(json: json)
            }
        }
    }

    /// `sluice account show`
    struct Show: ParsableCommand {
        static let configuration = CommandConfiguration(
            abstract: "Show an account with what it has and has earned.")

        @OptionGroup var place: StoreOptions

        @Argument(help: "Its label or number.")
        var account: String

        @Flag(help: "Print a JSON object.")
        var json = false

        func run() throws {
            try reporting {
                let book = try place.open()
                let account = try book.account(account)
                let wallet = try book.store.wallet(account.id)
                var listing = AccountCommand.listing([account])
                listing = Listing(
                    listing.columns + ["balance", "leased", "available", "earned"],
                    [
                        listing.rows[0] + [
                            .money(wallet.balance), .money(wallet.leased),
                            .money(wallet.available),
                            .money(try book.store.earned(account.id)),
                        ]
                    ])
                listing.write(json: json)
            }
        }
    }

    /// `sluice account suspend`
    struct Suspend: ParsableCommand {
        static let configuration = CommandConfiguration(
            abstract: "Refuse an account's keys until it is resumed.")

        @OptionGroup var place: StoreOptions

        @Argument(help: "Its label or number.")
        var account: String

        @Flag(help: "Print a JSON object.")
        var json = false

        func run() throws {
            try AccountCommand.setSuspended(true, account, place, json)
        }
    }

    /// `sluice account resume`
    struct Resume: ParsableCommand {
        static let configuration = CommandConfiguration(
            abstract: "Take a suspended account's keys again.")

        @OptionGroup var place: StoreOptions

        @Argument(help: "Its label or number.")
        var account: String

        @Flag(help: "Print a JSON object.")
        var json = false

        func run() throws {
            try AccountCommand.setSuspended(false, account, place, json)
        }
    }

    private static func setSuspended(
        _ isSuspended: Bool, _ name: String, _ place: StoreOptions, _ json: Bool
    ) throws {
        try reporting {
            let book = try place.open()
            let account = try book.account(name)
            let changed = try book.change {
                try $0.changeAccount(account.id, nowUs: WallClock.nowUs) {
                    $0.isSuspended = isSuspended
                }
            }
            listing([changed]).write(json: json)
        }
    }

    private static func listing(_ accounts: [Account]) -> Listing {
        Listing(
            [
                "account", "label", "kinds", "prepaid", "suspended", "concurrentTasks",
                "requestsPerMinute", "tokensPerMinute",
            ],
            accounts.map { account in
                let kinds = Kind.allCases.filter { account.kinds.contains($0.kinds) }
                return [
                    .number(account.id), .text(account.label), .texts(kinds.map(\.rawValue)),
                    .flag(account.isPrepaid), .flag(account.isSuspended),
                    .number(UInt64(account.limits.concurrentTasks)),
                    .number(UInt64(account.limits.requestsPerMinute)),
                    .number(account.limits.tokensPerMinute),
                ]
            })
    }
}

/// Runs a command's body; what goes wrong is one line on standard error and exit code 1.
func reporting(_ body: () throws -> Void) throws {
    do {
        try body()
    } catch let error as ExitCode {
        throw error
    } catch let error as StoreError {
        throw Output.failure(DevelopmentError(error))
    } catch {
        throw Output.failure(error)
    }
}
