import Gateway
import HTTPTypes
import JSONScanning
import Testing

private func bytes(_ text: String) -> [UInt8] { Array(text.utf8) }

private func joined(_ events: [String], isChat: Bool = true) throws -> JSONValue {
    var joiner = CompletionJoiner(isChat: isChat)
    for event in events { try joiner.add(bytes(event)) }
    return try JSONValue(parsing: joiner.joined())
}

@Suite struct CompletionJoinerTests {
    @Test("an answer of ever new members or choices is given up, one of long arrays is joined")
    func bounds() throws {
        var joiner = CompletionJoiner(isChat: true)
        for _ in 0..<20_000 {
            try joiner.add(bytes(#"{"choices":[{"index":0,"delta":{"a":[1]}}]}"#))
        }
        let object = try JSONValue(parsing: joiner.joined())
        let message = try #require(object["choices"]?.elements?.first?["message"])
        #expect(message["a"]?.elements?.count == 20_000)
        for event in [
            #"{"choices":[{"index":0,"delta":{"mNUMBER":1}}]}"#,
            #"{"choices":[{"index":0,"delta":{"mNUMBER":"x"}}]}"#,
            #"{"choices":[{"index":NUMBER,"delta":{}}]}"#, #"{"mNUMBER":1,"choices":[]}"#,
        ] {
            var joiner = CompletionJoiner(isChat: true)
            #expect(throws: JSONFault.tooDeep, "\(event)") {
                for number in 0..<1_100 {
                    try joiner.add(bytes(event.replacing("NUMBER", with: "\(number)")))
                }
            }
        }
    }

    @Test("deltas become one message with its finish reason, usage and unknown members [P12]")
    func chat() throws {
        let object = try joined([
            #"{"id":"c1","object":"chat.completion.chunk","model":"m","x":{"y":1},"choices":[{"index":0,"delta":{"role":"assistant","content":""},"finish_reason":null}]}"#,
            #"{"id":"c1","choices":[{"index":0,"delta":{"content":"Hel"}}]}"#,
            #"{"id":"c1","choices":[{"index":0,"delta":{"content":"lo","reasoning_content":"hm"},"logprobs":{"content":[{"token":"a"}]}}]}"#,
            #"{"id":"c1","choices":[{"index":0,"delta":{},"logprobs":{"content":[{"token":"b"}]},"finish_reason":"stop"}],"usage":null}"#,
            #"{"id":"c1","choices":[],"usage":{"total_tokens":12345678901234567890}}"#,
        ])
        #expect(object["object"] == "chat.completion")
        #expect(object["x"] == ["y": .number(1)])
        #expect(object["usage"] == ["total_tokens": .literal(bytes("12345678901234567890"))])
        let choice = try #require(object["choices"]?.elements?.first)
        #expect(choice["message"]?["content"] == "Hello")
        #expect(choice["message"]?["reasoning_content"] == "hm")
        #expect(choice["message"]?["role"] == "assistant")
        #expect(choice["finish_reason"] == "stop")
        #expect(choice["logprobs"]?["content"]?.elements?.count == 2)
        #expect(choice["delta"] == nil)
    }

    @Test("tool calls are joined by their index, and lose it")
    func toolCalls() throws {
        let object = try joined([
            #"{"choices":[{"index":0,"delta":{"role":"assistant","content":null,"tool_calls":[{"index":0,"id":"a","type":"function","function":{"name":"f","arguments":""}}]}}]}"#,
            #"{"choices":[{"index":0,"delta":{"tool_calls":[{"index":0,"function":{"arguments":"{\"x\""}}]}}]}"#,
            #"{"choices":[{"index":0,"delta":{"tool_calls":[{"index":1,"id":"b","type":"function","function":{"name":"g","arguments":"{}"}}]}}]}"#,
            #"{"choices":[{"index":0,"delta":{"tool_calls":[{"index":0,"function":{"arguments":":1}"}}]}}]}"#,
            #"{"choices":[{"index":0,"delta":{},"finish_reason":"tool_calls"}]}"#,
        ])
        let message = try #require(object["choices"]?.elements?.first?["message"])
        #expect(message["content"] == .null)
        #expect(
            message["tool_calls"] == [
                [
                    "id": "a", "type": "function",
                    "function": ["name": "f", "arguments": #"{"x":1}"#],
                ],
                ["id": "b", "type": "function", "function": ["name": "g", "arguments": "{}"]],
            ])
    }

    @Test("choices that come mixed are sorted, and a completion joins text")
    func choices() throws {
        let object = try joined(
            [
                #"{"object":"text_completion","choices":[{"index":1,"text":"b"}]}"#,
                #"{"choices":[{"index":0,"text":"a"},{"index":1,"text":"c","finish_reason":"length"}]}"#,
            ], isChat: false)
        #expect(object["object"] == "text_completion")
        let choices = try #require(object["choices"]?.elements)
        #expect(choices.map { $0["text"] } == ["a", "bc"])
        #expect(choices.map { $0["finish_reason"] } == [.null, "length"])
    }

    @Test(
        "only the event that brings nothing but usage is one",
        arguments: [
            (#"{"choices":[],"usage":{"total_tokens":1}}"#, true),
            (#"{"usage":{}}"#, true), (#"{"choices":[],"usage":null}"#, false),
            (#"{"choices":[{"delta":{"content":"x"}}],"usage":{}}"#, false),
            (#"{"choices":[]}"#, false), ("nonsense", false),
        ])
    func usageEvents(_ event: String, _ expected: Bool) {
        #expect(EventGlance.isUsageOnly(bytes(event)) == expected)
    }
}

@Suite struct ResponsesTests {
    private func translated(_ body: String) throws -> JSONValue {
        try ResponsesRequest(JSONValue(parsing: bytes(body))).chat
    }

    @Test("text, instructions, limits and formats become a chat")
    func simple() throws {
        let chat = try translated(
            #"{"model":"m","input":"hi","instructions":"be brief","max_output_tokens":5,"temperature":0.5,"text":{"format":{"type":"json_schema","name":"n","schema":{"type":"object"},"strict":true}},"reasoning":{"effort":"low"},"store":false}"#
        )
        #expect(chat["model"] == "m")
        #expect(
            chat["messages"] == [
                ["role": "system", "content": "be brief"], ["role": "user", "content": "hi"],
            ])
        #expect(chat["max_tokens"] == .number(5))
        #expect(chat["temperature"] == .literal(bytes("0.5")))
        #expect(chat["reasoning_effort"] == "low")
        #expect(
            chat["response_format"] == [
                "type": "json_schema",
                "json_schema": [
                    "name": "n", "schema": ["type": "object"], "strict": .boolean(true),
                ],
            ])
        #expect(chat["store"] == nil)
    }

    @Test("items with parts, calls and their outputs become messages")
    func items() throws {
        let chat = try translated(
            #"{"model":"m","input":[{"role":"user","content":[{"type":"input_text","text":"see"},{"type":"input_image","image_url":"data:x","detail":"low"}]},{"type":"reasoning","summary":[]},{"type":"function_call","call_id":"c1","name":"f","arguments":"{}"},{"type":"function_call","call_id":"c2","name":"g","arguments":"{}"},{"type":"function_call_output","call_id":"c1","output":"42"},{"type":"message","role":"assistant","content":[{"type":"output_text","text":"so"}]}],"tools":[{"type":"function","name":"f","parameters":{},"strict":true}],"tool_choice":{"type":"function","name":"f"}}"#
        )
        let messages = try #require(chat["messages"]?.elements)
        #expect(messages.map { $0["role"] } == ["user", "assistant", "tool", "assistant"])
        #expect(
            messages[0]["content"]?.elements?.last
                == ["type": "image_url", "image_url": ["url": "data:x", "detail": "low"]])
        #expect(messages[1]["tool_calls"]?.elements?.count == 2)
        #expect(
            messages[2] == ["role": "tool", "tool_call_id": "c1", "content": "42"])
        #expect(messages[3]["content"] == "so")
        #expect(chat["tool_choice"] == ["type": "function", "function": ["name": "f"]])
        #expect(
            chat["tools"]?.elements?.first?["function"]
                == ["name": "f", "parameters": .emptyObject, "strict": .boolean(true)])
    }

    @Test(
        "what needs stored state or tools of the server is refused by name",
        arguments: [
            (#""previous_response_id":"r""#, "previous_response_id"), (#""store":true"#, "store"),
            (#""background":true"#, "background"), (#""conversation":"c""#, "conversation"),
            (#""tools":[{"type":"web_search"}]"#, "tools[0]"), (#""future":1"#, "future"),
            (#""truncation":"auto""#, "truncation"), (#""include":["x"]"#, "include"),
        ])
    func refused(_ member: String, _ param: String) {
        let fault = #expect(throws: HTTPFault.self) {
            try translated(#"{"model":"m","input":"hi",\#(member)}"#)
        }
        #expect(fault?.status == .badRequest)
        #expect(fault?.param == param)
    }

    @Test("a chat's events become numbered events of a response, text and calls in order")
    func events() throws {
        var writer = ResponsesWriter(id: "t", createdAt: 7, model: "m", echo: .emptyObject)
        var events = writer.begin()
        for chunk in [
            #"{"choices":[{"index":0,"delta":{"role":"assistant","content":""}}]}"#,
            #"{"choices":[{"index":0,"delta":{"content":"He"}}]}"#,
            #"{"choices":[{"index":0,"delta":{"content":"y"}}]}"#,
            #"{"choices":[{"index":0,"delta":{"tool_calls":[{"index":0,"id":"c","function":{"name":"f","arguments":""}}]}}]}"#,
            #"{"choices":[{"index":0,"delta":{"tool_calls":[{"index":0,"function":{"arguments":"{}"}}]}}]}"#,
            #"{"choices":[{"index":0,"delta":{},"finish_reason":"tool_calls"}]}"#,
            #"{"choices":[],"usage":{"prompt_tokens":3,"completion_tokens":2,"total_tokens":5}}"#,
        ] { events += try writer.add(bytes(chunk)) }
        events += writer.finish()
        #expect(
            events.compactMap { $0["type"]?.text } == [
                "response.created", "response.in_progress", "response.output_item.added",
                "response.content_part.added", "response.output_text.delta",
                "response.output_text.delta", "response.output_text.done",
                "response.content_part.done", "response.output_item.done",
                "response.output_item.added", "response.function_call_arguments.delta",
                "response.function_call_arguments.done", "response.output_item.done",
                "response.completed",
            ])
        #expect(
            events.map { $0["sequence_number"]?.integer } == (0..<14).map { Int64($0) })
        let response = try #require(events.last?["response"])
        #expect(response["status"] == "completed")
        let output = try #require(response["output"]?.elements)
        #expect(output[0]["content"]?.elements?.first?["text"] == "Hey")
        #expect(output[1]["name"] == "f" && output[1]["arguments"] == "{}")
        #expect(output[1]["call_id"] == "c")
        #expect(response["usage"]?["input_tokens"] == .number(3))
    }

    @Test("usage of any size ends no process")
    func largestUsage() throws {
        var writer = ResponsesWriter(id: "t", createdAt: 7, model: "m", echo: .emptyObject)
        _ = try writer.add(
            bytes(
                #"{"choices":[],"usage":{"prompt_tokens":9223372036854775807,"completion_tokens":1}}"#
            ))
        _ = writer.finish()
        #expect(writer.finished["usage"]?["total_tokens"]?.integer == .max)
    }

    @Test("an answer cut at its limit is incomplete")
    func incomplete() throws {
        var writer = ResponsesWriter(id: "t", createdAt: 7, model: "m", echo: .emptyObject)
        _ = try writer.add(
            bytes(#"{"choices":[{"index":0,"delta":{"content":"x"},"finish_reason":"length"}]}"#))
        #expect(writer.finish().last?["type"] == "response.incomplete")
        #expect(writer.finished["incomplete_details"] == ["reason": "max_output_tokens"])
    }
}
