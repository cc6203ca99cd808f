import Testing

import LoadGenerator

@Suite struct HistogramTests {
    @Test func readingsAreAtMostAPartIn256AboveWhatWasRecorded() throws {
        for ns in [1, 255, 256, 511, 512, 513, 1_000, 65_537, 20_000_000, 3_600_000_000_000] {
            var histogram = LatencyHistogram()
            histogram.record(UInt64(ns))
            // The largest is known exactly, so a larger one stands beside it.
            histogram.record(LatencyHistogram.valueMaxNs)
            let read = try #require(histogram.ns(at: 0.5))
            #expect(read >= UInt64(ns))
            #expect(read - UInt64(ns) <= UInt64(ns) / 256)
        }
    }

    @Test func quantilesAreOrderStatistics() {
        var histogram = LatencyHistogram()
        for value in 1...100 { histogram.record(UInt64(value)) }
        #expect(histogram.ns(at: 0) == 1)
        #expect(histogram.ns(at: 0.5) == 50)
        #expect(histogram.ns(at: 0.99) == 99)
        #expect(histogram.ns(at: 0.999) == 100)
        #expect(histogram.ns(at: 1) == 100)
    }

    @Test func nothingRecordedHasNoQuantile() {
        #expect(LatencyHistogram().ns(at: 0.5) == nil)
        #expect(LatencyReport(LatencyHistogram()).p99 == nil)
    }

    @Test func theLongestIsExactAndLongerOnesAreCapped() {
        var histogram = LatencyHistogram()
        histogram.record(1_000_003)
        #expect(histogram.ns(at: 1) == 1_000_003)
        histogram.record(.max)
        #expect(histogram.count == 2)
        #expect(histogram.ns(at: 1) == LatencyHistogram.valueMaxNs)
    }

    @Test func addingIsAsIfAllWereRecordedInOne() {
        var (even, odd, all) = (LatencyHistogram(), LatencyHistogram(), LatencyHistogram())
        for value in 0..<10_000 {
            let ns = UInt64(value * 977)
            all.record(ns)
            if value % 2 == 0 { even.record(ns) } else { odd.record(ns) }
        }
        even.add(odd)
        #expect(even == all)
    }

    @Test func theTextsHoldEveryStep() {
        var histogram = LatencyHistogram()
        for _ in 0..<3 { histogram.record(2_000) }
        histogram.record(5_000)
        #expect(HistogramText.steps(of: histogram).split(separator: "\n").count == 3)
        let text = HistogramText.percentiles(of: histogram)
        #expect(text.contains("0.750000000000          3"))
        #expect(text.contains("Total count = 4"))
        #expect(text.contains("#[Max = 5.000]"))
    }
}
