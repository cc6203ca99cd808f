import SluiceLedgerCore
import Testing

@Suite struct RetentionScheduleTests {
    private let wallUs: UInt64 = 400 * 86_400_000_000

    /// Gives out batches until nothing is due at any time within an hour's first half.
    private func duties(
        _ schedule: inout RetentionSchedule, from startUs: UInt64, isBehind: Bool
    ) -> [RetentionDuty] {
        var nowUs = startUs
        var found: [RetentionDuty] = []
        while nowUs < startUs + RetentionSchedule.runIntervalUs / 2 {
            if let batch = schedule.next(nowUs: nowUs, wallUs: wallUs, isBehind: isBehind) {
                found.append(batch.duty)
                schedule.completed(RetentionOutcome(removed: 0, next: nil), nowUs: nowUs)
            }
            nowUs += 500_000
        }
        return found
    }

    @Test func aRunGoesOnceThroughAllDutiesAndComesAgainAfterAnHour() {
        var schedule = RetentionSchedule(nowUs: 5)
        #expect(duties(&schedule, from: 5, isBehind: false) == RetentionDuty.allCases)
        #expect(
            schedule.next(
                nowUs: 5 + RetentionSchedule.runIntervalUs / 2, wallUs: wallUs, isBehind: false)
                == nil)
        let later = 10 + 2 * RetentionSchedule.runIntervalUs
        #expect(duties(&schedule, from: later, isBehind: false) == RetentionDuty.allCases)
    }

    @Test func keysStayWhileRecordsWait() {
        var schedule = RetentionSchedule(nowUs: 0)
        #expect(
            duties(&schedule, from: 0, isBehind: true)
                == RetentionDuty.allCases.filter { $0 != .idempotencyKeys })
        // Begun while nothing waited, and overtaken.
        schedule = RetentionSchedule(nowUs: 0)
        var nowUs: UInt64 = 0
        while let batch = schedule.next(nowUs: nowUs, wallUs: wallUs, isBehind: false) {
            let isKeys = batch.duty == .idempotencyKeys
            let mark = isKeys ? RetentionMark(7, 8) : nil
            schedule.completed(RetentionOutcome(removed: 0, next: mark), nowUs: nowUs)
            nowUs += RetentionSchedule.busyRestUs
            if isKeys { break }
        }
        #expect(
            schedule.next(nowUs: nowUs, wallUs: wallUs, isBehind: true)?.duty == .walletEvents)
    }

    @Test func settlingHasTheStoreForASecondBetweenTwoBatchesWhileRecordsWait() {
        var schedule = RetentionSchedule(nowUs: 0)
        _ = schedule.next(nowUs: 0, wallUs: wallUs, isBehind: true)
        // One at a time.
        #expect(schedule.next(nowUs: 9_000_000, wallUs: wallUs, isBehind: true) == nil)
        let endUs: UInt64 = 10_000_000
        schedule.completed(RetentionOutcome(removed: 9, next: RetentionMark(3)), nowUs: endUs)
        let early = endUs + RetentionSchedule.busyRestUs - 1
        #expect(schedule.next(nowUs: early, wallUs: wallUs, isBehind: true) == nil)
        let batch = schedule.next(nowUs: early + 1, wallUs: wallUs, isBehind: true)
        #expect(batch?.duty == .taskRecords)
        #expect(batch?.after == RetentionMark(3))
        #expect(batch?.rows == RetentionSchedule.batchRows)
    }

    @Test func withNothingWaitingTheRestIsShort() {
        var schedule = RetentionSchedule(nowUs: 0)
        _ = schedule.next(nowUs: 0, wallUs: wallUs, isBehind: false)
        schedule.completed(RetentionOutcome(removed: 9, next: RetentionMark(3)), nowUs: 0)
        #expect(
            schedule.next(
                nowUs: RetentionSchedule.idleRestUs, wallUs: wallUs, isBehind: false) != nil)
    }

    @Test func whatTheStoreRefusedIsAskedAgainLater() {
        var schedule = RetentionSchedule(nowUs: 0)
        let first = schedule.next(nowUs: 0, wallUs: wallUs, isBehind: false)
        schedule.failed(nowUs: 0)
        let restUs = RetentionSchedule.failureRestUs
        #expect(schedule.next(nowUs: restUs - 1, wallUs: wallUs, isBehind: false) == nil)
        #expect(schedule.next(nowUs: restUs, wallUs: wallUs, isBehind: false) == first)
    }

    @Test func aMarkThatStandsStillEndsItsDuty() {
        var schedule = RetentionSchedule(nowUs: 0)
        _ = schedule.next(nowUs: 0, wallUs: wallUs, isBehind: false)
        schedule.completed(RetentionOutcome(removed: 0, next: .start), nowUs: 0)
        #expect(
            schedule.next(
                nowUs: RetentionSchedule.idleRestUs, wallUs: wallUs, isBehind: false)?.duty
                == .refusals)
    }

    @Test func everyDutyHasThePeriodOfProtocolMoney() {
        let dayUs: UInt64 = 86_400_000_000
        let expected: [RetentionDuty: UInt64] = [
            .taskRecords: 310, .refusals: 310, .idempotencyKeys: 399, .walletEvents: 35,
            .addressHashes: 310, .changes: 400, .emptyDays: 310,
        ]
        for duty in RetentionDuty.allCases {
            #expect(
                RetentionSchedule.cutoffUs(duty, wallUs: wallUs)
                    == (expected[duty] ?? 0) * dayUs)
        }
    }
}
