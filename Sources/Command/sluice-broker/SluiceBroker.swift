import ArgumentParser
import Broker
import Foundation
import LinuxIO
import ProcessConfiguration
import SluiceBrokerCore

/// `sluice-broker`: options only.
@main
struct SluiceBroker: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "sluice-broker",
        abstract: "Routes inference tasks from clients to suppliers and streams answers back.",
        discussion: """
            Settings come from flags, else from the environment (SLUICE_BROKER_PORT for --port), \
            else from the file of --config, else from defaults; `sluice config show` says which. \
            SIGTERM drains: no new tasks, and those that run may end. SIGHUP takes a new \
            certificate and new client authorities over for new connections. A listening socket \
            that a service supervisor passes (LISTEN_FDS) is used in place of --host and --port.
            """)

    @Option(help: "File of settings, JSON. Also SLUICE_CONFIG.")
    var config: String?

    @Option(name: .customLong("run"), help: "Directory on a tmpfs where broker and sidecar meet.")
    var runDirectory: String?

    @Option(help: "Directory of the sidecar's data, for --directory's default.")
    var data: String?

    @Option(help: "Directory of credentials, written by the sidecar; else DATA/directory.")
    var directory: String?

    @Option(help: "PEM file of the server certificate and its chain.")
    var certificate: String?

    @Option(help: "PEM file of the certificate's key.")
    var privateKey: String?

    @Option(
        name: .customLong("client-ca"),
        help: """
            PEM file of the authorities whose certificates clients and suppliers may show instead \
            of a key or token; else none is asked for.
            """)
    var clientAuthorities: String?

    @Option(help: "Numeric address to listen on; else 127.0.0.1.")
    var host: String?

    @Option(help: "Port to listen on; 0 picks a free one; else 7700.")
    var port: String?

    @Option(help: "How to talk to the kernel: auto, ring (io_uring) or epoll; else auto.")
    var backend: String?

    @Option(help: "Threads that serve connections, 1 to 63; by default one a processor.")
    var shards: String?

    @Option(
        help: "Where tasks are matched: shard (the first one's thread), thread (its own) or auto.")
    var dispatcher: String?

    @Option(help: "MiB for request bodies, 1 to 1024; else 256.")
    var bodyMemory: String?

    @Option(help: "MiB for answers on their way, 1 to 1024; else 256.")
    var answerMemory: String?

    @Option(help: "Seconds that tasks may go on after SIGTERM, 1 to 3600; else 30.")
    var drainSeconds: String?

    @Flag(help: "Drain and stop when standard input closes.")
    var parentPipe = false

    func run() throws {
        guard ProcessGuard.harden() else {
            throw ValidationError(
                "cannot start again with crash backtraces off; is /proc mounted?")
        }
        let source = source
        let settings: EffectiveConfiguration
        do {
            settings = try source.read()
        } catch {
            throw ValidationError("\(error)")
        }
        var configuration = Self.broker(settings)
        configuration.stopsWithParent = parentPipe
        configuration.reread = { Self.reread(source, since: settings) }
        try BrokerProcess.run(configuration)
    }

    private var source: ConfigurationSource {
        ConfigurationSource(
            .broker, path: config,
            flags: [
                "run": runDirectory, "data": data, "directory": directory,
                "certificate": certificate, "private-key": privateKey,
                "client-ca": clientAuthorities, "host": host,
                "port": port, "backend": backend, "shards": shards, "dispatcher": dispatcher,
                "body-memory": bodyMemory, "answer-memory": answerMemory,
                "drain-seconds": drainSeconds,
            ], environment: ProcessInfo.processInfo.environment)
    }

    private static func broker(_ settings: EffectiveConfiguration) -> BrokerConfiguration {
        var configuration = BrokerConfiguration(
            runDirectory: settings.required("run"),
            directory: settings.text("directory") ?? settings.required("data") + "/directory",
            certificateFile: settings.required("certificate"),
            privateKeyFile: settings.required("private-key"),
            clientAuthoritiesFile: settings.text("client-ca"))
        configuration.host = settings.required("host")
        configuration.port = UInt16(settings.number("port") ?? 0)
        configuration.backend =
            BackendChoice(rawValue: settings.required("backend")) ?? .automatic
        configuration.limits.bodyArenaBytes = (settings.number("body-memory") ?? 0) << 20
        configuration.limits.answerArenaBytes = (settings.number("answer-memory") ?? 0) << 20
        configuration.limits.drainMs = UInt64(settings.number("drain-seconds") ?? 0) * 1_000
        configuration.shards =
            settings.number("shards") ?? min(KernelThread.processorCount, 63)
        let dispatcher = settings.required("dispatcher")
        configuration.dispatcherHasThread =
            dispatcher == "thread" || dispatcher == "auto" && configuration.shards >= 8
        return configuration
    }

    /// For SIGHUP. What is wrong is said here, with the names of file and setting; the broker
    /// itself logs numbers.
    private static func reread(
        _ source: ConfigurationSource, since earlier: EffectiveConfiguration
    ) -> BrokerConfiguration.Reloadable? {
        do {
            let settings = try source.read()
            let waiting = settings.waiting(after: earlier)
            if !waiting.isEmpty {
                say("settings_for_next_start", waiting.joined(separator: ", "))
            }
            return BrokerConfiguration.Reloadable(
                certificateFile: settings.required("certificate"),
                privateKeyFile: settings.required("private-key"),
                clientAuthoritiesFile: settings.text("client-ca"),
                waitingSettings: waiting.count)
        } catch {
            say("settings_refused", "\(error)")
            return nil
        }
    }

    /// A line of the log about the operator's own settings.
    private static func say(_ event: String, _ text: String) {
        guard
            let line = try? JSONSerialization.data(
                withJSONObject: ["event": event, "text": text],
                options: [.sortedKeys, .withoutEscapingSlashes])
        else { return }
        StandardStream.error.write(String(decoding: line, as: UTF8.self) + "\n")
    }
}
