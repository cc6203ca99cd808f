import SluiceBrokerCore
import SluiceSession
import SluiceWire

/// One direction of a connection, on which a sabotage changes frames: a broker that misreads what
/// it is told, or that says what it must not. Bytes go on once their frame is whole.
struct Tampering {
    private let sabotage: Sabotage
    private var assembler = FrameAssembler()
    /// By stream of a supplier's connection: the task that it was given last.
    private var lastTasks: [UInt32: [UInt8]] = [:]

    init(_ sabotage: Sabotage) {
        self.sabotage = sabotage
    }

    /// What the broker reads of a peer's bytes.
    mutating func read(_ bytes: [UInt8]) -> [UInt8] {
        passed(bytes) { tampering, frame in tampering.misread(frame) }
    }

    /// What the broker says. `running` is a task that a supplier of this broker has.
    mutating func said(_ bytes: [UInt8], running: TaskID?) -> [UInt8] {
        passed(bytes) { tampering, frame in tampering.missay(frame, running) }
    }

    private mutating func passed(
        _ bytes: [UInt8], _ change: (inout Tampering, ReceivedFrame) -> [[UInt8]]
    ) -> [UInt8] {
        assembler.append(bytes)
        var passed: [UInt8] = []
        // Noise of a byzantine peer is no frame; it ends the connection either way.
        while let frame = try? assembler.next() {
            for payload in change(&self, frame) {
                frame.header.encode(into: &passed)
                passed += payload
            }
        }
        return passed
    }

    // MARK: Reading

    /// Payloads of the frames that take this one's place; as long as its own.
    private func misread(_ frame: ReceivedFrame) -> [[UInt8]] {
        var payload = frame.payload
        switch (sabotage, frame.header.kind) {
        case (.creditMisread, .submit): payload.add(1 << 20, at: 32)
        case (.orderMisread, .submit): payload[2] = 2 - Swift.min(payload[2], 2)
        case (.creditMisread, .credit): payload.add(1 << 20, at: 0)
        case (.grantMisread, .grant): payload[4] &+= 1
        case (.grantUnheard, .grant) where payload[4] > 0: payload[4] -= 1
        case (.usageMisread, .end) where payload[12] > 0:
            payload[12] -= 1
            // Reasoning is a part of it.
            payload[16] = Swift.min(payload[16], payload[12])
        case (.answerAltered, .tokens) where !payload.isEmpty: payload[payload.count - 1] ^= 1
        case (.bodiesCrossed, .submit): crossBody(&payload)
        case (.endUnheard, .end) where payload[0] == UInt8(WireCode.cancelled.rawValue): return []
        default: break
        }
        return [payload]
    }

    /// Makes a whole body that of the account 100 numbers on.
    private func crossBody(_ payload: inout [UInt8]) {
        guard let submit = try? SubmitFrame(decoding: payload.span),
            submit.inlineBody.count == Int(submit.terms.bodyBytes),
            let owner = MarkedContent.owner(ofBody: Array(payload[submit.inlineBody]))
        else { return }
        let body = MarkedContent.body(
            account: owner.account + 100, serial: owner.serial, count: submit.inlineBody.count)
        payload.replaceSubrange(submit.inlineBody, with: body)
    }

    // MARK: Saying

    private mutating func missay(_ frame: ReceivedFrame, _ running: TaskID?) -> [[UInt8]] {
        var payload = frame.payload
        let stream = frame.header.stream.rawValue
        switch (sabotage, frame.header.kind) {
        case (.assignedTwice, .assign):
            if let running { payload.replaceSubrange(0..<16, with: Self.bytes(of: running)) }
        case (.assignedAgain, .assign):
            let task = lastTasks[stream] ?? Array(payload[0..<16])
            lastTasks[stream] = task
            payload.replaceSubrange(0..<16, with: task)
        case (.tokensTwice, .tokens), (.queuedTwice, .queued), (.endSaidTwice, .end),
            (.bodyTwice, .body):
            return [payload, payload]
        case (.creditRepeated, .credit) where stream != 0: return [payload, payload]
        case (.usageDiffers, .end): payload[12] &+= 1
        case (.uploadKept, .credit) where stream == 0: return []
        default: break
        }
        return [payload]
    }

    private static func bytes(of task: TaskID) -> [UInt8] {
        var bytes: [UInt8] = []
        QueuedFrame(task: task, reserveBytes: 0, position: 0)
            .encode(stream: StreamID(1), into: &bytes)
        return Array(bytes[FrameHeader.byteCount..<FrameHeader.byteCount + 16])
    }
}

extension [UInt8] {
    /// Adds to the little-endian number of 8 bytes at `offset`.
    fileprivate mutating func add(_ more: UInt64, at offset: Int) {
        guard offset + 8 <= count else { return }
        var number: UInt64 = 0
        for byte in (0..<8).reversed() { number = number << 8 | UInt64(self[offset + byte]) }
        number &+= more
        for byte in 0..<8 { self[offset + byte] = UInt8(truncatingIfNeeded: number >> (8 * byte)) }
    }
}
