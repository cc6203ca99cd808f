import SluiceSession
import SluiceWire

/// Holds back what a client uploads: bodies go in the smallest frames that are allowed ([U5]), each
/// after a pause, some of which are longer than a broker waits ([U9]). Everything else passes.
struct SlowUpload {
    private struct Held {
        let dueUs: UInt64
        let bytes: [UInt8]
    }

    private static let frameBytesMin = 1_024

    private var assembler = FrameAssembler()
    /// By stream, in the order in which they must go.
    private var held: [UInt32: [Held]] = [:]
    private var slow: Set<UInt32> = []
    /// Pauses are over; those that have begun are not.
    var isHealed = false

    /// When the next held frame may go; `.max` = none is held.
    var dueUs: UInt64 { held.values.lazy.compactMap(\.first?.dueUs).min() ?? .max }

    /// A new connection.
    mutating func start() {
        assembler = FrameAssembler()
        held = [:]
        slow = []
    }

    /// Whole frames from the session; answers those that go now. `random` decides who is slow.
    mutating func pass(
        _ bytes: [UInt8], nowUs: UInt64, _ random: inout RandomStream
    ) -> [UInt8] {
        assembler.append(bytes)
        var passed: [UInt8] = []
        while let frame = try? assembler.next() {
            let stream = frame.header.stream.rawValue
            switch frame.header.kind {
            case .submit:
                passed += flush(stream)
                guard !isHealed, random.chance(60) else {
                    Self.append(frame.header, frame.payload, to: &passed)
                    continue
                }
                submit(frame, nowUs: nowUs, &random, into: &passed)
            case .body where slow.contains(stream):
                var bytes: [UInt8] = []
                Self.append(frame.header, frame.payload, to: &bytes)
                hold(bytes, stream, nowUs: nowUs, &random)
            case .cancel:
                passed += flush(stream)
                Self.append(frame.header, frame.payload, to: &passed)
            default: Self.append(frame.header, frame.payload, to: &passed)
            }
        }
        return passed
    }

    /// Held frames whose pause is over.
    mutating func takeDue(nowUs: UInt64) -> [UInt8] {
        var due: [UInt8] = []
        for stream in held.keys.sorted() {
            while let first = held[stream]?.first, first.dueUs <= nowUs {
                due += first.bytes
                held[stream]?.removeFirst()
            }
        }
        held = held.filter { !$0.value.isEmpty }
        return due
    }

    /// END came: what the session takes for sent has crossed it ([U7]). True where the upload was
    /// slow.
    mutating func ended(_ stream: UInt32) -> Bool {
        held[stream] = held[stream]?.map { Held(dueUs: 0, bytes: $0.bytes) }
        return slow.remove(stream) != nil
    }

    private mutating func flush(_ stream: UInt32) -> [UInt8] {
        (held.removeValue(forKey: stream) ?? []).flatMap(\.bytes)
    }

    /// SUBMIT without the body in its tail, which follows in frames of its own.
    private mutating func submit(
        _ frame: ReceivedFrame, nowUs: UInt64, _ random: inout RandomStream,
        into passed: inout [UInt8]
    ) {
        let stream = frame.header.stream
        guard let submit = try? SubmitFrame(decoding: frame.payload.span) else { return }
        var tail = frame.payload[submit.inlineBody]
        slow.insert(stream.rawValue)
        let isWhole = tail.count == Int(submit.terms.bodyBytes)
        guard isWhole || tail.count >= Self.frameBytesMin else {
            return Self.append(frame.header, frame.payload, to: &passed)
        }
        let head = Array(frame.payload[..<submit.inlineBody.lowerBound])
        Self.append(
            FrameHeader(kind: .submit, stream: stream, payloadBytes: head.count), head, to: &passed)
        while !tail.isEmpty {
            // What follows the tail may be no smaller than a frame of the middle.
            let isLast = tail.count < 2 * Self.frameBytesMin && (!isWhole || tail.count <= 1_024)
            let piece = Array(tail.prefix(isLast ? tail.count : Self.frameBytesMin))
            tail = tail.dropFirst(piece.count)
            var bytes: [UInt8] = []
            Self.append(
                FrameHeader(kind: .body, stream: stream, payloadBytes: piece.count), piece,
                to: &bytes)
            hold(bytes, stream.rawValue, nowUs: nowUs, &random)
        }
    }

    private mutating func hold(
        _ bytes: [UInt8], _ stream: UInt32, nowUs: UInt64, _ random: inout RandomStream
    ) {
        var pauseUs: UInt64 = 0
        if !isHealed {
            pauseUs = UInt64(random.pick([100, 1_000, 20_000, 200_000]))
            if random.chance(3) { pauseUs = 31_000_000 }
        }
        let lastUs = held[stream]?.last?.dueUs ?? nowUs
        held[stream, default: []].append(Held(dueUs: max(lastUs, nowUs) + pauseUs, bytes: bytes))
    }

    private static func append(
        _ header: FrameHeader, _ payload: [UInt8], to bytes: inout [UInt8]
    ) {
        header.encode(into: &bytes)
        bytes += payload
    }
}
