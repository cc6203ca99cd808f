import Foundation
package import SharedMemory

/// What a sidecar says of itself once a second, in a file of the run directory
/// (`Protocol/Files.md`, Settlement report). Counts begin at 0 with each sidecar. No content.
package struct SettlementReport: Codable, Equatable, Sendable {
    /// Tasks of one model that ended alike.
    package struct Outcome: Codable, Equatable, Sendable {
        /// Empty if none is known, `other` beyond what is counted apart.
        package var model: String
        package var status: String
        package var count: UInt64

        package init(model: String, status: String, count: UInt64) {
            self.model = model
            self.status = status
            self.count = count
        }
    }

    /// Tasks refused before acceptance.
    package struct Refusal: Codable, Equatable, Sendable {
        package var code: String
        package var count: UInt64

        package init(code: String, count: UInt64) {
            self.code = code
            self.count = count
        }
    }

    /// Wall clock, microseconds since 1970.
    package var reportedAtUs: UInt64
    package var recordsApplied: UInt64 = 0
    /// Second ACCEPTED or ENDED of a task: always 0 unless something is wrong.
    package var duplicates: UInt64 = 0
    /// Ended tasks of which nothing is posted: the ledger does not take their amounts.
    package var unposted: UInt64 = 0
    /// How long the oldest task of the last transaction had been over. Grows while the store
    /// takes nothing.
    package var lagUs: UInt64 = 0
    /// Bytes of the segments that still stand.
    package var segmentBytes: UInt64 = 0
    package var isStoreRefusing = false
    /// By model and status, in their order.
    package var outcomes: [Outcome] = []
    /// By code, in its order.
    package var refusals: [Refusal] = []

    package init(reportedAtUs: UInt64) {
        self.reportedAtUs = reportedAtUs
    }

    /// A sidecar reports every second; one that has been silent for so long is gone.
    private static let silenceUs: UInt64 = 10_000_000

    private static func path(_ runDirectory: String) -> String {
        runDirectory + "/settlement.json"
    }

    /// What the sidecar of a run directory said of late; nil if there is none. `nowUs` is the wall
    /// clock.
    package static func read(runDirectory: String, nowUs: UInt64) -> SettlementReport? {
        guard let data = FileManager.default.contents(atPath: path(runDirectory)),
            let report = try? JSONDecoder().decode(SettlementReport.self, from: data),
            report.reportedAtUs &+ silenceUs >= nowUs
        else { return nil }
        return report
    }

    /// Replaces the report whole, so that no reader sees a part of it.
    package func write(runDirectory: String) throws(InstanceError) {
        let encoder = JSONEncoder()
        encoder.outputFormatting = .sortedKeys
        // Numbers, flags and names alone: there is nothing that could not be encoded.
        guard let data = try? encoder.encode(self) else { return }
        let path = Self.path(runDirectory)
        let file = try LocalFile.openForWriting(path + ".new", create: true)
        try file.truncate(byteCount: 0)
        try file.write(Array(data), at: 0)
        try LocalFileSystem.rename(path + ".new", to: path)
    }
}
