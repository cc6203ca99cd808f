import SluiceWire

/// Any bytes as a control payload: the first byte chooses the kind. What decodes is encoded and
/// decoded again, and must be the same; a decoder names no place outside its payload.
package enum ControlFuzz {
    /// The kinds whose payload has a decoder.
    private static let kinds: [FrameKind] = [
        .hello, .welcome, .ping, .goAway, .error, .offer, .grant, .withdraw, .submit, .queued,
        .assign, .started, .end, .cancel, .credit, .ask, .report,
    ]
    private static let stream = StreamID(7)

    /// One input: one decoding, and a second one where it succeeds.
    package static func run(_ bytes: [UInt8]) {
        guard bytes.count > 0, bytes.count <= WireLimits.payloadBytesMax else { return }
        let payload = bytes.span.extracting(1..<bytes.count)
        let kind = kinds[Int(bytes[0]) % kinds.count]
        do throws(WireError) {
            switch kind {
            case .hello, .submit, .assign: try decodeWithPlaces(kind, payload)
            case .queued, .started, .end, .cancel, .credit: try decodeOfStream(kind, payload)
            default: try decodeOfConnection(kind, payload)
            }
        } catch {
            return
        }
    }

    /// An input for `run`: a payload of this kind; nil for a kind without a decoder.
    package static func input(_ rawKind: UInt8, payload: ArraySlice<UInt8>) -> [UInt8]? {
        guard let kind = FrameKind(rawValue: rawKind == 4 ? 3 : rawKind),
            let place = kinds.firstIndex(of: kind)
        else { return nil }
        return [UInt8(place)] + payload
    }

    private static func decodeOfConnection(
        _ kind: FrameKind, _ payload: Span<UInt8>
    ) throws(WireError) {
        var bytes: [UInt8] = []
        switch kind {
        case .welcome:
            let frame = try WelcomeFrame(decoding: payload)
            frame.encode(into: &bytes)
            check(frame, bytes, WelcomeFrame.init(decoding:))
        case .ping:
            let frame = try PingFrame(decoding: payload)
            frame.encode(as: .pong, into: &bytes)
            check(frame, bytes, PingFrame.init(decoding:))
        case .goAway:
            let frame = try GoAwayFrame(decoding: payload)
            frame.encode(into: &bytes)
            check(frame, bytes, GoAwayFrame.init(decoding:))
        case .error:
            let frame = try ErrorFrame(decoding: payload)
            frame.encode(into: &bytes)
            check(frame, bytes, ErrorFrame.init(decoding:))
        case .offer:
            let frame = try OfferFrame(decoding: payload)
            frame.encode(into: &bytes)
            check(frame, bytes, OfferFrame.init(decoding:))
        case .grant:
            let frame = try GrantFrame(decoding: payload)
            frame.encode(into: &bytes)
            check(frame, bytes, GrantFrame.init(decoding:))
        case .withdraw:
            let frame = try WithdrawFrame(decoding: payload)
            frame.encode(into: &bytes)
            check(frame, bytes, WithdrawFrame.init(decoding:))
        case .ask:
            let frame = try AskFrame(decoding: payload)
            frame.encode(into: &bytes)
            check(frame, bytes, AskFrame.init(decoding:))
        case .report:
            let frame = try ReportFrame(decoding: payload)
            frame.encode(into: &bytes)
            check(frame, bytes, ReportFrame.init(decoding:))
        default: preconditionFailure("a kind without a decoder")
        }
    }

    private static func decodeOfStream(
        _ kind: FrameKind, _ payload: Span<UInt8>
    ) throws(WireError) {
        var bytes: [UInt8] = []
        switch kind {
        case .queued:
            let frame = try QueuedFrame(decoding: payload)
            frame.encode(stream: stream, into: &bytes)
            check(frame, bytes, QueuedFrame.init(decoding:))
        case .started:
            let frame = try StartedFrame(decoding: payload)
            frame.encode(stream: stream, into: &bytes)
            check(frame, bytes, StartedFrame.init(decoding:))
        case .end:
            let frame = try EndFrame(decoding: payload)
            frame.encode(stream: stream, into: &bytes)
            check(frame, bytes, EndFrame.init(decoding:))
        case .cancel:
            let frame = try CancelFrame(decoding: payload)
            frame.encode(stream: stream, into: &bytes)
            check(frame, bytes, CancelFrame.init(decoding:))
        case .credit:
            let frame = try CreditFrame(decoding: payload)
            frame.encode(stream: stream, into: &bytes)
            check(frame, bytes, CreditFrame.init(decoding:))
        default: preconditionFailure("a kind without a decoder")
        }
    }

    /// Frames that name places in their payload: these must lie inside it, and what stands there
    /// is written again.
    private static func decodeWithPlaces(
        _ kind: FrameKind, _ payload: Span<UInt8>
    ) throws(WireError) {
        var bytes: [UInt8] = []
        switch kind {
        case .hello:
            let frame = try HelloFrame(decoding: payload)
            let credential = frame.credential.map { payload[$0] }
            HelloFrame.encode(
                role: frame.role, kind: frame.credentialKind, credential: credential,
                bodyCreditBytes: frame.bodyCreditBytes,
                versions: frame.oldestVersion...frame.newestVersion, into: &bytes)
            check(frame, bytes, HelloFrame.init(decoding:))
            let place = frame.credential.lowerBound + FrameHeader.byteCount
            precondition(
                bytes[place..<place + credential.count] == credential[...],
                "a credential changes")
        case .submit:
            let frame = try SubmitFrame(decoding: payload)
            precondition(frame.inlineBody.upperBound == payload.count, "a body ends elsewhere")
            frame.encode(
                stream: stream, extensions: try extensions(of: frame, payload),
                inlineBodyBytes: frame.inlineBody.count, into: &bytes)
            bytes += frame.inlineBody.map { payload[$0] }
            check(frame, bytes, SubmitFrame.init(decoding:))
            let again = bytes[FrameHeader.byteCount...]
            precondition(
                again.elementsEqual((0..<payload.count).map { payload[$0] }), "a payload changes")
        case .assign:
            var frame = try AssignFrame(decoding: payload)
            precondition(frame.inlineBody.upperBound == payload.count, "a body ends elsewhere")
            let body = frame.inlineBody.map { payload[$0] }
            frame.encode(stream: stream, inlineBodyBytes: body.count, into: &bytes)
            bytes += body
            // Extensions that this version does not know are not written again: the body moves.
            let end = bytes.count - FrameHeader.byteCount
            frame.inlineBody = end - body.count..<end
            check(frame, bytes, AssignFrame.init(decoding:))
        default: preconditionFailure("a kind without a decoder")
        }
    }

    private static func extensions(
        of frame: SubmitFrame, _ payload: Span<UInt8>
    ) throws(WireError) -> ExtensionWriter {
        var writer = ExtensionWriter()
        let start = SubmitFrame.fixedBytes + Int(frame.model.byteCount)
        var cursor = ExtensionCursor(start..<frame.inlineBody.lowerBound)
        while let (type, value) = try cursor.next(payload) {
            writer.add(type, value.map { payload[$0] })
        }
        return writer
    }

    /// `bytes` hold one frame, as their header says, and it is this one.
    private static func check<Frame: Equatable>(
        _ frame: Frame, _ bytes: [UInt8], _ decode: (Span<UInt8>) throws(WireError) -> Frame
    ) {
        do throws(WireError) {
            let header = try FrameHeader(decoding: bytes.span)
            precondition(header.frameBytes == bytes.count, "an encoder writes another length")
            let payload = bytes.span.extracting(FrameHeader.byteCount..<bytes.count)
            let again = try decode(payload)
            precondition(again == frame, "what was encoded decodes to something else")
        } catch {
            preconditionFailure("an encoder writes what its decoder refuses")
        }
    }
}
