import SluiceBrokerCore
import Testing

@Suite("Gathering") struct GatherPolicyTests {
    private var nowUs: UInt64 = 1_000_000
    private var processorUs: UInt64 = 0
    private var policy = GatherPolicy()

    /// A second of turns of `turnUs` with this share of a processor used.
    private mutating func second(
        busyPercent: UInt64, framesPerSecond: UInt64, turnUs: UInt64 = 100,
        othersPerFrame: UInt64 = 0
    ) {
        var owed: UInt64 = 0
        for _ in 0..<(1_000_000 / turnUs) {
            owed += framesPerSecond * turnUs
            let frames = owed / 1_000_000
            owed -= frames * 1_000_000
            nowUs += turnUs
            processorUs += turnUs * busyPercent / 100
            if policy.turned(nowUs: nowUs, frames: frames, others: frames * othersPerFrame) {
                policy.decide(nowUs: nowUs, processorUs: processorUs)
            }
        }
    }

    @Test("a thread with time to spare never holds a wait open")
    mutating func idle() {
        second(busyPercent: 40, framesPerSecond: 100_000)
        #expect(policy.waitUs == 0)
    }

    @Test("a busy thread with few frames has other work: it does not gather")
    mutating func handshakes() {
        second(busyPercent: 95, framesPerSecond: 2_000)
        #expect(policy.waitUs == 0)
    }

    @Test("frames that are few for a processor are served one by one, whatever each costs")
    mutating func paced() {
        second(busyPercent: 60, framesPerSecond: 13_000)
        #expect(policy.waitUs == 0)
    }

    @Test("near saturation by small frames it gathers, and goes on although that halves the load")
    mutating func saturated() {
        second(busyPercent: 60, framesPerSecond: 50_000)
        #expect(policy.waitUs == GatherPolicy.gatherUs)
        second(busyPercent: 25, framesPerSecond: 50_000, turnUs: 600)
        #expect(policy.isGathering)
    }

    @Test("short tasks are served at once: most of what comes begins or ends one")
    mutating func shortTasks() {
        second(busyPercent: 95, framesPerSecond: 300_000, othersPerFrame: 1)
        #expect(!policy.isGathering)
        second(busyPercent: 60, framesPerSecond: 50_000)
        #expect(policy.isGathering)
        second(busyPercent: 60, framesPerSecond: 50_000, othersPerFrame: 1)
        #expect(policy.isGathering, "it does not swing")
        second(busyPercent: 60, framesPerSecond: 50_000, othersPerFrame: 2)
        #expect(!policy.isGathering)
    }

    @Test("it ends when the load is low again, by time or by frames")
    mutating func ends() {
        second(busyPercent: 60, framesPerSecond: 50_000)
        second(busyPercent: 10, framesPerSecond: 20_000, turnUs: 600)
        #expect(!policy.isGathering)
        second(busyPercent: 60, framesPerSecond: 50_000)
        second(busyPercent: 30, framesPerSecond: 3_000, turnUs: 600)
        #expect(!policy.isGathering)
    }
}
