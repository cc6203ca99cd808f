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
        var schedule = RetentionSchedule(nowUs: 5, wallUs: wallUs)
        #expect(duties(&schedule, from: 5, isBehind: false) == RetentionDuty.allCases)
        #expect(
            schedule.next(
                nowUs: 5 + RetentionSchedule.runIntervalUs / 2, wallUs: wallUs, isBehind: false)
                == nil)
        let later = 10 + 2 * RetentionSchedule.runIntervalUs
        #expect(duties(&schedule, from: later, isBehind: false) == RetentionDuty.allCases)
    }

    @Test func keysStayWhileRecordsWait() {
        var schedule = RetentionSchedule(nowUs: 0, wallUs: wallUs)
        #expect(
            duties(&schedule, from: 0, isBehind: true)
                == RetentionDuty.allCases.filter { $0 != .idempotencyKeys })
        // Begun while nothing waited, and overtaken.
        schedule = RetentionSchedule(nowUs: 0, wallUs: wallUs)
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
        var schedule = RetentionSchedule(nowUs: 0, wallUs: wallUs)
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
        var schedule = RetentionSchedule(nowUs: 0, wallUs: wallUs)
        _ = schedule.next(nowUs: 0, wallUs: wallUs, isBehind: false)
        schedule.completed(RetentionOutcome(removed: 9, next: RetentionMark(3)), nowUs: 0)
        #expect(
            schedule.next(
                nowUs: RetentionSchedule.idleRestUs, wallUs: wallUs, isBehind: false) != nil)
    }

    @Test func whatTheStoreRefusedIsAskedAgainLater() {
        var schedule = RetentionSchedule(nowUs: 0, wallUs: wallUs)
        let first = schedule.next(nowUs: 0, wallUs: wallUs, isBehind: false)
        schedule.failed(nowUs: 0)
        let restUs = RetentionSchedule.failureRestUs
        #expect(schedule.next(nowUs: restUs - 1, wallUs: wallUs, isBehind: false) == nil)
        #expect(schedule.next(nowUs: restUs, wallUs: wallUs, isBehind: false) == first)
    }

    @Test func whatIsRefusedTwiceStopsNoOtherDuty() {
        var schedule = RetentionSchedule(nowUs: 0, wallUs: wallUs)
        let restUs = RetentionSchedule.failureRestUs
        _ = schedule.next(nowUs: 0, wallUs: wallUs, isBehind: false)
        schedule.failed(nowUs: 0)
        _ = schedule.next(nowUs: restUs, wallUs: wallUs, isBehind: false)
        schedule.failed(nowUs: restUs)
        let other = schedule.next(nowUs: 2 * restUs, wallUs: wallUs, isBehind: false)
        #expect(other?.duty == .refusals)
        #expect(other?.after == .start)
    }

    @Test func aMarkThatStandsStillEndsItsDuty() {
        var schedule = RetentionSchedule(nowUs: 0, wallUs: wallUs)
        _ = schedule.next(nowUs: 0, wallUs: wallUs, isBehind: false)
        schedule.completed(RetentionOutcome(removed: 0, next: .start), nowUs: 0)
        #expect(
            schedule.next(
                nowUs: RetentionSchedule.idleRestUs, wallUs: wallUs, isBehind: false)?.duty
                == .refusals)
    }

    /// The time that the batch which is due at `nowUs` takes it to be.
    private func believedUs(
        _ schedule: inout RetentionSchedule, nowUs: UInt64, wallUs: UInt64
    ) throws -> UInt64 {
        let due = schedule.next(nowUs: nowUs, wallUs: wallUs, isBehind: false)
        let batch = try #require(due)
        schedule.completed(RetentionOutcome(removed: 0, next: nil), nowUs: nowUs)
        let period = self.wallUs - RetentionSchedule.cutoffUs(batch.duty, wallUs: self.wallUs)
        return batch.cutoffUs + period
    }

    @Test func aClockThatJumpsAheadIsBelievedAfterADay() throws {
        let dayUs = RetentionSchedule.clockDoubtUs
        let jumped = wallUs + 90 * dayUs
        func schedule() -> RetentionSchedule { RetentionSchedule(nowUs: 0, wallUs: wallUs) }
        var sound = schedule()
        let later = wallUs + dayUs + 5
        #expect(try believedUs(&sound, nowUs: dayUs, wallUs: later) == later)
        var ahead = schedule()
        #expect(try believedUs(&ahead, nowUs: 7, wallUs: jumped) == wallUs + 7)
        #expect(
            try believedUs(&ahead, nowUs: dayUs + 6, wallUs: jumped + dayUs) == wallUs + dayUs + 6)
        var lasting = schedule()
        _ = try believedUs(&lasting, nowUs: 7, wallUs: jumped)
        #expect(try believedUs(&lasting, nowUs: dayUs + 7, wallUs: jumped) == jumped)
        // Back again before that: the doubt begins anew.
        var back = schedule()
        _ = try believedUs(&back, nowUs: 7, wallUs: jumped)
        _ = try believedUs(&back, nowUs: dayUs / 2, wallUs: wallUs)
        #expect(
            try believedUs(&back, nowUs: dayUs + 7, wallUs: jumped)
                == wallUs + dayUs + 7 - dayUs / 2)
    }

    @Test func everyDutyHasThePeriodOfProtocolMoney() {
        let dayUs: UInt64 = 86_400_000_000
        let expected: [RetentionDuty: UInt64] = [
            .taskRecords: 310, .refusals: 310, .idempotencyKeys: 399, .walletEvents: 35,
            .addressHashes: 310, .changes: 400, .emptyDays: 310, .closedLeases: 310,
            .instances: 310,
        ]
        for duty in RetentionDuty.allCases {
            #expect(
                RetentionSchedule.cutoffUs(duty, wallUs: wallUs)
                    == (expected[duty] ?? 0) * dayUs)
        }
    }
}
