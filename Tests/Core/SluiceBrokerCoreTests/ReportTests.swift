import SluiceBrokerCore
import SluiceRecordFormat
import SluiceWire
import Testing

@Suite("Reports to suppliers") struct ReportTests {
    private let other = ModelName("other")

    /// The rows of the last answer, by model; the whole supplier's under "".
    private func rows(_ rig: DispatchRig.Reports) throws -> [String: [ReportNumber: UInt64]] {
        let bytes = try #require(rig.last)
        var rows: [String: [ReportNumber: UInt64]] = [:]
        var start = 0
        var left: UInt16?
        while start < bytes.count {
            let header = try FrameHeader(decoding: bytes.span, at: start)
            #expect(header.kind == .report && header.flags == .ignorable)
            #expect(header.stream == .connection)
            let end = start + header.frameBytes
            let frame = try ReportFrame(
                decoding: bytes.span.extracting(start + FrameHeader.byteCount..<end))
            #expect(left.map { $0 == frame.rowsLeft + 1 } ?? (frame.model == nil))
            left = frame.rowsLeft
            var counts: [ReportNumber: UInt64] = [:]
            for count in frame.counts {
                counts[try #require(ReportNumber(rawValue: count.number))] = count.value
            }
            rows[frame.model?.description ?? ""] = counts
            start = end
        }
        #expect(left == 0)
        return rows
    }

    private func ask(_ rig: inout DispatchRig, _ supplier: Int) throws -> [String: [ReportNumber:
        UInt64]]
    {
        rig.pass(ms: 1_000)
        rig.ask(supplier, question: 3)
        return try rows(rig.reports)
    }

    @Test("[S15] what came, ended, was used and earned, by model and as a whole")
    func counts() throws {
        var rig = DispatchRig()
        let supplier = rig.supplier(slots: 4) {
            $0.prices.input = 1_000_000
            $0.prices.output = 2_000_000
        }
        rig.offer(supplier, 2, model: try #require(other), slots: 1)
        rig.end(rig.submit(), inputTokens: 10, outputTokens: 5)
        rig.end(rig.submit(), inputTokens: 1, outputTokens: 1)
        rig.end(rig.submit(), .cancelled, code: .cancelled)
        rig.giveBack(rig.submit())
        rig.giveBack(rig.submit(), isDeclined: true)
        _ = rig.submit()
        let rows = try ask(&rig, supplier)
        let model = try #require(rows["m"])
        #expect(model[.dispatched] == 6)
        #expect(model[.completed] == 2)
        #expect(model[.otherEnds] == 1)
        #expect(model[.failed] == 1)
        #expect(model[.declined] == 1)
        #expect(model[.inputTokens] == 11)
        #expect(model[.outputTokens] == 6)
        #expect(model[.earned] == 23)
        #expect(model[.earnedToday] == 23)
        #expect(model[.slotsGranted] == 4)
        #expect(model[.slotsInUse] == 1)
        #expect(rows["other"]?[.dispatched] == 0)
        let whole = try #require(rows[""])
        #expect(whole[.dispatched] == 6)
        #expect(whole[.earned] == 23)
        #expect(whole[.offers] == 2)
        #expect(whole[.connections] == 1)
        #expect(whole[.clock] == rig.nowMs)
    }

    @Test("[S15] lost matches have their reasons, and each supplier sees its own alone")
    func losses() throws {
        var rig = DispatchRig()
        let cheap = rig.supplier(slots: 9) { $0.prices.output = 1 }
        let dear = rig.supplier(slots: 9) { $0.prices.output = 9 }
        for _ in 0..<3 { _ = rig.submit { terms, _ in terms.preference = .price } }
        _ = rig.submit { _, filters in filters.outputCeiling = 8 }
        let told = try ask(&rig, dear)
        #expect(told["m"]?[.lostSlowerOrDearer] == 3)
        #expect(told["m"]?[.lostPriceCeiling] == 1)
        #expect(told["m"]?[.dispatched] == 0)
        let winner = try ask(&rig, cheap)
        #expect(winner["m"]?[.lostSlowerOrDearer] == nil)
        #expect(winner["m"]?[.dispatched] == 4)
    }

    @Test("every reason for a lost match has its number")
    func reasons() {
        let numbers = ReportNumber.allCases.map(\.rawValue).filter { $0 >= 32 }
        #expect(numbers == LossReason.allCases.map { UInt16($0.rawValue) + 32 })
    }

    @Test("[S15] the books are the supplier's: over its connections, and after it came back")
    func reconnects() throws {
        var rig = DispatchRig()
        let first = rig.supplier(slots: 1, identity: 5) { $0.prices.output = 1_000_000 }
        rig.end(rig.submit(), outputTokens: 3)
        let second = rig.supplier(slots: 2, identity: 5)
        var rows = try ask(&rig, second)
        #expect(rows["m"]?[.offers] == 2)
        #expect(rows["m"]?[.slotsGranted] == 3)
        #expect(rows[""]?[.connections] == 2)
        rig.hangUp(first)
        rig.hangUp(second)
        rig.pass(ms: 60_000)
        let third = rig.supplier(slots: 1, identity: 5)
        rows = try ask(&rig, third)
        #expect(rows["m"]?[.earned] == 3)
        #expect(rows["m"]?[.offers] == 1)
        let stranger = rig.supplier(slots: 1, identity: 6)
        #expect(try ask(&rig, stranger)["m"]?[.earned] == 0)
    }

    @Test("what was earned yesterday is no longer today's, and is still earned")
    func days() throws {
        var rig = DispatchRig()
        let supplier = rig.supplier { $0.prices.output = 1_000_000 }
        rig.end(rig.submit(), outputTokens: 3)
        rig.pass(ms: 86_400_000)
        let rows = try ask(&rig, supplier)
        #expect(rows["m"]?[.earned] == 3)
        #expect(rows["m"]?[.earnedToday] == 0)
    }

    @Test("models that were not offered for two days are counted together, then nothing is kept")
    func aging() throws {
        var rig = DispatchRig()
        let first = rig.supplier(identity: 5) { $0.prices.output = 1_000_000 }
        rig.end(rig.submit(), outputTokens: 3)
        rig.hangUp(first)
        rig.pass(ms: 2 * 86_400_000 + 2_000)
        let second = rig.supplier(identity: 5)
        let rows = try ask(&rig, second)
        #expect(rows["m"]?[.earned] == 0)
        #expect(rows[""]?[.earned] == 0)
    }

    @Test("a full table of books counts nothing, and does not fail")
    func bounded() throws {
        var rig = DispatchRig { $0.supplierRows = 2 }
        let first = rig.supplier(identity: 5)
        rig.offer(first, 2, model: try #require(other), slots: 1)
        let second = rig.supplier(identity: 6)
        _ = rig.submit(model: try #require(other))
        let rows = try ask(&rig, first)
        // The second model joins the first row, which is the whole's.
        #expect(rows[""]?[.dispatched] == 1)
        #expect(rows["other"] == nil)
        let none = try ask(&rig, second)
        #expect(none[""]?[.dispatched] == 0)
        #expect(none.count == 1)
    }

    @Test("[S17] one answer a second for a supplier, whichever connection asks")
    func pause() throws {
        var rig = DispatchRig()
        let first = rig.supplier(identity: 5)
        let second = rig.supplier(identity: 5)
        let other = rig.supplier(identity: 6)
        rig.ask(first, question: 1)
        rig.ask(second, question: 2)
        #expect(rig.reports.count == 1)
        rig.ask(other, question: 3)
        #expect(rig.reports.count == 2)
        rig.nowMs += WireLimits.reportPauseMs
        rig.ask(second, question: 4)
        #expect(rig.reports.count == 3)
    }

    @Test("an open breaker is told with the time that it stays open")
    func breaker() throws {
        var rig = DispatchRig { $0.breakerBackoffMs = 60_000 }
        let supplier = rig.supplier(slots: 9)
        for _ in 0..<6 {
            let stream = rig.submit()
            guard rig.run(stream) != nil else { break }
            rig.giveBack(stream)
        }
        let rows = try ask(&rig, supplier)
        #expect(rows[""]?[.breaker] == 1)
        #expect(try #require(rows[""]?[.breakerOpenMs]) > 30_000)
    }
}
