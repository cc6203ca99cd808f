/// A frame of fixed size that the broker sends outside the flow-controlled data. A plain value:
/// it can wait in an action list without a reference being counted.
package enum ControlFrame: Equatable, Sendable {
    case ping(PingFrame)
    case pong(PingFrame)
    case goAway(GoAwayFrame)
    case error(ErrorFrame)
    case queued(StreamID, QueuedFrame)
    case end(StreamID, EndFrame)
    case cancel(StreamID, CancelFrame)
    case credit(StreamID, CreditFrame)

    /// Size on the wire in bytes, header included.
    package var frameBytes: Int {
        switch self {
        case .ping, .pong, .goAway, .error, .credit: FrameHeader.byteCount + 8
        case .queued: FrameHeader.byteCount + 24
        case .end: FrameHeader.byteCount + 32
        case .cancel: FrameHeader.byteCount + 4
        }
    }

    package func encode(into bytes: inout [UInt8]) {
        switch self {
        case .ping(let frame): frame.encode(as: .ping, into: &bytes)
        case .pong(let frame): frame.encode(as: .pong, into: &bytes)
        case .goAway(let frame): frame.encode(into: &bytes)
        case .error(let frame): frame.encode(into: &bytes)
        case .queued(let stream, let frame): frame.encode(stream: stream, into: &bytes)
        case .end(let stream, let frame): frame.encode(stream: stream, into: &bytes)
        case .cancel(let stream, let frame): frame.encode(stream: stream, into: &bytes)
        case .credit(let stream, let frame): frame.encode(stream: stream, into: &bytes)
        }
    }
}
