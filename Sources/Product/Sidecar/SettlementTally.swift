import SluiceRecordFormat
import SluiceWire
package import Store

/// What a sidecar has settled since it began, by model, status and code. Pure; the applying thread
/// owns it.
package struct SettlementTally {
    /// Pairs of a model and a status that are counted apart: a supplier that invents models must
    /// not fill memory or a monitoring system.
    package static let outcomesMax = 1_024
    private static let namesMax = 16_384

    private struct Outcome: Hashable {
        var model: String
        var status: TaskStatus
    }

    private var outcomes: [Outcome: UInt64] = [:]
    private var refusals: [WireCode: UInt64] = [:]
    private var names: [NumberedModel: String] = [:]
    private var recordsApplied: UInt64 = 0
    private var duplicates: UInt64 = 0
    private var unposted: UInt64 = 0
    private var lagUs: UInt64 = 0
    /// Since when the store has taken nothing.
    private var refusingSinceUs: UInt64?

    package init() {}

    /// Notes what a transaction did, at `wallUs`. `name` looks up a model's name that no NAME
    /// record has told this tally; nil = there is none.
    package mutating func settled(
        _ batch: AppliedBatch, wallUs: UInt64, name: (NumberedModel) -> String?
    ) {
        refusingSinceUs = nil
        recordsApplied &+= UInt64(batch.applied)
        duplicates &+= UInt64(batch.duplicates)
        unposted &+= UInt64(batch.unposted)
        if let endUs = batch.settled.oldestEndUs { lagUs = wallUs > endUs ? wallUs - endUs : 0 }
        if names.count + batch.settled.names.count > Self.namesMax { names = [:] }
        names.merge(batch.settled.names) { $1 }
        for (code, count) in batch.settled.refusals { refusals[code, default: 0] &+= count }
        for (outcome, count) in batch.settled.outcomes {
            var key = Outcome(
                model: known(outcome.model, name), status: outcome.status)
            if outcomes[key] == nil, outcomes.count >= Self.outcomesMax { key.model = "other" }
            outcomes[key, default: 0] &+= UInt64(count)
        }
    }

    private mutating func known(
        _ model: NumberedModel, _ name: (NumberedModel) -> String?
    ) -> String {
        guard model.model != 0 else { return "" }
        if let known = names[model] { return known }
        guard let found = name(model) else { return "" }
        if names.count >= Self.namesMax { names = [:] }
        names[model] = found
        return found
    }

    /// The store did not take a transaction.
    package mutating func refused(wallUs: UInt64) {
        refusingSinceUs = refusingSinceUs ?? wallUs
    }

    /// What there is to say at `wallUs`.
    package func report(wallUs: UInt64, segmentBytes: Int) -> SettlementReport {
        var report = SettlementReport(reportedAtUs: wallUs)
        report.recordsApplied = recordsApplied
        report.duplicates = duplicates
        report.unposted = unposted
        report.lagUs = lagUs
        if let since = refusingSinceUs {
            report.isStoreRefusing = true
            report.lagUs &+= wallUs > since ? wallUs - since : 0
        }
        report.segmentBytes = UInt64(segmentBytes)
        report.outcomes =
            outcomes.map { .init(model: $0.model, status: $0.status.text, count: $1) }
            .sorted { ($0.model, $0.status) < ($1.model, $1.status) }
        report.refusals =
            refusals.map { .init(code: "\($0)", count: $1) }.sorted { $0.code < $1.code }
        return report
    }
}
