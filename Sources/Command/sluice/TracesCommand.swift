import ArgumentParser
import AsyncHTTPClient
import Development
import Foundation
import Store
import Telemetry

/// `sluice traces`
struct TracesCommand: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "traces",
        abstract: "Send a span for each task that ends to an OpenTelemetry collector.",
        discussion: """
            OTLP over HTTP with JSON, built from the store's records: what was asked and answered \
            is in none of them. A task with a trace context (traceparent) joins its caller's \
            trace. Runs until SIGINT or SIGTERM and goes on where it stopped; a task may be sent \
            twice, with the same ids. Without a cursor file, or at its first start, it begins with \
            what ends from then on.
            """)

    @OptionGroup var place: StoreOptions

    @Option(help: "The collector's address, such as http://127.0.0.1:4318/v1/traces.")
    var otlp: String

    @Option(help: "File that remembers how far it came; made if it is missing.")
    var cursor: String?

    @Option(help: "File with lines “Name: value” that are added to each request's headers.")
    var headerFile: String?

    @Option(help: "The resource's service.name.")
    var service = "sluice"

    @Flag(help: "Begin with the oldest record that is kept, whatever the cursor says.")
    var fromStart = false

    @Flag(help: "Send what there is, and end.")
    var once = false

    func validate() throws {
        guard let url = URL(string: otlp), ["http", "https"].contains(url.scheme),
            url.host != nil
        else {
            throw ValidationError(
                "--otlp \(otlp) is no address: http://HOST:PORT/v1/traces is expected")
        }
    }

    func run() async throws {
        do {
            let store = try place.open().store
            let client = HTTPClient(eventLoopGroupProvider: .singleton)
            let exporter = TraceExporter(
                client: client, url: otlp, service: service, headers: try headers())
            let failure: CommandFailure?
            do {
                try await follow(store, exporter)
                failure = nil
            } catch let error as CommandFailure {
                failure = error
            }
            try await client.shutdown()
            if let failure { throw failure }
        } catch let error as StoreError {
            throw Output.failure(DevelopmentError(error))
        } catch let error as CommandFailure {
            throw Output.failure(error)
        }
    }

    private func follow(_ store: Store, _ exporter: TraceExporter) async throws {
        var position = fromStart ? 0 : try remembered() ?? store.lastPosition()
        try remember(position)
        var isWaiting = false
        var sent = 0
        while true {
            let tasks = try store.tracedTasks(
                after: position, count: TraceExporter.tasksPerRequest)
            guard let last = tasks.last else {
                if once { break }
                try await Task.sleep(for: .seconds(1))
                continue
            }
            switch await exporter.send(tasks) {
            case .accepted:
                sent += tasks.count
                if isWaiting { Output.note("the collector answers again") }
                isWaiting = false
            case .tryAgain(let reason):
                guard !once else {
                    throw CommandFailure(
                        "\(otlp): \(reason); start the collector, or give its address")
                }
                if !isWaiting { Output.note("\(otlp): \(reason); trying again every 5 s") }
                isWaiting = true
                try await Task.sleep(for: .seconds(5))
                continue
            case .refused(let status):
                throw CommandFailure(
                    "\(otlp) refused spans with status \(status): check its path (/v1/traces), its "
                        + "JSON support and --header-file; nothing was skipped")
            }
            position = last.position
            try remember(position)
        }
        var line = JSONLine()
        line.add("event", "sent")
        line.add("tasks", sent as Int?)
        Output.line(line)
    }

    // MARK: Files

    private func remembered() throws -> Int64? {
        guard let cursor, FileManager.default.fileExists(atPath: cursor) else { return nil }
        let text = try? String(contentsOfFile: cursor, encoding: .utf8)
        guard
            let position = text.flatMap({
                Int64($0.trimmingCharacters(in: .whitespacesAndNewlines))
            })
        else {
            throw CommandFailure(
                "\(cursor) holds no position; remove it to begin with what ends from now on")
        }
        return position
    }

    /// Whole or not at all.
    private func remember(_ position: Int64) throws {
        guard let cursor else { return }
        do {
            try Data("\(position)\n".utf8).write(
                to: URL(fileURLWithPath: cursor), options: .atomic)
        } catch {
            throw CommandFailure("\(cursor) cannot be written; give --cursor a place that can")
        }
    }

    private func headers() throws -> [(String, String)] {
        guard let headerFile else { return [] }
        guard let text = try? String(contentsOfFile: headerFile, encoding: .utf8) else {
            throw CommandFailure("\(headerFile) cannot be read")
        }
        return try text.split(separator: "\n").enumerated().map { number, line in
            let parts = line.split(separator: ":", maxSplits: 1)
            guard parts.count == 2 else {
                throw CommandFailure("\(headerFile), line \(number + 1) is no header: Name: value")
            }
            return (
                parts[0].trimmingCharacters(in: .whitespaces),
                parts[1].trimmingCharacters(in: .whitespaces)
            )
        }
    }
}
