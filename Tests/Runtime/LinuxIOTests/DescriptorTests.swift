import Glibc
import Testing

import LinuxIO

@Suite struct DescriptorTests {
    @Test func portZeroBecomesARealPort() throws {
        let four = try ListeningSocket(address: "127.0.0.1", port: 0)
        #expect(four.port > 0)
        let six = try ListeningSocket(address: "::1", port: 0)
        #expect(six.port > 0)
    }

    @Test func aNameIsNotAnAddress() {
        #expect(throws: SystemError.self) {
            _ = try ListeningSocket(address: "localhost", port: 0)
        }
    }

    @Test func aTakenPortIsRefused() throws {
        let first = try ListeningSocket(address: "127.0.0.1", port: 0)
        let port = first.port
        #expect(throws: SystemError(.bind, code: EADDRINUSE)) {
            _ = try ListeningSocket(address: "127.0.0.1", port: port)
        }
        #expect(first.port == port)
    }

    @Test func clocksMoveForward() {
        let first = MonotonicClock.nowNs
        #expect(MonotonicClock.nowNs >= first)
        #expect(WallClock.nowUs > 1_700_000_000_000_000)
    }

    @Test func aThreadMayUseSomeProcessor() {
        #expect(!ProcessorPlacement.allowed.isEmpty)
    }

    @Test func theChoiceIsResolved() {
        #expect(BackendChoice.epoll.resolve().kind == .epoll)
        #expect(BackendChoice.ring.resolve().kind == .ring)
        let automatic = BackendChoice.automatic.resolve()
        #expect((automatic.kind == .ring) == (automatic.refusal == nil))
    }
}
