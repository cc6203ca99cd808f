import ArgumentParser
import Foundation
import LinuxIO
import SluiceSupplier
import SluiceWire
import Worker

@main struct SluiceWorker: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "sluice-worker",
        abstract: "Offers models to Sluice brokers and answers their tasks.",
        discussion: """
            Bridges to any OpenAI-compatible server (vLLM, Ollama, llama.cpp, SGLang, a paid \
            provider), or answers by itself with the engines "echo" and "demo". Dials out to its \
            brokers, opens no port and calls only the upstream it was given; given none, it looks \
            for engines on this machine, says what it found and ends. Writes JSON lines to \
            standard error; they never hold a prompt or an answer. SIGTERM and SIGINT let running \
            tasks end, then exit 0.
            """)

    @Option(help: "Broker to serve, host:port. May be repeated.")
    var broker: [String]

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

    @Option(help: "Base URL of the server; /v1 is added where it has no path.")
    var upstream: String?

    @Option(help: "File with the server's bearer key. Also SLUICE_UPSTREAM_KEY.")
    var upstreamKeyFile: String?

    @Option(help: "Built-in engine, echo or demo, instead of --upstream. May be repeated.")
    var engine: [EngineName] = []

    @Option(help: "Pace of the built-in engines; else echo is not paced and demo writes 40.")
    var tokensPerSecond: Double?

    @Option(help: "Tasks at once, over all models and brokers.")
    var slots = 8

    @Option(
        help: "Model to offer, NAME or NAME=UPSTREAM-NAME; else every one. May be repeated.")
    var model: [String] = []

    @Option(
        help: ArgumentHelp(
            "What the models are offered for: \(OperationName.list); else chat and completion. May be repeated.",
            discussion: "image stands alone: its price is per image."))
    var operation: [OperationName] = []

    @Option(help: "Whose machine this is: \(SupplyTypeName.list).")
    var supplyType = SupplyTypeName.community

    @Option(help: "Asking price per million prompt tokens, in millionths of a US dollar.")
    var inputPrice: Int64 = 0

    @Option(
        help: "Asking price per million answer tokens or embeddings, or per image; likewise.")
    var outputPrice: Int64 = 0

    @Option(help: "The same for prompt tokens from a cache; else as other prompt tokens.")
    var cachedPrice: Int64?

    @Option(help: "The same for reasoning tokens; else as other answer tokens.")
    var reasoningPrice: Int64?

    @Option(help: "What is promised about prompts: \(DataPolicyName.list).")
    var dataPolicy = DataPolicyName.unstated

    @Option(help: "Where the machine is, 1 to 16 characters.")
    var region: String?

    @Option(help: "How long running tasks may go on after SIGTERM, in seconds.")
    var drainSeconds = 30

    @Flag(help: "Stop when standard input closes, as a child of a process that holds it open.")
    var parentPipe = false

    func run() async throws {
        if upstream == nil, engine.isEmpty { throw ValidationError(await whatWasFound()) }
        // Prompts pass through this process: a crash must print none of its memory.
        guard ProcessGuard.harden(wipesFreedMemory: true) else {
            throw ValidationError(
                "cannot start again with crash backtraces off; is /proc mounted?")
        }
        let worker = Worker(try workerConfiguration(), log: .standardError)
        let signals = StopSignals(watchesParent: parentPipe)
        defer { withExtendedLifetime(signals) {} }
        do {
            try await worker.run(stops: signals.reasons)
        } catch Worker.Fault.modelWithoutEngine {
            throw ValidationError("--model names no --engine.")
        } catch Worker.Fault.transport(.unreadableCertificate) {
            throw ValidationError(
                "--certificate or --private-key cannot be read, or they are no pair; PEM files are "
                    + "expected, the key without a pass phrase.")
        } catch Worker.Fault.transport(let error) {
            throw ValidationError("The supplier cannot be set up: \(error).")
        }
    }

    private func workerConfiguration() throws -> WorkerConfiguration {
        guard !broker.isEmpty else { throw ValidationError("--broker is needed.") }
        guard (1...Int(WireLimits.slotsMax)).contains(slots) else {
            throw ValidationError("--slots is 1 to \(WireLimits.slotsMax).")
        }
        guard (0...3_600).contains(drainSeconds) else {
            throw ValidationError("--drain-seconds is 0 to 3600.")
        }
        if let region, ShortText(region) == nil {
            throw ValidationError("--region is 1 to 16 printable ASCII characters.")
        }
        let selection: ModelSelection
        do {
            selection = try ModelSelection(model)
        } catch {
            throw ValidationError(
                "--model is a name of 1 to 88 of A-Z a-z 0-9 . _ : / @ -, and each only once.")
        }
        let operations = Set(operation.map(\.value))
        // An offer has one price of output, and one of an image is no price of a token.
        guard !operations.contains(.image) || operations.count == 1 else {
            throw ValidationError(
                "--operation image stands alone; run another worker for the other operations.")
        }
        guard engine.isEmpty || operations.isSubset(of: [.chat, .completion]) else {
            throw ValidationError("--engine answers chat and completion; others need --upstream.")
        }
        return WorkerConfiguration(
            brokers: broker, trust: ca.map { .file($0) } ?? .systemRoots,
            credential: try credential(), source: try source(), selection: selection, slots: slots,
            prices: try prices(),
            operations: operations.isEmpty ? [.chat, .completion] : operations,
            supplyType: supplyType.value, dataPolicy: dataPolicy.value, region: region,
            drainTime: .seconds(drainSeconds))
    }

    /// What serves models on this machine, and what to say next. Nothing is offered unasked.
    private func whatWasFound() async -> String {
        let found = await UpstreamDiscovery.search()
        guard let first = found.first else {
            return """
                Neither --upstream nor --engine was given, and no engine answers on 127.0.0.1 at \
                the ports of SGLang, llama.cpp, Ollama or vLLM. Start one, or name its URL with \
                --upstream.
                """
        }
        let lines = found.map { engine in
            let models = engine.models.isEmpty ? "no model" : engine.models.joined(separator: ", ")
            return "  \(engine.kind?.rawValue ?? "a server") at \(engine.url): \(models)"
        }
        return """
            Neither --upstream nor --engine was given; nothing is offered. On this machine:
            \(lines.joined(separator: "\n"))
            Say what to offer: --upstream \(first.url) --model \(first.models.first ?? "NAME")
            """
    }

    private func source() throws -> WorkerConfiguration.Source {
        switch (upstream, engine.isEmpty) {
        case (let url?, true):
            guard let address = UpstreamAddress(url, key: try upstreamKey()) else {
                throw ValidationError("--upstream is an http or https URL.")
            }
            return .upstream(address)
        case (nil, false):
            guard Set(engine).count == engine.count else {
                throw ValidationError("Each --engine may be named once.")
            }
            if let tokensPerSecond, !(0.001...1_000_000).contains(tokensPerSecond) {
                throw ValidationError("--tokens-per-second is 0.001 to 1000000.")
            }
            return .builtIn(
                engine.map { BuiltInEngine($0.value, tokensPerSecond: tokensPerSecond) })
        default: throw ValidationError("Either --upstream or --engine is needed.")
        }
    }

    private func prices() throws -> TokenPrices {
        let prices = [
            inputPrice, cachedPrice ?? inputPrice, outputPrice, reasoningPrice ?? outputPrice,
        ]
        guard prices.allSatisfy({ (0...TokenPrices.amountMax).contains($0) }) else {
            throw ValidationError("Prices are 0 to \(TokenPrices.amountMax).")
        }
        return TokenPrices(
            input: MicroUSD(prices[0]), cached: MicroUSD(prices[1]), output: MicroUSD(prices[2]),
            reasoning: MicroUSD(prices[3]))
    }

    private func credential() throws -> BrokerCredential {
        switch (certificate, privateKey) {
        case (nil, nil): return .secret(try secretToken())
        case (let certificate?, let privateKey?):
            guard token == nil, tokenFile == nil else {
                throw ValidationError("A token and a certificate cannot be given together.")
            }
            return .certificate(.files(chain: certificate, privateKey: privateKey))
        default: throw ValidationError("--certificate and --private-key are given together.")
        }
    }

    private func secretToken() throws -> String {
        let given = try Secret.read(
            value: token, file: tokenFile, environment: "SLUICE_TOKEN", name: "token")
        guard let given, given.utf8.count <= WireLimits.credentialBytesMax else {
            throw ValidationError(
                "A supplier token is needed (--token, --token-file or SLUICE_TOKEN), or "
                    + "--certificate and --private-key.")
        }
        return given
    }

    private func upstreamKey() throws -> String? {
        try Secret.read(
            value: nil, file: upstreamKeyFile, environment: "SLUICE_UPSTREAM_KEY",
            name: "upstream key")
    }
}

/// A secret from a flag, else a file, else the environment. Never part of a message.
private enum Secret {
    static func read(
        value: String?, file: String?, environment: String, name: String
    ) throws -> String? {
        if let value { return value }
        if let file {
            guard let text = try? String(contentsOfFile: file, encoding: .utf8) else {
                throw ValidationError("The file with the \(name) cannot be read.")
            }
            let secret = text.trimmingCharacters(in: .whitespacesAndNewlines)
            guard !secret.isEmpty else {
                throw ValidationError("The file with the \(name) is empty.")
            }
            return secret
        }
        let found = ProcessInfo.processInfo.environment[environment] ?? ""
        return found.isEmpty ? nil : found
    }
}

/// The names that flags take for the values of a closed table.
enum EngineName: String, CaseIterable, ExpressibleByArgument {
    case echo, demo

    var value: BuiltInEngine.Kind {
        switch self {
        case .echo: .echo
        case .demo: .demo
        }
    }
}

enum OperationName: String, CaseIterable, ExpressibleByArgument {
    case chat, completion, embedding, image

    static var list: String { allCases.map(\.rawValue).joined(separator: ", ") }

    var value: TaskOperation {
        switch self {
        case .chat: .chat
        case .completion: .completion
        case .embedding: .embedding
        case .image: .image
        }
    }
}

enum SupplyTypeName: String, CaseIterable, ExpressibleByArgument {
    case community, dedicated, datacenter, provider, platform

    static var list: String { allCases.map(\.rawValue).joined(separator: ", ") }

    var value: SupplyType {
        switch self {
        case .community: .community
        case .dedicated: .dedicated
        case .datacenter: .datacenter
        case .provider: .provider
        case .platform: .platform
        }
    }
}

enum DataPolicyName: String, CaseIterable, ExpressibleByArgument {
    case unstated
    case noTraining = "no-training"
    case noRetention = "no-retention"

    static var list: String { allCases.map(\.rawValue).joined(separator: ", ") }

    var value: DataPolicy {
        switch self {
        case .unstated: .unstated
        case .noTraining: .noTraining
        case .noRetention: .noRetention
        }
    }
}
