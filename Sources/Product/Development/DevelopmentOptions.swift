/// What `sluice dev` was asked for.
package struct DevelopmentOptions: Sendable {
    /// Folder of the programs: where `sluice` itself lies.
    package var programs: String
    package var host = "127.0.0.1"
    /// 0 = any free port, kept over restarts of the broker.
    package var port = 0
    /// `auto`, `ring` or `epoll`, for the broker.
    package var backend = "auto"
    /// Tasks the worker takes at once.
    package var slots = 16
    /// URL of an engine with an OpenAI API; nil = the built-in engines `echo` and `demo`.
    package var upstream: String?
    /// What the upstream's models are offered for; empty = chat and completion.
    package var operations: [String] = []

    /// What the worker asks for, micro-USD per million tokens, so that records show money.
    static let inputPrice = 200_000
    static let outputPrice = 600_000

    package init(programs: String) {
        self.programs = programs
    }

    /// Port of the HTTP gateway on loopback; 0 = any free port, kept over its restarts.
    package var httpPort = 0

    /// The built-in models by name, so that clients can list them; what an upstream serves is
    /// passed on by name without being listed.
    var gatewayModelArguments: [String] {
        upstream == nil ? builtInEngines.flatMap { ["--model", $0] } : []
    }

    var engineArguments: [String] {
        guard let upstream else { return builtInEngines.flatMap { ["--engine", $0] } }
        return ["--upstream", upstream] + operations.flatMap { ["--operation", $0] }
    }

    /// What must be offered before anything is ready. What an upstream serves is not known.
    var expectedModels: Set<String> {
        upstream == nil ? Set(builtInEngines) : []
    }

    private var builtInEngines: [String] { ["echo", "demo"] }
}
