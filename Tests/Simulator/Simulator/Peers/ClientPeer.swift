import SluiceSession
import SluiceWire

/// A client over the SDK's own session: submits, reads at its own pace, cancels, and checks every
/// byte that it is handed.
final class ClientPeer: Peer {
    private struct Work {
        let handle: StreamHandle
        let serial: UInt64
        var task: TaskID?
        /// Attempts whose answer this may be.
        var candidates: [Int]?
        var readBytes = 0
        var frameBytes: UInt64 = 0
        var readTokens: UInt64 = 0
        var cancelAtUs: UInt64 = .max
        var isCancelled = false
        var readDelayUs: UInt64 = 0
        var isDeaf = false
        /// Bytes read and not yet given back, oldest first.
        var unread: [(dueUs: UInt64, byteCount: UInt64)] = []
    }

    let identity: UInt64
    let isHonest = true
    private let account: UInt64
    private var setting: PeerSetting
    private var session: ClientSession
    private var works: [Work] = []
    private var uploads = SlowUpload()
    /// Held frames whose pause is over, until the link takes them.
    private var dueUploads: [UInt8] = []
    private var isConnected = false
    private var isWelcomed = false
    private var isDraining = false
    private var leftToSubmit: Int
    private var nextSubmitUs: UInt64 = 0
    private var nextSerial: UInt64 = 0
    private var isHealed = false
    /// Ends seen while probing, by code.
    private(set) var probeEnds: [WireCode] = []
    private(set) var isProbing = false

    init(identity: UInt64, account: UInt64, setting: PeerSetting) {
        self.identity = identity
        self.account = account
        self.setting = setting
        leftToSubmit = setting.options.tasksPerClient
        session = Self.session(setting.secret)
    }

    private static func session(_ secret: [UInt8]) -> ClientSession {
        ClientSession(
            Handshake(role: .client, credentialKind: .apiKey, credential: secret, agent: "sim"))
    }

    var isOver: Bool { session.isOver }
    var openTasks: Int { works.count }
    /// Nothing left to submit and nothing open.
    var isIdle: Bool { leftToSubmit == 0 && works.isEmpty }

    var dueUs: UInt64 {
        guard isConnected, !isOver else { return .max }
        var due: UInt64 = isWelcomed && leftToSubmit > 0 && !isDraining ? nextSubmitUs : .max
        due = min(due, uploads.dueUs)
        for work in works {
            due = min(due, work.cancelAtUs, work.unread.first?.dueUs ?? .max)
        }
        return due
    }

    func connected(nowUs: UInt64) {
        session = Self.session(setting.secret)
        session.start(nowMs: nowUs / 1_000)
        uploads.start()
        dueUploads = []
        isConnected = true
        isWelcomed = false
        isDraining = false
        nextSubmitUs = nowUs
    }

    func receive(_ bytes: [UInt8], nowUs: UInt64) {
        session.receive(bytes, nowMs: nowUs / 1_000)
        takeEvents(nowUs)
    }

    func output(nowUs: UInt64) -> [UInt8] {
        guard setting.options.slowUploads else {
            return session.takeOutput(targetBytes: 16_384, nowMs: nowUs / 1_000)
        }
        var passed = dueUploads
        dueUploads = []
        while passed.isEmpty {
            let bytes = session.takeOutput(targetBytes: 16_384, nowMs: nowUs / 1_000)
            if bytes.isEmpty { break }
            passed += uploads.pass(bytes, nowUs: nowUs, &setting.random)
        }
        return passed
    }

    func wake(nowUs: UInt64) {
        session.tick(nowMs: nowUs / 1_000)
        dueUploads += uploads.takeDue(nowUs: nowUs)
        while isWelcomed, !isDraining, leftToSubmit > 0, nextSubmitUs <= nowUs {
            guard submit(nowUs) else { break }
        }
        for index in works.indices {
            if works[index].cancelAtUs <= nowUs { cancel(index) }
            giveBack(index, nowUs)
        }
        takeEvents(nowUs)
    }

    func disconnected(nowUs: UInt64) {
        session.transportClosed()
        takeEvents(nowUs)
        isConnected = false
        isWelcomed = false
    }

    func heal(nowUs: UInt64) {
        isHealed = true
        uploads.isHealed = true
        for index in works.indices {
            works[index].isDeaf = false
            works[index].readDelayUs = 0
            for place in works[index].unread.indices { works[index].unread[place].dueUs = nowUs }
        }
    }

    /// Its next task is due now.
    func hurry(nowUs: UInt64) {
        nextSubmitUs = min(nextSubmitUs, nowUs)
    }

    /// Submits `count` tasks that must all complete.
    func probe(_ count: Int, nowUs: UInt64) {
        isProbing = true
        probeEnds = []
        leftToSubmit = count
        nextSubmitUs = nowUs
    }

    // MARK: Doing

    private func submit(_ nowUs: UInt64) -> Bool {
        let options = setting.options
        nextSerial += 1
        let serial = identity << 32 | nextSerial
        let bodyBytes = isProbing ? 100 : setting.random.pick(0...options.bodyBytesMax)
        let model = setting.random.pick(0...options.models - 1)
        var submission = Submission(
            terms: TaskTerms(operation: .chat, encoding: .text, bodyBytes: 0),
            // A probe is for all models alike.
            model: simulatedModel(isProbing ? Int(nextSerial) % options.models : model),
            body: MarkedContent.body(
                account: account, serial: serial, count: bodyBytes < 16 ? 0 : bodyBytes),
            windowBytes: UInt64(isProbing ? 65_536 : options.windowBytes))
        if options.priorities, !isProbing {
            submission.terms.priority = UInt8(nextSerial % 3)
        }
        submission.reserveBytes = UInt32(setting.random.pick([0, 4_096, 5_000, 65_536]))
        if !isProbing, options.shortDeadlines, setting.random.chance(40) {
            submission.expiresMs = nowUs / 1_000 + UInt64(setting.random.pick(1...3_000))
        } else {
            submission.expiresMs = nowUs / 1_000 + 90_000
        }
        if !isProbing, !options.isCalm, setting.random.chance(3) {
            submission.model = simulatedModel(99)
        }
        if !isProbing, !options.isCalm, setting.random.chance(3) {
            submission.filters.region = ShortText("nowhere")
        }
        do throws(ClientSession.SubmitRefusal) {
            let handle = try session.submit(submission)
            var work = Work(handle: handle, serial: serial)
            if !isHealed {
                if options.cancels, setting.random.chance(30) {
                    work.cancelAtUs = nowUs + UInt64(setting.random.pick(0...3_000_000))
                }
                if options.slowReaders, setting.random.chance(40) {
                    work.readDelayUs = UInt64(setting.random.pick(1...4_000_000))
                }
                if options.deafReaders, setting.random.chance(30) { work.isDeaf = true }
            }
            works.append(work)
        } catch {
            if error == .noFreeStream { nextSubmitUs = nowUs + 50_000 }
            if error == .bodyTooLarge { setting.oracle.fail("body refused by the session") }
            return false
        }
        leftToSubmit -= 1
        let pauseUs = isProbing || options.bursts ? 0 : setting.random.pick(0...1_500_000)
        nextSubmitUs = nowUs + UInt64(pauseUs)
        return true
    }

    private func cancel(_ index: Int) {
        works[index].cancelAtUs = .max
        works[index].isCancelled = true
        session.cancel(works[index].handle)
    }

    private func giveBack(_ index: Int, _ nowUs: UInt64) {
        while let first = works[index].unread.first, first.dueUs <= nowUs {
            works[index].unread.removeFirst()
            session.consumed(first.byteCount, of: works[index].handle)
        }
    }

    // MARK: Seeing

    private func takeEvents(_ nowUs: UInt64) {
        for event in session.takeEvents() {
            switch event {
            case .connected: isWelcomed = true
            case .streamFree: nextSubmitUs = min(nextSubmitUs, nowUs)
            case .draining: isDraining = true
            case .accepted(let handle, let task, _): accepted(handle, task)
            case .chunk(let handle, let payload, let tokens, let flags):
                chunk(handle, payload, tokens, flags, nowUs)
            case .ended(let handle, let task, let frame): ended(handle, task, frame)
            case .abandoned(let handle, let task, _, _):
                guard let index = works.firstIndex(where: { $0.handle == handle }) else {
                    setting.oracle.fail("[E1] abandoned after its end")
                    continue
                }
                setting.oracle.note("client \(identity) abandons \(task?.description ?? "-")")
                works.remove(at: index)
            case .lost(let loss):
                isWelcomed = false
                setting.oracle.note("client \(identity) lost: \(loss)")
                if case .peerViolation(let code) = loss {
                    setting.oracle.fail("client \(identity): the broker broke a rule: \(code)")
                }
            }
        }
    }

    private func accepted(_ handle: StreamHandle, _ task: TaskID) {
        guard let index = works.firstIndex(where: { $0.handle == handle }) else {
            return setting.oracle.fail("QUEUED for a task that is over")
        }
        works[index].task = task
        let known = setting.oracle.tasks[task]?.account
        setting.oracle.check(known == account, "[I7] \(task) accepted for another account")
        setting.oracle.note("client \(identity) accepted \(task)")
    }

    private func chunk(
        _ handle: StreamHandle, _ payload: [UInt8], _ tokens: UInt16, _ flags: FrameFlags,
        _ nowUs: UInt64
    ) {
        guard let index = works.firstIndex(where: { $0.handle == handle }),
            let task = works[index].task
        else { return setting.oracle.fail("TOKENS for a task that is over") }
        let oracle = setting.oracle
        let candidates =
            works[index].candidates ?? Array(0..<oracle.attemptCount(task))
        let matching = candidates.filter {
            oracle.matches(task, attempt: $0, offset: works[index].readBytes, payload: payload)
        }
        oracle.check(!matching.isEmpty, "[I6] \(task): bytes that no supplier sent for it")
        works[index].candidates = matching
        works[index].readBytes += payload.count
        works[index].readTokens += UInt64(tokens)
        let cost = UInt64(FrameHeader.byteCount + payload.count)
        works[index].frameBytes += cost
        guard !works[index].isDeaf else { return }
        works[index].unread.append((nowUs + works[index].readDelayUs, cost))
        giveBack(index, nowUs)
    }

    private func ended(_ handle: StreamHandle, _ task: TaskID?, _ frame: EndFrame) {
        guard let index = works.firstIndex(where: { $0.handle == handle }) else {
            return setting.oracle.fail("[E1] a second END")
        }
        let work = works.remove(at: index)
        let oracle = setting.oracle
        if uploads.ended(handle.stream.rawValue) { oracle.count("slow upload \(frame.code)") }
        oracle.note(
            "client \(identity) end \(frame.code) of \(task?.description ?? "-"), "
                + "read \(work.readBytes)")
        if isProbing { probeEnds.append(frame.code) }
        if setting.options.isCalm {
            oracle.check(frame.code == .completed, "calm, but \(frame.code)")
        }
        guard let task else { return }
        if !work.isCancelled {
            oracle.check(
                UInt64(frame.usage.outputTokens) <= work.readTokens,
                "[E4] \(task) billed \(frame.usage.outputTokens), read \(work.readTokens)")
            oracle.check(
                Int(frame.usage.outputTokens) <= work.readBytes, "[E4] more tokens than bytes")
        }
        guard frame.code == .completed else { return }
        guard
            let attempt = work.candidates?.last
                ?? (oracle.attemptCount(task) > 0 ? oracle.attemptCount(task) - 1 : nil),
            let state = oracle.tasks[task]?.attempts[attempt]
        else { return oracle.fail("\(task) completed by nobody") }
        guard !work.isCancelled else { return }
        if let claimed = state.claimedTokens {
            oracle.check(
                state.endCode == .completed,
                "\(task) completed, supplier said \(String(describing: state.endCode))")
            oracle.check(
                work.readBytes == state.sentBytes,
                "[I6] \(task) completed with \(work.readBytes) of \(state.sentBytes) bytes")
            let expected = min(UInt64(claimed), work.readTokens, UInt64(work.readBytes))
            oracle.check(
                UInt64(frame.usage.outputTokens) == expected,
                "[E4] \(task) billed \(frame.usage.outputTokens), not \(expected)")
        }
    }
}
