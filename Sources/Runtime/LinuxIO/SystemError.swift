internal import CLinuxIO

/// A system call that the kernel refused.
package struct SystemError: Error, Equatable, Sendable {
    /// The call that failed.
    package enum Call: String, Sendable {
        case socket, bind, listen, connect, address, descriptor, eventfd, signalfd, epoll
        case ringSetup, ringMap, ringRegister, ringEnable, ringEnter, memory, affinity, threadCreate
    }

    package let call: Call
    /// The positive errno.
    package let code: Int32

    package init(_ call: Call, code: Int32) {
        self.call = call
        self.code = code
    }

    /// The value of a `sluice_` call, or the error that it says.
    static func check(_ call: Call, _ value: Int32) throws(SystemError) -> Int32 {
        guard value >= 0 else { throw SystemError(call, code: -value) }
        return value
    }
}
