package import JSONScanning

/// Turns the events of a chat into the events of a response, and into the response object. Text
/// and function calls are carried over; reasoning is not, but its tokens are counted.
package struct ResponsesWriter {
    private let id: String
    private let createdAt: Int64
    private let model: String
    private let echo: JSONValue
    private var sequence: Int64 = 0
    /// Items that are done, at their places.
    private var output: [JSONValue?] = []
    private var text: OpenText?
    private var calls: [Int64: OpenCall] = [:]
    private var finishReason: String?
    private var usage: JSONValue = .null

    private struct OpenText {
        var place: Int
        var id: String
        var text = ""
    }

    private struct OpenCall {
        var place: Int
        var item: JSONValue
        var arguments = ""
    }

    /// A response of its own name, which clients can use for nothing: it is not kept.
    package init(id: String, createdAt: Int64, model: String, echo: JSONValue) {
        (self.id, self.createdAt, self.model, self.echo) = (id, createdAt, model, echo)
    }

    // MARK: Events

    /// The events before the first token.
    package mutating func begin() -> [JSONValue] {
        [
            event("response.created", ["response": response("in_progress")]),
            event("response.in_progress", ["response": response("in_progress")]),
        ]
    }

    /// The events that one event of the chat stands for.
    package mutating func add(_ chunk: [UInt8]) throws(JSONFault) -> [JSONValue] {
        let chunk = try JSONValue(parsing: chunk)
        if let usage = chunk.present("usage") { self.usage = Self.usage(usage) }
        guard let choice = chunk["choices"]?.elements?.first else { return [] }
        if let reason = choice.present("finish_reason")?.text { finishReason = reason }
        guard let delta = choice.present("delta") else { return [] }
        var events: [JSONValue] = []
        if let piece = delta.present("content")?.text, !piece.isEmpty {
            events += addText(piece)
        }
        for call in delta["tool_calls"]?.elements ?? [] { events += addCall(call) }
        return events
    }

    /// The events after the last token.
    package mutating func finish() -> [JSONValue] {
        var events = closeText()
        for index in calls.keys.sorted() { events += closeCall(index) }
        let name = isIncomplete ? "response.incomplete" : "response.completed"
        return events + [event(name, ["response": finished])]
    }

    /// The event for an error after the first byte.
    package mutating func failed(_ fault: HTTPFault) -> [JSONValue] {
        var response = response("failed")
        response.set(
            "error", ["code": .string(fault.code), "message": .string(fault.message)])
        return [event("response.failed", ["response": response])]
    }

    /// The whole response, after `finish`.
    package var finished: JSONValue { response(isIncomplete ? "incomplete" : "completed") }

    private var isIncomplete: Bool {
        finishReason == "length" || finishReason == "content_filter"
    }

    // MARK: Text

    private mutating func addText(_ piece: String) -> [JSONValue] {
        var events: [JSONValue] = []
        if text == nil {
            let open = OpenText(place: output.count, id: "msg_\(id)_\(output.count)")
            text = open
            output.append(nil)
            events.append(
                event(
                    "response.output_item.added",
                    [
                        "output_index": .number(open.place),
                        "item": Self.message(open.id, "in_progress", content: []),
                    ]))
            events.append(
                textEvent("response.content_part.added", ["part": Self.part("")]))
        }
        text?.text += piece
        events.append(
            textEvent("response.output_text.delta", ["delta": .string(piece), "logprobs": []]))
        return events
    }

    private mutating func closeText() -> [JSONValue] {
        guard let open = text else { return [] }
        let part = Self.part(open.text)
        let item = Self.message(open.id, "completed", content: [part])
        let events = [
            textEvent(
                "response.output_text.done", ["text": .string(open.text), "logprobs": []]),
            textEvent("response.content_part.done", ["part": part]),
            event(
                "response.output_item.done",
                ["output_index": .number(open.place), "item": item]),
        ]
        output[open.place] = item
        text = nil
        return events
    }

    /// An event about the text that is open.
    private mutating func textEvent(_ type: String, _ members: JSONValue) -> JSONValue {
        guard let text else { preconditionFailure("no text is open") }
        var place: JSONValue = [
            "item_id": .string(text.id), "output_index": .number(text.place),
            "content_index": .number(0),
        ]
        for member in members.members ?? [] { place.set(member.name, member.value) }
        return event(type, place)
    }

    private static func message(_ id: String, _ status: String, content: JSONValue) -> JSONValue {
        [
            "id": .string(id), "type": "message", "status": .string(status),
            "role": "assistant", "content": content,
        ]
    }

    private static func part(_ text: String) -> JSONValue {
        ["type": "output_text", "text": .string(text), "annotations": [], "logprobs": []]
    }

    // MARK: Function calls

    private mutating func addCall(_ delta: JSONValue) -> [JSONValue] {
        let index = delta["index"]?.integer ?? 0
        var events: [JSONValue] = []
        if calls[index] == nil {
            events += closeText()
            let place = output.count
            output.append(nil)
            let item: JSONValue = [
                "id": .string("fc_\(id)_\(place)"), "type": "function_call",
                "status": "in_progress", "call_id": delta["id"] ?? "",
                "name": delta["function"]?["name"] ?? "", "arguments": "",
            ]
            calls[index] = OpenCall(place: place, item: item)
            events.append(
                event(
                    "response.output_item.added", ["output_index": .number(place), "item": item]))
        }
        if let piece = delta["function"]?.present("arguments")?.text, !piece.isEmpty {
            calls[index]?.arguments += piece
            let item = calls[index]?.item["id"] ?? ""
            events.append(
                event(
                    "response.function_call_arguments.delta",
                    [
                        "item_id": item, "output_index": .number(calls[index]?.place ?? 0),
                        "delta": .string(piece),
                    ]))
        }
        return events
    }

    private mutating func closeCall(_ index: Int64) -> [JSONValue] {
        guard let open = calls.removeValue(forKey: index) else { return [] }
        var item = open.item
        item.set("status", "completed")
        item.set("arguments", .string(open.arguments))
        output[open.place] = item
        return [
            event(
                "response.function_call_arguments.done",
                [
                    "item_id": item["id"] ?? "", "name": item["name"] ?? "",
                    "output_index": .number(open.place), "arguments": .string(open.arguments),
                ]),
            event(
                "response.output_item.done",
                ["output_index": .number(open.place), "item": item]),
        ]
    }

    // MARK: Objects

    private mutating func event(_ type: String, _ members: JSONValue) -> JSONValue {
        var event: JSONValue = ["type": .string(type), "sequence_number": .number(sequence)]
        sequence += 1
        for member in members.members ?? [] { event.set(member.name, member.value) }
        return event
    }

    private func response(_ status: String) -> JSONValue {
        var response: JSONValue = [
            "id": .string("resp_\(id)"), "object": "response", "created_at": .number(createdAt),
            "status": .string(status), "error": .null, "incomplete_details": .null,
            "model": .string(model), "output": .array(output.compactMap { $0 }),
            "usage": status == "in_progress" ? .null : usage,
        ]
        if status == "incomplete" {
            let reason = finishReason == "length" ? "max_output_tokens" : "content_filter"
            response.set("incomplete_details", ["reason": .string(reason)])
        }
        for member in echo.members ?? [] { response.set(member.name, member.value) }
        return response
    }

    private static func usage(_ usage: JSONValue) -> JSONValue {
        let zero = JSONValue.number(0)
        let input = usage["prompt_tokens"] ?? zero
        let output = usage["completion_tokens"] ?? zero
        let (sum, isBeyond) = (input.integer ?? 0).addingReportingOverflow(output.integer ?? 0)
        let total = isBeyond ? Int64.max : sum
        return [
            "input_tokens": input,
            "input_tokens_details": [
                "cached_tokens":
                    usage["prompt_tokens_details"]?.present("cached_tokens") ?? zero
            ],
            "output_tokens": output,
            "output_tokens_details": [
                "reasoning_tokens":
                    usage["completion_tokens_details"]?.present("reasoning_tokens") ?? zero
            ],
            "total_tokens": usage.present("total_tokens") ?? .number(total),
        ]
    }
}
