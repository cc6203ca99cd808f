import SluiceSession
import SluiceWire

/// Any bytes as what a connection receives, cut where the first byte says and not cut: both give
/// the same frames and the same fault, and a header that was read is written as it came.
package enum FrameFuzz {
    private struct Outcome {
        var frames: [ReceivedFrame] = []
        var fault: WireError?
    }

    /// One input: at most two readings of the whole of it.
    package static func run(_ bytes: [UInt8]) {
        guard let first = bytes.first else { return }
        let stream = Array(bytes.dropFirst())
        let cut = Int(first) * (stream.count + 1) / 256
        let whole = read([stream])
        let halved = read([Array(stream[..<cut]), Array(stream[cut...])])
        precondition(whole.fault == halved.fault, "a cut changes the fault")
        precondition(whole.frames.count == halved.frames.count, "a cut changes the frames")
        var again: [UInt8] = []
        for (frame, other) in zip(whole.frames, halved.frames) {
            precondition(
                frame.header == other.header && frame.payload == other.payload,
                "a cut changes a frame")
            frame.header.encode(into: &again)
            again += frame.payload
        }
        precondition(stream.starts(with: again), "a frame is not what came")
    }

    private static func read(_ pieces: [[UInt8]]) -> Outcome {
        var assembler = FrameAssembler()
        var outcome = Outcome()
        do throws(WireError) {
            for piece in pieces {
                assembler.append(piece)
                while let frame = try assembler.next() { outcome.frames.append(frame) }
            }
        } catch {
            outcome.fault = error
        }
        return outcome
    }
}
