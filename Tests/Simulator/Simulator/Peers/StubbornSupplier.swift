import SluiceSession
import SluiceWire

/// A supplier written by hand that keeps every rule but one: until it is healed it does not answer
/// CANCEL.
final class StubbornSupplier: Peer {
    private struct Job {
        let stream: StreamID
        let task: TaskID
        let attempt: Int
        var bodyLeft: Int
        var body: [UInt8]
        var limitBytes: UInt64
        var sentBytes: UInt64 = 0
        var framesLeft: Int
        var tokens: UInt32 = 0
        var isCancelled = false
    }

    let identity: UInt64
    let isHonest = true
    private var setting: PeerSetting
    private var assembler = FrameAssembler()
    private var control: [UInt8] = []
    private var jobs: [Job] = []
    private var nextUs: UInt64 = .max
    private var isConnected = false
    private(set) var isWelcomed = false
    private(set) var isOver = false
    private var isHealed = false

    init(identity: UInt64, setting: PeerSetting) {
        self.identity = identity
        self.setting = setting
    }

    var grantedSlots: Int {
        isWelcomed ? setting.options.models * setting.options.slotsPerOffer : 0
    }
    var dueUs: UInt64 { isConnected ? nextUs : .max }

    func connected(nowUs: UInt64) {
        assembler = FrameAssembler()
        control = []
        jobs = []
        isConnected = true
        isWelcomed = false
        isOver = false
        nextUs = nowUs
        HelloFrame.encode(
            role: .supplier, kind: .supplierToken, credential: setting.secret,
            bodyCreditBytes: 1 << 40, into: &control)
    }

    func receive(_ bytes: [UInt8], nowUs: UInt64) {
        assembler.append(bytes)
        do {
            while let frame = try assembler.next() { handle(frame, nowUs) }
        } catch {
            setting.oracle.fail("supplier \(identity): bytes that are no frame")
        }
        nextUs = min(nextUs, nowUs)
    }

    func output(nowUs: UInt64) -> [UInt8] {
        defer { control = [] }
        return control
    }

    func wake(nowUs: UInt64) {
        nextUs = nowUs + 30_000
        guard isWelcomed else { return }
        var index = 0
        while index < jobs.count {
            if step(index) { jobs.remove(at: index) } else { index += 1 }
        }
    }

    func disconnected(nowUs: UInt64) {
        isConnected = false
        isWelcomed = false
        jobs = []
    }

    func heal(nowUs: UInt64) {
        isHealed = true
        nextUs = nowUs
    }

    private func handle(_ frame: ReceivedFrame, _ nowUs: UInt64) {
        let stream = frame.header.stream
        let index = jobs.firstIndex { $0.stream == stream }
        switch frame.header.kind {
        case .welcome:
            isWelcomed = true
            for model in 0..<setting.options.models {
                let id = OfferID(UInt32(model + 1))
                OfferFrame(offer: id, model: simulatedModel(model)).encode(into: &control)
                GrantFrame(offer: id, slots: UInt32(setting.options.slotsPerOffer))
                    .encode(into: &control)
            }
        case .ping:
            guard let ping = try? PingFrame(decoding: frame.payload.span) else { return }
            ping.encode(as: .pong, into: &control)
        case .error: isOver = true
        case .assign:
            guard let assign = try? AssignFrame(decoding: frame.payload.span) else { return }
            setting.oracle.check(index == nil, "[D1] ASSIGN on a taken slot")
            let body = Array(frame.payload[assign.inlineBody])
            let attempt = setting.oracle.assigned(
                assign.task,
                body: body.count == Int(assign.terms.bodyBytes) ? body : [])
            jobs.append(
                Job(
                    stream: stream, task: assign.task, attempt: attempt,
                    bodyLeft: Int(assign.terms.bodyBytes) - body.count, body: body,
                    limitBytes: assign.creditLimitBytes,
                    framesLeft: setting.random.pick(0...setting.options.answerFramesMax)))
        case .body:
            guard let index else { return }
            jobs[index].bodyLeft -= frame.payload.count
        case .credit:
            guard let index, let credit = try? CreditFrame(decoding: frame.payload.span)
            else { return }
            jobs[index].limitBytes = max(jobs[index].limitBytes, credit.limitBytes)
        case .cancel:
            guard let index else { return }
            jobs[index].isCancelled = true
        default: break
        }
    }

    /// One step of a job; true when its END is out.
    private func step(_ index: Int) -> Bool {
        let job = jobs[index]
        let left = job.limitBytes - job.sentBytes
        if job.isCancelled {
            guard isHealed else { return false }
            end(job, .cancelled)
            return true
        }
        guard job.bodyLeft == 0 else { return false }
        guard job.framesLeft > 0 else {
            setting.oracle.ended(job.task, job.attempt, .completed, tokens: job.tokens)
            end(job, .completed)
            return true
        }
        let byteCount = min(
            setting.random.pick(1...setting.options.frameBytesMax), WireLimits.payloadBytesMax,
            max(0, Int(min(left, 1 << 20)) - FrameHeader.byteCount))
        guard byteCount > 0 else { return false }
        let tokens = setting.random.pick(0...2)
        let payload = setting.oracle.produce(
            job.task, job.attempt, byteCount: byteCount, tokens: tokens)
        FrameHeader(
            kind: .tokens, stream: job.stream, payloadBytes: byteCount, tokens: UInt16(tokens)
        ).encode(into: &control)
        control += payload
        jobs[index].sentBytes += UInt64(byteCount + FrameHeader.byteCount)
        jobs[index].tokens += UInt32(tokens)
        jobs[index].framesLeft -= 1
        return false
    }

    private func end(_ job: Job, _ code: WireCode) {
        EndFrame(code: code, usage: Usage(inputTokens: 3, outputTokens: job.tokens))
            .encode(stream: job.stream, into: &control)
    }
}
