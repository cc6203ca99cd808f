import SluiceBrokerCore
import SluiceInMemory
import SluiceRecordFormat
import SluiceWire

/// Bytes as a script for one client, one supplier and the operator of a broker in memory: raw
/// bytes, frames with a right length, plausible frames, entries of the directory, time, hang-ups.
/// Nothing may trap, and what the broker holds stays within its limits.
package struct CoreFuzz: ~Copyable {
    private static let wallUs: UInt64 = 1_790_000_000_000_000
    private static let keys: [[UInt8]] = [Array("client".utf8), Array("supplier".utf8)]

    private let limits: BrokerLimits
    private var broker: InMemoryBroker
    private var connections: [UInt32?] = [nil, nil]
    private var nowUs: UInt64 = 1_000_000
    private var script: ArraySlice<UInt8>
    /// Of the supplier's next offer.
    private var prices = TokenPrices()

    package static func run(_ bytes: [UInt8]) {
        var fuzz = CoreFuzz(bytes)
        fuzz.run()
    }

    private init(_ bytes: [UInt8]) {
        script = bytes[...]
        var limits = BrokerLimits()
        limits.connections = 4
        limits.openTasks = 64
        limits.bodyArenaBytes = 128 * 1_024
        limits.answerArenaBytes = 256 * 1_024
        limits.landingArenaBytes = 64 * 1_024
        limits.maxStreams = 8
        limits.controlBytesMax = 4_096
        limits.queuedTasksPerModel = 4
        self.limits = limits
        broker = InMemoryBroker(
            limits: limits, instance: InMemoryInstance(id: 1, capacity: 4_096),
            credentials: [
                DirectoryCredential(
                    digest: InMemoryBroker.digest(of: Self.keys[0]), account: 1, role: .client),
                DirectoryCredential(
                    digest: InMemoryBroker.digest(of: Self.keys[1]), account: 2, role: .supplier,
                    supplier: 1),
            ], seed: 1, nowUs: nowUs, wallUs: Self.wallUs)
        connect(0)
        connect(1)
    }

    private mutating func run() {
        while let step = next() {
            let side = Int(step & 1)
            switch step >> 1 & 7 {
            case 0: say(side, take(Int(next() ?? 0)))
            case 1: frame(side)
            case 2: nowUs += UInt64(next() ?? 0) * 40_000
            case 3: hear(side)
            case 4: side == 0 ? submit() : tokens()
            case 5: side == 0 ? body() : end()
            case 6 where step & 0xF0 == 0xF0:
                if let connection = connections[side] {
                    broker.disconnected(connection, nowUs: nowUs)
                }
                connections[side] = nil
            case 7: side == 0 ? directory() : ask()
            default: break
            }
            broker.turn(nowUs: nowUs, wallUs: Self.wallUs + nowUs)
            check()
            for side in 0...1 where connections[side].map({ !broker.isOpen($0) }) ?? true {
                connect(side)
            }
        }
    }

    private func check() {
        let held = broker.heldBytes
        precondition(
            held.bodies <= limits.bodyArenaBytes + limits.landingArenaBytes,
            "bodies beyond their arena")
        precondition(held.answers <= limits.answerArenaBytes, "answers beyond their arena")
        for connection in connections {
            guard let connection, broker.isOpen(connection) else { continue }
            let held = broker.heldBytes(connection)
            precondition(held.kept < WireLimits.frameBytesMax, "more kept than a frame")
            precondition(
                held.control <= limits.controlBytesMax + 2_048, "control beyond its limit")
        }
    }

    // MARK: Peers

    private mutating func connect(_ side: Int) {
        guard let connection = broker.connect(nowUs: nowUs) else { return }
        connections[side] = connection
        var bytes: [UInt8] = []
        HelloFrame.encode(
            role: side == 0 ? .client : .supplier, kind: side == 0 ? .apiKey : .supplierToken,
            credential: Self.keys[side], bodyCreditBytes: side == 0 ? 0 : 5_000, into: &bytes)
        say(side, bytes)
        guard side == 1, let model = ModelName("m") else { return }
        bytes = []
        var offer = OfferFrame(offer: OfferID(1), model: model)
        offer.prices = prices
        offer.encode(into: &bytes)
        GrantFrame(offer: OfferID(1), slots: 3).encode(into: &bytes)
        say(side, bytes)
    }

    private mutating func say(_ side: Int, _ bytes: [UInt8]) {
        guard let connection = connections[side] else { return }
        broker.receive(connection, bytes, nowUs: nowUs)
    }

    private mutating func hear(_ side: Int) {
        guard let connection = connections[side] else { return }
        _ = broker.take(connection, atMost: 1 + Int(next() ?? 0) * 300)
    }

    // MARK: The operator

    /// An entry of the directory, with numbers from the ends of their ranges too.
    private mutating func directory() {
        guard let choice = next(), let model = ModelName("m") else { return }
        let account = UInt64(choice >> 3 & 1) + 1
        let fromMs = choice & 0x80 == 0 ? nowMs &- number() : nowMs &+ number()
        let entry: DirectoryEntry
        switch choice & 7 {
        case 0...2:
            entry = .lease(
                DirectoryLease(
                    account: account, instance: choice & 0x10 == 0 ? 1 : 2, granted: amount(),
                    recalled: amount(), expiresAtMs: fromMs, isDry: choice & 0x20 != 0,
                    isClosed: choice & 0x40 != 0,
                    share: 1 + UInt32(number() % UInt64(DirectoryLease.shareMax))))
        case 3, 4:
            entry = .account(
                DirectoryAccount(
                    account: account, isSuspended: choice & 0x60 == 0x60,
                    isPrepaid: choice & 0x10 == 0,
                    concurrentTasksMax: UInt32(truncatingIfNeeded: number()),
                    requestsPerMinuteMax: UInt32(truncatingIfNeeded: number()),
                    tokensPerMinuteMax: number()))
        case 5:
            let prices = PriceList(number(), number())
            entry = .price(
                DirectoryPrice(
                    model: model, prices: prices, effectiveFromMs: fromMs,
                    isRemoved: choice & 0x40 != 0))
        case 6:
            let most = UInt64(DirectoryFee.basisPointsMax) + 1
            entry = .fee(
                DirectoryFee(basisPoints: UInt32(number() % most), effectiveFromMs: fromMs))
        default:
            entry = .credential(
                DirectoryCredential(
                    digest: InMemoryBroker.digest(of: Self.keys[Int(account) - 1]),
                    account: account, role: account == 1 ? .client : .supplier,
                    isRevoked: choice & 0x30 == 0x30, expiresAtMs: fromMs,
                    concurrentTasksMax: UInt32(truncatingIfNeeded: number()),
                    requestsPerMinuteMax: UInt32(truncatingIfNeeded: number()),
                    supplier: account == 1 ? 0 : 1, needsAccount: choice & 0x40 != 0,
                    tokensPerMinuteMax: number()))
        }
        broker.directoryChanged(entry, wallUs: Self.wallUs + nowUs)
    }

    /// What the supplier asks from its next connection on.
    private mutating func ask() {
        prices = TokenPrices(input: price(), cached: price(), output: price(), reasoning: price())
    }

    private mutating func price() -> MicroUSD {
        MicroUSD(Int64(number() & UInt64(TokenPrices.amountMax)))
    }

    private var nowMs: UInt64 { (Self.wallUs + nowUs) / 1_000 }

    // MARK: Script

    /// A small number, or one beside a power of two.
    private mutating func number() -> UInt64 {
        guard let byte = next() else { return 0 }
        guard byte >= 64 else { return UInt64(byte) * 97 }
        let power = UInt64(1) << UInt64(byte & 63)
        return byte & 0x80 == 0 ? power : power &- 1 &+ (byte & 0x40 == 0 ? 0 : power)
    }

    private mutating func amount() -> MicroUSD { MicroUSD(Int64(number() & UInt64(Int64.max))) }

    private mutating func next() -> UInt8? { script.popFirst() }

    private mutating func take(_ count: Int) -> [UInt8] {
        defer { script = script.dropFirst(count) }
        return Array(script.prefix(count))
    }

    /// A header whose length is right, then what the script has for it.
    private mutating func frame(_ side: Int) {
        let header = take(5)
        guard header.count == 5 else { return }
        let payload = take(Int(header[4]))
        var bytes: [UInt8] = []
        bytes.appendLittleEndian(UInt32(payload.count))
        bytes += [header[0] & 0x3F, header[1], header[2], 0, header[3] & 0x0F, 0, 0, 0]
        say(side, bytes + payload)
    }

    private mutating func submit() {
        let choice = take(4)
        guard choice.count == 4, let model = ModelName(choice[0] & 8 == 0 ? "m" : "n")
        else { return }
        let declared = [0, 100, 5_000, 20_000, 90_000][Int(choice[1]) % 5]
        var terms = TaskTerms(
            operation: .chat, encoding: .text, bodyBytes: UInt32(declared))
        terms.deadlineMs = UInt32(choice[2]) * 100
        var frame = SubmitFrame(
            terms: terms, model: model, creditLimitBytes: UInt64(choice[3]) * 200)
        if choice[3] & 1 != 0 {
            frame.terms.maxInputTokens = UInt32(truncatingIfNeeded: number())
            frame.terms.maxOutputTokens = UInt32(truncatingIfNeeded: number())
            frame.budget = amount()
        }
        let inline = min(declared, Int(choice[0]) * 64)
        var bytes: [UInt8] = []
        frame.encode(
            stream: StreamID(UInt32(choice[0] & 7) + 1), inlineBodyBytes: inline, into: &bytes)
        say(0, bytes + [UInt8](repeating: 1, count: inline))
    }

    private mutating func body() {
        let choice = take(2)
        guard choice.count == 2 else { return }
        let byteCount = Int(choice[1]) * 63
        var bytes: [UInt8] = []
        FrameHeader(
            kind: .body, stream: StreamID(UInt32(choice[0] & 7) + 1), payloadBytes: byteCount
        ).encode(into: &bytes)
        say(0, bytes + [UInt8](repeating: 2, count: byteCount))
    }

    private mutating func tokens() {
        let choice = take(3)
        guard choice.count == 3 else { return }
        let byteCount = Int(choice[1]) * 20
        var bytes: [UInt8] = []
        FrameHeader(
            kind: .tokens, stream: StreamID(UInt32(choice[0] & 3) + 1), payloadBytes: byteCount,
            flags: FrameFlags(rawValue: choice[2]), tokens: UInt16(choice[0])
        ).encode(into: &bytes)
        say(1, bytes + [UInt8](repeating: 3, count: byteCount))
    }

    private mutating func end() {
        let choice = take(2)
        guard choice.count == 2 else { return }
        var bytes: [UInt8] = []
        EndFrame(
            code: WireCode(rawValue: UInt16(choice[1])) ?? .completed,
            usage: Usage(inputTokens: .max, outputTokens: .max)
        ).encode(stream: StreamID(UInt32(choice[0] & 3) + 1), into: &bytes)
        say(1, bytes)
    }
}
