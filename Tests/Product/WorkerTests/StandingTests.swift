import JSONScanning
import SluiceSupplier
import SluiceTransport
import SluiceWire
import Testing
import Worker

@Suite("What a supplier is told") struct StandingTests {
    private func report(
        _ whole: [(ReportNumber, UInt64)], _ models: [(String, [(ReportNumber, UInt64)])] = []
    ) throws -> SupplyReport {
        var rows: [ReportFrame] = []
        for (place, (name, counts)) in ([("", whole)] + models).enumerated() {
            var row = ReportFrame(
                question: 1, rowsLeft: UInt16(models.count - place), model: ModelName(name))
            for (number, value) in counts { row.add(number, value) }
            rows.append(row)
        }
        return try #require(SupplyReport(rows))
    }

    private func standings(_ reports: SupplyReport...) -> Standings {
        var standings = Standings()
        for (number, report) in reports.enumerated() { standings.add(report, from: "b\(number):1") }
        return standings
    }

    @Test("an answer with rows missing is none")
    func rowsMissing() {
        #expect(SupplyReport([]) == nil)
        #expect(SupplyReport([ReportFrame(question: 1, rowsLeft: 1)]) == nil)
        #expect(
            SupplyReport([ReportFrame(question: 1, rowsLeft: 0, model: ModelName("m"))]) == nil)
    }

    @Test("brokers are summed by model, and money keeps its six digits")
    func earnings() throws {
        let one = try report(
            [(.since, 5_000), (.dispatched, 3), (.earned, 1_500_001)],
            [("m", [(.dispatched, 3), (.completed, 2), (.earned, 1_500_001)])])
        let two = try report(
            [(.since, 4_000), (.dispatched, 1), (.earned, 9)],
            [("a", []), ("m", [(.dispatched, 1), (.failed, 1), (.earned, 9)])])
        let told = standings(one, two)
        #expect(told.models.map(\.model) == ["a", "m"])
        #expect(told.models[1].dispatched == 4)
        #expect(told.models[1].failed == 1)
        #expect(told.total.earned == 1_500_010)
        #expect(told.sinceMs == 4_000)
        #expect(told.earnings.contains { $0.hasPrefix("m ") && $0.hasSuffix("1.500010") })
        #expect(told.earnings.last?.contains("2 brokers since 1970-01-01T00:00:04Z") == true)
    }

    @Test("the reasons come with the most frequent first, each with what to do about it")
    func whyIdle() throws {
        let told = standings(
            try report(
                [(.connections, 2)],
                [
                    (
                        "m",
                        [
                            (.offers, 1), (.slotsGranted, 4), (.dispatched, 5),
                            (.lostPriceCeiling, 2), (.lostNoFreeSlot, 40),
                        ]
                    )
                ]))
        let lines = told.whyIdle
        #expect(lines[0] == "m: 5 of about 47 tasks came here.")
        #expect(lines[1].contains("40 lost: no slot was free"))
        #expect(lines[2].contains("2 lost: dearer"))
    }

    @Test("no worker, nothing offered, no demand, an open breaker: each is said")
    func causes() throws {
        #expect(standings(try report([(.connections, 1)])).whyIdle[0].contains("No worker"))
        let nothing = standings(try report([(.connections, 2)])).whyIdle
        #expect(nothing.contains { $0.contains("Nothing is offered") })
        let noDemand = standings(try report([(.connections, 2)], [("m", [(.offers, 1)])])).whyIdle
        #expect(noDemand == ["m: nobody asked for it yet while it was offered."])
        let broken = standings(
            try report(
                [(.connections, 2), (.breaker, 1), (.breakerOpenMs, 1_500)],
                [("m", [(.offers, 1)])]))
        #expect(broken.whyIdle[0].contains("b0:1 leaves this supplier alone for 2 s"))
    }

    @Test("the JSON holds every number, and parses")
    func json() throws {
        let told = standings(
            try report([(.connections, 2)], [("m", [(.waiting, 3), (.lostDeadline, 7)])]))
        let value = try JSONValue(parsing: Array(told.json.utf8))
        #expect(String(decoding: value.encoded, as: UTF8.self) == told.json)
        #expect(told.json.contains(#""lost":{"deadline":7}"#))
        #expect(told.json.contains(#""waiting":3"#))
    }

    // MARK: doctor

    private func checks(_ outcome: BrokerProbe.Outcome, now: Int64 = 1_000_000) -> [DoctorCheck] {
        var checks: [DoctorCheck] = []
        _ = BrokerFindings.checks(outcome, name: "b", host: "h", now: now) { checks.append($0) }
        return checks
    }

    @Test("a certificate that ended, has not begun, ends soon or is another's: each has its words")
    func certificates() {
        func tls(_ outcome: BrokerProbe.Outcome) -> DoctorCheck? {
            checks(outcome).first { $0.name == "b: tls" }
        }
        func shown(_ from: Int64, _ until: Int64) -> BrokerProbe.Certificate {
            BrokerProbe.Certificate(notBefore: from, notAfter: until)
        }
        let ended = tls(.untrusted(address: "a", shown: shown(0, 999_999)))
        #expect(ended?.level == .fail && ended?.found.contains("ended on 1970-01-12") == true)
        let early = tls(.untrusted(address: "a", shown: shown(1_000_001, 2_000_000)))
        #expect(early?.remedy?.contains("clock") == true)
        let other = tls(.untrusted(address: "a", shown: shown(0, 2_000_000)))
        #expect(other?.found.contains("not trusted, or is not for h") == true)
        #expect(tls(.untrusted(address: "a", shown: nil))?.found == "no TLS 1.3 there")
        let soon = tls(.secure(address: "a", shown(0, 1_000_000 + 86_400 * 13)))
        #expect(soon?.level == .warn)
        #expect(tls(.secure(address: "a", shown(0, 1_000_000 + 86_400 * 14)))?.level == .ok)
    }

    @Test("a clock is judged without the time that the answer took")
    func clocks() throws {
        func clock(_ theirs: UInt64, _ ours: UInt64, round: UInt64) throws -> DoctorCheck? {
            var checks: [DoctorCheck] = []
            BrokerFindings.check(
                try report([(.clock, theirs), (.connections, 1)]), name: "b", ownClockMs: ours,
                roundMs: round
            ) { checks.append($0) }
            return checks.first { $0.name == "b: clock" }
        }
        #expect(try clock(10_000, 13_000, round: 0)?.level == .ok)
        #expect(try clock(10_000, 16_000, round: 0)?.level == .warn)
        #expect(try clock(10_000, 16_000, round: 2_000)?.level == .ok)
        #expect(try clock(16_000, 10_000, round: 0)?.level == .warn)
    }
}
