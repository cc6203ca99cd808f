import SluiceSession
import SluiceWire

/// Any bytes through every decoder of the wire. Nothing may trap, whatever the bytes.
package enum FrameFuzz {
    package static func run(_ bytes: [UInt8]) {
        // As a stream that is cut in two, as every connection reads.
        for cut in [0, bytes.count / 2] {
            var assembler = FrameAssembler()
            for piece in [Array(bytes[..<cut]), Array(bytes[cut...])] {
                assembler.append(piece)
                do {
                    while let frame = try assembler.next() { decode(frame.payload) }
                } catch {
                    break
                }
            }
        }
        decode(bytes)
    }

    /// The payload as if it were that of any kind; what decodes must encode.
    private static func decode(_ payload: [UInt8]) {
        let span = payload.span
        var bytes: [UInt8] = []
        _ = try? HelloFrame(decoding: span)
        if let frame = try? WelcomeFrame(decoding: span) { frame.encode(into: &bytes) }
        if let frame = try? PingFrame(decoding: span) { frame.encode(as: .ping, into: &bytes) }
        if let frame = try? GoAwayFrame(decoding: span) { frame.encode(into: &bytes) }
        if let frame = try? ErrorFrame(decoding: span) { frame.encode(into: &bytes) }
        if let frame = try? OfferFrame(decoding: span) { frame.encode(into: &bytes) }
        if let frame = try? GrantFrame(decoding: span) { frame.encode(into: &bytes) }
        if let frame = try? WithdrawFrame(decoding: span) { frame.encode(into: &bytes) }
        if let frame = try? AskFrame(decoding: span) { frame.encode(into: &bytes) }
        if let frame = try? ReportFrame(decoding: span) { frame.encode(into: &bytes) }
        let stream = StreamID(1)
        if let frame = try? SubmitFrame(decoding: span) {
            precondition(frame.inlineBody.upperBound <= payload.count)
        }
        if let frame = try? QueuedFrame(decoding: span) {
            frame.encode(stream: stream, into: &bytes)
        }
        if let frame = try? AssignFrame(decoding: span) {
            precondition(frame.inlineBody.upperBound <= payload.count)
        }
        if let frame = try? StartedFrame(decoding: span) {
            frame.encode(stream: stream, into: &bytes)
        }
        if let frame = try? EndFrame(decoding: span) { frame.encode(stream: stream, into: &bytes) }
        if let frame = try? CancelFrame(decoding: span) {
            frame.encode(stream: stream, into: &bytes)
        }
        if let frame = try? CreditFrame(decoding: span) {
            frame.encode(stream: stream, into: &bytes)
        }
    }
}
