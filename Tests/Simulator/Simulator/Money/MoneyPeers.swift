import SluiceSession
import SluiceWire

/// A client that pays: submits at random, reads at once.
final class MoneyClient {
    let account: UInt64
    let secret: [UInt8]
    private var session: ClientSession
    private(set) var open: [StreamHandle] = []
    private(set) var isWelcomed = false
    private(set) var ends: [WireCode] = []
    private(set) var failure: String?
    /// By stream: the most that its task may cost.
    private var budgets: [UInt64: MicroUSD] = [:]
    var place: (node: Int, connection: UInt32)?

    init(account: UInt64, secret: [UInt8]) {
        self.account = account
        self.secret = secret
        session = Self.session(secret)
    }

    private static func session(_ secret: [UInt8]) -> ClientSession {
        ClientSession(
            Handshake(role: .client, credentialKind: .apiKey, credential: secret, agent: "sim"))
    }

    func connected(nowMs: UInt64) {
        session = Self.session(secret)
        session.start(nowMs: nowMs)
        isWelcomed = false
        open = []
        budgets = [:]
    }

    func disconnected() {
        session.transportClosed()
        takeEvents()
        place = nil
        isWelcomed = false
        open = []
    }

    func submit(_ random: inout RandomStream, nowMs: UInt64) {
        var terms = TaskTerms(operation: .chat, encoding: .text, bodyBytes: 0)
        terms.maxOutputTokens = UInt32(random.pick([0, 0, 10, 300, 5_000, 20_000]))
        terms.maxInputTokens = UInt32(random.pick([0, 5, 500]))
        var submission = Submission(
            terms: terms, model: simulatedModel(0),
            body: [UInt8](repeating: 7, count: random.pick(0...300)), windowBytes: 262_144)
        submission.expiresMs = nowMs + UInt64(random.pick([50, 3_000, 60_000]))
        if random.chance(20) { submission.budget = MicroUSD(Int64(random.pick(1...9_000))) }
        if random.chance(15) { submission.idempotencyKey = [UInt8(random.pick(0...20))] }
        if random.chance(10) {
            submission.filters.outputCeiling = UInt64(random.pick(1...3_000_000))
        }
        guard let handle = try? session.submit(submission) else { return }
        open.append(handle)
        budgets[handle.serial] = submission.budget
    }

    func cancel(_ random: inout RandomStream) {
        guard !open.isEmpty else { return }
        session.cancel(random.pick(open))
        takeEvents()
    }

    func output(nowMs: UInt64) -> [UInt8] {
        session.takeOutput(targetBytes: 16_384, nowMs: nowMs)
    }

    func receive(_ bytes: [UInt8], nowMs: UInt64) {
        session.receive(bytes, nowMs: nowMs)
        takeEvents()
    }

    func tick(nowMs: UInt64) {
        session.tick(nowMs: nowMs)
        takeEvents()
    }

    private func takeEvents() {
        for event in session.takeEvents() {
            switch event {
            case .connected: isWelcomed = true
            case .chunk(let handle, let payload, _, _):
                session.consumed(UInt64(FrameHeader.byteCount + payload.count), of: handle)
            case .ended(let handle, _, let frame):
                open.removeAll { $0 == handle }
                ends.append(frame.code)
                let budget = budgets.removeValue(forKey: handle.serial) ?? 0
                if budget > 0, frame.code != .duplicate, frame.cost > budget {
                    failure = "a task cost \(frame.cost) with a budget of \(budget)"
                }
            case .abandoned(let handle, _, _, _): open.removeAll { $0 == handle }
            case .lost(.peerViolation(let code)): failure = "the broker broke a rule: \(code)"
            case .accepted, .streamFree, .draining, .lost: break
            }
        }
    }
}

/// A supplier that earns: answers with as many tokens as bytes, claims too much, fails now and
/// then.
final class MoneySupplier {
    let node: Int
    let secret: [UInt8]
    /// Of its next connection.
    var price: Int64
    private var session: SupplierSession
    private var jobs: [(handle: StreamHandle, sent: Int, isWaiting: Bool)] = []
    private(set) var isWelcomed = false
    var connection: UInt32?

    init(node: Int, secret: [UInt8], price: Int64) {
        self.node = node
        self.secret = secret
        self.price = price
        session = Self.session(secret)
    }

    private static func session(_ secret: [UInt8]) -> SupplierSession {
        SupplierSession(
            Handshake(
                role: .supplier, credentialKind: .supplierToken, credential: secret, agent: "sim",
                bodyCreditBytes: 65_536))
    }

    var isIdle: Bool { jobs.isEmpty }

    func connected(nowMs: UInt64) {
        session = Self.session(secret)
        session.start(nowMs: nowMs)
        jobs = []
        isWelcomed = false
    }

    func disconnected() {
        session.transportClosed()
        _ = session.takeEvents()
        connection = nil
        jobs = []
        isWelcomed = false
    }

    /// One of its tasks goes on: some tokens, or its end.
    func step(_ random: inout RandomStream, endsAll: Bool) {
        guard !jobs.isEmpty else { return }
        let index = random.pick(0...jobs.count - 1)
        let job = jobs[index]
        if endsAll || random.chance(25) {
            let code: WireCode =
                endsAll || random.chance(80)
                ? .completed : random.pick([.upstreamUnavailable, .upstreamRefused, .declined])
            let claimed = UInt32(random.chance(70) ? job.sent : random.pick(0...100_000))
            session.end(
                job.handle, code: code,
                usage: Usage(inputTokens: UInt32(random.pick(0...2_000)), outputTokens: claimed))
            jobs.remove(at: index)
            return
        }
        guard !job.isWaiting else { return }
        if job.sent == 0 {
            _ = session.started(
                job.handle, inputTokens: UInt32(random.pick(3...900)), cachedTokens: 3)
        }
        let tokens = random.pick([0, 1, 9, 700, 2_500])
        let bytes = [UInt8](repeating: 9, count: max(tokens, random.pick(0...200)))
        switch session.write(bytes, tokens: tokens, flags: [], to: job.handle) {
        case .proceed: jobs[index].sent += tokens
        case .wait:
            jobs[index].sent += tokens
            jobs[index].isWaiting = true
        case .cancelled, .over: jobs.remove(at: index)
        }
    }

    func output(nowMs: UInt64) -> [UInt8] {
        session.takeOutput(targetBytes: 16_384, nowMs: nowMs)
    }

    func tick(nowMs: UInt64) {
        session.tick(nowMs: nowMs)
        takeEvents()
    }

    func receive(_ bytes: [UInt8], nowMs: UInt64) {
        session.receive(bytes, nowMs: nowMs)
        takeEvents()
    }

    private func takeEvents() {
        for event in session.takeEvents() {
            switch event {
            case .connected:
                isWelcomed = true
                var offer = OfferFrame(offer: OfferID(1), model: simulatedModel(0))
                offer.prices.output = MicroUSD(price)
                offer.prices.reasoning = MicroUSD(price)
                offer.prices.input = MicroUSD(price / 4)
                offer.prices.cached = MicroUSD(price / 8)
                session.offer(offer)
                session.grant(OfferID(1), slots: 3)
            case .assigned(let handle, _): jobs.append((handle, 0, false))
            case .writable(let handle):
                if let index = jobs.firstIndex(where: { $0.handle == handle }) {
                    jobs[index].isWaiting = false
                }
            case .cancelled(let handle, let code):
                session.end(handle, code: code)
                jobs.removeAll { $0.handle == handle }
            case .lost: jobs = []
            case .overdue, .abandoned, .finished, .draining, .reported: break
            }
        }
    }
}
