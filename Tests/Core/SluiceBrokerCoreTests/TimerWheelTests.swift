import SluiceBrokerCore
import Testing

@Suite("Timer wheel") struct TimerWheelTests {
    @Test(
        "fires what a sorted list fires, at most one tick late and never early",
        arguments: UInt64(1)...50)
    func againstList(_ seed: UInt64) {
        var random = SplitMix64(seed: seed)
        var nowMs = random.next(below: 1_000_000)
        var wheel = TimerWheel(nowMs: nowMs)
        var due: [UInt32: UInt64] = [:]
        var fired: [UInt32] = []
        for _ in 0..<3_000 {
            let id = UInt32(random.next(below: 40))
            switch random.next(below: 4) {
            case 0, 1:
                // Soon, in the past, or several turns of the wheel away.
                let range: UInt64 = [50, 3_000, 120_000][Int(random.next(below: 3))]
                let atMs = nowMs + random.next(below: range)
                wheel.schedule(id, atMs: atMs)
                due[id] = atMs
            case 2:
                wheel.cancel(id)
                due[id] = nil
            default:
                let step: UInt64 = [1, 40, 5_000, 80_000][Int(random.next(below: 4))]
                nowMs += random.next(below: step)
                fired.removeAll()
                wheel.expire(nowMs: nowMs, into: &fired)
                for id in fired {
                    #expect(due[id].map { $0 <= nowMs } == true, "\(id) fired early")
                    due[id] = nil
                }
                for (id, atMs) in due {
                    #expect(atMs + TimerWheel.tickMs > nowMs, "\(id) is late")
                }
            }
            #expect(wheel.count == due.count)
        }
    }
}
