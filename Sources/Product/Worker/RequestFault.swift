import SluiceWire

/// What is wrong with a request that no engine needs to see. Closed.
package enum RequestFault: Error, Equatable {
    /// It is no JSON object, or two readers could disagree about it.
    case ambiguous
    /// More embeddings or images than the task says.
    case moreResultsThanSaid
    /// A URL instead of the image.
    case asksForURL
    /// Events instead of one object.
    case asksForStream

    /// The sentence that the client reads, and the member that is wrong.
    private var explanation: (message: String, param: String?) {
        switch self {
        case .ambiguous:
            ("The request is not a JSON object that can be understood in one way only.", nil)
        case .moreResultsThanSaid: ("The request asks for more than its task says.", nil)
        case .asksForURL:
            (
                "response_format is b64_json: images are not kept, so there is no URL.",
                "response_format"
            )
        case .asksForStream: ("stream is not available here.", "stream")
        }
    }

    /// Tells the client what is wrong with its body, where the encoding has room for it; returns
    /// the failure to end with.
    func refuse(_ assignment: Assignment, to sink: some AnswerSink) async -> EngineFailure {
        guard assignment.isOpenAI else { return EngineFailure(code: .upstreamRefused) }
        let (message, param) = explanation
        let body =
            #"{"error":{"message":"\#(message)","type":"invalid_request_error","#
            + #""param":\#(param.map { #""\#($0)""# } ?? "null"),"code":null}}"#
        do {
            try await sink.writeError(Array(body.utf8))
        } catch {
            return EngineFailure(code: .cancelled)
        }
        return EngineFailure(code: .upstreamRefused)
    }
}
