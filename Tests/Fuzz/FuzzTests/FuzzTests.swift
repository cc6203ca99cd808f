import FuzzTargets
import SluiceBrokerCore
import Testing

/// What the fuzzers run, over random input: that it runs, and that crash inputs once found stay
/// fixed.
@Suite("Fuzz targets") struct FuzzTests {
    @Test("random bytes trap nowhere", arguments: UInt64(1)...20)
    func randomBytes(_ seed: UInt64) {
        var random = SplitMix64(seed: seed)
        for _ in 0..<50 {
            let bytes = (0..<random.next(below: 600)).map { _ in
                UInt8(truncatingIfNeeded: random.next())
            }
            FrameFuzz.run(bytes)
            CoreFuzz.run(bytes)
        }
    }
}
