import Testing
import Worker

@Suite(.serialized, .timeLimit(.minutes(1))) struct UpstreamDiscoveryTests {
    /// A server with a model list that answers `path` with `body`, and 404 to all else.
    private func server(_ path: String, _ body: String) async throws -> ScriptedUpstream {
        try await ScriptedUpstream { request, exchange in
            let answer =
                switch request.path {
                case "/v1/models": #"{"data":[{"id":"m"},{"id":"bad\u001b[2J"}]}"#
                case path: body
                default: ""
                }
            try await exchange.head(answer.isEmpty ? 404 : 200, type: "application/json")
            try await exchange.send(answer.isEmpty ? "{}" : answer)
            try await exchange.end()
        }
    }

    @Test(arguments: [
        ("/get_model_info", #"{"model_path":"x"}"#, DiscoveredUpstream.Kind.sglang),
        ("/props", #"{"a":{"b":[1]},"total_slots":4}"#, .llamaCpp),
        ("/api/version", #"{"version":"0.9"}"#, .ollama),
        ("/version", #"{"version":"0.11"}"#, .vllm),
        ("/version", #"{"release":"1"}"#, nil),
        ("/version", "not JSON", nil),
    ])
    func anEngineIsToldByItsOwnEndpoint(
        _ path: String, _ body: String, _ kind: DiscoveredUpstream.Kind?
    ) async throws {
        let server = try await server(path, body)
        let found = await UpstreamDiscovery.search(ports: [server.port])
        #expect(found == [DiscoveredUpstream(kind: kind, url: server.url, models: ["m"])])
        await server.stop()
    }

    @Test func aPortWithoutAModelListIsNothingFound() async throws {
        let other = try await ScriptedUpstream { _, exchange in
            try await exchange.head(404)
            try await exchange.end()
        }
        let port = other.port
        #expect(await UpstreamDiscovery.search(ports: [port]).isEmpty)
        await other.stop()
        #expect(await UpstreamDiscovery.search(ports: [port]).isEmpty)
    }
}
