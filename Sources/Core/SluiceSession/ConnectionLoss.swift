package import SluiceWire

/// Why a session's connection is over.
package enum ConnectionLoss: Error, Equatable, Sendable {
    /// The bytes ended without a word from the peer.
    case closed
    /// The peer sent ERROR.
    case peerError(WireCode)
    /// The peer broke a rule; it was told this code in our ERROR.
    case peerViolation(WireCode)
    /// No WELCOME came in time.
    case handshakeTimeout
    /// The peer was silent for two keep-alive intervals.
    case keepAliveTimeout
    /// Our own side closed the session.
    case finished

    /// The code that describes the loss to a caller.
    package var code: WireCode {
        switch self {
        case .closed, .finished: .shuttingDown
        case .peerError(let code), .peerViolation(let code): code
        case .handshakeTimeout: .handshakeTimeout
        case .keepAliveTimeout: .keepAliveTimeout
        }
    }

    /// True when the peer will refuse the same HELLO again.
    package var isRefusalForGood: Bool {
        guard case .peerError(let code) = self else { return false }
        switch code {
        case .unauthenticated, .forbidden, .versionMismatch: return true
        default: return false
        }
    }
}

/// A rule that the peer broke, and the frame by which it did.
struct Violation: Error {
    let code: WireCode
    let rawKind: UInt8
    let stream: StreamID

    init(_ code: WireCode, _ header: FrameHeader) {
        self.code = code
        rawKind = header.rawKind
        stream = header.stream
    }

    /// A fault that no frame can be blamed for, or whose header could not be read.
    init(_ code: WireCode) {
        self.code = code
        rawKind = 0
        stream = .connection
    }
}

extension ReceivedFrame {
    /// Decodes the payload; a fault in it is the peer's violation, named by this frame.
    func decode<Frame>(
        _ make: ([UInt8]) throws(WireError) -> Frame
    ) throws(Violation) -> Frame {
        do {
            return try make(payload)
        } catch {
            throw Violation(error.code, header)
        }
    }
}

/// Names one task on one connection for as long as the session lives: the stream's number and a
/// serial that no later task on the same stream repeats.
package struct StreamHandle: Hashable, Sendable {
    package let stream: StreamID
    package let serial: UInt64
}
