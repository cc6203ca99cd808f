import ArgumentParser
import Foundation
import Gateway
import LinuxIO
import ProcessConfiguration
import SluiceClient

@main struct SluiceGateway: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "sluice-gateway",
        abstract: "Serves OpenAI's HTTP API from Sluice brokers.",
        discussion: """
            Serves /v1/chat/completions, /v1/completions, /v1/responses, /v1/embeddings, \
            /v1/images/generations and /v1/models. Clients authenticate with their Sluice API key \
            as the bearer token. Prints one JSON line when it listens, and never a byte of a \
            request. SIGTERM and SIGINT let running answers end, then exit 0; SIGHUP takes a new \
            certificate over. Settings come from flags, else from the environment \
            (SLUICE_GATEWAY_PORT for --port), else from the file of --config, else from defaults.
            """)

    @OptionGroup var options: GatewayOptions

    @Flag(help: "Stop when standard input closes, as a child of a process that holds it open.")
    var parentPipe = false

    func run() async throws {
        let settings = try options.settings()
        // Prompts pass through this process: a crash must print none of its memory.
        guard ProcessGuard.harden(wipesFreedMemory: true) else {
            throw ValidationError(
                "cannot start again with crash backtraces off; is /proc mounted?")
        }
        // A connection of HTTP is one, and a key's of the broker is another.
        _ = DescriptorLimit.raise()
        let certificate = try Self.certificate(settings)
        var configuration = try GatewayOptions.configuration(settings)
        configuration.certificate = certificate
        let scheme = certificate == nil ? "http" : "https"
        let place = Self.place(configuration.host)
        let metricsPlace = Self.place(settings.required("metrics-host"))
        let signals = StopSignals(watchesParent: parentPipe)
        let reloading = Task { [options, reloads = signals.reloads] in
            for await _ in reloads { Self.reload(options, certificate) }
        }
        defer {
            reloading.cancel()
            withExtendedLifetime(signals) {}
        }
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
            Self.note(error)
            throw ExitCode(1)
        }
    }

    private static func certificate(
        _ settings: EffectiveConfiguration
    ) throws -> GatewayCertificate? {
        switch (settings.text("certificate"), settings.text("private-key")) {
        case (nil, nil): return nil
        case (let chain?, let key?):
            do {
                return try GatewayCertificate(chainFile: chain, keyFile: key)
            } catch {
                note(error)
                throw ExitCode(1)
            }
        default: throw ValidationError("--certificate and --private-key are given together.")
        }
    }

    /// Reads the settings again and takes the certificate over that they name now. A JSON line on
    /// standard error says how it went, and one for people what is wrong.
    private static func reload(_ options: GatewayOptions, _ certificate: GatewayCertificate?) {
        let settings: EffectiveConfiguration
        do {
            settings = try options.settings()
        } catch {
            event(#""event":"reload_refused","reason":"configuration""#)
            return note(error)
        }
        guard let certificate, let chain = settings.text("certificate"),
            let key = settings.text("private-key")
        else { return event(#""event":"reload_refused","reason":"no_certificate""#) }
        do {
            let expiry = try certificate.replace(chainFile: chain, keyFile: key)
            event(#""event":"certificate_replaced","expiresAt":\#(expiry)"#)
        } catch {
            event(#""event":"certificate_refused""#)
            note(error)
        }
    }

    private static func event(_ members: String) {
        FileHandle.standardError.write(Data("{\(members)}\n".utf8))
    }

    private static func note(_ error: any Error) {
        FileHandle.standardError.write(Data("sluice-gateway: \(error)\n".utf8))
    }

    /// An address as a URL has it.
    private static func place(_ host: String) -> String {
        host.contains(":") ? "[\(host)]" : host
    }
}
