import ArgumentParser
import Glibc

/// Drives a broker, or the relay it is measured beside, with mock clients and mock suppliers in
/// one process, and reads what the process under test spent on it.
@main
struct LoadDriver: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "load-driver", abstract: "Mock clients and suppliers for measurements.",
        subcommands: [Run.self, WriteDirectory.self, DrainJournal.self], defaultSubcommand: Run.self
    )
}

struct Run: ParsableCommand {
    static let configuration = CommandConfiguration(
        abstract: "Drive one workload and print what it cost as one JSON object.")

    @Option(help: "W1: tokens as fast as they go. W3: one short answer a task. W4: paced tokens.")
    var workload = "W1"
    @Option(help: "What the result calls the process under test.")
    var target = "broker"
    @Option(help: "Numeric address of the process under test.")
    var host = "127.0.0.1"
    @Option(help: "Port of the process under test.")
    var port: UInt16
    @Option(help: "Its process id.")
    var pid: Int32
    @Option(help: "PEM file of the authority that signed its certificate.")
    var authority: String
    @Option(help: "API key of the mock clients.")
    var key = "sk-bench"
    @Option(help: "Token of the mock suppliers.")
    var token = "st-bench"

    @Option(help: "Client connections.")
    var connections: Int?
    @Option(help: "Open tasks on each of them.")
    var streams: Int?
    @Option(help: "Tokens of each answer.")
    var tokens: Int?
    @Option(help: "Bytes of each token, 16 or more.")
    var tokenBytes = 32
    @Option(help: "Bytes of each request body.")
    var bodyBytes = 200
    @Option(help: "Supplier connections.")
    var suppliers = 8
    @Option(help: "Tokens a second on each stream; 0 = as fast as credit allows.")
    var rate: Int?
    @Option(help: "Tokens of one stream before the next one's turn.")
    var burst = 1
    @Option(help: "Reserve that each task asks for, in bytes; 0 = the protocol's default.")
    var reserve: UInt32 = 0
    @Option(help: "Seconds before the measurement starts.")
    var warmUp = 2.0
    @Option(help: "Seconds that are measured.")
    var seconds = 8.0

    func run() throws {
        let shape: (connections: Int, streams: Int, tokens: Int, rate: Int)
        switch workload {
        case "W1": shape = (8, 128, 200, 0)
        case "W2": shape = (512, 1, 200, 0)
        case "W3": shape = (8, 64, 1, 0)
        case "W4": shape = (64, 4, 200, 50)
        default: throw ValidationError("--workload is '\(workload)'; expected W1, W2, W3 or W4")
        }
        guard tokenBytes >= 16, tokenBytes <= 4_000, bodyBytes <= 16_000, burst >= 1 else {
            throw ValidationError("--token-bytes is 16 to 4000, --body-bytes at most 16000")
        }
        let load = Load(
            connections: connections ?? shape.connections, streams: streams ?? shape.streams,
            tokensPerTask: tokens ?? shape.tokens, tokenBytes: tokenBytes, bodyBytes: bodyBytes,
            suppliers: suppliers, tokensPerSecond: rate ?? shape.rate, burst: burst,
            reserveBytes: reserve)
        guard load.streams <= 1_024, load.tokensPerTask >= 1, load.suppliers >= 1,
            load.connections * load.streams <= load.suppliers * 1_024
        else { throw ValidationError("more open tasks than the suppliers have streams") }

        signal(SIGPIPE, SIG_IGN)
        let measured = ProcessUnderTest(pid: pid)
        guard measured.cpuNs > 0 else { throw ValidationError("no process \(pid)") }
        let context = makeContext(authority: authority)
        let dial = Dial(context: context, host: host, port: port)
        let engine = Engine(load: load, dial: dial, key: key, token: token)
        engine.start()
        engine.run(untilNs: monotonicNs() + UInt64(warmUp * 1e9))
        let before = Sample(engine, measured)
        engine.run(untilNs: monotonicNs() + UInt64(seconds * 1e9))
        let after = Sample(engine, measured)
        engine.drain(untilNs: monotonicNs() + 15_000_000_000)
        print(report(before, after, engine, measured))
        if engine.counters.errors > 0 || engine.lost > 0 { throw ExitCode(1) }
    }

    private func report(
        _ before: Sample, _ after: Sample, _ engine: Engine, _ measured: ProcessUnderTest
    ) -> String {
        let tokens = Double(after.tokens - before.tokens)
        let tasks = Double(after.tasks - before.tasks)
        let cpuUs = Double(after.cpuNs - before.cpuNs) / 1_000
        let wallUs = Double(after.wallNs - before.wallNs) / 1_000
        let own = Double(after.ownCpuNs - before.ownCpuNs) / 1_000
        let fields: [(String, String)] = [
            ("workload", "\"\(workload)\""), ("target", "\"\(target)\""),
            ("cpuUsPerToken", decimal(cpuUs / tokens, 4)),
            ("cpuUsPerTask", decimal(cpuUs / tasks, 3)),
            ("tokensPerSecond", decimal(tokens / wallUs * 1e6, 0)),
            ("tasksPerSecond", decimal(tasks / wallUs * 1e6, 0)),
            ("utilisation", decimal(cpuUs / wallUs, 3)),
            ("generatorUtilisation", decimal(own / wallUs, 3)),
            ("sleepsPerToken", decimal(Double(after.sleeps - before.sleeps) / tokens, 5)),
            ("latencyUsP50", decimal(engine.latencyUs(0.5), 1)),
            ("latencyUsP99", decimal(engine.latencyUs(0.99), 1)),
            ("rssBytes", "\(measured.residentBytes)"),
            ("errors", "\(engine.counters.errors)"), ("lost", "\(engine.lost)"),
        ]
        return "{" + fields.map { "\"\($0.0)\":\($0.1)" }.joined(separator: ",") + "}"
    }

    private func decimal(_ value: Double, _ places: Int) -> String {
        guard value.isFinite else { return "null" }
        var scale = 1.0
        for _ in 0..<places { scale *= 10 }
        let rounded = (value * scale).rounded() / scale
        return places == 0 ? "\(Int(rounded))" : "\(rounded)"
    }
}

/// Counters at one moment.
struct Sample {
    let tokens: UInt64
    let tasks: UInt64
    let cpuNs: UInt64
    let sleeps: UInt64
    let ownCpuNs: UInt64
    let wallNs: UInt64

    init(_ engine: Engine, _ measured: ProcessUnderTest) {
        tokens = engine.counters.tokensReceived
        tasks = engine.counters.tasksEnded
        cpuNs = measured.cpuNs
        sleeps = measured.sleeps
        ownCpuNs = processorNs()
        wallNs = monotonicNs()
    }
}
