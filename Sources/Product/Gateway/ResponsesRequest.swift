package import JSONScanning

/// A request of `/v1/responses` as the request of `/v1/chat/completions` that it means. What has no
/// such meaning is refused by name: this gateway keeps nothing, so there is no earlier response to
/// go on from, and it runs no tools of its own.
package struct ResponsesRequest {
    /// The request for chat, with `stream` left to the supplier.
    package let chat: JSONValue
    /// Members of the request that the response repeats.
    package let echo: JSONValue
    package let isStreaming: Bool

    /// Translates; throws a fault with status 400 that names the member.
    package init(_ body: JSONValue) throws(HTTPFault) {
        guard let members = body.members else { throw .invalid("The body is not one JSON object.") }
        var chat: JSONValue = .emptyObject
        var messages: [JSONValue] = []
        if let instructions = body.present("instructions") {
            guard let text = instructions.text else {
                throw .invalid("instructions is text.", param: "instructions")
            }
            messages.append(["role": "system", "content": .string(text)])
        }
        var isStreaming = false
        for member in members where !member.value.isNull {
            let (name, value) = (member.name, member.value)
            switch name {
            case "instructions", "metadata", "sluice": break
            case "input": messages += try Self.messages(value)
            case "stream":
                guard let flag = value.boolean else {
                    throw .invalid("stream is true or false.", param: name)
                }
                isStreaming = flag
            case "max_output_tokens": chat.set("max_tokens", value)
            case "tools": chat.set("tools", try Self.tools(value))
            case "tool_choice": chat.set("tool_choice", try Self.toolChoice(value))
            case "text": try Self.setText(value, in: &chat)
            case "reasoning":
                if let effort = value.present("effort") { chat.set("reasoning_effort", effort) }
            case "truncation" where value.text == "disabled": break
            case "top_logprobs":
                guard value.integer == 0 else {
                    throw Self.unsupported(name, "Log probabilities are not shown here.")
                }
            case "store", "background":
                guard value.boolean == false else {
                    throw Self.unsupported(name, "Nothing is stored here; leave it false.")
                }
            case "include", "stream_options":
                guard value.elements?.isEmpty ?? value.members?.isEmpty ?? false else {
                    throw Self.unsupported(name, "It is not available here.")
                }
            case _ where Self.sharedNames.contains(name): chat.set(name, value)
            case "previous_response_id", "conversation":
                throw Self.unsupported(name, "Nothing is stored here: send the whole input.")
            default: throw Self.unsupported(name, "It has no meaning for a chat.")
            }
        }
        guard !messages.isEmpty else { throw .invalid("input is missing.", param: "input") }
        chat.set("messages", .array(messages))
        self.chat = chat
        self.isStreaming = isStreaming
        echo = Self.echo(of: body)
    }

    /// Members that mean the same in both.
    private static let sharedNames: Set<String> = [
        "model", "temperature", "top_p", "parallel_tool_calls", "user", "service_tier",
        "safety_identifier", "prompt_cache_key",
    ]

    private static func unsupported(_ param: String, _ reason: String) -> HTTPFault {
        .invalid("\(param) is not supported by this gateway. \(reason)", param: param)
    }

    private static func echo(of body: JSONValue) -> JSONValue {
        [
            "instructions": body["instructions"] ?? .null,
            "max_output_tokens": body["max_output_tokens"] ?? .null,
            "metadata": body.present("metadata") ?? .emptyObject,
            "parallel_tool_calls": body.present("parallel_tool_calls") ?? .boolean(true),
            "previous_response_id": .null,
            "reasoning": body.present("reasoning") ?? ["effort": .null, "summary": .null],
            "store": .boolean(false),
            "temperature": body["temperature"] ?? .null,
            "text": body.present("text") ?? ["format": ["type": "text"]],
            "tool_choice": body.present("tool_choice") ?? "auto",
            "tools": body.present("tools") ?? [],
            "top_p": body["top_p"] ?? .null,
            "truncation": "disabled",
        ]
    }

    // MARK: Input

    private static func messages(_ input: JSONValue) throws(HTTPFault) -> [JSONValue] {
        if let text = input.text { return [["role": "user", "content": .string(text)]] }
        guard let items = input.elements else {
            throw .invalid("input is text or a list of items.", param: "input")
        }
        var messages: [JSONValue] = []
        for (index, item) in items.enumerated() {
            let param = "input[\(index)]"
            switch item.present("type")?.text ?? "message" {
            case "message": messages.append(try message(item, param))
            case "function_call": add(call(item), to: &messages)
            case "function_call_output":
                guard let id = item["call_id"]?.text, let output = item["output"] else {
                    throw .invalid("\(param) needs call_id and output.", param: param)
                }
                messages.append([
                    "role": "tool", "tool_call_id": .string(id),
                    "content": try content(output, param),
                ])
            // An engine that is sent the conversation again thinks again.
            case "reasoning": break
            case let type:
                throw unsupported(param, "Items of type \(type) have no meaning for a chat.")
            }
        }
        return messages
    }

    private static func message(_ item: JSONValue, _ param: String) throws(HTTPFault) -> JSONValue {
        guard let role = item["role"]?.text, let value = item["content"] else {
            throw .invalid("\(param) needs role and content.", param: param)
        }
        return ["role": .string(role), "content": try content(value, param)]
    }

    private static func content(_ value: JSONValue, _ param: String) throws(HTTPFault) -> JSONValue
    {
        if value.text != nil { return value }
        guard let parts = value.elements else {
            throw .invalid("The content of \(param) is text or a list of parts.", param: param)
        }
        var translated: [JSONValue] = []
        for part in parts {
            switch part["type"]?.text {
            case "input_text", "output_text", "text":
                translated.append(["type": "text", "text": part["text"] ?? ""])
            case "refusal":
                translated.append(["type": "refusal", "refusal": part["refusal"] ?? ""])
            case "input_image":
                guard let url = part.present("image_url") else {
                    throw unsupported(param, "An image needs image_url; files are not kept here.")
                }
                var image: JSONValue = ["url": url]
                if let detail = part.present("detail") { image.set("detail", detail) }
                translated.append(["type": "image_url", "image_url": image])
            case let type:
                throw unsupported(param, "Parts of type \(type ?? "?") have no meaning for a chat.")
            }
        }
        // One text stays text: many engines take parts of no role but the user's.
        if translated.count == 1, let text = translated[0]["text"] { return text }
        return .array(translated)
    }

    private static func call(_ item: JSONValue) -> JSONValue {
        [
            "id": item["call_id"] ?? "", "type": "function",
            "function": ["name": item["name"] ?? "", "arguments": item["arguments"] ?? ""],
        ]
    }

    /// Calls that stand side by side are one message of the assistant.
    private static func add(_ call: JSONValue, to messages: inout [JSONValue]) {
        if let last = messages.last, last["role"]?.text == "assistant",
            let calls = last["tool_calls"]?.elements
        {
            messages[messages.count - 1].set("tool_calls", .array(calls + [call]))
        } else {
            messages.append(["role": "assistant", "content": .null, "tool_calls": .array([call])])
        }
    }

    // MARK: Tools and format

    private static func tools(_ value: JSONValue) throws(HTTPFault) -> JSONValue {
        guard let tools = value.elements else {
            throw .invalid("tools is a list.", param: "tools")
        }
        var translated: [JSONValue] = []
        for (index, tool) in tools.enumerated() {
            guard tool["type"]?.text == "function", tool.present("name") != nil else {
                throw unsupported(
                    "tools[\(index)]", "Only tools of type function can be passed on.")
            }
            var function = tool
            function.remove("type")
            translated.append(["type": "function", "function": function])
        }
        return .array(translated)
    }

    private static func toolChoice(_ value: JSONValue) throws(HTTPFault) -> JSONValue {
        if value.text != nil { return value }
        guard value["type"]?.text == "function", let name = value.present("name") else {
            throw unsupported("tool_choice", "It is auto, none, required or one function.")
        }
        return ["type": "function", "function": ["name": name]]
    }

    private static func setText(_ text: JSONValue, in chat: inout JSONValue) throws(HTTPFault) {
        if let verbosity = text.present("verbosity") { chat.set("verbosity", verbosity) }
        guard let format = text.present("format") else { return }
        switch format["type"]?.text {
        case "text": break
        case "json_object": chat.set("response_format", ["type": "json_object"])
        case "json_schema":
            var schema = format
            schema.remove("type")
            chat.set("response_format", ["type": "json_schema", "json_schema": schema])
        default: throw unsupported("text.format", "It is text, json_object or json_schema.")
        }
    }
}
