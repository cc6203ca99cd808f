import ArgumentParser
import Foundation
import ProcessConfiguration
import SluiceSupplier
import SluiceWire
import Worker

/// What every subcommand needs to reach brokers as the supplier.
struct BrokerOptions: ParsableArguments {
    @Option(help: "File of settings, JSON, with a section \"worker\". Also SLUICE_CONFIG.")
    var config: String?

    @Option(help: "Broker to serve, host:port. May be repeated.")
    var broker: [String] = []

    @Option(help: "PEM file with the authorities that brokers are trusted by; else the system's.")
    var ca: String?

    @Option(help: "Supplier token. Also SLUICE_TOKEN in the environment.")
    var token: String?

    @Option(help: "File with the supplier token.")
    var tokenFile: String?

    @Option(help: "PEM file of a client certificate and its chain, instead of a token.")
    var certificate: String?

    @Option(help: "PEM file of the certificate's private key.")
    var privateKey: String?

    var flags: [String: String?] {
        [
            "broker": joined(broker), "ca": ca, "token-file": tokenFile,
            "certificate": certificate, "private-key": privateKey,
        ]
    }

    /// What counts, from flags, environment, file and defaults.
    func settings(with more: [String: String?] = [:]) throws -> EffectiveConfiguration {
        do {
            return try ConfigurationSource(
                .worker, path: config, flags: flags.merging(more) { _, new in new },
                environment: ProcessInfo.processInfo.environment
            ).read()
        } catch {
            throw ValidationError("\(error)")
        }
    }

    /// The token or certificate, where one is given.
    func knownCredential(_ settings: EffectiveConfiguration) throws -> BrokerCredential? {
        switch (settings.text("certificate"), settings.text("private-key")) {
        case (nil, nil):
            let given = try Secret.read(
                value: token, file: settings.text("token-file"), environment: "SLUICE_TOKEN",
                name: "token")
            return given.flatMap {
                $0.utf8.count <= WireLimits.credentialBytesMax ? .secret($0) : nil
            }
        case (let certificate?, let privateKey?):
            guard token == nil, settings.text("token-file") == nil else {
                throw ValidationError("A token and a certificate cannot be given together.")
            }
            return .certificate(.files(chain: certificate, privateKey: privateKey))
        default: throw ValidationError("--certificate and --private-key are given together.")
        }
    }

    func credential(_ settings: EffectiveConfiguration) throws -> BrokerCredential {
        guard let given = try knownCredential(settings) else {
            throw ValidationError(
                "A supplier token is needed (--token, --token-file or SLUICE_TOKEN), or "
                    + "--certificate and --private-key.")
        }
        return given
    }

    static func trust(_ settings: EffectiveConfiguration) -> BrokerTrust {
        settings.text("ca").map { .file($0) } ?? .systemRoots
    }

    static func brokers(_ settings: EffectiveConfiguration) throws -> [String] {
        let brokers = settings.list("broker")
        guard !brokers.isEmpty else {
            throw ValidationError(
                "No broker is named; give --broker HOST:PORT, SLUICE_WORKER_BROKER in the "
                    + "environment, or worker.broker in the configuration file.")
        }
        return brokers
    }
}

/// Flags that may be repeated, as the settings write them; nil where none was given.
private func joined(_ values: [String]) -> String? {
    values.isEmpty ? nil : values.joined(separator: ",")
}

/// What is offered, and for how much.
struct WorkerOptions: ParsableArguments {
    @Option(help: "Base URL of the server; /v1 is added where it has no path.")
    var upstream: String?

    @Option(help: "File with the server's bearer key. Also SLUICE_UPSTREAM_KEY.")
    var upstreamKeyFile: String?

    @Option(help: "Built-in engine, echo or demo, instead of --upstream. May be repeated.")
    var engine: [String] = []

    @Option(help: "Pace of the built-in engines; else echo is not paced and demo writes 40.")
    var tokensPerSecond: String?

    @Option(
        help: ArgumentHelp(
            "Tasks at once, over all models and brokers: a number, or auto; else 8.",
            discussion: """
                auto measures, before anything is offered, how many short answers at once keep \
                half of the speed of one alone (20 s at most, 64 at most), and follows what real \
                answers show later.
                """))
    var slots: String?

    @Option(
        help: "Model to offer, NAME or NAME=UPSTREAM-NAME; else every one. May be repeated.")
    var model: [String] = []

    @Option(
        help: ArgumentHelp(
            """
            What the models are offered for: chat, completion, embedding or image; else chat and \
            completion. May be repeated.
            """, discussion: "image stands alone: its price is per image."))
    var operation: [String] = []

    @Option(
        help: """
            Whose machine this is: community, dedicated, datacenter, provider or platform; else \
            community.
            """)
    var supplyType: String?

    @Option(help: "Asking price per million prompt tokens, in millionths of a US dollar; else 0.")
    var inputPrice: String?

    @Option(
        help: "Asking price per million answer tokens or embeddings, or per image; likewise.")
    var outputPrice: String?

    @Option(help: "The same for prompt tokens from a cache; else as other prompt tokens.")
    var cachedPrice: String?

    @Option(help: "The same for reasoning tokens; else as other answer tokens.")
    var reasoningPrice: String?

    @Option(
        help:
            "What is promised about prompts: unstated, no-training or no-retention; else unstated."
    )
    var dataPolicy: String?

    @Option(help: "Where the machine is, 1 to 16 characters.")
    var region: String?

    @Option(help: "How long running tasks may go on after SIGTERM, in seconds; else 30.")
    var drainSeconds: String?

    var flags: [String: String?] {
        [
            "upstream": upstream, "upstream-key-file": upstreamKeyFile, "engine": joined(engine),
            "tokens-per-second": tokensPerSecond, "slots": slots, "model": joined(model),
            "operation": joined(operation),
            "supply-type": supplyType, "input-price": inputPrice, "output-price": outputPrice,
            "cached-price": cachedPrice, "reasoning-price": reasoningPrice,
            "data-policy": dataPolicy, "region": region, "drain-seconds": drainSeconds,
        ]
    }

    // MARK: What the settings mean

    /// What answers tasks; nil where neither an upstream nor an engine is named.
    static func source(_ settings: EffectiveConfiguration) throws -> WorkerConfiguration.Source? {
        let engines = settings.list("engine")
        switch (settings.text("upstream"), engines.isEmpty) {
        case (nil, true): return nil
        case (let url?, true):
            guard let address = UpstreamAddress(url, key: try upstreamKey(settings)) else {
                throw ValidationError("--upstream is an http or https URL.")
            }
            return .upstream(address)
        case (nil, false):
            guard Set(engines).count == engines.count else {
                throw ValidationError("Each --engine may be named once.")
            }
            let pace = settings.text("tokens-per-second").flatMap(Double.init)
            return .builtIn(
                try engines.map { name in
                    guard let kind = BuiltInEngine.Kind(rawValue: name) else {
                        throw ValidationError("--engine is echo or demo, not \"\(name)\".")
                    }
                    return BuiltInEngine(kind, tokensPerSecond: pace)
                })
        case (_?, false): throw ValidationError("Either --upstream or --engine, not both.")
        }
    }

    private static func upstreamKey(_ settings: EffectiveConfiguration) throws -> String? {
        try Secret.read(
            value: nil, file: settings.text("upstream-key-file"),
            environment: "SLUICE_UPSTREAM_KEY", name: "upstream key")
    }

    static func selection(_ settings: EffectiveConfiguration) throws -> ModelSelection {
        do {
            return try ModelSelection(settings.list("model"))
        } catch {
            throw ValidationError(
                "--model is a name of 1 to 88 of A-Z a-z 0-9 . _ : / @ -, and each only once.")
        }
    }

    static func operations(_ settings: EffectiveConfiguration) throws -> Set<TaskOperation> {
        let operations = Set(
            try settings.list("operation").map { name -> TaskOperation in
                switch name {
                case "chat": .chat
                case "completion": .completion
                case "embedding": .embedding
                case "image": .image
                default:
                    throw ValidationError(
                        "--operation is chat, completion, embedding or image, not \"\(name)\".")
                }
            })
        // An offer has one price of output, and one of an image is no price of a token.
        guard !operations.contains(.image) || operations.count == 1 else {
            throw ValidationError(
                "--operation image stands alone; run another worker for the other operations.")
        }
        guard
            settings.list("engine").isEmpty || operations.isSubset(of: [.chat, .completion])
        else {
            throw ValidationError("--engine answers chat and completion; others need --upstream.")
        }
        return operations.isEmpty ? [.chat, .completion] : operations
    }

    static func slots(_ settings: EffectiveConfiguration) throws -> WorkerConfiguration.Slots {
        if let number = settings.number("slots") { return .fixed(number) }
        guard !(try operations(settings).isDisjoint(with: [.chat, .completion])) else {
            throw ValidationError(
                "--slots auto measures answers of text; give a number with embeddings or images.")
        }
        return .measured
    }

    static func prices(_ settings: EffectiveConfiguration) -> TokenPrices {
        func price(_ name: String, else other: String) -> MicroUSD {
            MicroUSD(Int64(settings.number(name) ?? settings.number(other) ?? 0))
        }
        return TokenPrices(
            input: price("input-price", else: "input-price"),
            cached: price("cached-price", else: "input-price"),
            output: price("output-price", else: "output-price"),
            reasoning: price("reasoning-price", else: "output-price"))
    }

    static func region(_ settings: EffectiveConfiguration) throws -> String? {
        guard let region = settings.text("region") else { return nil }
        guard ShortText(region) != nil else {
            throw ValidationError("--region is 1 to 16 printable ASCII characters.")
        }
        return region
    }

    static func supplyType(_ settings: EffectiveConfiguration) -> SupplyType {
        switch settings.required("supply-type") {
        case "dedicated": .dedicated
        case "datacenter": .datacenter
        case "provider": .provider
        case "platform": .platform
        default: .community
        }
    }

    static func dataPolicy(_ settings: EffectiveConfiguration) -> DataPolicy {
        switch settings.required("data-policy") {
        case "no-training": .noTraining
        case "no-retention": .noRetention
        default: .unstated
        }
    }
}
