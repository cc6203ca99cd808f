import ArgumentParser
import LinuxIO
import ProcessConfiguration
import SluiceSupplier
import SluiceWire
import Worker

/// `sluice-worker run`, and `sluice-worker` alone.
struct RunCommand: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "run",
        abstract: "Serve: offer models and answer tasks.",
        discussion: """
            Bridges to any OpenAI-compatible server (vLLM, Ollama, llama.cpp, SGLang, a paid \
            provider), or answers by itself with the engines "echo" and "demo". Dials out to its \
            brokers, opens no port and calls only the upstream it was given; given none, it looks \
            for engines on this machine, says what it found and ends. Writes JSON lines to \
            standard error; they never hold a prompt or an answer. SIGTERM and SIGINT let running \
            tasks end, then exit 0. Settings come from flags, else from the environment \
            (SLUICE_WORKER_SLOTS for --slots), else from the file of --config, else from defaults.
            """)

    @OptionGroup var brokers: BrokerOptions
    @OptionGroup var options: WorkerOptions

    @Flag(help: "Stop when standard input closes, as a child of a process that holds it open.")
    var parentPipe = false

    func run() async throws {
        let settings = try brokers.settings(with: options.flags)
        guard let source = try WorkerOptions.source(settings) else {
            throw ValidationError(await whatWasFound(settings))
        }
        // Prompts pass through this process: a crash must print none of its memory.
        guard ProcessGuard.harden(wipesFreedMemory: true) else {
            throw ValidationError(
                "cannot start again with crash backtraces off; is /proc mounted?")
        }
        let worker = Worker(
            WorkerConfiguration(
                brokers: try BrokerOptions.brokers(settings), trust: BrokerOptions.trust(settings),
                credential: try brokers.credential(settings), source: source,
                selection: try WorkerOptions.selection(settings),
                slots: try WorkerOptions.slots(settings), prices: WorkerOptions.prices(settings),
                operations: try WorkerOptions.operations(settings),
                supplyType: WorkerOptions.supplyType(settings),
                dataPolicy: WorkerOptions.dataPolicy(settings),
                region: try WorkerOptions.region(settings),
                drainTime: .seconds(settings.number("drain-seconds") ?? 0)),
            log: .standardError)
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

    /// What serves models on this machine, and what to say next. Nothing is offered unasked.
    private func whatWasFound(_ settings: EffectiveConfiguration) async -> String {
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
        let broker = settings.list("broker").isEmpty ? " --broker HOST:PORT" : ""
        return """
            Neither --upstream nor --engine was given; nothing is offered. On this machine:
            \(lines.joined(separator: "\n"))
            Say what to offer:\(broker) --upstream \(first.url) --model \
            \(first.models.first ?? "NAME")
            """
    }
}
