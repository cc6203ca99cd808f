import ArgumentParser
import Foundation
import Sidecar

/// `sluice-sidecar`: makes the records of all brokers on this machine durable.
@main struct Entry: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "sluice-sidecar",
        abstract: "Copies the brokers' journals to disk and applies them to the database.")

    @Option(
        name: .customLong("data"),
        help: "Directory of journal segments and database; made if missing.")
    var dataDirectory: String

    @Option(
        name: .customLong("run"),
        help: "Directory in which brokers make their instances, on tmpfs; made if missing.")
    var runDirectory: String

    @Option(help: "Most MiB of journal segments that may wait for the database.")
    var segmentBudgetMib: Int = 1_024

    @Flag(help: "Stop when standard input closes, as a child of a process that holds it open.")
    var parentPipe = false

    func validate() throws {
        guard segmentBudgetMib >= 32 else {
            throw ValidationError("--segment-budget-mib must be at least 32")
        }
    }

    func run() throws {
        var options = Sidecar.Options(dataDirectory: dataDirectory, runDirectory: runDirectory)
        options.segmentBudgetBytes = segmentBudgetMib * 1_024 * 1_024
        let sidecar = Sidecar(options)
        if parentPipe {
            Thread.detachNewThread {
                while !FileHandle.standardInput.availableData.isEmpty {}
                sidecar.stop()
            }
        }
        let end = sidecar.run(handlingSignals: true) {
            try? FileHandle.standardOutput.write(contentsOf: Data("{\"event\":\"ready\"}\n".utf8))
        }
        throw ExitCode(end.rawValue)
    }
}
