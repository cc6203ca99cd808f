import Foundation
import SluiceRecordFormat
import SluiceWire
import Store
import Telemetry
import Testing

@Suite struct TaskSpansTests {
    private func task(
        trace: TraceContext? = nil, status: TaskStatus = .completed,
        code: WireCode = .completed, ttftUs: UInt64? = 300, queueUs: UInt64 = 100,
        durationUs: UInt64 = 1_000, dispatches: Int = 1
    ) -> TracedTask {
        TracedTask(
            position: 1, task: TaskID(instance: 0xA, counter: 0xB),
            acceptedAtUs: 1_792_800_000_000_001, operation: .chat, model: "demo/one", trace: trace,
            status: status, code: code, finishReason: .stop,
            usage: Usage(inputTokens: 3, outputTokens: 4), ttftUs: ttftUs,
            durationUs: durationUs, queueUs: queueUs, supplier: dispatches > 0 ? 6 : 0,
            dispatches: dispatches)
    }

    private func spans(_ tasks: [TracedTask]) throws -> [[String: Any]] {
        let data = TaskSpans.document(tasks, service: "market")
        let root = try #require(try JSONSerialization.jsonObject(with: data) as? [String: Any])
        let resources = try #require(root["resourceSpans"] as? [[String: Any]])
        let scopes = try #require(resources.first?["scopeSpans"] as? [[String: Any]])
        return try #require(scopes.first?["spans"] as? [[String: Any]])
    }

    private func text(_ span: [String: Any], _ name: String) -> String? { span[name] as? String }

    private func attributes(_ span: [String: Any]) -> [String: String] {
        var found: [String: String] = [:]
        for attribute in span["attributes"] as? [[String: Any]] ?? [] {
            let value = attribute["value"] as? [String: Any]
            found[attribute["key"] as? String ?? ""] =
                value?["stringValue"] as? String ?? value?["intValue"] as? String
                ?? (value?["arrayValue"] as? [String: Any]).map { "\($0)" }
        }
        return found
    }

    @Test func aTaskWithoutACallersTraceBeginsOneWithItsOwnId() throws {
        let spans = try spans([task()])
        #expect(
            spans.map { text($0, "name") } == ["chat demo/one", "queue", "first token", "stream"])
        for span in spans {
            #expect(text(span, "traceId") == "000000000000000a000000000000000b")
            #expect(text(span, "spanId")?.count == 16)
        }
        #expect(Set(spans.compactMap { text($0, "spanId") }).count == 4)
        #expect(spans[0]["parentSpanId"] == nil)
        #expect(
            spans.dropFirst().allSatisfy { text($0, "parentSpanId") == text(spans[0], "spanId") })
    }

    @Test func aCallersTraceIsJoinedBelowItsSpan() throws {
        let trace = TraceContext(traceHigh: 1, traceLow: 2, span: 3)
        let root = try #require(try spans([task(trace: trace)]).first)
        #expect(text(root, "traceId") == "00000000000000010000000000000002")
        #expect(text(root, "parentSpanId") == "0000000000000003")
    }

    @Test func stagesFollowOneAnotherWithinTheTask() throws {
        let spans = try spans([task()])
        let times = spans.map { (text($0, "startTimeUnixNano"), text($0, "endTimeUnixNano")) }
        let base = "179280000000"
        #expect(times[0] == (base + "0001000", base + "1001000"))
        #expect(times[1] == (base + "0001000", base + "0101000"))
        #expect(times[2] == (base + "0101000", base + "0301000"))
        #expect(times[3] == (base + "0301000", base + "1001000"))
    }

    @Test func timesThatContradictOneAnotherNeverEndBeforeTheyBegin() throws {
        for span in try spans([task(ttftUs: 5_000, queueUs: 9_000, durationUs: 10)]) {
            let begin = try #require(UInt64(text(span, "startTimeUnixNano") ?? ""))
            let end = try #require(UInt64(text(span, "endTimeUnixNano") ?? ""))
            #expect(begin <= end)
        }
    }

    @Test func aFailureSaysItsCodeAndWhatNeverRanHasNoStages() throws {
        let failed = try spans([
            task(status: .deadlineExceeded, code: .deadlineExceeded, ttftUs: nil, dispatches: 0)
        ])
        #expect(failed.count == 1)
        #expect((failed[0]["status"] as? [String: Any])?["code"] as? Int == 2)
        #expect(attributes(failed[0])["error.type"] == "deadlineExceeded")
        let whole = attributes(try spans([task()])[0])
        #expect(whole["gen_ai.request.model"] == "demo/one")
        #expect(whole["gen_ai.usage.input_tokens"] == "3")
        #expect(whole["gen_ai.operation.name"] == "chat")
        #expect(whole["error.type"] == nil && whole["sluice.supplier"] == "6")
    }

    @Test func theSameTaskMakesTheSameSpans() {
        let tasks = [task(), task(status: .cancelled, code: .cancelled)]
        #expect(
            TaskSpans.document(tasks, service: "s") == TaskSpans.document(tasks, service: "s"))
    }

    @Test(arguments: [
        (200, TraceExporter.Outcome.accepted), (202, .accepted),
        (429, .tryAgain(reason: "status 429")), (503, .tryAgain(reason: "status 503")),
        (400, .refused(status: 400)), (404, .refused(status: 404)), (500, .refused(status: 500)),
    ])
    func onlyWhatMayBeSentAgainIs(_ status: Int, _ outcome: TraceExporter.Outcome) {
        #expect(TraceExporter.outcome(ofStatus: status) == outcome)
    }
}
