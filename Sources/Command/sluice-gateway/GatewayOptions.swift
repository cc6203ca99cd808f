import ArgumentParser
import Foundation
import Gateway
import ProcessConfiguration
import SluiceClient

/// What a gateway is told, as flags; environment and file have the same names.
struct GatewayOptions: ParsableArguments {
    @Option(help: "File of settings, JSON, with a section \"gateway\". Also SLUICE_CONFIG.")
    var config: String?

    @Option(help: "Broker to connect to, host:port. May be repeated.")
    var broker: [String] = []

    @Option(help: "PEM file with the authorities that brokers are trusted by; else the system's.")
    var ca: String?

    @Option(help: "Address to listen on; else 127.0.0.1.")
    var host: String?

    @Option(help: "Port to listen on; 0 takes a free one; else 8080.")
    var port: String?

    @Option(
        help: "Port of Prometheus' /metrics, in plain HTTP; 0 takes a free one. None without it.")
    var metricsPort: String?

    @Option(help: "Address of --metrics-port; else 127.0.0.1.")
    var metricsHost: String?

    @Option(help: "PEM file with the certificate chain for HTTPS; else plain HTTP.")
    var certificate: String?

    @Option(
        name: [.long, .customLong("key")], help: "PEM file with the certificate's private key.")
    var privateKey: String?

    @Option(
        help: """
            Model to list, NAME or NAME=TARGET[,FALLBACK…]: asked for in that order. May be \
            repeated. Names that are not listed go to the broker as they are. File and environment \
            have | between targets.
            """)
    var model: [String] = []

    @Flag(help: "Refuse models that are not listed.")
    var listedOnly = false

    @Option(help: "Largest request body in bytes; else 16777216.")
    var bodyBytes: String?

    @Option(help: "Seconds between signs of life to a client whose request is queued; else 5.")
    var keepAliveSeconds: String?

    @Option(help: "Longest wait for a connection to a broker, in seconds; else 10.")
    var connectSeconds: String?

    @Option(help: "How long running answers may go on after SIGTERM, in seconds; else 30.")
    var graceSeconds: String?

    @Option(
        help: """
            File with the secret (32 bytes or more) under which prefixes of conversations are \
            recognised; gateways that share it share what they recognise. Else a new one each start.
            """)
    var affinitySecretFile: String?

    private var flags: [String: String?] {
        [
            "broker": joined(broker), "ca": ca, "host": host, "port": port,
            "metrics-port": metricsPort, "metrics-host": metricsHost, "certificate": certificate,
            "private-key": privateKey,
            "model": joined(model.map { $0.replacingOccurrences(of: ",", with: "|") }),
            "listed-only": listedOnly ? "true" : nil, "body-bytes": bodyBytes,
            "keep-alive-seconds": keepAliveSeconds, "connect-seconds": connectSeconds,
            "grace-seconds": graceSeconds, "affinity-secret-file": affinitySecretFile,
        ]
    }

    /// Flags that may be repeated, as the settings write them; nil where none was given.
    private func joined(_ values: [String]) -> String? {
        values.isEmpty ? nil : values.joined(separator: ",")
    }

    /// What counts, from flags, environment, file and defaults.
    func settings() throws -> EffectiveConfiguration {
        do {
            return try ConfigurationSource(
                .gateway, path: config, flags: flags,
                environment: ProcessInfo.processInfo.environment
            ).read()
        } catch {
            throw ValidationError("\(error)")
        }
    }

    /// What the settings mean, but for the certificate.
    static func configuration(_ settings: EffectiveConfiguration) throws -> GatewayConfiguration {
        let brokers = settings.list("broker")
        guard !brokers.isEmpty else {
            throw ValidationError(
                "No broker is named; give --broker HOST:PORT, SLUICE_GATEWAY_BROKER in the "
                    + "environment, or gateway.broker in the configuration file.")
        }
        var configuration = GatewayConfiguration(
            brokers: brokers, trust: settings.text("ca").map { .file($0) } ?? .systemRoots)
        configuration.host = settings.required("host")
        configuration.port = settings.number("port") ?? 0
        configuration.metrics = settings.number("metrics-port").map {
            (settings.required("metrics-host"), $0)
        }
        do {
            configuration.models = try ModelBook(settings.list("model"))
        } catch {
            throw ValidationError("--model is NAME or NAME=TARGET[,FALLBACK…], each name once.")
        }
        configuration.models.isClosed = settings.isTrue("listed-only")
        configuration.bodyBytesMax = settings.number("body-bytes") ?? 0
        configuration.keepAlive = .seconds(settings.number("keep-alive-seconds") ?? 0)
        configuration.connectTime = .seconds(settings.number("connect-seconds") ?? 0)
        configuration.graceTime = .seconds(settings.number("grace-seconds") ?? 0)
        if let file = settings.text("affinity-secret-file") {
            let secret = FileManager.default.contents(atPath: file) ?? Data()
            guard secret.count >= 32 else {
                throw ValidationError("--affinity-secret-file needs a file of 32 bytes or more.")
            }
            configuration.affinitySecret = Array(secret)
        }
        return configuration
    }
}
