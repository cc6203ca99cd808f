import ArgumentParser
import Development
import Foundation

/// `sluice dev`
struct DevCommand: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "dev",
        abstract: "Run broker, sidecar, a worker and an HTTP gateway on this machine.",
        discussion: """
            Prints one JSON line when it can serve, one for every child that had to be started \
            again, and runs until SIGINT or SIGTERM. Certificates, keys and records of an earlier \
            run on the same directory are used again. The worker offers the models echo (repeats \
            the prompt) and demo (a fixed text, 40 tokens a second).
            """)

    @Option(help: "Directory for certificates, keys and records.")
    var data: String

    @Option(help: "Address to listen on.")
    var host = "127.0.0.1"

    @Option(help: "Port to listen on; 0 takes a free one.")
    var port = 0

    @Option(help: "Port of the HTTP gateway on 127.0.0.1; 0 takes a free one.")
    var httpPort = 0

    @Option(help: "How the broker does its I/O: auto, ring or epoll.")
    var backend = "auto"

    @Option(help: "Tasks that the worker takes at once.")
    var slots = 16

    @Option(help: "URL of a running engine with an OpenAI API, to offer its models instead.")
    var upstream: String?

    @Option(
        help: """
            What the engine's models are offered for: chat, completion, embedding; else chat and \
            completion. May be repeated.
            """)
    var operation: [String] = []

    func validate() throws {
        guard Set(operation).isSubset(of: ["chat", "completion", "embedding"]),
            operation.isEmpty || upstream != nil
        else {
            throw ValidationError(
                "--operation is chat, completion or embedding, and needs --upstream")
        }
        guard (0...65_535).contains(port) else {
            throw ValidationError("--port must be 0 to 65535")
        }
        guard (0...65_535).contains(httpPort) else {
            throw ValidationError("--http-port must be 0 to 65535")
        }
        guard ["auto", "ring", "epoll"].contains(backend) else {
            throw ValidationError("--backend must be auto, ring or epoll")
        }
        guard (1...10_000).contains(slots) else {
            throw ValidationError("--slots must be 1 to 10000")
        }
    }

    func run() async throws {
        // Children that die while they are written to must not end their supervisor.
        signal(SIGPIPE, SIG_IGN)
        var options = DevelopmentOptions(programs: Self.programs)
        options.host = host
        options.port = port
        options.httpPort = httpPort
        options.backend = backend
        options.slots = slots
        options.upstream = upstream
        options.operations = operation
        do {
            try await Development.run(
                data: data, options: options, emit: { Output.line($0) },
                warn: { Output.note($0) })
        } catch {
            throw Output.failure(error)
        }
    }

    /// The folder of the running program, where the others are.
    private static var programs: String {
        let own = URL(fileURLWithPath: "/proc/self/exe").resolvingSymlinksInPath()
        return own.deletingLastPathComponent().path
    }
}
