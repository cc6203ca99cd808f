import SluiceWire

/// A whole frame, read as a receiver reads it: length, kind, payload.
struct DecodedFrame: Equatable {
    enum Payload: Equatable {
        case hello(HelloFrame)
        case welcome(WelcomeFrame)
        case ping(PingFrame)
        case goAway(GoAwayFrame)
        case error(ErrorFrame)
        case offer(OfferFrame)
        case grant(GrantFrame)
        case withdraw(WithdrawFrame)
        case ask(AskFrame)
        case report(ReportFrame)
        case submit(SubmitFrame)
        case queued(QueuedFrame)
        case assign(AssignFrame)
        case started(StartedFrame)
        case end(EndFrame)
        case cancel(CancelFrame)
        case credit(CreditFrame)
        case content
        /// An unknown kind that may be skipped.
        case skipped
    }

    let header: FrameHeader
    let payload: Payload
    let payloadBytes: [UInt8]

    /// `bytes` hold one frame and nothing else, or only the header of one that is too large.
    init(_ bytes: [UInt8]) throws(WireError) {
        header = try FrameHeader(decoding: bytes.span)
        precondition(bytes.count == header.frameBytes)
        payloadBytes = Array(bytes[FrameHeader.byteCount...])
        payload = try Self.payload(
            header, bytes.span.extracting(FrameHeader.byteCount..<bytes.count))
    }

    static func payload(_ header: FrameHeader, _ bytes: Span<UInt8>) throws(WireError) -> Payload {
        switch header.kind {
        case .hello: .hello(try HelloFrame(decoding: bytes))
        case .welcome: .welcome(try WelcomeFrame(decoding: bytes))
        case .ping, .pong: .ping(try PingFrame(decoding: bytes))
        case .goAway: .goAway(try GoAwayFrame(decoding: bytes))
        case .error: .error(try ErrorFrame(decoding: bytes))
        case .offer: .offer(try OfferFrame(decoding: bytes))
        case .grant: .grant(try GrantFrame(decoding: bytes))
        case .withdraw: .withdraw(try WithdrawFrame(decoding: bytes))
        case .ask: .ask(try AskFrame(decoding: bytes))
        case .report: .report(try ReportFrame(decoding: bytes))
        case .submit: .submit(try SubmitFrame(decoding: bytes))
        case .queued: .queued(try QueuedFrame(decoding: bytes))
        case .assign: .assign(try AssignFrame(decoding: bytes))
        case .started: .started(try StartedFrame(decoding: bytes))
        case .end: .end(try EndFrame(decoding: bytes))
        case .cancel: .cancel(try CancelFrame(decoding: bytes))
        case .credit: .credit(try CreditFrame(decoding: bytes))
        case .body, .tokens: .content
        case .resume, nil: try skipped(header)
        }
    }

    private static func skipped(_ header: FrameHeader) throws(WireError) -> Payload {
        guard header.flags.contains(.ignorable) else { throw .unknownKind }
        return .skipped
    }

    /// The bytes that an encoder makes of this frame. `agent` and `affinityKeys` are what the
    /// decoder does not keep.
    func encoded(agent: String = "", affinityKeys: [UInt8] = []) -> [UInt8] {
        var bytes: [UInt8] = []
        let stream = header.stream
        switch payload {
        case .hello(let hello):
            HelloFrame.encode(
                role: hello.role, kind: hello.credentialKind,
                credential: Array(payloadBytes[hello.credential]),
                bodyCreditBytes: hello.bodyCreditBytes, agent: agent,
                versions: hello.oldestVersion...hello.newestVersion, into: &bytes)
        case .welcome(let welcome): welcome.encode(into: &bytes)
        case .ping(let ping): ping.encode(as: header.kind ?? .ping, into: &bytes)
        case .goAway(let goAway): goAway.encode(into: &bytes)
        case .error(let error): error.encode(into: &bytes)
        case .offer(let offer): offer.encode(into: &bytes)
        case .grant(let grant): grant.encode(into: &bytes)
        case .withdraw(let withdraw): withdraw.encode(into: &bytes)
        case .ask(let ask): ask.encode(into: &bytes)
        case .report(let report): report.encode(into: &bytes)
        case .submit(let submit):
            submit.encode(
                stream: stream,
                extensions: submit.extensions(affinityKeys: affinityKeys, of: payloadBytes),
                inlineBodyBytes: submit.inlineBody.count, into: &bytes)
            bytes += payloadBytes[submit.inlineBody]
        case .queued(let queued): queued.encode(stream: stream, into: &bytes)
        case .assign(let assign):
            assign.encode(
                stream: stream, inlineBodyBytes: assign.inlineBody.count, into: &bytes)
            bytes += payloadBytes[assign.inlineBody]
        case .started(let started): started.encode(stream: stream, into: &bytes)
        case .end(let end): end.encode(stream: stream, into: &bytes)
        case .cancel(let cancel): cancel.encode(stream: stream, into: &bytes)
        case .credit(let credit): credit.encode(stream: stream, into: &bytes)
        case .content, .skipped:
            header.encode(into: &bytes)
            bytes += payloadBytes
        }
        return bytes
    }
}

extension SubmitFrame {
    /// The extensions of this frame, as a client builds them.
    func extensions(affinityKeys: [UInt8], of payload: [UInt8]) -> ExtensionWriter {
        var writer = ExtensionWriter()
        if !affinityKeys.isEmpty { writer.add(ExtensionType.affinityKeys, affinityKeys) }
        if let trace {
            writer.add(
                ExtensionType.trace, littleEndian(trace.traceHigh, trace.traceLow, trace.span))
        }
        if let idempotencyKey {
            writer.add(ExtensionType.idempotencyKey, Array(payload[idempotencyKey]))
        }
        if filters.inputCeiling != .max || filters.outputCeiling != .max {
            writer.add(
                ExtensionType.priceCeilings,
                littleEndian(filters.inputCeiling, filters.outputCeiling))
        }
        if let region = filters.region { writer.add(ExtensionType.region, region.bytes) }
        if filters.dataPolicy != .unstated {
            writer.add(ExtensionType.dataPolicy, [filters.dataPolicy.rawValue])
        }
        if filters.supplyTypes != .all {
            writer.add(ExtensionType.supplyTypes, [filters.supplyTypes.rawValue])
        }
        if hedgeCopies != 1 { writer.add(ExtensionType.hedge, [hedgeCopies]) }
        return writer
    }
}

private func littleEndian(_ values: UInt64...) -> [UInt8] {
    var bytes: [UInt8] = []
    for value in values { bytes.appendLittleEndian(value) }
    return bytes
}
