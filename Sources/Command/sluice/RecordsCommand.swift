import ArgumentParser
import Development
import Foundation
import SluiceRecordFormat
import SluiceWire
import Store

/// `sluice records`
struct RecordsCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "records",
        abstract: "Show what tasks consumed and cost.",
        discussion: """
            Oldest first. Works while the sidecar runs and after. Costs and earnings are in \
            millionths of a US dollar. Prompts and answers are in no record.
            """)

    @Option(help: "Data directory, as given to `sluice dev` or the sidecar.")
    var data: String

    @Flag(help: "Print one JSON object a line instead of a table.")
    var json = false

    @Option(help: "How many, counted from the newest.")
    var last = 50

    @Flag(help: "Print how many tasks were accepted and have a final record, as one JSON object.")
    var counts = false

    func validate() throws {
        guard last >= 1 else { throw ValidationError("--last must be at least 1") }
    }

    func run() throws {
        do {
            let location = StoreLocation.ofDirectory(
                data, environment: ProcessInfo.processInfo.environment)
            if case .sqlite(let path) = location, !FileManager.default.fileExists(atPath: path) {
                Output.note("\(data) holds no records: \(path) does not exist")
                throw ExitCode(ExitStatus.failed.rawValue)
            }
            let store = try Store(location, durability: .everyTransaction)
            if counts {
                Output.line(try store.counts().json)
            } else if json {
                for record in try store.finalRecords(last: last) { Output.line(record.json) }
            } else {
                Output.line(Self.table(try store.finalRecords(last: last)))
            }
        } catch let error as StoreError {
            throw Output.failure(DevelopmentError(error))
        }
    }

    /// Columns as wide as their widest cell.
    private static func table(_ records: [FinalRecord]) -> String {
        let heads = [
            "task", "model", "status", "input", "output", "ttft ms", "ms", "cost $", "supply",
        ]
        let rows = [heads] + records.map { row($0) }
        let widths = heads.indices.map { column in
            rows.map { $0[column].count }.max() ?? 0
        }
        return rows.map { row in
            zip(row, widths).map { cell, width in
                cell + String(repeating: " ", count: width - cell.count)
            }.joined(separator: "  ")
        }.joined(separator: "\n")
    }

    private static func row(_ record: FinalRecord) -> [String] {
        [
            record.task.description, record.model, record.status.text,
            String(record.usage.inputTokens), String(record.usage.outputTokens),
            record.ttftUs.map { decimal($0, 1_000, digits: 3) } ?? "-",
            decimal(record.durationUs, 1_000, digits: 3),
            decimal(UInt64(max(0, record.charge.consumerCost.rawValue)), 1_000_000, digits: 6),
            record.supplyType.map { "\($0)" } ?? "none",
        ]
    }

    private static func decimal(_ value: UInt64, _ unit: UInt64, digits: Int) -> String {
        let rest = String(value % unit)
        return "\(value / unit)." + String(repeating: "0", count: digits - rest.count) + rest
    }
}
