internal import CLinuxIO

/// Wakes the thread that waits on it; any thread may ring.
package struct EventDescriptor: ~Copyable, Sendable {
    let descriptor: Int32

    package init() throws(SystemError) {
        descriptor = try SystemError.check(.eventfd, sluice_eventfd())
    }

    deinit {
        close(descriptor)
    }

    /// The handle that other threads keep.
    package var doorbell: Doorbell { Doorbell(descriptor: descriptor) }

    /// Sleeps until it rings, at most `timeoutMs`, and takes all rings so far. For a thread that
    /// waits for nothing else. Answers whether it rang.
    @discardableResult
    package borrowing func wait(timeoutMs: Int) -> Bool {
        let hasRung = sluice_wait_readable(descriptor, Int32(clamping: timeoutMs)) != 0
        sluice_eventfd_drain(descriptor)
        return hasRung
    }

    /// Takes all rings so far.
    package borrowing func drain() {
        sluice_eventfd_drain(descriptor)
    }
}

/// Rings an `EventDescriptor`. It must not be used after the descriptor is gone.
package struct Doorbell: Sendable {
    let descriptor: Int32

    /// Wakes the owner; several rings before it wakes are one. Costs a system call: ring once a
    /// batch, and only a sleeper.
    package func ring() {
        _ = sluice_eventfd_ring(descriptor)
    }
}

/// Turns SIGTERM, SIGINT and SIGHUP into events.
///
/// Made first thing in the process: the signals are blocked in the making thread and in all
/// threads that it starts later.
package struct SignalDescriptor: ~Copyable, Sendable {
    let descriptor: Int32

    package init() throws(SystemError) {
        descriptor = try SystemError.check(.signalfd, sluice_signalfd(SIGTERM, SIGINT, SIGHUP))
    }

    deinit {
        close(descriptor)
    }

    /// The next pending signal, nil when there is none.
    package borrowing func next() -> Int32? {
        let signal = sluice_signalfd_next(descriptor)
        return signal == 0 ? nil : signal
    }
}
