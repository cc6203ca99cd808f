import HTTPTypes
import JSONScanning
import SluiceClient
import SluiceWire

/// The routes that become tasks.
enum TaskRoute: String {
    case chat = "/v1/chat/completions"
    case completions = "/v1/completions"
    case responses = "/v1/responses"
    case embeddings = "/v1/embeddings"
    case images = "/v1/images/generations"

    /// What is asked of the broker.
    var operation: TaskOperation {
        switch self {
        case .chat, .responses: .chat
        case .completions: .completion
        case .embeddings: .embedding
        case .images: .image
        }
    }
}

/// A request that was understood: what to submit, and in which form to answer.
struct TaskCall: Sendable {
    let route: TaskRoute
    /// The name that the client asked for.
    let model: String
    let options: RequestOptions
    /// What goes to the supplier.
    private(set) var payload: [UInt8]
    /// The messages of a chat, for the keys of its prefixes.
    private(set) var messages: [[UInt8]]
    let isStreaming: Bool
    /// Whether the client wants the event with the usage.
    let includesUsage: Bool
    /// Members that a response of `/v1/responses` repeats.
    let echo: JSONValue

    /// Reads a body. Throws a fault with status 400 that names the member that is wrong.
    init(_ route: TaskRoute, body: [UInt8], headers: HTTPFields) throws(HTTPFault) {
        self.route = route
        var body = body
        var extra: JSONValue?
        var isStreaming: Bool?
        var echo = JSONValue.emptyObject
        if route == .responses {
            let value: JSONValue
            do throws(JSONFault) {
                value = try JSONValue(parsing: body)
            } catch {
                throw .invalid("The body is not one JSON object.")
            }
            let translated = try ResponsesRequest(value)
            (body, extra) = (translated.chat.encoded, value["sluice"])
            (isStreaming, echo) = (translated.isStreaming, translated.echo)
        }
        let request = try ClientRequest(body)
        var options = try RequestOptions(headers: headers, extra: extra ?? request.extra)
        options.submit.maxOutputTokens =
            try route.operation.countsResults
            ? Self.results(route, request) : request.maxOutputTokens
        model = request.model
        self.options = options
        payload = request.payload
        messages = route.operation == .chat ? request.messages : []
        self.isStreaming = isStreaming ?? request.isStreaming
        includesUsage = request.includesUsage
        self.echo = echo
    }

    /// The task is asked for: what is left is to answer.
    mutating func forgetBody() {
        payload = []
        messages = []
    }

    /// Most images of one request, as OpenAI's API has it.
    private static let imagesMax = 10

    /// How many embeddings or images a request asks for: what its task may bring and is held for.
    private static func results(
        _ route: TaskRoute, _ request: ClientRequest
    ) throws(HTTPFault) -> UInt32 {
        guard !request.isStreaming else {
            throw .invalid("stream is not available here.", param: "stream")
        }
        guard route == .images else {
            guard let inputs = request.inputs, inputs > 0 else {
                throw .invalid(
                    "input is a text, or an array of at least one text or token.", param: "input")
            }
            return UInt32(clamping: inputs)
        }
        guard [nil, "b64_json"].contains(request.responseFormat) else {
            throw .invalid(
                "response_format is b64_json: images are not kept, so there is no URL.",
                param: "response_format")
        }
        let count = request.choices ?? 1
        guard !request.hasOddChoices, (1...imagesMax).contains(count) else {
            throw .invalid("n is 1 to \(imagesMax).", param: "n")
        }
        return UInt32(count)
    }
}
