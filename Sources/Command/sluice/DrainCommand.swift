import ArgumentParser
import Development
import Foundation
import SharedMemory
import SluiceWire
import Telemetry

/// `sluice drain`
struct DrainCommand: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "drain",
        abstract: "Let brokers of this machine finish what they have, and end.",
        discussion: """
            A draining broker takes no new connections and no new tasks, tells its peers to go \
            elsewhere (GO_AWAY), lets running tasks end, and ends when the last has, or when its \
            --drain-seconds are over. Under a supervisor that starts it again, stop the service \
            instead. Waits for the end unless told not to; exit code 1 if a broker is still there \
            after --wait seconds.
            """)

    @OptionGroup var options: BrokersOptions

    @Option(help: "One broker, as `sluice status` names it; all of them if not given.")
    var broker: String?

    @Option(help: "Seconds to wait for the end, 0 to 3600; 0 does not wait.")
    var wait = 120

    @Flag(help: "Print one JSON object a broker.")
    var json = false

    func validate() throws {
        guard (0...3_600).contains(wait) else {
            throw ValidationError("--wait must be 0 to 3600")
        }
    }

    func run() async throws {
        do {
            let directory = try options.runDirectory()
            let brokers = try chosen(try options.readings())
            var draining: [(instance: UInt64, process: Int32)] = []
            for reading in brokers {
                draining.append((reading.instance, try ask(reading.instance, directory)))
            }
            let deadline = ContinuousClock.now + .seconds(wait)
            var left = draining
            while wait > 0, !left.isEmpty, ContinuousClock.now < deadline {
                try await Task.sleep(for: .milliseconds(50))
                left = left.filter { Self.isHeld($0.instance, by: $0.process, directory) }
            }
            let alive = Set(left.map(\.instance))
            for (instance, process) in draining {
                show(instance, process, hasEnded: wait > 0 && !alive.contains(instance))
            }
            if wait > 0, !left.isEmpty { throw ExitCode(ExitStatus.failed.rawValue) }
        } catch let error as CommandFailure {
            throw Output.failure(error)
        } catch let error as InstanceError {
            throw Output.failure(CommandFailure("the brokers' files cannot be read (\(error))"))
        }
    }

    private func chosen(_ readings: [BrokerReading]) throws -> [BrokerReading] {
        let found = readings.filter { broker == nil || hexadecimal($0.instance) == broker }
        guard !found.isEmpty else {
            throw CommandFailure(
                broker.map {
                    "there is no broker \($0) here; `sluice status` shows those that report"
                } ?? "no broker has reported in the last ten seconds: there is nothing to drain")
        }
        return found
    }

    /// Sends SIGTERM to the process that holds the instance; gives its number.
    private func ask(_ instance: UInt64, _ directory: String) throws -> Int32 {
        guard let process = try InstanceHolder.processID(directory, instance) else {
            throw CommandFailure(
                "the process of broker \(hexadecimal(instance)) is not to be seen from here: send "
                    + "SIGTERM to it where it runs")
        }
        guard kill(process, SIGTERM) == 0 else {
            throw CommandFailure(
                errno == EPERM
                    ? "process \(process) of broker \(hexadecimal(instance)) takes no signal from "
                        + "this user; run this as its user"
                    : "broker \(hexadecimal(instance)) has just ended")
        }
        return process
    }

    private static func isHeld(
        _ instance: UInt64, by process: Int32, _ directory: String
    ) -> Bool {
        (try? InstanceHolder.processID(directory, instance)) == process
    }

    private func show(_ instance: UInt64, _ process: Int32, hasEnded: Bool) {
        guard json else {
            return Output.line(
                "broker \(hexadecimal(instance)) (process \(process)) "
                    + (hasEnded ? "has drained and ended" : "is draining"))
        }
        var line = JSONLine()
        line.add("broker", hexadecimal(instance))
        line.add("pid", process as Int32?)
        line.add("state", hasEnded ? "ended" : "draining")
        Output.line(line)
    }
}
