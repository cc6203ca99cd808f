import AsyncHTTPClient
import JSONScanning
import NIOCore
import NIOHTTP1

/// An engine that answered on this machine. Finding one offers nothing.
package struct DiscoveredUpstream: Equatable, Sendable {
    /// Which program answered, told by an endpoint that only it documents.
    package enum Kind: String, CaseIterable, Sendable {
        case sglang = "SGLang"
        case llamaCpp = "llama.cpp"
        case ollama = "Ollama"
        case vllm = "vLLM"

        /// The port that the program listens on where it is told none.
        package var defaultPort: Int {
            switch self {
            case .sglang: 30_000
            case .llamaCpp: 8_080
            case .ollama: 11_434
            case .vllm: 8_000
            }
        }

        /// Path and a member of the object it answers with. `/version` says least and is last.
        var probe: (path: String, member: String) {
            switch self {
            case .sglang: ("/get_model_info", "model_path")
            case .llamaCpp: ("/props", "total_slots")
            case .ollama: ("/api/version", "version")
            case .vllm: ("/version", "version")
            }
        }
    }

    /// Nil where something serves a model list but no probe knows it.
    package var kind: Kind?
    /// For `--upstream`.
    package var url: String
    /// The upstream's own names, as it lists them; those that a terminal could misread are out.
    package var models: [String]

    /// Makes a finding.
    package init(kind: Kind?, url: String, models: [String]) {
        self.kind = kind
        self.url = url
        self.models = models
    }
}

/// Looks for engines on loopback, at their default ports. Calls nothing else.
package enum UpstreamDiscovery {
    /// Longest answer to a probe in bytes.
    private static let probeBytesMax = 1 << 20

    /// Everything that serves a model list, in the order of `ports`; silent ports are left out.
    package static func search(
        ports: [Int] = DiscoveredUpstream.Kind.allCases.map(\.defaultPort)
    ) async -> [DiscoveredUpstream] {
        var found: [DiscoveredUpstream] = []
        for port in ports {
            let url = "http://127.0.0.1:\(port)"
            guard let address = UpstreamAddress(url) else { continue }
            let client = UpstreamClient(address, tasksMax: 1)
            let answer = await client.list(timeout: .seconds(2))
            await client.shutdown()
            guard case .models(let models) = answer else { continue }
            found.append(
                DiscoveredUpstream(
                    kind: await kind(at: url), url: url,
                    models: models.map(\.name).filter(isPrintable)))
        }
        return found
    }

    private static func isPrintable(_ name: String) -> Bool {
        !name.isEmpty && name.utf8.allSatisfy { (0x21...0x7E).contains($0) }
    }

    private static func kind(at url: String) async -> DiscoveredUpstream.Kind? {
        var configuration = HTTPClient.Configuration()
        configuration.redirectConfiguration = .disallow
        let client = HTTPClient(eventLoopGroupProvider: .singleton, configuration: configuration)
        var kind: DiscoveredUpstream.Kind?
        for candidate in DiscoveredUpstream.Kind.allCases where kind == nil {
            let (path, member) = candidate.probe
            let request = HTTPClientRequest(url: url + path)
            guard let response = try? await client.execute(request, timeout: .seconds(2)),
                response.status == .ok,
                let body = try? await response.body.collect(upTo: probeBytesMax),
                (try? holds(member, Array(body.readableBytesView))) == true
            else { continue }
            kind = candidate
        }
        try? await client.shutdown()
        return kind
    }

    /// Whether the bytes are one JSON object with such a member.
    private static func holds(_ member: String, _ body: [UInt8]) throws(JSONFault) -> Bool {
        var isThere = false
        var cursor = JSONCursor(body)
        try cursor.beginObject()
        while let key = try cursor.nextKey() {
            if key == member { isThere = true }
            try cursor.skipValue()
        }
        try cursor.expectEnd()
        return isThere
    }
}
