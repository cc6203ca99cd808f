import RecordTestSupport
import Sidecar
import SluiceRecordFormat
import SluiceWire
import Store
import Testing

/// What the sidecar says of itself (`Protocol/Files.md`, Settlement report).
@Suite struct SettlementTallyTests {
    private func batch(
        _ count: UInt64, of model: UInt32, _ status: TaskStatus = .completed, endedAtUs: UInt64 = 0
    ) -> AppliedBatch {
        var batch = AppliedBatch()
        batch.applied = 2 * Int(count)
        for counter in 0..<count {
            batch.settled.ended(
                EndedRecord(
                    task: TaskID(instance: 7, counter: counter), status: status,
                    code: .completed, offerModel: model),
                askedFor: 1, atUs: endedAtUs)
        }
        return batch
    }

    @Test func tasksOfOneNameAreOneCountWhateverTheirNumbers() {
        var tally = SettlementTally()
        var first = batch(2, of: 3)
        first.unposted = 1
        first.settled.names[NumberedModel(instance: 7, model: 3)] = "demo/one"
        tally.settled(first, wallUs: 10) { _ in
            Issue.record("a name that is known is looked up")
            return nil
        }
        tally.settled(batch(1, of: 4), wallUs: 20) { $0.model == 4 ? "demo/one" : nil }
        tally.settled(batch(1, of: 5, .supplierFailed), wallUs: 30) { _ in nil }
        let report = tally.report(wallUs: 40, segmentBytes: 128)
        #expect(
            report.outcomes == [
                .init(model: "", status: TaskStatus.supplierFailed.text, count: 1),
                .init(model: "demo/one", status: TaskStatus.completed.text, count: 3),
            ])
        #expect(report.recordsApplied == 8)
        #expect(report.unposted == 1)
        #expect(report.segmentBytes == 128)
    }

    @Test func modelsBeyondTheBoundShareOneCount() {
        var tally = SettlementTally()
        let models = UInt32(SettlementTally.outcomesMax) + 10
        for model in 1...models {
            tally.settled(batch(1, of: model), wallUs: 0) { "model/\($0.model)" }
        }
        let report = tally.report(wallUs: 0, segmentBytes: 0)
        #expect(report.outcomes.count == SettlementTally.outcomesMax + 1)
        #expect(report.outcomes.first { $0.model == "other" }?.count == 10)
        #expect(report.outcomes.reduce(0) { $0 + $1.count } == UInt64(models))
    }

    @Test func theLagGrowsWhileTheStoreTakesNothing() {
        var tally = SettlementTally()
        tally.settled(batch(1, of: 1, endedAtUs: 400), wallUs: 500) { _ in nil }
        #expect(tally.report(wallUs: 9_000, segmentBytes: 0).lagUs == 100)
        tally.refused(wallUs: 1_000)
        tally.refused(wallUs: 2_000)
        let refusing = tally.report(wallUs: 6_000, segmentBytes: 0)
        #expect(refusing.isStoreRefusing && refusing.lagUs == 5_100)
        tally.settled(batch(1, of: 1, endedAtUs: 900), wallUs: 7_000) { _ in nil }
        let again = tally.report(wallUs: 8_000, segmentBytes: 0)
        #expect(!again.isStoreRefusing && again.lagUs == 6_100)
    }

    @Test func aReportIsReadWholeAndNotWhenItIsOld() throws {
        let scratch = ScratchDirectory()
        var tally = SettlementTally()
        tally.settled(batch(3, of: 1), wallUs: 0) { _ in "demo/one" }
        let report = tally.report(wallUs: 50_000_000, segmentBytes: 1)
        #expect(SettlementReport.read(runDirectory: scratch.path, nowUs: 50_000_000) == nil)
        try report.write(runDirectory: scratch.path)
        // A shorter one leaves nothing of the longer.
        let shorter = SettlementReport(reportedAtUs: 51_000_000)
        #expect(
            SettlementReport.read(runDirectory: scratch.path, nowUs: 60_000_000) == report)
        try shorter.write(runDirectory: scratch.path)
        #expect(
            SettlementReport.read(runDirectory: scratch.path, nowUs: 60_000_000) == shorter)
        #expect(SettlementReport.read(runDirectory: scratch.path, nowUs: 61_000_001) == nil)
    }
}
