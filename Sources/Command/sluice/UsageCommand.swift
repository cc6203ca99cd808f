import ArgumentParser
import Development
import Foundation
import SluiceWire
import Store

/// A span of time on the command line.
struct SpanOptions: ParsableArguments {
    @Option(help: "From when: RFC 3339 or milliseconds since 1970; a day ago if not given.")
    var from: Moment?

    @Option(help: "Until when, not included; now if not given.")
    var to: Moment?

    func validate() throws {
        guard from?.ms ?? 0 <= to?.ms ?? .max else {
            throw ValidationError("--to lies before --from; give the earlier time as --from")
        }
    }

    /// Microseconds since 1970.
    var range: Range<UInt64> {
        // The largest time a database can hold, in milliseconds.
        let last = UInt64(Int64.max) / 1_000
        let end = min(to?.ms ?? WallClock.nowMs + 1, last)
        let begin = min(from?.ms ?? (end > 86_400_000 ? end - 86_400_000 : 0), end)
        return begin * 1_000..<end * 1_000
    }
}

extension UsageGrouping: ExpressibleByArgument {}

/// `sluice usage`
struct UsageCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "usage",
        abstract: "Sum tasks, tokens and money by account, model, supplier, status or day.",
        discussion: """
            Tasks that were accepted in the span and have ended, largest cost first, at most 1,000 \
            rows. Times are means.
            """)

    @OptionGroup var place: StoreOptions
    @OptionGroup var span: SpanOptions

    @Option(help: "account, model, supplier, status or day.")
    var by: UsageGrouping = .model

    @Option(help: "Only what this consumer asked: label or number.")
    var account: String?

    @Flag(help: "Print JSON lines.")
    var json = false

    func run() throws {
        try reporting {
            let book = try place.open()
            let account = try account.map { try book.account($0).id }
            let rows = try book.store.usage(by: by, account: account, span.range)
            Listing(
                [
                    by.rawValue, "tasks", "completed", "inputTokens", "cachedTokens",
                    "outputTokens", "reasoningTokens", "cost", "earning", "fee", "queueUs",
                    "ttftUs",
                ],
                rows.map { row in
                    [
                        .text(row.group), .number(row.tasks), .number(row.completed),
                        .number(row.inputTokens), .number(row.cachedTokens),
                        .number(row.outputTokens), .number(row.reasoningTokens),
                        .money(row.cost), .money(row.earning), .money(row.fee),
                        .optionalNumber(row.queueUs), .optionalNumber(row.ttftUs),
                    ]
                }
            ).write(json: json)
        }
    }
}

/// `sluice suppliers`
struct SuppliersCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "suppliers",
        abstract: "Show what each supplier did: tasks, how many it completed, times, earnings.",
        discussion: """
            One row for each supplier token that ran tasks which were accepted in the span and \
            have ended. `sluice status` says how many are connected now; `sluice supplier` is \
            about their money.
            """)

    @OptionGroup var place: StoreOptions
    @OptionGroup var span: SpanOptions

    @Flag(help: "Print JSON lines.")
    var json = false

    func run() throws {
        try reporting {
            let book = try place.open()
            let owners = Dictionary(
                try book.store.keys().filter { $0.supplier != 0 }.map { ($0.supplier, $0) },
                uniquingKeysWith: { first, _ in first })
            let rows = try book.store.usage(by: .supplier, span.range).filter { !$0.group.isEmpty }
            Listing(
                [
                    "supplier", "account", "key", "tasks", "completed", "completedPercent",
                    "outputTokens", "earning", "queueUs", "ttftUs",
                ],
                rows.map { row in
                    let owner = UInt64(row.group).flatMap { owners[$0] }
                    return [
                        .text(row.group), .text(owner?.accountLabel ?? ""),
                        .text(owner?.prefix ?? ""), .number(row.tasks), .number(row.completed),
                        .number(row.completed * 100 / max(row.tasks, 1)),
                        .number(row.outputTokens), .money(row.earning),
                        .optionalNumber(row.queueUs), .optionalNumber(row.ttftUs),
                    ]
                }
            ).write(json: json)
        }
    }
}
