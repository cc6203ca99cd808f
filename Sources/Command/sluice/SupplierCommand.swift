import ArgumentParser
import Development
import SluiceWire
import Store

/// `sluice supplier`
struct SupplierCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "supplier",
        abstract: "Show what suppliers have earned, and pay them.",
        subcommands: [List.self, PayoutCommand.self])

    /// `sluice supplier list`
    struct List: ParsableCommand {
        static let configuration = CommandConfiguration(
            abstract: "List suppliers with what they have earned and were not paid.")

        @OptionGroup var place: StoreOptions

        @Flag(help: "Print JSON lines.")
        var json = false

        func run() throws {
            try reporting {
                let store = try place.open().store
                let payouts = try store.payouts()
                var listing = Listing(["account", "label", "suspended", "earned", "pending"])
                for account in try store.accounts() where account.kinds.contains(.supplier) {
                    let pending = payouts.filter {
                        $0.account == account.id && $0.state == .pending
                    }.compactMap { $0.amount.rawValue }.reduce(0, +)
                    listing.rows.append([
                        .number(account.id), .text(account.label), .flag(account.isSuspended),
                        .money(try store.earned(account.id)), .money(MicroUSD(pending)),
                    ])
                }
                listing.write(json: json)
            }
        }
    }

    /// `sluice supplier payout`
    struct PayoutCommand: ParsableCommand {
        static let configuration = CommandConfiguration(
            commandName: "payout",
            abstract: "Send what a supplier has earned, and say how it went.",
            subcommands: [Request.self, Paid.self, Failed.self, ListPayouts.self])

        /// `sluice supplier payout request`
        struct Request: ParsableCommand {
            static let configuration = CommandConfiguration(
                abstract: "Put a payout on its way; the same key again is the same payout.")

            @OptionGroup var place: StoreOptions

            @Argument(help: "The supplier's label or number.")
            var account: String

            @Option(help: "Amount in US dollars; all that was earned if not given.")
            var usd: String?

            @Option(help: "Idempotency key, 1 to 128 characters.")
            var key: String

            @Flag(help: "Print a JSON object.")
            var json = false

            func validate() throws {
                guard usd.map({ DollarAmount.parse($0) != nil }) ?? true else {
                    throw ValidationError(
                        "“\(usd ?? "")” is no amount of dollars; write 12.50, with six decimals "
                            + "at most")
                }
            }

            func run() throws {
                try reporting {
                    let book = try place.open()
                    let account = try book.account(account)
                    // The same key again: its payout, whatever was earned since.
                    let known = try book.store.payouts(account.id)
                        .first { $0.idempotencyKey == key }
                    let earned = try book.store.earned(account.id)
                    let amount =
                        usd.flatMap { DollarAmount.parse($0) } ?? known?.amount ?? earned
                    let payout = try book.change([
                        .insufficientFunds: """
                        “\(account.label)” has earned $\(DollarAmount.text(earned)); \
                        $\(DollarAmount.text(amount)) cannot be paid out: ask for less
                        """,
                        .referenceUsed: """
                        key “\(key)” was used for another account or amount; give every \
                        payout its own
                        """,
                        .invalidValue: """
                        $\(DollarAmount.text(amount)) cannot be paid out, or “\(key)” is no \
                        key: amounts are above 0, keys 1 to 128 printable ASCII characters
                        """,
                    ]) {
                        try $0.requestPayout(
                            account.id, amount, idempotencyKey: key, nowUs: WallClock.nowUs)
                    }
                    PayoutCommand.listing([payout]).write(json: json)
                }
            }
        }

        /// `sluice supplier payout paid`
        struct Paid: ParsableCommand {
            static let configuration = CommandConfiguration(abstract: "A payout has arrived.")

            @OptionGroup var settlement: Settlement

            func run() throws { try settlement.run(isPaid: true) }
        }

        /// `sluice supplier payout failed`
        struct Failed: ParsableCommand {
            static let configuration = CommandConfiguration(
                abstract: "A payout did not arrive: the supplier has it again.")

            @OptionGroup var settlement: Settlement

            func run() throws { try settlement.run(isPaid: false) }
        }

        /// `sluice supplier payout list`
        struct ListPayouts: ParsableCommand {
            static let configuration = CommandConfiguration(
                commandName: "list", abstract: "List payouts, of one supplier or all.")

            @OptionGroup var place: StoreOptions

            @Argument(help: "The supplier's label or number.")
            var account: String?

            @Flag(help: "Print JSON lines.")
            var json = false

            func run() throws {
                try reporting {
                    let book = try place.open()
                    let account = try account.map { try book.account($0).id }
                    PayoutCommand.listing(try book.store.payouts(account)).write(json: json)
                }
            }
        }

        /// What is told of a payout that was sent.
        struct Settlement: ParsableArguments {
            @OptionGroup var place: StoreOptions

            @Argument(help: "Number of the payout.")
            var payout: UInt64

            @Flag(help: "Print a JSON object.")
            var json = false

            func run(isPaid: Bool) throws {
                try reporting {
                    let settled = try place.open().change([
                        .unknownPayout: """
                        there is no payout \(payout); `sluice supplier payout list` shows all
                        """,
                        .payoutSettled: """
                        payout \(payout) was settled the other way; money that came back or \
                        arrived after all needs a payout or adjustment of its own
                        """,
                    ]) { try $0.settlePayout(payout, isPaid: isPaid, nowUs: WallClock.nowUs) }
                    PayoutCommand.listing([settled]).write(json: json)
                }
            }
        }

        fileprivate static func listing(_ payouts: [Payout]) -> Listing {
            Listing(
                ["payout", "account", "amount", "state", "key", "requestedAt", "settledAt"],
                payouts.map {
                    [
                        .number($0.id), .number($0.account), .money($0.amount),
                        .text("\($0.state)"), .text($0.idempotencyKey),
                        .timeMs($0.requestedAtUs / 1_000), .timeMs(($0.settledAtUs ?? 0) / 1_000),
                    ]
                })
        }
    }
}
