import Dispatch
import Foundation

/// What makes the gateway stop, or read its certificate again. Signals are watched for as long as
/// this lives.
final class StopSignals {
    /// Once for each reason.
    let stops: AsyncStream<Void>
    /// Once for each SIGHUP.
    let reloads: AsyncStream<Void>
    private let sources: [any DispatchSourceSignal]

    /// Watches SIGTERM and SIGINT, and, where `watchesParent`, the end of standard input.
    init(watchesParent: Bool) {
        let (stream, continuation) = AsyncStream.makeStream(of: Void.self)
        stops = stream
        let (reloads, reload) = AsyncStream.makeStream(of: Void.self)
        self.reloads = reloads
        sources = [SIGTERM, SIGINT, SIGHUP].map { number in
            // Else the default action ends the process before the source sees the signal.
            signal(number, SIG_IGN)
            let source = DispatchSource.makeSignalSource(signal: number, queue: .global())
            let next = number == SIGHUP ? reload : continuation
            source.setEventHandler { next.yield() }
            source.resume()
            return source
        }
        signal(SIGPIPE, SIG_IGN)
        guard watchesParent else { return }
        Thread.detachNewThread {
            while let data = try? FileHandle.standardInput.read(upToCount: 4_096), !data.isEmpty {}
            // Nobody is left to wait for the grace time.
            continuation.yield()
            continuation.yield()
        }
    }

    deinit {
        for source in sources { source.cancel() }
    }
}
