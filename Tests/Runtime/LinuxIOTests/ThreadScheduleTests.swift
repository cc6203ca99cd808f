import Dispatch
import Foundation
import LinuxIO
import Synchronization
import Testing

@Suite("Thread schedule")
struct ThreadScheduleTests {
    private static let wasBatch = Mutex(false)

    @Test("a batch thread is one, and others stay as they are")
    func batch() {
        let ended = DispatchSemaphore(value: 0)
        Thread.detachNewThread {
            ThreadSchedule.batch()
            let isBatch = ThreadSchedule.isBatch
            Self.wasBatch.withLock { $0 = isBatch }
            ended.signal()
        }
        ended.wait()
        #expect(Self.wasBatch.withLock { $0 })
        #expect(!ThreadSchedule.isBatch)
    }
}
