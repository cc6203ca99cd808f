import SluiceWire
import Synchronization
import Testing
import Worker

@Suite(.serialized, .timeLimit(.minutes(1))) struct UpstreamMonitorTests {
    private static let intervals = UpstreamMonitor.Intervals(
        steady: .milliseconds(20), lost: .milliseconds(20), timeout: .milliseconds(300))

    /// Follows a monitor's changes one by one.
    private func follow(
        _ client: UpstreamClient, engine: UpstreamEngine,
        selection: ModelSelection = .everything,
        intervals: UpstreamMonitor.Intervals = Self.intervals,
        _ body: (inout AsyncStream<UpstreamMonitor.Change>.Iterator, UpstreamMonitor) async throws
            -> Void
    ) async throws {
        let monitor = UpstreamMonitor(
            client, engine: engine, selection: selection, intervals: intervals)
        let (stream, continuation) = AsyncStream.makeStream(of: UpstreamMonitor.Change.self)
        let task = Task { await monitor.run { continuation.yield($0) } }
        var changes = stream.makeAsyncIterator()
        try await body(&changes, monitor)
        task.cancel()
        await task.value
    }

    private func serving(_ names: String...) -> UpstreamMonitor.Change {
        .serving(names.map { OfferedModel(name: $0, engineName: $0) }, skippedCount: 0)
    }

    private static let list: ScriptedUpstream.Script = { request, exchange in
        #expect(request.path == "/v1/models")
        try await exchange.head(type: "application/json")
        try await exchange.send(#"{"object":"list","data":[{"id":"b"},{"id":"a"}]}"#)
        try await exchange.end()
    }

    @Test func offersGoWithTheUpstreamAndComeBackWithIt() async throws {
        let first = try await ScriptedUpstream(Self.list)
        let client = UpstreamClient(
            try #require(UpstreamAddress(first.url)), tasksMax: 1)
        var second: ScriptedUpstream?
        try await follow(client, engine: UpstreamEngine(client)) { changes, _ in
            #expect(await changes.next() == serving("a", "b"))
            await first.stop()
            #expect(await changes.next() == .lost(.unreachable))
            second = try await ScriptedUpstream(port: first.port, Self.list)
            #expect(await changes.next() == serving("a", "b"))
        }
        await client.shutdown()
        await second?.stop()
    }

    @Test func aListThatWaitsForTheRunningTaskTakesNoOfferBack() async throws {
        let isBusy = Gate()
        let wasAskedAgain = Gate()
        let mayEnd = Gate()
        let askedCount = Mutex(0)
        let upstream = try await ScriptedUpstream { request, exchange in
            if request.path == "/v1/models" {
                guard isBusy.isOpen else { return try await Self.list(request, exchange) }
                // Asked twice means that the first one was given up.
                if askedCount.withLock({
                    $0 += 1; return $0
                }) == 2 {
                    wasAskedAgain.open()
                }
                await mayEnd.pass()
                try await exchange.head(type: "application/json")
                try await exchange.send(#"{"data":[{"id":"after"}]}"#)
                return try await exchange.end()
            }
            try await exchange.head()
            try await exchange.send(Sample.stream([Sample.hello], done: false))
            await mayEnd.pass()
            try await exchange.send(Sample.stream([Sample.stop]))
            try await exchange.end()
        }
        let client = UpstreamClient(
            try #require(UpstreamAddress(upstream.url)), tasksMax: 1)
        let engine = UpstreamEngine(client)
        try await follow(client, engine: engine) { changes, _ in
            #expect(await changes.next() == serving("a", "b"))
            let sink = RecordingSink()
            let task = Task { try await engine.answer(.openAIChat, to: sink) }
            await sink.wait { $0.tokens == 1 }
            isBusy.open()
            await wasAskedAgain.pass()
            mayEnd.open()
            let usage = try await task.value
            #expect(usage.outputTokens == 1)
            #expect(await changes.next() == serving("after"))
        }
        await client.shutdown()
        await upstream.stop()
    }

    @Test func aListThatNeverComesWhileNothingRunsMeansTheUpstreamIsLost() async throws {
        let upstream = try await ScriptedUpstream { _, exchange in try await exchange.closed() }
        let client = UpstreamClient(
            try #require(UpstreamAddress(upstream.url)), tasksMax: 1)
        try await follow(client, engine: UpstreamEngine(client)) { changes, _ in
            #expect(await changes.next() == .lost(.silent))
        }
        await client.shutdown()
        await upstream.stop()
    }

    @Test func hurryingDoesNotWaitForTheInterval() async throws {
        let upstream = try await ScriptedUpstream(Self.list)
        let client = UpstreamClient(
            try #require(UpstreamAddress(upstream.url)), tasksMax: 1)
        let intervals = UpstreamMonitor.Intervals(steady: .seconds(86_400))
        try await follow(client, engine: UpstreamEngine(client), intervals: intervals) {
            changes, monitor in
            #expect(await changes.next() == serving("a", "b"))
            await upstream.stop()
            monitor.hurry()
            #expect(await changes.next() == .lost(.unreachable))
        }
        await client.shutdown()
    }

    @Test func aServerWithoutAListOffersWhatWasNamed() async throws {
        let upstream = try await ScriptedUpstream { _, exchange in
            try await exchange.head(404, type: "text/plain")
            try await exchange.end()
        }
        let client = UpstreamClient(
            try #require(UpstreamAddress(upstream.url)), tasksMax: 1)
        try await follow(client, engine: UpstreamEngine(client)) { changes, _ in
            #expect(await changes.next() == .lost(.noList))
        }
        try await follow(
            client, engine: UpstreamEngine(client), selection: try ModelSelection(["a=b c"])
        ) { changes, _ in
            #expect(
                await changes.next()
                    == .serving([OfferedModel(name: "a", engineName: "b c")], skippedCount: 0))
        }
        await client.shutdown()
        await upstream.stop()
    }

    @Test func aServerThatRefusesItsListIsLostWithTheStatus() async throws {
        let upstream = try await ScriptedUpstream { _, exchange in
            try await exchange.head(401, type: "application/json")
            try await exchange.end()
        }
        let client = UpstreamClient(try #require(UpstreamAddress(upstream.url)), tasksMax: 1)
        try await follow(client, engine: UpstreamEngine(client)) { changes, _ in
            #expect(await changes.next() == .lost(.refused(status: 401)))
        }
        await client.shutdown()
        await upstream.stop()
    }
}
