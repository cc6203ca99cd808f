import ArgumentParser
import Development
import SluiceRecordFormat
import SluiceWire
import Store

/// `sluice price`
struct PriceCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "price",
        abstract: "Set what consumers pay: fixed prices of models, and the platform's fee.",
        discussion: """
            A model without a fixed price costs what its supplier asks, and the fee. A fixed price \
            leaves out suppliers that ask more. Prices are in millionths of a US dollar per \
            million tokens; the output price of images is per image.
            """,
        subcommands: [Set.self, List.self, Remove.self, Fee.self])

    /// `sluice price set`
    struct Set: ParsableCommand {
        static let configuration = CommandConfiguration(
            abstract: "Fix the price of a model from a time on.")

        @OptionGroup var place: StoreOptions

        @Argument(help: "The model.")
        var model: String

        @Option(help: "Per million input tokens.")
        var input: UInt32

        @Option(help: "Per million cached input tokens; that of input if not given.")
        var cached: UInt32?

        @Option(help: "Per million output tokens; per image.")
        var output: UInt32

        @Option(help: "Per million reasoning tokens; that of output if not given.")
        var reasoning: UInt32?

        @Option(help: "From when: RFC 3339 or milliseconds since 1970; now if not given.")
        var from: Moment?

        @Flag(help: "Print a JSON object.")
        var json = false

        func run() throws {
            try reporting {
                let price = DirectoryPrice(
                    model: try PriceCommand.name(model),
                    prices: PriceList(
                        input: input, cached: cached ?? input, output: output,
                        reasoning: reasoning ?? output),
                    effectiveFromMs: from?.ms ?? WallClock.nowMs)
                try place.open(making: true).change {
                    try $0.setPrice(price, nowUs: WallClock.nowUs)
                }
                PriceCommand.listing([price]).write(json: json)
            }
        }
    }

    /// `sluice price list`
    struct List: ParsableCommand {
        static let configuration = CommandConfiguration(
            abstract: "List all fixed prices with the times from which they hold.")

        @OptionGroup var place: StoreOptions

        @Flag(help: "Print JSON lines.")
        var json = false

        func run() throws {
            try reporting {
                PriceCommand.listing(try place.open().store.prices()).write(json: json)
            }
        }
    }

    /// `sluice price remove`
    struct Remove: ParsableCommand {
        static let configuration = CommandConfiguration(
            abstract: "Let the asks decide again what a model costs, from a time on.")

        @OptionGroup var place: StoreOptions

        @Argument(help: "The model.")
        var model: String

        @Option(help: "From when: RFC 3339 or milliseconds since 1970; now if not given.")
        var from: Moment?

        @Flag(help: "Print a JSON object.")
        var json = false

        func run() throws {
            try reporting {
                let name = try PriceCommand.name(model)
                let book = try place.open()
                guard try book.store.prices().contains(where: { $0.model == name }) else {
                    throw CommandFailure(
                        "“\(model)” has no fixed price; `sluice price list` shows those there are")
                }
                let removed = DirectoryPrice(
                    model: name, prices: .free, effectiveFromMs: from?.ms ?? WallClock.nowMs,
                    isRemoved: true)
                try book.change { try $0.setPrice(removed, nowUs: WallClock.nowUs) }
                PriceCommand.listing([removed]).write(json: json)
            }
        }
    }

    /// `sluice price fee`
    struct Fee: ParsableCommand {
        static let configuration = CommandConfiguration(
            abstract: "Show the platform's fee, or set it from a time on.")

        @OptionGroup var place: StoreOptions

        @Argument(help: "Basis points of the ask, 0 to 10000 (100 = 1 %); shows all if not given.")
        var basisPoints: UInt32?

        @Option(help: "From when: RFC 3339 or milliseconds since 1970; now if not given.")
        var from: Moment?

        @Flag(help: "Print JSON lines.")
        var json = false

        func validate() throws {
            guard basisPoints ?? 0 <= DirectoryFee.basisPointsMax else {
                throw ValidationError(
                    "a fee is 0 to 10000 basis points of the ask, not \(basisPoints ?? 0)")
            }
            guard basisPoints != nil || from == nil else {
                throw ValidationError("--from goes with a fee to set: sluice price fee 1000")
            }
        }

        func run() throws {
            try reporting {
                let book = try place.open(making: basisPoints != nil)
                if let basisPoints {
                    let fee = DirectoryFee(
                        basisPoints: basisPoints, effectiveFromMs: from?.ms ?? WallClock.nowMs)
                    try book.change { try $0.setFee(fee, nowUs: WallClock.nowUs) }
                }
                Listing(
                    ["basisPoints", "effectiveFrom"],
                    try book.store.fees().map {
                        [.number(UInt64($0.basisPoints)), .timeMs($0.effectiveFromMs)]
                    }
                ).write(json: json)
            }
        }
    }

    private static func name(_ text: String) throws -> ModelName {
        guard let name = ModelName(text) else {
            throw CommandFailure(
                "“\(text)” is no model's name: 1 to 88 of A–Z a–z 0–9 . _ : / @ - are")
        }
        return name
    }

    private static func listing(_ prices: [DirectoryPrice]) -> Listing {
        Listing(
            ["model", "input", "cached", "output", "reasoning", "effectiveFrom", "removed"],
            prices.map {
                [
                    .text($0.model.description), .number(UInt64($0.prices.input)),
                    .number(UInt64($0.prices.cached)), .number(UInt64($0.prices.output)),
                    .number(UInt64($0.prices.reasoning)), .timeMs($0.effectiveFromMs),
                    .flag($0.isRemoved),
                ]
            })
    }
}
