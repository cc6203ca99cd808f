import SluiceBrokerCore
import Testing

@Suite("Gathering") struct GatherPolicyTests {
    /// A second of turns of `turnUs` with this share of time busy.
    private func second(
        _ policy: inout GatherPolicy, busyPercent: UInt64, framesPerSecond: UInt64,
        turnUs: UInt64 = 100
    ) {
        var owed: UInt64 = 0
        for _ in 0..<(1_000_000 / turnUs) {
            owed += framesPerSecond * turnUs
            let frames = owed / 1_000_000
            owed -= frames * 1_000_000
            let busyUs = turnUs * busyPercent / 100
            policy.turned(sleptUs: turnUs - busyUs, busyUs: busyUs, frames: frames)
        }
    }

    @Test("a thread with time to spare never holds a wait open")
    func idle() {
        var policy = GatherPolicy()
        second(&policy, busyPercent: 40, framesPerSecond: 100_000)
        #expect(policy.waitUs == 0)
    }

    @Test("a busy thread with few frames has other work: it does not gather")
    func handshakes() {
        var policy = GatherPolicy()
        second(&policy, busyPercent: 95, framesPerSecond: 2_000)
        #expect(policy.waitUs == 0)
    }

    @Test("near saturation by small frames it gathers, and goes on although that halves the load")
    func saturated() {
        var policy = GatherPolicy()
        second(&policy, busyPercent: 60, framesPerSecond: 50_000)
        #expect(policy.waitUs == GatherPolicy.gatherUs)
        second(&policy, busyPercent: 25, framesPerSecond: 50_000, turnUs: 600)
        #expect(policy.isGathering)
    }

    @Test("it ends when the load is low again, by time or by frames")
    func ends() {
        var policy = GatherPolicy()
        second(&policy, busyPercent: 60, framesPerSecond: 50_000)
        second(&policy, busyPercent: 10, framesPerSecond: 20_000, turnUs: 600)
        #expect(!policy.isGathering)
        second(&policy, busyPercent: 60, framesPerSecond: 50_000)
        second(&policy, busyPercent: 30, framesPerSecond: 3_000, turnUs: 600)
        #expect(!policy.isGathering)
    }
}
