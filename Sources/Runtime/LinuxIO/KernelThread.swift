internal import CLinuxIO
internal import Glibc

/// A thread of the process, to be joined. Signals go where the process's first thread keeps them.
package struct KernelThread: ~Copyable {
    private let handle: pthread_t

    /// What a thread is handed; it takes ownership.
    private final class Start {
        let body: @Sendable () -> Void

        init(_ body: @escaping @Sendable () -> Void) {
            self.body = body
        }
    }

    /// Starts a thread that runs `body`.
    package init(_ body: @escaping @Sendable () -> Void) throws(SystemError) {
        let start = unsafe Unmanaged.passRetained(Start(body))
        var handle = pthread_t()
        // SAFETY: the thread takes over the one reference that was retained for it.
        let code = unsafe pthread_create(
            &handle, nil,
            { pointer in
                guard let pointer = unsafe pointer else { return nil }
                unsafe Unmanaged<Start>.fromOpaque(pointer).takeRetainedValue().body()
                return nil
            }, start.toOpaque())
        guard code == 0 else {
            unsafe start.release()
            throw SystemError(.threadCreate, code: code)
        }
        self.handle = handle
    }

    /// Waits for the end of `body`.
    package consuming func join() {
        _ = pthread_join(handle, nil)
    }

    /// Lets the thread end by itself, unobserved.
    package consuming func detach() {
        _ = pthread_detach(handle)
    }

    /// Lets another thread run first.
    package static func yield() { sched_yield() }

    /// Processors that this process may use.
    package static var processorCount: Int { max(1, Int(sluice_processor_count())) }
}
