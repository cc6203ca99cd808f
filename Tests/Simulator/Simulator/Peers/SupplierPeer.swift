import SluiceSession
import SluiceWire

/// A supplier over the SDK's own session, with a scripted engine.
final class SupplierPeer: Peer {
    private struct Job {
        let handle: StreamHandle
        let task: TaskID
        let attempt: Int
        var framesLeft: Int
        var nextUs: UInt64
        var isWaiting = false
        var endCode: WireCode
        /// After how many frames the process dies; nil = it does not.
        var crashAfterFrames: Int?
        var saysStarted: Bool
        var tokens: UInt32 = 0
    }

    let identity: UInt64
    let isHonest = true
    private var setting: PeerSetting
    private var session: SupplierSession
    private var jobs: [Job] = []
    private var isConnected = false
    private var isWelcomed = false
    private var isHealed = false
    private var hasCrashed = false
    private var offers: [(id: UInt32, model: Int)] = []
    private var nextOffer: UInt32 = 1
    private var nextChangeUs: UInt64 = .max
    /// Most jobs that ran at once since the probe began.
    private(set) var peakJobs = 0
    private(set) var isProbing = false
    private var probeTaskUs: UInt64 = 0
    private var inputTokens: UInt32 = 7

    init(identity: UInt64, setting: PeerSetting) {
        self.identity = identity
        self.setting = setting
        session = Self.session(setting.secret, bodyCreditBytes: 65_536)
    }

    private static func session(_ secret: [UInt8], bodyCreditBytes: UInt64) -> SupplierSession {
        SupplierSession(
            Handshake(
                role: .supplier, credentialKind: .supplierToken, credential: secret, agent: "sim",
                bodyCreditBytes: bodyCreditBytes))
    }

    var isOver: Bool { session.isOver || hasCrashed }

    /// Slots that its standing offers grant.
    var grantedSlots: Int { isWelcomed ? offers.count * setting.options.slotsPerOffer : 0 }

    /// Those of one model.
    func grantedSlots(ofModel model: Int) -> Int {
        isWelcomed ? offers.count { $0.model == model } * setting.options.slotsPerOffer : 0
    }

    var dueUs: UInt64 {
        guard isConnected, !isOver else { return .max }
        var due = nextChangeUs
        for job in jobs where !job.isWaiting { due = min(due, job.nextUs) }
        return due
    }

    func connected(nowUs: UInt64) {
        let credit = setting.random.pick([3_000, 16_384, 65_536, 1_000_000])
        session = Self.session(setting.secret, bodyCreditBytes: UInt64(credit))
        session.start(nowMs: nowUs / 1_000)
        isConnected = true
        isWelcomed = false
        hasCrashed = false
        jobs = []
        offers = []
        nextOffer = 1
    }

    func receive(_ bytes: [UInt8], nowUs: UInt64) {
        session.receive(bytes, nowMs: nowUs / 1_000)
        takeEvents(nowUs)
    }

    func output(nowUs: UInt64) -> [UInt8] {
        hasCrashed ? [] : session.takeOutput(targetBytes: 16_384, nowMs: nowUs / 1_000)
    }

    func wake(nowUs: UInt64) {
        session.tick(nowMs: nowUs / 1_000)
        if nextChangeUs <= nowUs { changeSupply(nowUs) }
        var index = 0
        while index < jobs.count {
            if !jobs[index].isWaiting, jobs[index].nextUs <= nowUs, step(index, nowUs) {
                jobs.remove(at: index)
            } else {
                index += 1
            }
            if hasCrashed { break }
        }
        takeEvents(nowUs)
    }

    func disconnected(nowUs: UInt64) {
        session.transportClosed()
        takeEvents(nowUs)
        isConnected = false
        isWelcomed = false
        jobs = []
    }

    func heal(nowUs: UInt64) {
        isHealed = true
        nextChangeUs = .max
        for index in jobs.indices { jobs[index].crashAfterFrames = nil }
        guard isWelcomed else { return }
        for model in 0..<setting.options.models where !offers.contains(where: { $0.model == model })
        {
            offer(model)
        }
        for offer in offers {
            session.grant(OfferID(offer.id), slots: UInt32(setting.options.slotsPerOffer))
        }
    }

    /// From now on every task takes so long, and has read so much.
    func probe(taskUs: UInt64, inputTokens: UInt32) {
        isProbing = true
        probeTaskUs = taskUs
        self.inputTokens = inputTokens
        peakJobs = 0
    }

    // MARK: Supply

    private func offer(_ model: Int) {
        let id = nextOffer
        nextOffer += 1
        offers.append((id, model))
        var frame = OfferFrame(offer: OfferID(id), model: simulatedModel(model))
        if setting.options.prepaid {
            let price = Int64(identity % 3) * 1_000_000
            frame.prices.input = MicroUSD(price)
            frame.prices.output = MicroUSD(price * 2)
            frame.prices.reasoning = MicroUSD(price * 2)
        }
        session.offer(frame)
        session.grant(OfferID(id), slots: UInt32(setting.options.slotsPerOffer))
    }

    private func changeSupply(_ nowUs: UInt64) {
        nextChangeUs = nowUs + UInt64(setting.random.pick(100_000...4_000_000))
        guard isWelcomed, !isHealed else { return }
        if setting.random.chance(30) { session.ask(question: nextOffer) }
        if offers.isEmpty || (setting.random.chance(40) && offers.count < 8) {
            offer(setting.random.pick(0...setting.options.models - 1))
        } else if setting.random.chance(50) {
            session.withdraw(OfferID(offers.removeFirst().id))
        } else {
            let slots = UInt32(setting.random.pick(0...setting.options.slotsPerOffer))
            session.grant(OfferID(setting.random.pick(offers).id), slots: slots)
        }
    }

    // MARK: Engine

    /// One step of a job; true when it is over.
    private func step(_ index: Int, _ nowUs: UInt64) -> Bool {
        let options = setting.options
        let oracle = setting.oracle
        if let left = jobs[index].crashAfterFrames, left <= 0 {
            oracle.note("supplier \(identity) crashes")
            oracle.count("supplier crash")
            hasCrashed = true
            return true
        }
        if jobs[index].saysStarted {
            jobs[index].saysStarted = false
            _ = session.started(jobs[index].handle, inputTokens: inputTokens, cachedTokens: 2)
        }
        guard jobs[index].framesLeft > 0 else {
            let job = jobs[index]
            oracle.ended(job.task, job.attempt, job.endCode, tokens: job.tokens)
            session.end(job.handle, code: job.endCode)
            return true
        }
        jobs[index].framesLeft -= 1
        if let left = jobs[index].crashAfterFrames { jobs[index].crashAfterFrames = left - 1 }
        let byteCount = setting.random.pick(1...(isProbing ? 8 : options.frameBytesMax))
        let drawn = setting.random.pick(0...3)
        let tokens = isProbing ? 1 : drawn
        let payload = oracle.produce(
            jobs[index].task, jobs[index].attempt, byteCount: byteCount, tokens: tokens)
        let flags: FrameFlags = setting.random.chance(20) ? .reasoning : []
        switch session.write(payload, tokens: tokens, flags: flags, to: jobs[index].handle) {
        case .proceed: jobs[index].tokens += UInt32(tokens)
        case .wait:
            jobs[index].tokens += UInt32(tokens)
            jobs[index].isWaiting = true
        case .cancelled(let code):
            session.end(jobs[index].handle, code: code)
            return true
        case .over:
            return true
        }
        jobs[index].nextUs = nowUs + UInt64(setting.random.pick([0, 0, 1_000, 50_000]))
        return false
    }

    private func takeEvents(_ nowUs: UInt64) {
        for event in session.takeEvents() {
            switch event {
            case .connected:
                isWelcomed = true
                for model in 0..<setting.options.models { offer(model) }
                if setting.options.supplyChanges, !isHealed { nextChangeUs = nowUs + 500_000 }
            case .assigned(let handle, let assignment): assigned(handle, assignment, nowUs)
            case .writable(let handle):
                guard let index = jobs.firstIndex(where: { $0.handle == handle }) else { continue }
                jobs[index].isWaiting = false
                jobs[index].nextUs = nowUs
            case .cancelled(let handle, let code):
                guard let index = jobs.firstIndex(where: { $0.handle == handle }) else { continue }
                setting.oracle.count("supplier cancelled")
                session.end(handle, code: code)
                jobs.remove(at: index)
            case .overdue, .abandoned, .finished, .reported: break
            case .draining: break
            case .lost(let loss):
                isWelcomed = false
                jobs = []
                setting.oracle.note("supplier \(identity) lost: \(loss)")
                if case .peerViolation(let code) = loss {
                    setting.oracle.fail("supplier \(identity): the broker broke a rule: \(code)")
                }
            }
        }
    }

    private func assigned(_ handle: StreamHandle, _ assignment: Assignment, _ nowUs: UInt64) {
        let options = setting.options
        let attempt = setting.oracle.assigned(assignment.task, body: assignment.body)
        setting.oracle.note("supplier \(identity) has \(assignment.task)")
        var job = Job(
            handle: handle, task: assignment.task, attempt: attempt,
            framesLeft: setting.random.pick(0...options.answerFramesMax), nextUs: nowUs,
            endCode: .completed, saysStarted: setting.random.chance(70))
        if isProbing {
            // All alike, so that taking turns is taking as many.
            job.saysStarted = true
            job.nextUs = nowUs + probeTaskUs
            job.framesLeft = 1
        }
        if !isHealed {
            if options.earlyEnds, setting.random.chance(30) {
                job.endCode = setting.random.pick(
                    [
                        .declined, .upstreamUnavailable, .upstreamRefused, .supplierFailed,
                        .rateLimited,
                    ])
                if setting.random.chance(60) { job.framesLeft = 0 }
            }
            if options.supplierCrashes, setting.random.chance(10) {
                job.crashAfterFrames = setting.random.pick(0...job.framesLeft)
            }
            if setting.random.chance(10) {
                job.nextUs += UInt64(setting.random.pick(0...5_000_000))
            }
        }
        jobs.append(job)
        peakJobs = max(peakJobs, jobs.count)
    }
}
