import Testing

import LoadGenerator

@Suite struct RatioTests {
    @Test func fivePairsSpanTheirWholeRange() throws {
        let ratio = try #require(PairedRatio([1.2, 0.9, 1.0, 1.1, 0.8]))
        #expect(ratio.median == 1.0)
        #expect(ratio.low == 0.8)
        #expect(ratio.high == 1.2)
        // All five on one side of the median: 2 in 32.
        #expect(ratio.confidence == 0.9375)
    }

    @Test func ninePairsLeaveOneOutAtEitherEnd() throws {
        let ratio = try #require(PairedRatio([9, 1, 2, 3, 4, 5, 6, 7, 8]))
        #expect(ratio.median == 5)
        #expect(ratio.low == 2)
        #expect(ratio.high == 8)
        // None or one of nine on one side: 2 * 10 in 512.
        #expect(ratio.confidence == 1 - 20.0 / 512)
    }

    @Test func anIntervalNarrowerThanAskedIsNotGiven() throws {
        // Two left out at either end of nine would hold it with 1 - 2 * 46 / 512 < 0.95.
        let ratio = try #require(PairedRatio((1...9).map { Double($0) }))
        #expect(ratio.confidence >= 0.95)
        let many = try #require(PairedRatio((1...101).map { Double($0) }))
        #expect(many.confidence >= 0.95)
        #expect(many.low > 30 && many.high < 70)
    }

    @Test func noPairsNoRatio() {
        #expect(PairedRatio([]) == nil)
    }
}
