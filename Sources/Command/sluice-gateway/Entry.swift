import ArgumentParser
import Foundation
import Gateway
import LinuxIO
import SluiceClient

@main struct SluiceGateway: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "sluice-gateway",
        abstract: "Serves OpenAI's HTTP API from Sluice brokers.",
        discussion: """
            Serves /v1/chat/completions, /v1/completions, /v1/responses, /v1/embeddings, \
            /v1/images/generations and /v1/models. Clients authenticate with their Sluice API key \
            as the bearer token. Prints one JSON line when it listens, and never a byte of a \
            request. SIGTERM and SIGINT let running answers end, then exit 0.
            """)

    @Option(help: "Broker to connect to, host:port. May be repeated.")
    var broker: [String]

    @Option(help: "PEM file with the authorities that brokers are trusted by; else the system's.")
    var ca: String?

    @Option(help: "Address to listen on.")
    var host = "127.0.0.1"

    @Option(help: "Port to listen on; 0 takes a free one.")
    var port = 8_080

    @Option(
        help: "Port of Prometheus' /metrics, in plain HTTP; 0 takes a free one. None without it.")
    var metricsPort: Int?

    @Option(help: "Address of --metrics-port.")
    var metricsHost = "127.0.0.1"

    @Option(help: "PEM file with the certificate chain for HTTPS; else plain HTTP.")
    var certificate: String?

    @Option(help: "PEM file with the certificate's private key.")
    var key: String?

    @Option(
        help: """
            Model to list, NAME or NAME=TARGET[,FALLBACK…]: asked for in that order. May be \
            repeated. Names that are not listed go to the broker as they are.
            """)
    var model: [String] = []

    @Flag(help: "Refuse models that are not listed.")
    var listedOnly = false

    @Option(help: "Largest request body in bytes.")
    var bodyBytes = 16_777_216

    @Option(help: "Seconds between signs of life to a client whose request is queued.")
    var keepAliveSeconds = 5

    @Option(help: "Longest wait for a connection to a broker, in seconds.")
    var connectSeconds = 10

    @Option(help: "How long running answers may go on after SIGTERM, in seconds.")
    var graceSeconds = 30

    @Option(
        help: """
            File with the secret (32 bytes or more) under which prefixes of conversations are \
            recognised; gateways that share it share what they recognise. Else a new one each start.
            """)
    var affinitySecretFile: String?

    @Flag(help: "Stop when standard input closes, as a child of a process that holds it open.")
    var parentPipe = false

    func run() async throws {
        // Prompts pass through this process: a crash must print none of its memory.
        guard ProcessGuard.harden(wipesFreedMemory: true) else {
            throw ValidationError(
                "cannot start again with crash backtraces off; is /proc mounted?")
        }
        let configuration = try gatewayConfiguration()
        let scheme = configuration.certificate == nil ? "http" : "https"
        let (place, metricsPlace) = (Self.place(host), Self.place(metricsHost))
        let signals = StopSignals(watchesParent: parentPipe)
        defer { withExtendedLifetime(signals) {} }
        do {
            try await Gateway.run(configuration, stops: signals.stops) { port, metricsPort in
                let metrics =
                    metricsPort.map { #","metrics":"http://\#(metricsPlace):\#($0)/metrics""# }
                    ?? ""
                let line =
                    #"{"event":"listening","port":\#(port),"http":"\#(scheme)://\#(place):\#(port)"\#(metrics)}"#
                try? FileHandle.standardOutput.write(contentsOf: Data("\(line)\n".utf8))
            }
        } catch let error as GatewayError {
            FileHandle.standardError.write(Data("sluice-gateway: \(error)\n".utf8))
            throw ExitCode(1)
        }
    }

    /// An address as a URL has it.
    private static func place(_ host: String) -> String {
        host.contains(":") ? "[\(host)]" : host
    }

    private func gatewayConfiguration() throws -> GatewayConfiguration {
        guard !broker.isEmpty else { throw ValidationError("--broker is needed.") }
        for (name, value) in [("port", port), ("metrics-port", metricsPort ?? 0)] {
            guard (0...65_535).contains(value) else {
                throw ValidationError("--\(name) is 0 to 65535.")
            }
        }
        guard (1_024...1_073_741_824).contains(bodyBytes) else {
            throw ValidationError("--body-bytes is 1024 to 1073741824.")
        }
        for (name, value) in [
            ("keep-alive", keepAliveSeconds), ("connect", connectSeconds), ("grace", graceSeconds),
        ] {
            guard (1...3_600).contains(value) else {
                throw ValidationError("--\(name)-seconds is 1 to 3600.")
            }
        }
        var configuration = GatewayConfiguration(
            brokers: broker, trust: ca.map { .file($0) } ?? .systemRoots)
        configuration.host = host
        configuration.port = port
        configuration.metrics = metricsPort.map { (metricsHost, $0) }
        switch (certificate, key) {
        case (let chain?, let key?): configuration.certificate = (chain, key)
        case (nil, nil): break
        default: throw ValidationError("--certificate and --key are given together.")
        }
        do {
            configuration.models = try ModelBook(model)
        } catch {
            throw ValidationError("--model is NAME or NAME=TARGET[,FALLBACK…], each name once.")
        }
        configuration.models.isClosed = listedOnly
        configuration.bodyBytesMax = bodyBytes
        configuration.keepAlive = .seconds(keepAliveSeconds)
        configuration.connectTime = .seconds(connectSeconds)
        configuration.graceTime = .seconds(graceSeconds)
        if let affinitySecretFile {
            let secret = FileManager.default.contents(atPath: affinitySecretFile) ?? Data()
            guard secret.count >= 32 else {
                throw ValidationError("--affinity-secret-file needs a file of 32 bytes or more.")
            }
            configuration.affinitySecret = Array(secret)
        }
        return configuration
    }
}
