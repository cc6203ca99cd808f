import Foundation
import FoundationNetworking
import RecordTestSupport
import SharedMemory
import SluiceRecordFormat
import Store
import Telemetry
import Testing

@Suite struct TelemetryTests {
    private let scratch = ScratchDirectory()

    private func newBroker(shards: Int = 2) throws -> BrokerInstance {
        var sizes = InstanceSizes()
        sizes.ringBytes = RingLayout.minimumByteCount
        sizes.tableSlots = 64
        sizes.shards = shards
        return try .create(runDirectory: scratch.path, sizes: sizes, wallMicroseconds: 1)
    }

    @Test func onlyBrokersThatReportedOfLateAreRead() throws {
        let young = try newBroker()
        let working = try newBroker()
        let silent = try newBroker()
        working.statistics(shard: 0).set(.lastTurnUs, 95_000_000)
        silent.statistics(shard: 0).set(.lastTurnUs, 80_000_000)
        let found = try BrokerReading.all(runDirectory: scratch.path, nowUs: 100_000_000)
        #expect(found.map(\.instance) == [working.id])
        // Reading took no lock of theirs: nobody was mistaken for a living broker.
        silent.close(wallMicroseconds: 9)
        young.close(wallMicroseconds: 9)
        working.close(wallMicroseconds: 9)
    }

    @Test func shardsThatNeverTurnedAreLeftOut() throws {
        let broker = try newBroker(shards: 8)
        for shard in 0..<3 { broker.statistics(shard: shard).set(.lastTurnUs, 5) }
        broker.statistics(shard: 2).add(.tokensRelayed, 7)
        broker.statistics(shard: 0).add(.tokensRelayed, 5)
        let reading = try #require(
            try BrokerReading.all(runDirectory: scratch.path, nowUs: 9).first)
        #expect(reading.shards.count == 3)
        #expect(reading.total(.tokensRelayed) == 12)
        #expect(reading.value(.tokensRelayed, shard: 2) == 7)
        broker.close(wallMicroseconds: 9)
    }

    @Test func ratesAndTimesAreThoseBetweenTwoReadings() throws {
        let broker = try newBroker(shards: 1)
        let page = broker.statistics(shard: 0)
        page.set(.lastTurnUs, 5)
        page.set(.tokensRelayed, 1_000)
        page.set(.tasksDispatched, 10)
        page.set(.tasksMatchedAtOnce, 10)
        page.record(.ttftUs, 1_000_000)
        let first = try BrokerReading(runDirectory: scratch.path, instance: broker.id)
        page.add(.tokensRelayed, 500)
        page.add(.loopBusyUs, 1_000_000)
        page.add(.tasksDispatched, 4)
        page.add(.tasksMatchedAtOnce, 1)
        for _ in 0..<100 { page.record(.ttftUs, 40) }
        let second = try BrokerReading(runDirectory: scratch.path, instance: broker.id)
        let activity = Activity(now: second, since: first, seconds: 2)
        #expect(activity.tokensPerSecond == 250)
        #expect(activity.shards[0].busy == 0.5)
        #expect(activity.matchedAtOnce == 0.25)
        // 40 shares its bucket with 40…43; the second of the first reading is not in it.
        #expect(activity.firstTokenUs.quantile(0.99) == 43)
        #expect(activity.firstTokenUs.count == 100)
        let alone = Activity(now: second, since: nil, seconds: 2)
        #expect(alone.tokensPerSecond == 0 && alone.firstTokenUs.count == 101)
        #expect(ActivityText.lines([activity, alone]).allSatisfy { $0.count <= 80 })
        broker.close(wallMicroseconds: 9)
    }

    @Test func aDistributionNamesItsValuesWithinItsBuckets() {
        var buckets = [UInt64](repeating: 0, count: 256)
        #expect(Distribution(buckets).quantile(0.5) == nil)
        for value: UInt64 in [0, 3, 7, 8, 100, 1_000, 1_023, 1_024, 5_000_000] {
            buckets[HistogramBucket.index(of: value)] += 1
        }
        let distribution = Distribution(buckets)
        #expect(distribution.count == 9)
        #expect(distribution.count(below: 8) == 3)
        #expect(distribution.count(below: 1_024) == 7)
        #expect(distribution.count(below: 1 << 40) == 9)
        let exact = 0 + 3 + 7 + 8 + 100 + 1_000 + 1_023 + 1_024 + 5_000_000.0
        #expect(abs(Double(distribution.approximateSum) - exact) <= exact * 0.0625)
        #expect(distribution.quantile(0) == 0)
        #expect(distribution.quantile(1).map { $0 >= 5_000_000 } == true)
    }

    @Test func theTextNamesEveryMetricOnceWithHelpAndType() throws {
        let broker = try newBroker(shards: 2)
        for shard in 0..<2 {
            broker.statistics(shard: shard).set(.lastTurnUs, 1_500_000)
            broker.statistics(shard: shard).set(.connectionsOpen, 3)
        }
        broker.statistics(shard: 0).record(.queueUs, 20)
        broker.statistics(shard: 0).record(.queueUs, 3_000_000)
        let text = PrometheusText.text(
            try BrokerReading.all(runDirectory: scratch.path, nowUs: 2_000_000))
        let name = InstanceDirectory.path("", broker.id).dropFirst()
        let lines = text.split(separator: "\n")
        #expect(lines.contains("sluice_brokers 1"))
        #expect(lines.contains("sluice_connections_open{broker=\"\(name)\",shard=\"1\"} 3"))
        #expect(
            lines.contains(
                "sluice_loop_last_turn_timestamp_seconds{broker=\"\(name)\",shard=\"0\"} 1.500000"))
        #expect(
            lines.contains(
                "sluice_task_queue_seconds_bucket{broker=\"\(name)\",le=\"0.000032\"} 1"))
        #expect(
            lines.contains("sluice_task_queue_seconds_bucket{broker=\"\(name)\",le=\"+Inf\"} 2"))
        #expect(lines.contains("sluice_task_queue_seconds_count{broker=\"\(name)\"} 2"))
        let types = lines.filter { $0.hasPrefix("# TYPE ") }
        #expect(Set(types).count == types.count)
        #expect(types.count == lines.filter { $0.hasPrefix("# HELP ") }.count)
        #expect(!text.contains("\n\n") && text.hasSuffix("\n"))
        broker.close(wallMicroseconds: 9)
    }

    @Test func whatTheSidecarSaysStandsBesideTheBrokers() {
        var report = SettlementReport(reportedAtUs: 1)
        report.lagUs = 1_500_000
        report.outcomes = [.init(model: "demo/one", status: "completed", count: 4)]
        report.refusals = [.init(code: "queue_full", count: 2)]
        let lines = PrometheusText.text([], settlement: report).split(separator: "\n")
        for line in [
            "sluice_sidecars 1",
            "sluice_settled_tasks_total{model=\"demo/one\",status=\"completed\"} 4",
            "sluice_refusals_total{code=\"queue_full\"} 2",
            "sluice_settlement_lag_seconds 1.500000",
        ] {
            #expect(lines.contains(Substring(line)))
        }
        let without = PrometheusText.text([]).split(separator: "\n")
        #expect(without.contains("sluice_sidecars 0"))
        #expect(!without.contains { $0.hasPrefix("sluice_settlement_lag_seconds ") })
    }

    @Test func onlyMetricsAreServed() async throws {
        let server = try await MetricsServer.start(host: "127.0.0.1", port: 0) { "a 1\n" }
        func get(_ path: String, _ method: String = "GET") async throws -> (Int, String, String?) {
            var request = URLRequest(
                url: try #require(URL(string: "http://127.0.0.1:\(server.port)\(path)")))
            request.httpMethod = method
            let (data, response) = try await URLSession.shared.data(for: request)
            let http = try #require(response as? HTTPURLResponse)
            return (
                http.statusCode, String(decoding: data, as: UTF8.self),
                http.value(forHTTPHeaderField: "content-type")
            )
        }
        let found = try await get("/metrics?x=1")
        #expect(found.0 == 200 && found.1 == "a 1\n" && found.2 == PrometheusText.contentType)
        #expect(try await get("/").0 == 404)
        #expect(try await get("/metrics", "POST").0 == 405)
        #expect(try await get("/metrics", "HEAD").1 == "")
        try await server.stop()
        let empty = try await MetricsServer.start(host: "127.0.0.1", port: 0) { nil }
        let url = try #require(URL(string: "http://127.0.0.1:\(empty.port)/metrics"))
        let (_, response) = try await URLSession.shared.data(from: url)
        #expect((response as? HTTPURLResponse)?.statusCode == 503)
        try await empty.stop()
    }
}
