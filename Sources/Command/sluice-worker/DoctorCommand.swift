import ArgumentParser
import Foundation
import LinuxIO
import ProcessConfiguration
import Synchronization
import Worker

/// `sluice-worker doctor`
struct DoctorCommand: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "doctor",
        abstract: "Say what keeps tasks away, and what to do.",
        discussion: """
            Takes the options of `run` and looks at each of: descriptors; the upstream, its \
            models and the speed of a short answer; each broker's name, TCP, TLS and certificate, \
            whether the token or certificate is taken, how far its clock is, and how the supplier stands there. \
            Offers nothing, so no task can come, and may run beside a worker. Each line is OK, \
            WARN or FAIL, with what was expected and what to do. Exit code 1 if one is FAIL.
            """)

    @OptionGroup var brokers: BrokerOptions
    @OptionGroup var options: WorkerOptions

    @Flag(help: "Print one JSON object.")
    var json = false

    func run() async throws {
        let settings = try brokers.settings(with: options.flags)
        let subject = Doctor.Subject(
            brokers: settings.list("broker"), trust: BrokerOptions.trust(settings),
            credential: try brokers.knownCredential(settings),
            source: try WorkerOptions.source(settings),
            selection: try WorkerOptions.selection(settings),
            slots: try WorkerOptions.slots(settings),
            operations: try WorkerOptions.operations(settings),
            descriptorsMax: DescriptorLimit.raise())
        _ = try WorkerOptions.region(settings)
        let checks = Mutex<[DoctorCheck]>([])
        let isJSON = json
        await Doctor(subject) { check in
            checks.withLock { $0.append(check) }
            if !isJSON { Output.line(Self.text(of: check)) }
        }.run()
        let all = checks.withLock { $0 }
        let isHealthy = !all.contains { $0.level == .fail }
        if json { Output.line(Self.json(all, isHealthy: isHealthy)) }
        if !isHealthy { throw ExitCode(1) }
    }

    private static func text(of check: DoctorCheck) -> String {
        let level = check.level.rawValue.padding(toLength: 6, withPad: " ", startingAt: 0)
        var text = "\(level)\(check.name): \(check.found)"
        if let expected = check.expected { text += "\n      expected: \(expected)" }
        if let remedy = check.remedy { text += "\n      do: \(remedy)" }
        return text
    }

    private static func json(_ checks: [DoctorCheck], isHealthy: Bool) -> String {
        let value: [String: Any] = [
            "ok": isHealthy,
            "checks": checks.map { check in
                var members = [
                    "name": check.name, "level": check.level.rawValue, "found": check.found,
                ]
                members["expected"] = check.expected
                members["remedy"] = check.remedy
                return members
            },
        ]
        let data = try? JSONSerialization.data(
            withJSONObject: value, options: [.sortedKeys, .withoutEscapingSlashes])
        return String(decoding: data ?? Data(), as: UTF8.self)
    }
}

/// Standard output of the command.
enum Output {
    /// Writes one line, at once.
    static func line(_ text: String) {
        try? FileHandle.standardOutput.write(contentsOf: Data((text + "\n").utf8))
    }

    /// Writes one line to standard error.
    static func note(_ text: String) {
        try? FileHandle.standardError.write(contentsOf: Data("sluice-worker: \(text)\n".utf8))
    }
}
