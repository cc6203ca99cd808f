package import SluiceTransport
import Synchronization

/// One end of a connection in memory: what one end sends, the other receives, in order and without
/// delay. Any thread.
package final class MemoryPipe: BytePipe {
    private final class Direction: Sendable {
        private struct State {
            var bytes: [UInt8] = []
            var isClosed = false
            var reader: CheckedContinuation<[UInt8]?, Never>?
        }

        private let state = Mutex(State())

        func append(_ bytes: [UInt8]) throws(TransportError) {
            let (reader, isClosed) = state.withLock { state in
                guard !state.isClosed else {
                    return (nil as CheckedContinuation<[UInt8]?, Never>?, true)
                }
                if state.reader == nil { state.bytes += bytes }
                defer { state.reader = nil }
                return (state.reader, false)
            }
            if isClosed { throw .closed }
            reader?.resume(returning: bytes)
        }

        func close() {
            let reader = state.withLock { state in
                state.isClosed = true
                defer { state.reader = nil }
                return state.reader
            }
            reader?.resume(returning: nil)
        }

        func take() async -> [UInt8]? {
            await withCheckedContinuation { reader in
                let ready = state.withLock { state -> [UInt8]?? in
                    guard state.bytes.isEmpty else {
                        defer { state.bytes = [] }
                        return .some(state.bytes)
                    }
                    guard !state.isClosed else { return .some(nil) }
                    precondition(state.reader == nil, "one reader a pipe")
                    state.reader = reader
                    return nil
                }
                if let ready { reader.resume(returning: ready) }
            }
        }
    }

    private let inbound: Direction
    private let outbound: Direction

    private init(inbound: Direction, outbound: Direction) {
        self.inbound = inbound
        self.outbound = outbound
    }

    /// Two ends of one connection.
    package static func pair() -> (MemoryPipe, MemoryPipe) {
        let (there, back) = (Direction(), Direction())
        return (
            MemoryPipe(inbound: back, outbound: there), MemoryPipe(inbound: there, outbound: back)
        )
    }

    package func receive() async -> [UInt8]? {
        await inbound.take()
    }

    package func send(_ bytes: [UInt8]) async throws(TransportError) {
        try outbound.append(bytes)
    }

    package func close() async {
        shut()
    }

    /// What `send` does, for a caller that cannot wait.
    package func sendNow(_ bytes: [UInt8]) throws(TransportError) {
        try outbound.append(bytes)
    }

    /// What `close` does, for a caller that cannot wait.
    package func shut() {
        outbound.close()
        inbound.close()
    }
}
