internal import CLinuxIO
internal import Glibc

/// Time that only moves forward, for deadlines. Its zero means nothing.
package enum MonotonicClock {
    /// Nanoseconds.
    package static var nowNs: UInt64 { sluice_monotonic_ns() }
    /// Microseconds.
    package static var nowUs: UInt64 { sluice_monotonic_ns() / 1_000 }
    /// Processor time of the calling thread, nanoseconds.
    package static var threadNs: UInt64 { sluice_clock_ns(CLOCK_THREAD_CPUTIME_ID) }
    /// Milliseconds.
    package static var nowMs: UInt64 { sluice_monotonic_ns() / 1_000_000 }
}

/// Time of day, for records only: it may jump.
package enum WallClock {
    /// Microseconds since 1970-01-01 UTC.
    package static var nowUs: UInt64 { sluice_wall_ns() / 1_000 }
}

/// How many descriptors a process may have.
package enum DescriptorLimit {
    /// Raises the limit as far as this process may; what it starts inherits that. The new limit.
    package static func raise() -> Int {
        var limit = rlimit()
        let resource = __rlimit_resource_t(RLIMIT_NOFILE.rawValue)
        guard unsafe getrlimit(resource, &limit) == 0 else { return 0 }
        limit.rlim_cur = limit.rlim_max
        _ = unsafe setrlimit(resource, &limit)
        _ = unsafe getrlimit(resource, &limit)
        return Int(clamping: limit.rlim_cur)
    }
}

/// Which processors threads run on.
package enum ProcessorPlacement {
    /// The processors that this thread may use, in ascending order.
    package static var allowed: [Int] {
        var processors: [Int] = []
        while true {
            let next = sluice_allowed_processor(Int32(processors.count))
            guard next >= 0 else { return processors }
            processors.append(Int(next))
        }
    }

    /// Keeps the calling thread on `processors`, each 0..<1,024; what it starts inherits that.
    package static func restrict(to processors: [Int]) throws(SystemError) {
        var mask = [UInt](repeating: 0, count: 16)
        let bytes = mask.count * MemoryLayout<UInt>.size
        for processor in processors {
            let code = unsafe sluice_mask_add(&mask, bytes, Int32(clamping: processor))
            _ = try SystemError.check(.affinity, code)
        }
        _ = try SystemError.check(.affinity, unsafe sluice_restrict_thread(mask, bytes))
    }

    /// Asks the kernel to wake the calling thread on time: by default it may be 50 µs late.
    package static func wakeOnTime() {
        _ = sluice_set_timer_slack(1)
    }

    /// Keeps the calling thread on `processor`.
    package static func pin(to processor: Int) throws(SystemError) {
        _ = try SystemError.check(.affinity, sluice_pin_thread(Int32(clamping: processor)))
    }
}
