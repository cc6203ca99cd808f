import Dispatch
import Foundation

/// What makes the gateway stop. Signals are watched for as long as this lives.
final class StopSignals {
    /// Once for each reason.
    let stops: AsyncStream<Void>
    private let sources: [any DispatchSourceSignal]

    /// Watches SIGTERM and SIGINT, and, where `watchesParent`, the end of standard input.
    init(watchesParent: Bool) {
        let (stream, continuation) = AsyncStream.makeStream(of: Void.self)
        stops = stream
        sources = [SIGTERM, SIGINT].map { number in
            // Else the default action ends the process before the source sees the signal.
            signal(number, SIG_IGN)
            let source = DispatchSource.makeSignalSource(signal: number, queue: .global())
            source.setEventHandler { continuation.yield() }
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
