import Dispatch
import Foundation

/// What makes a worker process stop. Signals are watched for as long as this lives.
package final class StopSignals {
    /// Each reason as it comes.
    package let reasons: AsyncStream<StopReason>
    private let sources: [any DispatchSourceSignal]

    /// Watches SIGTERM and SIGINT, and, where `watchesParent`, the end of standard input: whoever
    /// started this process holds the other end of that pipe, and it closes when that process
    /// dies.
    package init(watchesParent: Bool) {
        let (stream, continuation) = AsyncStream.makeStream(of: StopReason.self)
        reasons = stream
        sources = [SIGTERM, SIGINT].map { number in
            // Else the default action ends the process before the source sees the signal.
            signal(number, SIG_IGN)
            let source = DispatchSource.makeSignalSource(signal: number, queue: .global())
            source.setEventHandler { continuation.yield(.asked) }
            source.resume()
            return source
        }
        // A peer that goes away is an error of a write, not the end of the process.
        signal(SIGPIPE, SIG_IGN)
        guard watchesParent else { return }
        Thread.detachNewThread {
            while let data = try? FileHandle.standardInput.read(upToCount: 4_096), !data.isEmpty {}
            continuation.yield(.parentGone)
        }
    }

    deinit {
        for source in sources { source.cancel() }
    }
}
