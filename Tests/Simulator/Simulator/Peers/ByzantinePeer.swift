import SluiceSession
import SluiceWire

/// A peer with a valid credential that keeps no rule: well-formed frames at the wrong time, bad
/// fields, data beyond its credit, noise.
final class ByzantinePeer: Peer {
    let identity: UInt64
    let isHonest = false
    let role: PeerRole
    private var setting: PeerSetting
    private var assembler = FrameAssembler()
    private var pending: [UInt8] = []
    private var isConnected = false
    private(set) var isOver = false
    private var isHealed = false
    private var nextUs: UInt64 = .max
    /// Streams that ASSIGN opened here, with the attempt whose bytes they carry.
    private var assigned: [(stream: StreamID, task: TaskID, attempt: Int)] = []
    /// Streams on which an END went out that ended nothing, as far as this peer knew. The broker may
    /// have used the number again by then, so no one can say whose bytes later ones would be.
    private var unclear: Set<UInt32> = []

    init(identity: UInt64, role: PeerRole, setting: PeerSetting) {
        self.identity = identity
        self.role = role
        self.setting = setting
    }

    var dueUs: UInt64 { isConnected ? nextUs : .max }

    func connected(nowUs: UInt64) {
        isConnected = true
        isOver = isHealed
        assembler = FrameAssembler()
        assigned = []
        unclear = []
        pending = []
        nextUs = nowUs + 20_000
        guard !setting.random.chance(5) else { return }
        HelloFrame.encode(
            role: role, kind: role == .client ? .apiKey : .supplierToken,
            credential: setting.secret, bodyCreditBytes: role == .supplier ? 100_000 : 0,
            into: &pending)
    }

    func receive(_ bytes: [UInt8], nowUs: UInt64) {
        assembler.append(bytes)
        do {
            while let frame = try assembler.next() { handle(frame) }
        } catch {
            setting.oracle.fail("the broker sent bytes that are no frame")
        }
    }

    func output(nowUs: UInt64) -> [UInt8] {
        defer { pending = [] }
        return pending
    }

    func wake(nowUs: UInt64) {
        nextUs = nowUs + UInt64(setting.random.pick(1_000...400_000))
        guard !isOver else { return }
        for _ in 0..<setting.random.pick(1...4) { misbehave() }
    }

    func disconnected(nowUs: UInt64) {
        isConnected = false
    }

    func heal(nowUs: UInt64) {
        isHealed = true
        isOver = true
    }

    private func handle(_ frame: ReceivedFrame) {
        switch frame.header.kind {
        case .welcome where role == .supplier:
            for model in 0..<setting.options.models {
                let id = OfferID(UInt32(model + 1))
                OfferFrame(offer: id, model: simulatedModel(model)).encode(into: &pending)
                GrantFrame(offer: id, slots: 3).encode(into: &pending)
            }
        case .error: isOver = true
        case .assign:
            guard let assign = try? AssignFrame(decoding: frame.payload.span) else { return }
            let attempt = setting.oracle.assigned(assign.task, body: [])
            assigned.append((frame.header.stream, assign.task, attempt))
        case .ping where setting.random.chance(70):
            guard let ping = try? PingFrame(decoding: frame.payload.span) else { return }
            ping.encode(as: .pong, into: &pending)
        default: break
        }
    }

    private func misbehave() {
        let stream = StreamID(UInt32(setting.random.pick(0...3)))
        switch setting.random.pick(0...13) {
        case 0: noise()
        case 1:
            // What it sends as an answer is known to the oracle, so not here.
            let kinds = FrameKind.allCases.filter { $0 != .tokens || role == .client }
            let kind = setting.random.pick(kinds)
            if kind == .end { hasEnded(stream) }
            FrameHeader(
                kind: kind, stream: stream, payloadBytes: 8,
                flags: FrameFlags(rawValue: UInt8(setting.random.pick(0...255))),
                tokens: 9
            ).encode(into: &pending)
            for _ in 0..<8 { pending.append(UInt8(setting.random.pick(0...255))) }
        case 2:
            let limit = UInt64(setting.random.pick([0, 1, 100_000, 1 << 62]))
            CreditFrame(limitBytes: limit).encode(stream: stream, into: &pending)
        case 3:
            CancelFrame(code: .cancelled).encode(stream: stream, into: &pending)
        case 4:
            for value in 0..<UInt64(setting.random.pick([1, 5, 1_500])) {
                PingFrame(value: value).encode(as: .ping, into: &pending)
            }
        case 5, 6, 7, 8: role == .client ? submit(stream) : tokens()
        case 9: role == .client ? body(stream) : end()
        case 10: role == .client ? body(stream) : grant()
        default: role == .client ? submit(stream) : end()
        }
    }

    private func noise() {
        guard setting.random.chance(20) else { return }
        for _ in 0..<setting.random.pick(1...40) {
            pending.append(UInt8(setting.random.pick(0...255)))
        }
    }

    private func submit(_ stream: StreamID) {
        let declared = setting.random.pick([0, 10, 2_000, 20_000, 100_000, 20_000_000])
        var terms = TaskTerms(
            operation: setting.random.pick(TaskOperation.allCases), encoding: .text,
            bodyBytes: UInt32(declared))
        terms.deadlineMs = UInt32(setting.random.pick([0, 5, 5_000, 600_001]))
        var frame = SubmitFrame(
            terms: terms, model: simulatedModel(setting.random.pick(0...2)),
            creditLimitBytes: UInt64(setting.random.pick([0, 11, 5_000, 1 << 50])))
        frame.windowBytes = UInt32(setting.random.pick([0, 4_096, 65_536, 100]))
        let inline = setting.random.pick([0, min(declared, 1_000), min(declared, 16_000)])
        frame.encode(stream: stream, inlineBodyBytes: inline, into: &pending)
        // Below 16 bytes or not marked: nobody's body, which suppliers are not told to check.
        pending += [UInt8](repeating: 0, count: inline)
    }

    private func body(_ stream: StreamID) {
        let byteCount = setting.random.pick([0, 10, 1_024, 16_000])
        FrameHeader(kind: .body, stream: stream, payloadBytes: byteCount).encode(into: &pending)
        pending += [UInt8](repeating: 0, count: byteCount)
    }

    private func tokens() {
        guard let entry = assigned.last, !unclear.contains(entry.stream.rawValue) else { return }
        let byteCount = setting.random.pick([0, 1, 500, 16_372])
        let tokens = setting.random.pick([0, 1, 60_000])
        let payload = setting.oracle.produce(
            entry.task, entry.attempt, byteCount: byteCount, tokens: tokens)
        FrameHeader(
            kind: .tokens, stream: entry.stream, payloadBytes: byteCount,
            flags: FrameFlags(rawValue: UInt8(setting.random.pick(0...255))),
            tokens: UInt16(tokens)
        ).encode(into: &pending)
        pending += payload
    }

    private func end() {
        guard let last = assigned.last else { return }
        // Now and then for a stream that it may never have had, or has ended.
        let isOpen = setting.random.chance(90)
        let stream = isOpen ? last.stream : StreamID(UInt32(setting.random.pick(1...3)))
        hasEnded(stream)
        let code = setting.random.pick(WireCode.allCases)
        var usage = Usage(inputTokens: .max, outputTokens: .max)
        usage.cachedTokens = UInt32(setting.random.pick([0, 5, Int(UInt32.max)]))
        EndFrame(code: code, usage: usage).encode(stream: stream, into: &pending)
    }

    private func hasEnded(_ stream: StreamID) {
        let before = assigned.count
        assigned.removeAll { $0.stream == stream }
        if assigned.count == before { unclear.insert(stream.rawValue) }
    }

    private func grant() {
        let offer = OfferID(UInt32(setting.random.pick(0...3)))
        GrantFrame(offer: offer, slots: UInt32(setting.random.pick([0, 1, 65_536, 70_000])))
            .encode(into: &pending)
    }
}
