import LinuxIO
import LockFree
import Synchronization
import Testing

/// Two threads at one queue. Allowed: every element once, in order, none before it is published.
/// Forbidden: an element lost, doubled, out of order, or half written.
@Suite struct QueueTests {
    /// Two words that a torn read would tell apart.
    struct Pair: Sendable {
        var number: UInt64
        var check: UInt64

        init(_ number: UInt64) {
            self.number = number
            check = ~number
        }
    }

    @Test func aFullQueueTakesNothingUntilPlacesAreReleased() {
        let queue = SPSCQueue<Int>(capacity: 4)
        for number in 0..<4 { #expect(queue.push(number)) }
        #expect(!queue.push(4))
        queue.publish()
        #expect(queue.pop() == 0)
        #expect(!queue.push(4), "a popped place is not free before release")
        queue.release()
        #expect(queue.push(4))
        queue.publish()
        #expect((0..<4).map { _ in queue.pop() } == [1, 2, 3, 4])
        #expect(queue.pop() == nil)
    }

    @Test func nothingIsSeenBeforeItIsPublished() {
        let queue = SPSCQueue<Int>(capacity: 4)
        #expect(!queue.publish())
        #expect(queue.push(1))
        #expect(queue.isEmpty)
        #expect(queue.pop() == nil)
        #expect(queue.publish())
        #expect(!queue.publish())
        #expect(!queue.isEmpty)
        #expect(queue.pop() == 1)
    }

    @Test func elementsLeftInAQueueAreReleasedWithIt() {
        final class Token: Sendable {}
        weak var seen: Token?
        do {
            let queue = SPSCQueue<Token>(capacity: 2)
            let token = Token()
            seen = token
            #expect(queue.push(token))
        }
        #expect(seen == nil)
    }

    @Test(arguments: [2, 64, 1_024]) func everyElementArrivesOnceAndInOrder(
        _ capacity: Int
    ) throws {
        let count: UInt64 = 400_000
        let queue = SPSCQueue<Pair>(capacity: capacity)
        let producer = try KernelThread {
            var number: UInt64 = 0
            while number < count {
                // Batches of changing size, so that positions meet in every way.
                let batch = number % 7 + 1
                for _ in 0..<batch where number < count && queue.push(Pair(number)) { number += 1 }
                if !queue.publish() { KernelThread.yield() }
            }
        }
        var expected: UInt64 = 0
        var isWhole = true
        while expected < count {
            var taken = 0
            while taken < 5, let pair = queue.pop() {
                isWhole = isWhole && pair.number == expected && pair.check == ~expected
                expected += 1
                taken += 1
            }
            queue.release()
            if taken == 0 { KernelThread.yield() }
        }
        producer.join()
        #expect(isWhole)
        #expect(queue.pop() == nil)
    }

    /// Forbidden: the consumer sleeps while something is published and nobody rings.
    @Test func noWakeUpIsLost() throws {
        final class Shared: Sendable {
            let queue = SPSCQueue<UInt64>(capacity: 8)
            let flag = SleepFlag()
        }
        let shared = Shared()
        let event = try EventDescriptor()
        let doorbell = event.doorbell
        let count: UInt64 = 20_000
        let producer = try KernelThread {
            for number in 0..<count {
                while !shared.queue.push(number) { KernelThread.yield() }
                shared.queue.publish()
                if shared.flag.takeSleeper() { doorbell.ring() }
                if number % 3 == 0 { KernelThread.yield() }
            }
        }
        var expected: UInt64 = 0
        var lostWakeUps = 0
        while expected < count {
            shared.flag.prepare()
            if shared.queue.isEmpty {
                // Only a lost ring leaves it asleep beside a queue with something in it.
                if !event.wait(timeoutMs: 2_000), !shared.queue.isEmpty { lostWakeUps += 1 }
            }
            shared.flag.wake()
            while let number = shared.queue.pop() {
                #expect(number == expected)
                expected += 1
            }
            shared.queue.release()
        }
        producer.join()
        #expect(lostWakeUps == 0)
    }
}
