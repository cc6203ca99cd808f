import ArgumentParser
import Development
import SluiceWire
import Store

/// `sluice ledger`
struct LedgerCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "ledger",
        abstract: "Check the ledger; show balances and statements.",
        subcommands: [Check.self, Balances.self, StatementCommand.self])

    /// `sluice ledger check`
    struct Check: ParsableCommand {
        static let configuration = CommandConfiguration(
            abstract: "Look through all postings; fails unless everything adds up.",
            discussion: """
                Exit code 1 if the sum is not 0, a balance that is owed is negative, or balances, \
                entries and leases contradict each other. Unsettled tasks may be on their way. \
                Unposted ones moved nothing, because a balance does not take their amounts; the \
                newest are named.
                """)

        @OptionGroup var place: StoreOptions

        @Flag(help: "Print a JSON object.")
        var json = false

        func run() throws {
            try reporting {
                let check = try place.open().store.ledgerCheck()
                if json {
                    Output.line(check.json)
                } else {
                    Output.line(
                        """
                        sum               $\(DollarAmount.text(check.sum))
                        accounts          \(check.accounts)
                        postings          \(check.postings)
                        tasks             \(check.tasks)
                        unsettled         \(check.unsettled)
                        negative balances \(check.negativeBalances)
                        contradictions    \(check.contradictions)
                        unposted          \(check.unposted)
                        """)
                    for task in check.unpostedTasks { Output.line("unposted task     \(task)") }
                }
                guard check.isSound else {
                    throw CommandFailure(
                        "the ledger does not add up: all but accounts, postings, tasks, "
                            + "unsettled and unposted must be 0; `sluice ledger balances` shows where, and "
                            + "nothing may be paid out until it is known why")
                }
            }
        }
    }

    /// `sluice ledger balances`
    struct Balances: ParsableCommand {
        static let configuration = CommandConfiguration(
            abstract: "List the balances of all ledger accounts; they sum to 0.")

        @OptionGroup var place: StoreOptions

        @Flag(help: "Print JSON lines.")
        var json = false

        func run() throws {
            try reporting {
                Listing(
                    ["ledgerAccount", "balance"],
                    try place.open().store.balances().map {
                        [.text($0.name), .money($0.amount)]
                    }
                ).write(json: json)
            }
        }
    }

    /// `sluice ledger statement`
    struct StatementCommand: ParsableCommand {
        static let configuration = CommandConfiguration(
            commandName: "statement",
            abstract: "What an account's tasks cost, or earned, from their records alone.")

        @OptionGroup var place: StoreOptions

        @Argument(help: "The account's label or number.")
        var account: String

        @Flag(help: "What it earned as a supplier, in place of what it paid.")
        var supplier = false

        @Option(help: "From when: RFC 3339 or milliseconds since 1970.")
        var from: Moment?

        @Option(help: "Until when, not included.")
        var to: Moment?

        @Flag(help: "Print JSON lines: the tasks, then the total.")
        var json = false

        func validate() throws {
            guard from?.ms ?? 0 <= to?.ms ?? .max else {
                throw ValidationError("--to lies before --from; give the earlier time as --from")
            }
        }

        func run() throws {
            try reporting {
                let book = try place.open()
                let account = try book.account(account)
                // The largest time a database can hold, in microseconds.
                let last = UInt64(Int64.max) / 1_000
                let range =
                    min(from?.ms ?? 0, last) * 1_000..<min(to?.ms ?? last, last) * 1_000
                let statement =
                    supplier
                    ? try book.store.supplierStatement(account.id, range)
                    : try book.store.consumerStatement(account.id, range)
                Listing(
                    [
                        "taskID", "acceptedAt", "model", "inputTokens", "cachedTokens",
                        "outputTokens", "reasoningTokens", "amount",
                    ],
                    statement.lines.map {
                        [
                            .text($0.task.description), .timeMs($0.acceptedAtUs / 1_000),
                            .text($0.model), .number(UInt64($0.usage.inputTokens)),
                            .number(UInt64($0.usage.cachedTokens)),
                            .number(UInt64($0.usage.outputTokens)),
                            .number(UInt64($0.usage.reasoningTokens)), .money($0.amount),
                        ]
                    }
                ).write(json: json)
                Listing(
                    ["tasks", "total"],
                    [[.number(UInt64(statement.lines.count)), .money(statement.total)]]
                ).write(json: json)
            }
        }
    }
}
