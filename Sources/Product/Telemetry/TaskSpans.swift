package import Foundation
import SluiceRecordFormat
import SluiceWire
package import Store

/// Ended tasks as OpenTelemetry spans. Pure: the same task always makes the same spans, so that one
/// that is sent twice is one.
///
/// A task is a span `OPERATION MODEL` of kind server, a child of the caller's span if SUBMIT had a
/// trace context, else the beginning of a trace whose id is the task's. Below it: `queue` until its
/// first dispatch, `first token` from there, `stream` from then to the end. Names are those of the
/// GenAI semantic conventions where they have one; `error.type` is the code as `sluice records`
/// writes it. Nothing of what was asked or answered is in
/// them.
package enum TaskSpans {
    /// A request body for a collector's `/v1/traces`.
    ///
    /// - Parameter service: The resource's `service.name`.
    package static func document(_ tasks: [TracedTask], service: String) -> Data {
        let document = TraceDocument(resourceSpans: [
            TraceDocument.ResourceSpans(
                resource: TraceDocument.Resource(attributes: [
                    TraceDocument.Attribute("service.name", .text(service))
                ]),
                scopeSpans: [
                    TraceDocument.ScopeSpans(
                        scope: TraceDocument.Scope(name: "sluice", version: "0.1.0"),
                        spans: tasks.flatMap { spans($0) })
                ])
        ])
        let encoder = JSONEncoder()
        encoder.outputFormatting = [.sortedKeys, .withoutEscapingSlashes]
        guard let data = try? encoder.encode(document) else {
            preconditionFailure("texts and whole numbers can be encoded")
        }
        return data
    }

    private static func spans(_ task: TracedTask) -> [TraceDocument.Span] {
        let trace =
            task.trace.map { hexadecimal($0.traceHigh) + hexadecimal($0.traceLow) }
            ?? task.task.description
        let root = spanID(task.task, 0)
        let begin = task.acceptedAtUs
        let end = begin &+ task.durationUs
        func child(_ name: String, _ number: UInt64, _ from: UInt64, _ to: UInt64)
            -> TraceDocument.Span
        {
            span(
                trace, spanID(task.task, number), parent: root, name, kind: 1,
                min(from, end)..<max(min(to, end), min(from, end)), [], isError: false)
        }
        var spans = [
            span(
                trace, root, parent: task.trace.flatMap { $0.span == 0 ? nil : $0.span },
                name(task), kind: 2, begin..<max(end, begin), attributes(task),
                isError: task.status != .completed)
        ]
        guard task.dispatches > 0 else { return spans }
        let dispatched = begin &+ task.queueUs
        spans.append(child("queue", 1, begin, dispatched))
        if let ttftUs = task.ttftUs {
            let first = max(dispatched, begin &+ ttftUs)
            spans.append(child("first token", 2, dispatched, first))
            spans.append(child("stream", 3, first, end))
        }
        return spans
    }

    private static func span(
        _ trace: String, _ id: UInt64, parent: UInt64?, _ name: String, kind: Int,
        _ timesUs: Range<UInt64>, _ attributes: [TraceDocument.Attribute], isError: Bool
    ) -> TraceDocument.Span {
        TraceDocument.Span(
            traceId: trace, spanId: hexadecimal(id), parentSpanId: parent.map { hexadecimal($0) },
            name: name, kind: kind, startTimeUnixNano: "\(timesUs.lowerBound)000",
            endTimeUnixNano: "\(timesUs.upperBound)000", attributes: attributes,
            status: TraceDocument.Status(code: isError ? 2 : 0))
    }

    private static func name(_ task: TracedTask) -> String {
        task.model.isEmpty ? operation(task) : operation(task) + " " + task.model
    }

    /// Well-known values of `gen_ai.operation.name`; it has none for images.
    private static func operation(_ task: TracedTask) -> String {
        switch task.operation {
        case .chat: "chat"
        case .completion: "text_completion"
        case .embedding: "embeddings"
        case .image: "generate_content"
        }
    }

    private static func attributes(_ task: TracedTask) -> [TraceDocument.Attribute] {
        typealias Attribute = TraceDocument.Attribute
        var attributes = [
            Attribute("gen_ai.operation.name", .text(operation(task))),
            Attribute("gen_ai.provider.name", .text("sluice")),
            Attribute("gen_ai.usage.input_tokens", .number(UInt64(task.usage.inputTokens))),
            Attribute("gen_ai.usage.output_tokens", .number(UInt64(task.usage.outputTokens))),
            Attribute("sluice.task_id", .text(task.task.description)),
            Attribute("sluice.status", .text(task.status.text)),
            Attribute("sluice.dispatches", .number(UInt64(task.dispatches))),
        ]
        if !task.model.isEmpty {
            attributes.append(Attribute("gen_ai.request.model", .text(task.model)))
        }
        if let reason = task.finishReason {
            attributes.append(Attribute("gen_ai.response.finish_reasons", .texts(["\(reason)"])))
        }
        if task.supplier != 0 {
            attributes.append(Attribute("sluice.supplier", .number(task.supplier)))
        }
        if task.status != .completed {
            attributes.append(Attribute("error.type", .text("\(task.code)")))
        }
        return attributes
    }

    /// Never 0, which is no id. Mixed (SplitMix64's finaliser), because a collector may sample or
    /// shard by it.
    private static func spanID(_ task: TaskID, _ number: UInt64) -> UInt64 {
        var bits = task.instance ^ (task.counter &* 0x9E37_79B9_7F4A_7C15) &+ number
        bits = (bits ^ bits >> 30) &* 0xBF58_476D_1CE4_E5B9
        bits = (bits ^ bits >> 27) &* 0x94D0_49BB_1331_11EB
        return max(bits ^ bits >> 31, 1)
    }
}
