import SluiceRecordFormat
import SluiceWire
import Testing

@Suite struct LayoutTests {
    @Test func twoInstancesAndTheDirectoryFitAContainer() {
        let instance =
            RingLayout.defaultByteCount
            + TableLayout.byteCount(slots: TableLayout.defaultSlotCount)
            + StatisticsLayout.defaultByteCount
        #expect(2 * instance + 16 * 1_024 * 1_024 < 64 * 1_024 * 1_024)
    }

    @Test func anEmptyRingAlwaysAdmits() {
        for byteCount in [RingLayout.defaultByteCount, RingLayout.minimumByteCount] {
            let records = RingLayout.capacity(byteCount: byteCount)
            let most = JournalReserve.openTasksMax(
                ringRecords: records, slots: TableLayout.defaultSlotCount)
            #expect(most > 0)
            #expect(JournalReserve.admits(freeRecords: records, openTasks: 0))
            // With as many open as may be and nothing released, the last one still finds room for
            // its ACCEPTED, and all of them for their ENDED.
            #expect(JournalReserve.admits(freeRecords: records - most, openTasks: most - 1))
        }
    }

    @Test func admissionKeepsRoomForEveryEnd() {
        #expect(JournalReserve.admits(freeRecords: 1_033, openTasks: 8))
        #expect(!JournalReserve.admits(freeRecords: 1_032, openTasks: 8))
        #expect(!JournalReserve.admits(freeRecords: -1, openTasks: 0))
    }

    @Test func statisticsOfNoShardOverlap() {
        #expect(Counter.allCases.count <= StatisticsLayout.counterCapacity)
        let last = Histogram.allCases[Histogram.allCases.count - 1]
        #expect(
            StatisticsLayout.offset(of: last, bucket: 255, shard: 0) + 8
                <= StatisticsLayout.offset(of: .connectionsAccepted, shard: 1))
        #expect(
            StatisticsLayout.offset(
                of: last, bucket: 255, shard: StatisticsLayout.shardsMax - 1) + 8
                <= StatisticsLayout.defaultByteCount)
    }

    @Test func bucketsNameTheirValuesWithinAnEighth() {
        var previous = -1
        for shift in 0..<34 {
            for step in 0..<16 {
                let value = UInt64(1) << UInt64(shift) + UInt64(step) << UInt64(max(0, shift - 4))
                let bucket = HistogramBucket.index(of: value)
                let lower = HistogramBucket.lowerBound(of: bucket)
                #expect(lower <= value)
                #expect(value - lower <= max(lower / 8, 0))
                #expect(HistogramBucket.index(of: lower) == bucket)
                if step == 0 {
                    #expect(bucket > previous)
                    previous = bucket
                }
            }
        }
        #expect(HistogramBucket.index(of: .max) == 255)
        #expect(HistogramBucket.index(of: 0) == 0)
    }

    @Test func slotWordsLieWhereFilesMdSays() {
        var slot = OpenTaskSlot(counter: 7, acceptedAtUs: 8, maxInputTokens: 9)
        slot[.acceptSequence] = 1
        slot[.endSequence] = 2
        slot[.endInstance] = 3
        #expect(bytes(slot.words, 0..<8) == littleEndian(7, 8))
        #expect(bytes(slot.words, 8..<16) == littleEndian(1, 8))
        #expect(bytes(slot.words, 16..<24) == littleEndian(2, 8))
        #expect(bytes(slot.words, 24..<32) == littleEndian(3, 8))
        #expect(bytes(slot.words, 32..<40) == littleEndian(8, 8))
        #expect(bytes(slot.words, 112..<120) == littleEndian(.max, 8))
        #expect(bytes(slot.words, 120..<128) == [0, 0, 0, 0, 9, 0, 0, 0])
        #expect(OpenTaskSlot.Word.allCases.map(\.rawValue) == Array(0..<16))
    }

    @Test func aLossBillsWhatWasDelivered() throws {
        var slot = OpenTaskSlot(counter: 7, acceptedAtUs: 1_000, maxInputTokens: 50)
        slot[.supplier] = 77
        slot[.dispatch] = OpenTaskSlot.dispatchWord(
            offerModel: 3, supplyType: .community, dispatches: 2, winReason: 4,
            operation: .chat)
        slot[.askInputCached] = UInt64(low: 1_000_000, high: 100_000)
        slot[.askOutputReasoning] = UInt64(low: 2_000_000, high: 3_000_000)
        slot[.consumerInputCached] = UInt64(low: 1_100_000, high: 110_000)
        slot[.consumerOutputReasoning] = UInt64(low: 2_200_000, high: 3_300_000)
        slot[.started] = UInt64(low: 60, high: 40)
        slot[.delivered] = UInt64(low: 10, high: 4)
        slot[.deliveredBytes] = 40
        slot[.ttftUs] = 123
        let ended = slot.endedAfterLoss(instance: 5, endedAtUs: 3_000)
        #expect(ended.task == TaskID(instance: 5, counter: 7))
        #expect(ended.status == .brokerLost)
        // 60 claimed, 50 allowed.
        #expect(
            ended.usage
                == Usage(
                    inputTokens: 50, outputTokens: 10, cachedTokens: 40, reasoningTokens: 4))
        // 10 x 1 + 40 x 0.1 + 6 x 2 + 4 x 3, and a tenth more: 41.8.
        #expect(ended.charge.supplierEarning == 38)
        #expect(ended.charge.consumerCost == 42)
        #expect(ended.charge.platformFee == 4)
        #expect(ended.charge.isBalanced)
        #expect(ended.durationUs == 2_000)
        #expect(EndedRecord(ended.record) == ended)
    }

    @Test func aLossWithoutOutputCostsNothing() {
        var slot = OpenTaskSlot(counter: 7, acceptedAtUs: 1_000, maxInputTokens: 0)
        slot[.consumerInputCached] = 5_000_000
        slot[.started] = UInt64(low: 60, high: 0)
        let ended = slot.endedAfterLoss(instance: 5, endedAtUs: 900)
        #expect(ended.charge == .none)
        #expect(ended.usage == Usage())
        #expect(ended.ttftUs == nil)
        #expect(ended.durationUs == 0)
    }

    @Test func aLossOfAnImageTaskBillsByTheImage() {
        var slot = OpenTaskSlot(counter: 7, acceptedAtUs: 1, maxInputTokens: 0)
        slot[.dispatch] = OpenTaskSlot.dispatchWord(
            offerModel: 3, supplyType: .community, dispatches: 1, winReason: 4, operation: .image)
        #expect(bytes(slot.words, 48..<56) == [3, 0, 0, 0, 1, 1, 4, 4])
        #expect(slot.operation == .image)
        slot[.askOutputReasoning] = 40_000
        slot[.consumerOutputReasoning] = 44_000
        slot[.delivered] = 2
        slot[.deliveredBytes] = 9
        #expect(slot.endedAfterLoss(instance: 5, endedAtUs: 2).charge.consumerCost == 88_000)
    }

    @Test func tokensWithoutBytesAreNotBilled() {
        var slot = OpenTaskSlot(counter: 7, acceptedAtUs: 1, maxInputTokens: 0)
        slot[.delivered] = UInt64(low: 10, high: 0)
        slot[.deliveredBytes] = 3
        #expect(slot.endedAfterLoss(instance: 5, endedAtUs: 2).usage.outputTokens == 3)
    }
}
