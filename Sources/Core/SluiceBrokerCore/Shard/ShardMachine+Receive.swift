import BasicContainers
import SluiceWire

extension ShardMachine {
    /// Reads the whole frames at the front of `bytes`: what the shell kept from before, followed
    /// by what has just arrived. Returns how many bytes were used; the shell keeps the rest (less
    /// than one frame, so at most 16,383 bytes) in front of what comes next.
    ///
    /// Ranges in `out.actions` are places in `bytes`: perform them before `bytes` changes.
    package mutating func received(
        _ connection: UInt32, _ bytes: Span<UInt8>, nowUs: UInt64, out: inout ShardOutput
    ) -> Int {
        let slot = Int(connection)
        connections[slot].lastReceivedMs = nowUs / 1_000
        connections[slot].pingOutstanding = false
        var offset = 0
        while bytes.count - offset >= FrameHeader.byteCount {
            guard connections[slot].phase.reads else { return bytes.count }
            let header: FrameHeader
            do {
                header = try FrameHeader(decoding: bytes, at: offset)
            } catch {
                fail(connection, error.code, out: &out)
                return bytes.count
            }
            guard bytes.count - offset >= header.frameBytes else { break }
            let start = offset + FrameHeader.byteCount
            counters.framesReceived &+= 1
            receivedFrame(
                connection, header, bytes, start..<start + Int(header.payloadBytes),
                nowUs: nowUs, out: &out)
            offset += header.frameBytes
        }
        return offset
    }

    private mutating func receivedFrame(
        _ connection: UInt32, _ header: FrameHeader, _ bytes: Span<UInt8>, _ place: Range<Int>,
        nowUs: UInt64, out: inout ShardOutput
    ) {
        // The hot kind first: flow-controlled data with an opaque payload.
        if header.rawKind == FrameKind.tokens.rawValue,
            connections[Int(connection)].isOpenSupplier
        {
            receivedTokens(connection, header, place, nowUs: nowUs, out: &out)
            return
        }
        do {
            try receivedControl(connection, header, bytes, place, nowUs: nowUs, out: &out)
        } catch {
            fail(connection, error.code, header: header, out: &out)
        }
    }

    private mutating func receivedControl(
        _ connection: UInt32, _ header: FrameHeader, _ bytes: Span<UInt8>, _ place: Range<Int>,
        nowUs: UInt64, out: inout ShardOutput
    ) throws(WireError) {
        let phase = connections[Int(connection)].phase
        guard let kind = header.kind, kind != .resume else {
            guard phase == .open, header.flags.contains(.ignorable) else {
                throw .unknownKind
            }
            unproductive(connection, header, nowUs: nowUs, out: &out)
            return
        }
        let payload = bytes.extracting(place)
        guard phase == .open else {
            guard phase == .awaitingHello, kind == .hello else {
                return fail(connection, .unexpectedFrame, header: header, out: &out)
            }
            return try hello(connection, header, payload, place, out: &out)
        }
        switch kind {
        case .ping, .pong, .goAway, .error, .offer, .grant, .withdraw, .ask:
            guard header.stream == .connection else {
                return fail(connection, .unexpectedFrame, header: header, out: &out)
            }
            try receivedOnConnection(
                connection, kind, header, payload, nowUs: nowUs, out: &out)
        case .submit, .body, .started, .tokens, .end, .cancel, .credit:
            try receivedOnStream(
                connection, kind, header, payload, place, nowUs: nowUs, out: &out)
        case .hello, .welcome, .report, .queued, .assign, .resume:
            fail(connection, .unexpectedFrame, header: header, out: &out)
        }
    }

    private mutating func receivedOnConnection(
        _ connection: UInt32, _ kind: FrameKind, _ header: FrameHeader, _ payload: Span<UInt8>,
        nowUs: UInt64, out: inout ShardOutput
    ) throws(WireError) {
        let isSupplier = connections[Int(connection)].role == .supplier
        switch kind {
        case .ping:
            let frame = try PingFrame(decoding: payload)
            unproductive(connection, header, nowUs: nowUs, out: &out)
            send(.pong(frame), on: connection, out: &out)
        case .pong:
            _ = try PingFrame(decoding: payload)
            unproductive(connection, header, nowUs: nowUs, out: &out)
        case .goAway:
            _ = try GoAwayFrame(decoding: payload)
            guard isSupplier else { return }
            out.requests.append(.withdrawAll(reference(connection)))
        case .error:
            _ = try ErrorFrame(decoding: payload)
            close(connection, afterSending: true, out: &out)
        case .offer where isSupplier:
            let frame = try OfferFrame(decoding: payload)
            out.requests.append(.offer(reference(connection), frame))
        case .grant where isSupplier:
            let frame = try GrantFrame(decoding: payload)
            out.requests.append(.grant(reference(connection), frame))
        case .withdraw where isSupplier:
            let frame = try WithdrawFrame(decoding: payload)
            out.requests.append(.withdraw(reference(connection), frame))
        case .ask where isSupplier:
            let frame = try AskFrame(decoding: payload)
            unproductive(connection, header, nowUs: nowUs, out: &out)
            guard connections[Int(connection)].phase == .open else { return }
            out.requests.append(.ask(reference(connection), frame))
        default:
            fail(connection, .unexpectedFrame, header: header, out: &out)
        }
    }

    private mutating func receivedOnStream(
        _ connection: UInt32, _ kind: FrameKind, _ header: FrameHeader, _ payload: Span<UInt8>,
        _ place: Range<Int>, nowUs: UInt64, out: inout ShardOutput
    ) throws(WireError) {
        let isClient = connections[Int(connection)].role == .client
        guard header.stream.rawValue <= limits.maxStreams, header.stream != .connection else {
            return fail(connection, .streamOutOfRange, header: header, out: &out)
        }
        switch (kind, isClient) {
        case (.submit, true):
            let frame = try SubmitFrame(decoding: payload)
            submitted(connection, header, frame, place, nowUs: nowUs, out: &out)
        case (.body, true):
            receivedBody(connection, header, place, nowUs: nowUs, out: &out)
        case (.cancel, true):
            let frame = try CancelFrame(decoding: payload)
            clientCancelled(connection, header, frame, nowUs: nowUs, out: &out)
        case (.credit, true):
            let frame = try CreditFrame(decoding: payload)
            clientCredit(connection, header, frame, nowUs: nowUs, out: &out)
        case (.credit, false):
            let frame = try CreditFrame(decoding: payload)
            supplierBodyCredit(connection, header, frame, nowUs: nowUs, out: &out)
        case (.started, false):
            let frame = try StartedFrame(decoding: payload)
            supplierStarted(connection, header, frame, nowUs: nowUs, out: &out)
        case (.end, false):
            let frame = try EndFrame(decoding: payload)
            supplierEnded(connection, header, frame, nowUs: nowUs, out: &out)
        default:
            fail(connection, .unexpectedFrame, header: header, out: &out)
        }
    }

    private mutating func hello(
        _ connection: UInt32, _ header: FrameHeader, _ payload: Span<UInt8>,
        _ place: Range<Int>, out: inout ShardOutput
    ) throws(WireError) {
        guard header.stream == .connection else {
            return fail(connection, .unexpectedFrame, header: header, out: &out)
        }
        let frame = try HelloFrame(decoding: payload)
        guard frame.oldestVersion <= WireLimits.version,
            frame.newestVersion >= WireLimits.oldestVersion
        else {
            return fail(connection, .versionMismatch, header: header, out: &out)
        }
        let isCertificate = frame.credentialKind == .clientCertificate
        guard !isCertificate || frame.credential.isEmpty else {
            return fail(connection, .unauthenticated, header: header, out: &out)
        }
        connections[Int(connection)].role = frame.role
        connections[Int(connection)].bodyCreditBytes = frame.bodyCreditBytes
        connections[Int(connection)].phase = .authenticating
        guard !isCertificate else {
            out.actions.append(.verifyCertificate(connection: connection))
            return
        }
        out.actions.append(
            .authenticate(
                connection: connection,
                start: UInt32(place.lowerBound + frame.credential.lowerBound),
                count: UInt32(frame.credential.count), kind: frame.credentialKind))
    }

    /// Pays for an unproductive frame [L9]; a peer that sends too many is cut [L10].
    mutating func unproductive(
        _ connection: UInt32, _ header: FrameHeader, nowUs: UInt64, out: inout ShardOutput
    ) {
        let isPaid = connections[Int(connection)].unproductive.pay(
            limits: limits, nowMs: nowUs / 1_000)
        if !isPaid { fail(connection, .flood, header: header, out: &out) }
    }

    /// A frame for a slot that is idle: it crossed the END. Ignored, counted, paid for.
    mutating func late(
        _ connection: UInt32, _ header: FrameHeader, nowUs: UInt64, out: inout ShardOutput
    ) {
        counters.lateFrames += 1
        unproductive(connection, header, nowUs: nowUs, out: &out)
    }
}

extension Connection.Phase {
    /// True while bytes of the peer are looked at.
    var reads: Bool {
        switch self {
        case .awaitingHello, .authenticating, .open: true
        case .closed, .handshaking, .closing: false
        }
    }
}
