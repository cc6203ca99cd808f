import Dispatch
import Glibc

/// Calls back on SIGINT and SIGTERM instead of ending the process.
package struct StopSignals {
    private let sources: [any DispatchSourceSignal]

    /// Listens from now on; `onStop` is called on a thread of its own, once a signal.
    package init(onStop: @escaping @Sendable () -> Void) {
        sources = [SIGINT, SIGTERM].map { number in
            // A handler that does nothing, and not SIG_IGN, which children would inherit.
            _ = signal(number) { _ in }
            let source = DispatchSource.makeSignalSource(
                signal: number, queue: .global(qos: .userInitiated))
            source.setEventHandler(handler: onStop)
            source.resume()
            return source
        }
    }

    /// Stops listening.
    package func cancel() {
        for source in sources { source.cancel() }
    }
}
