import RecordTestSupport
import SluiceLedgerCore
import SluiceRecordFormat
import SluiceWire
import Store
import Testing

/// No record stops settling, whatever it says: its transaction would be tried again for ever, and
/// everybody's tasks with it (`Protocol/Money.md`, Ledger).
@Suite struct AnyRecordTests {
    /// Journals of brokers that have lost their minds: records of every kind about few tasks and
    /// accounts, with numbers from the ends of their ranges. Some have words that no code of ours
    /// writes.
    private struct Madness {
        var random: SeededRandom
        let accounts: [UInt64]
        let suppliers: [UInt64]
        private var sequences: [UInt64: UInt64] = [:]

        init(seed: UInt64, accounts: [UInt64], suppliers: [UInt64]) {
            random = SeededRandom(state: seed)
            self.accounts = accounts
            self.suppliers = suppliers
        }

        mutating func oneIn(_ count: UInt64) -> Bool { random.next() % count == 0 }

        mutating func any<Value>(_ values: [Value]) -> Value {
            values[Int(random.next() % UInt64(values.count))]
        }

        mutating func number() -> UInt64 {
            switch random.next() % 4 {
            case 0: return any([0, 1, .max, .max - 1, 1 << 63, 1 << 63 - 1, 1 << 32, 1 << 53])
            case 1: return random.next()
            case 2: return random.next() >> (random.next() % 64)
            default: return random.next() % 2_000
            }
        }

        mutating func small() -> UInt32 { UInt32(truncatingIfNeeded: number()) }

        /// Of one of five days, or of none that anybody lived through.
        mutating func timeUs() -> UInt64 {
            oneIn(8)
                ? number()
                : 1_792_800_000_000_000 + random.next() % 5 * 86_400_000_000 + random.next() % 9
        }

        mutating func counter() -> UInt64 { oneIn(8) ? number() : 1 + random.next() % 12 }

        mutating func instance() -> UInt64 { oneIn(8) ? any([0, .max, 1 << 63]) : any([5, 6, 7]) }

        mutating func account() -> UInt64 { oneIn(8) ? number() : any(accounts) }

        mutating func amount() -> MicroUSD { MicroUSD(Int64(bitPattern: number())) }

        private mutating func charge() -> TaskCharge {
            if oneIn(4) {
                return TaskCharge(
                    consumerCost: amount(), supplierEarning: amount(), platformFee: amount())
            }
            let earning = Int64(number() >> 2)
            let fee = Int64(number() >> 2)
            return TaskCharge(
                consumerCost: MicroUSD(earning + fee), supplierEarning: MicroUSD(earning),
                platformFee: MicroUSD(fee))
        }

        private mutating func accepted() -> JournalRecord {
            var record = AcceptedRecord(
                counter: counter(), acceptedAtUs: timeUs(), account: account(),
                keyDigestPrefix: number(), model: small(), operation: any(TaskOperation.allCases),
                encoding: any([PayloadEncoding.text, .openAI]),
                priority: UInt8(truncatingIfNeeded: number()), preference: .balanced,
                deadlineMs: small(), bodyBytes: small())
            record.maxInputTokens = small()
            record.inputPrice = number()
            record.outputPrice = number()
            record.idempotencyDigest = oneIn(2) ? 0 : any([1, 2, .max])
            if oneIn(2) {
                record.trace = TraceContext(
                    traceHigh: number(), traceLow: number(), span: number())
            }
            return record.record
        }

        private mutating func ended() -> JournalRecord {
            EndedRecord(
                task: TaskID(instance: instance(), counter: counter()),
                status: any(TaskStatus.allCases), code: .completed,
                usage: Usage(
                    inputTokens: small(), outputTokens: small(), cachedTokens: small(),
                    reasoningTokens: small()),
                deliveredBytes: number(), ttftUs: oneIn(3) ? nil : number(),
                durationUs: number(), queueUs: small(), charge: charge(),
                supplier: oneIn(4) ? number() : any(suppliers), offerModel: small(),
                dispatches: UInt8(truncatingIfNeeded: number())
            ).record
        }

        private mutating func other() -> JournalRecord {
            switch random.next() % 5 {
            case 0:
                return LeaseRecord(
                    account: account(), wanted: amount(), returned: amount(), spent: amount(),
                    held: amount(), atUs: timeUs(), reserve: amount()
                ).record
            case 1:
                return RefusedRecord(
                    account: account(), refusedAtUs: timeUs(), code: .queueFull, model: small(),
                    count: number()
                ).record
            case 2:
                var record = JournalRecord(kind: .name)
                if let name = ModelName(any(["a/b", "c", String(repeating: "x", count: 88)])) {
                    record = NameRecord(model: small(), name: name).record
                }
                return record
            case 3:
                return InstanceStartRecord(
                    startedAtUs: timeUs(), ringRecords: small(), tableSlots: small()
                ).record
            default:
                return InstanceClosedRecord(
                    closed: instance(), closedAtUs: timeUs(), endedCount: small()
                ).record
            }
        }

        /// The next record of one of the journals.
        mutating func next() -> JournalRecord {
            var record =
                switch random.next() % 8 {
                case 0...2: accepted()
                case 3...5: ended()
                default: other()
                }
            if oneIn(10) { record.words[3 + Int(random.next() % 13)] = number() }
            if oneIn(50) { record.words[0] = number() }
            let journal = instance()
            let sequence = (sequences[journal] ?? 0) + (oneIn(20) ? 0 : 1)
            sequences[journal] = sequence
            record.instance = journal
            record.sequence = oneIn(200) ? number() : sequence
            return record
        }
    }

    /// Everything that a sidecar does beside applying, and everything that is read.
    private func useAll(_ store: Store, _ madness: inout Madness) throws {
        let nowUs = madness.timeUs()
        let lost = try store.openTasks(
            acceptedBefore: madness.timeUs(), node: 7, foreignBefore: madness.timeUs(), count: 3)
        try store.closeAsLost(lost, atUs: nowUs)
        _ = try store.closeLeases(
            node: 7, present: [madness.instance()], nowUs: min(nowUs, .max / 2))
        _ = try store.finalRecords(last: 1_000).map(\.json)
        for account in madness.accounts {
            _ = try store.consumerStatement(account, 0..<(.max))
            _ = try store.supplierStatement(account, 0..<(.max))
        }
        _ = try store.tracedTasks(after: 0, count: 1_000)
        _ = try store.history(
            of: TaskID(instance: madness.instance(), counter: madness.counter()))
        for grouping in UsageGrouping.allCases { _ = try store.usage(by: grouping, 0..<(.max)) }
    }

    /// What is older than the first of the days goes, and then what of the rest is.
    private func expire(_ store: Store) throws {
        for cutoffUs in [1_792_886_400_000_000, 1_893_456_000_000_000] as [UInt64] {
            for duty in RetentionDuty.allCases {
                var mark: RetentionMark? = .start
                for _ in 0..<10_000 {
                    guard let after = mark else { break }
                    mark = try store.removeExpired(
                        RetentionBatch(duty, cutoffUs: cutoffUs, after: after, rows: 50)
                    ).next
                }
                #expect(mark == nil)
            }
        }
    }

    @Test(
        "whatever brokers write, an honest one's tasks are posted, and both engines say the same",
        arguments: 1...12 as ClosedRange<UInt64>)
    func madness(seed: UInt64) throws {
        let markets = try TestEngine.allCases.map { try Market($0) }
        let token = markets[0].token.entry.supplier
        var neighbours: [UInt64] = []
        for market in markets {
            neighbours = [
                try market.store.makeAccount(
                    label: "neighbour", kinds: .consumer, isPrepaid: false, nowUs: 1
                ).id,
                try market.store.issueKey(
                    account: "other supplier", role: .supplier, nowUs: 1, digest: fakeDigest
                ).entry.supplier,
            ]
            _ = try market.store.topUp(
                market.consumer.id, 1_000_000, reference: "pay", nowUs: 1)
        }
        var madness = Madness(
            seed: seed, accounts: [markets[0].consumer.id, neighbours[0] + 50],
            suppliers: [token, 0])
        var honest = JournalSketch(instance: 99)
        for turn in 1...40 as ClosedRange<UInt64> {
            let context: Comment = "seed \(seed), turn \(turn)"
            var batch = (0..<Int(madness.random.next() % 60)).map { _ in madness.next() }
            honest.accept(turn, account: neighbours[0])
            honest.end(turn, charge: charge(11, 10), supplier: neighbours[1])
            batch.insert(
                contentsOf: honest.records.suffix(2),
                at: Int(madness.random.next() % UInt64(batch.count + 1)))
            let applied = try markets.map { try $0.store.applyBatch(batch, node: 7, nowUs: 1) }
            #expect(applied[0] == applied[1], context)
            for market in markets {
                var same = madness
                try useAll(market.store, &same)
            }
            _ = madness.random.next()
        }
        #expect(try markets[0].store.counts() == markets[1].store.counts())
        #expect(try markets[0].store.balances() == markets[1].store.balances())
        for market in markets {
            try market.expectSound()
            for turn in 1...40 as ClosedRange<UInt64> {
                let history = try #require(
                    try market.store.history(of: TaskID(instance: 99, counter: turn)))
                #expect(!history.isUnposted && history.postings.count == 3)
            }
            let balances = try market.store.balances()
            try expire(market.store)
            #expect(try market.store.balances() == balances)
        }
    }
}
