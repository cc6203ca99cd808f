import Foundation
import SluiceWire
import Synchronization
import Testing
import Worker

@Suite struct WorkerEventTests {
    private static let task = TaskID(instance: 1, counter: 2)
    private static let usage = Usage(
        inputTokens: 1, outputTokens: 2, cachedTokens: 1, reasoningTokens: 1)

    private static let lines: [(WorkerEvent, String)] = [
        (WorkerEvent.connected(broker: "h:1"), #"{"event":"connected","broker":"h:1"}"#),
        (
            WorkerEvent.disconnected(
                broker: "h:1", reason: "peerError(SluiceWire.WireCode.unauthenticated)"),
            #"{"event":"disconnected","broker":"h:1","reason":"peerError(unauthenticated)"}"#
        ),
        (
            WorkerEvent.offered(models: ["a", "b"], skippedCount: 1),
            #"{"event":"offered","models":["a","b"],"skipped":1}"#
        ),
        (
            WorkerEvent.upstreamLost(.silent), #"{"event":"upstream_lost","reason":"silent"}"#
        ),
        (
            WorkerEvent.upstreamLost(.refused(status: 401)),
            #"{"event":"upstream_lost","reason":"refused","status":401}"#
        ),
        (
            WorkerEvent.ended(task: task, model: "m", reason: .stop, usage: usage),
            #"{"event":"ended","task":"00000000000000010000000000000002","model":"m","#
                + #""finishReason":"stop","inputTokens":1,"cachedTokens":1,"outputTokens":2,"#
                + #""reasoningTokens":1}"#
        ),
        (
            WorkerEvent.failed(task: task, model: "m", code: .upstreamRefused, usage: Usage()),
            #"{"event":"failed","task":"00000000000000010000000000000002","model":"m","#
                + #""code":"upstream_refused","inputTokens":0,"cachedTokens":0,"outputTokens":0,"#
                + #""reasoningTokens":0}"#
        ),
        (
            WorkerEvent.cancelled(task: task, model: "m", tokens: 3, upstreamClosed: nil),
            #"{"event":"cancelled","task":"00000000000000010000000000000002","model":"m","#
                + #""tokens":3}"#
        ),
        (WorkerEvent.draining(seconds: 30), #"{"event":"draining","seconds":30}"#),
        (WorkerEvent.stopped(code: nil), #"{"event":"stopped","code":null}"#),
    ]

    @Test(arguments: lines)
    func everyEventIsOneJSONObject(_ event: WorkerEvent, _ line: String) throws {
        #expect(event.line == line)
        #expect(throws: Never.self) { try JSONSerialization.jsonObject(with: Data(line.utf8)) }
    }

    @Test func aLineCostsTheSameHoweverManyCameBefore() {
        // A log that wrapped its writer once more with each line would run out of stack here.
        let count = Mutex(0)
        let log = WorkerLog { _ in count.withLock { $0 += 1 } }
        for _ in 0..<100_000 { log.record(.draining(seconds: 1)) }
        #expect(count.withLock { $0 } == 100_000)
    }
}
