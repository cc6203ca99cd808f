import ArgumentParser
import Foundation
import Glibc
import LinuxIO
import LoadGenerator

/// `sluice bench`
struct BenchCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "bench",
        abstract:
            "Measure the broker, and a peer beside it, under a load of mock clients and suppliers.",
        discussion: """
            Starts what is measured on throw-away directories, drives it, and reads from the \
            system what it spent. With --against, both are measured in interleaved pairs and the \
            ratio of each pair counts. Standard output gets the table, --json everything.

            Workloads: W1 8 connections x 128 streams, 200 tokens of 32 bytes, unpaced; W2 512 x \
            1, same; W3 8 x 64, one token a task; W4 64 x 4 at 50 tokens/s; W5 128 x 8; W6 128 x \
            16; W5m, W6m the streams of W5 and W6 on 8 connections; W7 64 prompts of 240 KB at \
            once, then 500 tokens at 50/s, beside W4. Every part of one can be changed below.

            Paced workloads are open loop: tasks and tokens have intended times, and latencies \
            count from those. Unpaced ones are closed loop: the next task begins when one ends.

            Exit codes: 0 measured; 1 failed; 21 a program is not installed (the message says how \
            to get it); 22 a run had errors or lost tokens, so it shows nothing; 64 wrong use; \
            130 stopped by a signal.
            """)

    @Option(help: "W1 to W7, W5m or W6m.")
    var workload = "W4"

    @Option(help: "What is measured: \(Self.names).")
    var target = "sluice"

    @Option(help: "What it is measured against, in pairs: \(Self.names).")
    var against: String?

    @Flag(help: "Fewer seconds: one workload against one peer within 50 s.")
    var quick = false

    @Option(help: "Pairs, or runs without --against.")
    var pairs: Int?

    @Option(help: "Seconds that each run measures.")
    var seconds: Double?

    @Option(help: "Seconds of load before each measurement.")
    var warmUp: Double?

    @Option(help: "File for everything that was measured, as JSON.")
    var json: String?

    @Option(help: "Directory for the latencies of each run: .hgrm and all steps as .csv.")
    var hdr: String?

    @Flag(help: "Count system calls too, in one more run of each target (needs perf).")
    var syscalls = false

    @OptionGroup(title: "Shape of the load")
    var shape: LoadShape

    @OptionGroup(title: "Where it runs")
    var place: BenchPlace

    private static var names: String {
        TargetName.allCases.map(\.rawValue).joined(separator: ", ")
    }

    func validate() throws {
        if (pairs ?? 1) < 1 || (pairs ?? 1) > 1_000 {
            throw ValidationError("--pairs must be 1 to 1000")
        }
        for value in [seconds ?? 1, warmUp ?? 1] where value < 0.1 || value > 3_600 {
            throw ValidationError("--seconds and --warm-up must be 0.1 to 3600")
        }
        for name in [target, against ?? target] where TargetName(rawValue: name) == nil {
            throw ValidationError("there is no target '\(name)'; expected one of \(Self.names)")
        }
    }

    func run() throws {
        signal(SIGPIPE, SIG_IGN)
        let load = try shape.workload(named: workload)
        let descriptors = DescriptorLimit.raise()
        guard load.connectionCount + 100 < descriptors else {
            throw ValidationError(
                "\(load.connectionCount) connections need more descriptors than \(descriptors); "
                    + "raise the hard limit (ulimit -Hn)")
        }
        var options = RunOptions()
        options.seconds = seconds ?? (quick ? 2 : 8)
        options.warmUpSeconds = warmUp ?? (quick ? 0.7 : 2)
        options.sealsEachToken = try shape.sealsEachToken
        let names = [target] + (against.map { [$0] } ?? [])
        var comparison = Comparison(
            workload: load, targets: names.compactMap { TargetName(rawValue: $0) },
            pairs: pairs ?? (against == nil ? (quick ? 2 : 3) : 5), options: options)
        comparison.countsSyscalls = syscalls
        do {
            try measure(comparison)
        } catch let error as BenchError {
            if case .notInstalled = error { throw Output.failure(error, .notInstalled) }
            throw Output.failure(error)
        } catch let error as ExitCode {
            throw error
        } catch {
            throw Output.failure(error)
        }
    }

    private func measure(_ comparison: Comparison) throws {
        let rig = try place.rig()
        defer { rig.remove() }
        let signals = stopOnSignals(rig)
        defer { for source in signals { source.cancel() } }
        place.setPriority()
        let line = ProgressLine()
        let report = try comparison.run(in: rig) {
            line.show($0)
        } finished: { number, outcome in
            guard let hdr else { return }
            try HistogramFiles.write(outcome, of: comparison.workload, number: number, to: hdr)
        }
        line.clear()
        if let json {
            try Data((try report.json() + "\n").utf8).write(to: URL(fileURLWithPath: json))
        }
        Output.line(BenchTable.text(report))
        if !report.isValid { throw ExitCode(ExitStatus.runInvalid.rawValue) }
    }

    /// Nothing that was started outlives a signal.
    private func stopOnSignals(_ rig: Rig) -> [any DispatchSourceSignal] {
        let stop = rig.cleanUp
        return [SIGINT, SIGTERM].map { (number: Int32) -> any DispatchSourceSignal in
            _ = signal(number) { _ in }
            let source = DispatchSource.makeSignalSource(signal: number, queue: .global())
            source.setEventHandler {
                stop()
                Glibc.exit(ExitStatus.cancelled.rawValue)
            }
            source.resume()
            return source
        }
    }
}

/// What differs from the workload that was named.
struct LoadShape: ParsableArguments {
    @Option(help: "Client connections.")
    var connections: Int?
    @Option(help: "Open tasks on each connection.")
    var streams: Int?
    @Option(help: "Tokens of each answer.")
    var tokens: Int?
    @Option(help: "Bytes of each token, 16 to 8000.")
    var tokenBytes: Int?
    @Option(help: "Bytes of each prompt, 16 to 1000000.")
    var promptBytes: Int?
    @Option(help: "Tokens a second on each stream; 0 as fast as they go.")
    var rate: Int?
    @Option(help: "Tasks a second in all, at intended times: makes an unpaced workload open loop.")
    var arrivals: Double?
    @Option(help: "Supplier connections.")
    var suppliers: Int?
    @Option(help: "More client connections, of 4 streams each, that read slowly.")
    var slowReaders = 0
    @Option(help: "Bytes a second that each of them reads.")
    var slowRate = 2_000
    @Option(help: "More client connections that do nothing: see rssBytesPerConnection.")
    var idle = 0
    @Option(help: "Connections a second that come, ask for one answer and go.")
    var churn = 0.0
    @Option(
        help:
            "Records of paced tokens: token (each its own, as engines flush) or full."
    )
    var seal = "token"

    var sealsEachToken: Bool {
        get throws {
            switch seal {
            case "token": return true
            case "full": return false
            default: throw ValidationError("--seal must be token or full")
            }
        }
    }

    func workload(named name: String) throws -> Workload {
        guard var workload = Workload.presets.first(where: { $0.name == name }) else {
            let names = Workload.presets.map(\.name).joined(separator: ", ")
            throw ValidationError("there is no workload '\(name)'; expected one of \(names)")
        }
        var group = workload.groups[0]
        group.connections = connections ?? group.connections
        group.streams = streams ?? group.streams
        group.tokensPerTask = tokens ?? group.tokensPerTask
        group.tokenBytes = tokenBytes ?? group.tokenBytes
        group.promptBytes = promptBytes ?? group.promptBytes
        group.tokensPerSecond = rate ?? group.tokensPerSecond
        group.tasksPerSecond = arrivals ?? group.tasksPerSecond
        workload.groups[0] = group
        workload.suppliers = suppliers ?? workload.suppliers
        if slowReaders > 0 {
            var slow = StreamGroup(
                "slow", connections: slowReaders, streams: 4, tokensPerTask: 200,
                tokensPerSecond: 50)
            slow.readBytesPerSecond = slowRate
            workload.groups.append(slow)
        }
        if idle > 0 {
            var quiet = StreamGroup("idle", connections: idle, streams: 1, tokensPerTask: 1)
            quiet.isIdle = true
            workload.groups.append(quiet)
        }
        if churn > 0 {
            // Room for two seconds' worth at once.
            var coming = StreamGroup(
                "churn", connections: max(4, Int(2 * churn)), streams: 1, tokensPerTask: 4)
            coming.tasksPerSecond = churn
            coming.isChurning = true
            workload.groups.append(coming)
        }
        if let fault = workload.fault { throw ValidationError(fault) }
        return workload
    }
}

/// Processors, programs and priorities.
struct BenchPlace: ParsableArguments {
    @Option(help: "Processors of what is measured, such as 0 or 0,2 or 0-3.")
    var targetCpus: String?
    @Option(help: "Processors of the generator; one more than one splits clients and suppliers.")
    var generatorCpus: String?
    @Option(help: "How broker, bare relay and generator talk to the kernel: auto, ring or epoll.")
    var backend = "auto"
    @Option(help: "Shards of the broker, 1 to 63; by default one for each of its processors.")
    var shards: Int?
    @Option(help: "Folder of the built programs, by default that of this one.")
    var programs: String?
    @Option(help: "Folder of the peers' configurations, by default Benchmarks/peers.")
    var peers: String?
    @Option(
        parsing: .unconditional,
        help: "Priority of everything that is started, -20 to 19, against other work.")
    var nice: Int32 = 0

    func rig() throws -> Rig {
        let choice: BackendChoice
        switch backend {
        case "auto": choice = .automatic
        case "ring": choice = .ring
        case "epoll": choice = .epoll
        default: throw ValidationError("--backend must be auto, ring or epoll")
        }
        if let shards, !(1...63).contains(shards) {
            throw ValidationError("--shards must be 1 to 63")
        }
        let all = ProcessorPlacement.allowed
        let first = all.first ?? 0
        let target = try targetCpus.map(processors) ?? [first]
        let others = all.filter { !target.contains($0) }
        let generator =
            try generatorCpus.map(processors) ?? (others.isEmpty ? target : Array(others.prefix(1)))
        return try Rig(
            programs: programs ?? Self.ownFolder, configurations: peers ?? Self.configurations,
            targetProcessors: target, generatorProcessors: generator, backend: choice,
            shards: shards)
    }

    /// Children inherit it. A session's group of the scheduler weighs by its own number.
    func setPriority() {
        guard nice != 0 else { return }
        _ = setpriority(Int32(PRIO_PROCESS.rawValue), 0, nice)
        let group = FileHandle(forWritingAtPath: "/proc/self/autogroup")
        try? group?.write(contentsOf: Data("\(nice)".utf8))
    }

    private func processors(_ text: String) throws -> [Int] {
        let ranges = text.split(separator: ",").map { $0.split(separator: "-").map { Int($0) } }
        let found = ranges.flatMap { range -> [Int] in
            guard let first = range.first ?? nil, let last = range.last ?? nil, first <= last,
                last < 1_024, range.count <= 2
            else { return [-1] }
            return Array(first...last)
        }
        guard !found.isEmpty, !found.contains(-1) else {
            throw ValidationError("'\(text)' names no processors; expected such as 0,2 or 0-3")
        }
        return found
    }

    private static var ownFolder: String {
        URL(fileURLWithPath: "/proc/self/exe").resolvingSymlinksInPath()
            .deletingLastPathComponent().path
    }

    /// Beside the sources: below the working directory, or above the programs.
    private static var configurations: String {
        var folder = URL(fileURLWithPath: ownFolder)
        var candidates = [URL(fileURLWithPath: FileManager.default.currentDirectoryPath)]
        while folder.pathComponents.count > 1 {
            candidates.append(folder)
            folder.deleteLastPathComponent()
        }
        let paths = candidates.map { $0.appendingPathComponent("Benchmarks/peers").path }
        return paths.first { FileManager.default.fileExists(atPath: $0) } ?? paths[0]
    }
}

/// One line on a terminal's standard error that is written over and over.
final class ProgressLine {
    private let isTerminal = isatty(STDERR_FILENO) == 1

    func show(_ text: String) {
        guard isTerminal else { return }
        StandardStream.error.write("\r\u{1B}[K" + text.prefix(110))
    }

    func clear() {
        guard isTerminal else { return }
        StandardStream.error.write("\r\u{1B}[K")
    }
}
