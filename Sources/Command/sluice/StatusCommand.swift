import ArgumentParser
import Development
import Foundation
import SluiceRecordFormat
import SluiceWire
import Store
import Telemetry

/// Which brokers a command looks at.
struct BrokersOptions: ParsableArguments {
    @Option(help: "Data directory, as given to `sluice dev`.")
    var data: String?

    @Option(help: "Run directory of the brokers, as given to `sluice-broker --run`.")
    var run: String?

    func validate() throws {
        guard (data == nil) != (run == nil) else {
            throw ValidationError("name the brokers once: --data DIR or --run DIR")
        }
    }

    /// Where the brokers' instances are.
    func runDirectory() throws -> String {
        if let run { return run }
        return try DevelopmentHome(data ?? ".").runDirectory.path
    }

    /// What the sidecar there says; nil if none has of late.
    func settlement() -> SettlementReport? {
        (try? runDirectory()).flatMap {
            SettlementReport.read(runDirectory: $0, nowUs: WallClock.nowUs)
        }
    }

    /// What the brokers that live there say now.
    func readings() throws -> [BrokerReading] {
        let path = try runDirectory()
        do {
            return try BrokerReading.all(runDirectory: path, nowUs: WallClock.nowUs)
        } catch {
            throw CommandFailure(
                "\(path) cannot be read (\(error)); it is made by a broker: start `sluice dev` or "
                    + "`sluice-broker` first, as the same user")
        }
    }
}

/// `sluice status`
struct StatusCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "status",
        abstract: "Show the numbers of the brokers on this machine.",
        discussion: """
            Exit code 1 when no broker has reported in the last ten seconds. With --json one \
            object a broker; Protocol/Metrics.md says what the numbers mean.
            """)

    @OptionGroup var options: BrokersOptions

    @Flag(help: "Print one JSON object a line instead of a table.")
    var json = false

    func run() throws {
        let readings: [BrokerReading]
        do {
            readings = try options.readings()
        } catch {
            throw Output.failure(error)
        }
        if json {
            for reading in readings {
                Output.line(Activity(now: reading, since: nil, seconds: 0).json)
            }
        } else {
            let activities = readings.map { Activity(now: $0, since: nil, seconds: 0) }
            for line in ActivityText.lines(activities) { Output.line(line) }
        }
        if readings.isEmpty { throw ExitCode(ExitStatus.failed.rawValue) }
    }
}

/// `sluice top`
struct TopCommand: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "top",
        abstract: "Watch the brokers on this machine.",
        discussion: """
            Rates and times of the last interval, per broker and shard, until SIGINT. With --once \
            it looks for one interval, prints and ends.
            """)

    @OptionGroup var options: BrokersOptions

    @Option(help: "Seconds between two looks, 0.2 to 60.")
    var interval = 1.0

    @Flag(help: "Look for one interval, print and end.")
    var once = false

    @Flag(help: "Print one JSON object a broker and line instead of a screen.")
    var json = false

    func validate() throws {
        guard (0.2...60).contains(interval) else {
            throw ValidationError("--interval must be 0.2 to 60")
        }
    }

    func run() async throws {
        do {
            var earlier = try options.readings()
            var since = ContinuousClock.now
            repeat {
                try await Task.sleep(for: .seconds(interval))
                let readings = try options.readings()
                let now = ContinuousClock.now
                let seconds = (now - since) / .seconds(1)
                let activities = readings.map { reading in
                    Activity(
                        now: reading,
                        since: earlier.first { $0.instance == reading.instance },
                        seconds: seconds)
                }
                show(activities)
                (earlier, since) = (readings, now)
            } while !once
            if earlier.isEmpty { throw ExitCode(ExitStatus.failed.rawValue) }
        } catch let error as CommandFailure {
            throw Output.failure(error)
        }
    }

    private func show(_ activities: [Activity]) {
        guard !json else {
            for activity in activities { Output.line(activity.json) }
            return
        }
        let text = ActivityText.lines(activities).joined(separator: "\n")
        // Home, the screen, and the rest cleared; a pipe gets the lines alone.
        let isScreen = isatty(STDOUT_FILENO) == 1 && !once
        Output.line(isScreen ? "\u{1B}[H\u{1B}[2J" + text : text)
    }
}

/// `sluice metrics`
struct MetricsCommand: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "metrics",
        abstract: "Give the brokers' numbers to Prometheus.",
        discussion: """
            Prints the text format once, or serves it as /metrics with --listen until SIGINT or \
            SIGTERM. Names and meanings are in Protocol/Metrics.md. Plain HTTP: listen on \
            loopback, or behind a proxy.
            """)

    @OptionGroup var options: BrokersOptions

    @Option(help: "HOST:PORT to serve /metrics on; port 0 takes a free one.")
    var listen: String?

    func run() async throws {
        do {
            guard let listen else {
                return Output.line(
                    String(
                        PrometheusText.text(
                            try options.readings(), settlement: options.settlement()
                        ).dropLast()))
            }
            guard let colon = listen.lastIndex(of: ":"),
                let port = UInt16(listen[listen.index(after: colon)...]),
                colon != listen.startIndex
            else {
                throw CommandFailure(
                    "--listen \(listen) is no address: HOST:PORT is expected, such as "
                        + "127.0.0.1:9464")
            }
            try await serve(host: String(listen[..<colon]), port: Int(port))
        } catch let error as CommandFailure {
            throw Output.failure(error)
        }
    }

    private func serve(host: String, port: Int) async throws {
        let options = options
        let server: MetricsServer
        do {
            server = try await MetricsServer.start(host: host, port: port) {
                (try? options.readings()).map {
                    PrometheusText.text($0, settlement: options.settlement())
                }
            }
        } catch {
            throw CommandFailure(
                "cannot listen on \(host):\(port) (\(error)); is another program using the port?")
        }
        var line = JSONLine()
        line.add("event", "ready")
        line.add("metrics", "http://\(host):\(server.port)/metrics")
        Output.line(line)
        try await server.untilStopped()
    }
}

extension Activity {
    /// Every counter that a broker fills, then rates and times.
    var json: JSONLine {
        var line = JSONLine()
        line.add("broker", hexadecimal(instance))
        line.add("shards", shards.count as Int?)
        for counter in BrokerReading.summed {
            line.add("\(counter)", now.total(counter) as UInt64?)
        }
        line.add("backend", now.total(.backendIsRing) > 0 ? "io_uring" : "epoll")
        line.add("firstTokenP50Us", firstTokenUs.quantile(0.5))
        line.add("firstTokenP99Us", firstTokenUs.quantile(0.99))
        line.add("tokenGapP50Us", tokenGapUs.quantile(0.5))
        line.add("tokenGapP99Us", tokenGapUs.quantile(0.99))
        line.add("queueP50Us", queueUs.quantile(0.5))
        line.add("queueP99Us", queueUs.quantile(0.99))
        line.add("tasksPerSecond", Int(tasksPerSecond.rounded()) as Int?)
        line.add("tokensPerSecond", Int(tokensPerSecond.rounded()) as Int?)
        return line
    }
}
