import ArgumentParser
import Development
import SluiceWire
import Store

/// `sluice wallet`
struct WalletCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "wallet",
        abstract: "Show and change what consumers have paid in.",
        discussion: """
            Each movement has a reference of its own (the payment's, for example): the same \
            command again changes nothing. Amounts are US dollars with up to six decimals.
            """,
        subcommands: [
            Show.self, TopUp.self, Refund.self, Chargeback.self, Adjust.self,
        ])

    /// What every movement is told.
    struct Movement: ParsableArguments {
        @OptionGroup var whose: AccountOptions

        @Option(help: "Amount in US dollars, up to six decimals: --usd 12.50")
        var usd: String

        @Option(help: "What names this movement; unique for its kind, 1 to 128 characters.")
        var reference: String

        func validate() throws {
            guard DollarAmount.parse(usd) != nil else {
                throw ValidationError(
                    "“\(usd)” is no amount of dollars; write 12.50, with six decimals at most")
            }
        }

        /// Books it in the ledger, says what a refusal means, and shows the wallet.
        func book(
            _ body: (Store, UInt64, MicroUSD, String) throws -> WalletChange
        ) throws {
            try reporting {
                let (book, account) = try whose.find()
                guard let amount = DollarAmount.parse(usd) else { return }
                let has = try book.store.wallet(account.id)
                let change = try book.change([
                    .insufficientFunds: """
                    “\(account.label)” has $\(DollarAmount.text(has.available)) available of \
                    $\(DollarAmount.text(has.balance)) ($\(DollarAmount.text(has.leased)) are \
                    leased to brokers); $\(DollarAmount.text(amount)) cannot be taken: take less, \
                    or wait until brokers give back
                    """,
                    .referenceUsed: """
                    reference “\(reference)” was used for another account or amount; \
                    give every movement its own
                    """,
                    .invalidValue: """
                    $\(usd) or reference “\(reference)” is out of range: \
                    amounts are above 0 (adjustments: not 0), references 1 to 128 printable \
                    ASCII characters
                    """,
                    .overflow: "the balance would not fit; the amount is too large",
                ]) { try body($0, account.id, amount, reference) }
                var listing = WalletCommand.listing(account, change.wallet)
                listing = Listing(
                    ["event", "amount", "repeated"] + listing.columns,
                    [
                        [
                            .number(change.event.id), .money(change.event.amount),
                            .flag(change.isRepeat),
                        ] + listing.rows[0]
                    ])
                listing.write(json: whose.json)
            }
        }
    }

    /// `sluice wallet show`
    struct Show: ParsableCommand {
        static let configuration = CommandConfiguration(
            abstract: "Show what an account has, and its latest movements.")

        @OptionGroup var whose: AccountOptions

        @Option(help: "How many movements, counted from the newest.")
        var last = 0

        func run() throws {
            try reporting {
                let (book, account) = try whose.find()
                WalletCommand.listing(account, try book.store.wallet(account.id))
                    .write(json: whose.json)
                guard last > 0 else { return }
                let events = try book.store.walletEvents(account.id, last: last)
                WalletCommand.listing(events).write(json: whose.json)
            }
        }
    }

    /// `sluice wallet topup`
    struct TopUp: ParsableCommand {
        static let configuration = CommandConfiguration(
            commandName: "topup", abstract: "Book a payment of a consumer.")

        @OptionGroup var movement: Movement

        func run() throws {
            try movement.book {
                try $0.topUp($1, $2, reference: $3, nowUs: WallClock.nowUs)
            }
        }
    }

    /// `sluice wallet refund`
    struct Refund: ParsableCommand {
        static let configuration = CommandConfiguration(
            abstract: "Give money back that was not used.")

        @OptionGroup var movement: Movement

        func run() throws {
            try movement.book {
                try $0.refund($1, $2, reference: $3, nowUs: WallClock.nowUs)
            }
        }
    }

    /// `sluice wallet chargeback`
    struct Chargeback: ParsableCommand {
        static let configuration = CommandConfiguration(
            abstract: "Book a payment that was taken back; what is not there the platform loses.")

        @OptionGroup var movement: Movement

        func run() throws {
            try movement.book {
                try $0.chargeback($1, $2, reference: $3, nowUs: WallClock.nowUs)
            }
        }
    }

    /// `sluice wallet adjust`
    struct Adjust: ParsableCommand {
        static let configuration = CommandConfiguration(
            abstract: "Correct a balance, up or down: --usd=-1.50 takes.")

        @OptionGroup var movement: Movement

        func run() throws {
            try movement.book {
                try $0.adjust($1, $2, reference: $3, nowUs: WallClock.nowUs)
            }
        }
    }

    fileprivate static func listing(_ account: Account, _ wallet: Wallet) -> Listing {
        Listing(
            ["account", "label", "balance", "leased", "available"],
            [
                [
                    .number(account.id), .text(account.label), .money(wallet.balance),
                    .money(wallet.leased), .money(wallet.available),
                ]
            ])
    }

    private static func listing(_ events: [WalletEvent]) -> Listing {
        Listing(
            ["event", "kind", "amount", "reference", "at"],
            events.map {
                [
                    .number($0.id), .text("\($0.kind)"), .money($0.amount), .text($0.reference),
                    .timeMs($0.atUs / 1_000),
                ]
            })
    }
}
