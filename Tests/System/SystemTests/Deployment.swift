import Foundation
import Testing

/// A `sluice dev` of a test's own, and what a test does with it.
final class Deployment {
    /// Which backend the run is about: `SLUICE_TEST_BACKEND`, or what the broker chooses.
    static let backend = ProcessInfo.processInfo.environment["SLUICE_TEST_BACKEND"] ?? "auto"

    let data: URL
    let dev: Program
    let ready: JSONObject
    private let ownsData: Bool

    /// Starts on a new directory, or on the one given, and waits until it can serve.
    init(on existing: URL? = nil, slots: Int = 16) async throws {
        data =
            existing
            ?? FileManager.default.temporaryDirectory
            .appendingPathComponent("sluice-data-" + UUID().uuidString)
        ownsData = existing == nil
        let dev = try Program(
            "sluice",
            [
                "dev", "--data", data.path, "--backend", Self.backend, "--slots", String(slots),
            ])
        self.dev = dev
        try await until("sluice dev to be ready", 60) {
            if !dev.process.isRunning {
                throw SystemTestError(description: "sluice dev ended: \(dev.errors)")
            }
            return dev.objects.contains { $0.text("event") == "ready" }
        }
        ready = dev.objects.first { $0.text("event") == "ready" } ?? JSONObject.lines("{}")[0]
    }

    deinit {
        if dev.process.isRunning {
            dev.send(SIGTERM)
            dev.send(SIGTERM)
            dev.process.waitUntilExit()
        }
        if ownsData { try? FileManager.default.removeItem(at: data) }
    }

    var broker: String { ready.text("broker") ?? "" }
    var authority: String { ready.text("ca") ?? "" }
    var clientKey: String { ready.text("clientKey") ?? "" }
    /// Lines of the worker, the broker and the sidecar.
    var logLines: [JSONObject] { JSONObject.lines(dev.errors) }

    /// The newest process of this name.
    func pid(_ name: String) -> Int32 {
        let restarts = dev.objects.filter {
            $0.text("event") == "restarted" && $0.text("name") == name
        }
        let pid = restarts.last?.number("pid") ?? ready.object("pids").number(name)
        return Int32(pid ?? 0)
    }

    func restartCount(_ name: String) -> Int {
        dev.objects.filter { $0.text("event") == "restarted" && $0.text("name") == name }.count
    }

    /// Starts `sluice ask`.
    func startAsk(
        _ model: String, _ options: [String] = [], prompt: String = "-", input: Data? = Data(),
        key: String? = nil, output: FileHandle? = nil
    ) throws -> Program {
        try Program(
            "sluice",
            [
                "ask", "--broker", broker, "--ca", authority, "--key", key ?? clientKey,
                "--model", model,
            ] + options + ["--", prompt], input: input, output: output)
    }

    /// Asks and waits for the end.
    func ask(
        _ model: String, _ options: [String] = [], prompt: String, key: String? = nil
    ) async throws -> ProgramResult {
        try await startAsk(model, options, input: Data(prompt.utf8), key: key).finish()
    }

    /// All final records, oldest first.
    func records() async throws -> [JSONObject] {
        try await Program(
            "sluice", ["records", "--data", data.path, "--json", "--last", "1000000"]
        ).finish().objects
    }

    /// Accepted and final, as the store counts them.
    func counts() async throws -> (accepted: Int, final: Int, duplicates: Int) {
        let objects = try await Program(
            "sluice", ["records", "--data", data.path, "--counts"]
        ).finish().objects
        guard let line = objects.first, let accepted = line.number("accepted"),
            let final = line.number("final"), let duplicates = line.number("duplicates")
        else { throw SystemTestError(description: "records --counts printed no counts") }
        return (accepted, final, duplicates)
    }

    /// Waits until this many tasks have a final record.
    func awaitRecords(_ count: Int) async throws -> [JSONObject] {
        for _ in 0..<600 {
            let found = try await records()
            if found.count >= count { return found }
            try await Task.sleep(for: .milliseconds(50))
        }
        throw SystemTestError(description: "\(count) records did not come")
    }

    /// Waits until this many tasks were accepted, by what the store says.
    func awaitAccepted(_ count: Int) async throws {
        for _ in 0..<600 {
            if try await counts().accepted >= count { return }
            try await Task.sleep(for: .milliseconds(50))
        }
        throw SystemTestError(description: "\(count) accepted tasks did not come")
    }

    /// Waits until every accepted task is final, and that is at least `count`.
    func awaitSettled(atLeast count: Int = 0) async throws -> (accepted: Int, final: Int) {
        for _ in 0..<600 {
            let now = try await counts()
            if now.accepted == now.final, now.final >= count { return (now.accepted, now.final) }
            try await Task.sleep(for: .milliseconds(50))
        }
        let now = try await counts()
        throw SystemTestError(
            description: "\(now.accepted) accepted and \(now.final) final did not become equal")
    }

    /// Ends everything in order.
    func stop() async throws -> Int32 {
        dev.send(SIGTERM)
        return try await dev.finish(within: 90).status
    }
}

/// All tests of this target run one after the other: each starts its own processes.
@Suite(.serialized)
enum SystemSuite {}
