import ArgumentParser
import Broker
import LinuxIO
import SluiceBrokerCore

/// `sluice-broker`: options only.
@main
struct SluiceBroker: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "sluice-broker",
        abstract: "Routes inference tasks from clients to suppliers and streams answers back.")

    @Option(name: .customLong("run"), help: "Directory on a tmpfs where broker and sidecar meet.")
    var runDirectory: String

    @Option(help: "Directory of credentials, written by 'sluice key'.")
    var directory: String

    @Option(help: "PEM file of the server certificate and its chain.")
    var certificate: String

    @Option(help: "PEM file of the certificate's key.")
    var privateKey: String

    @Option(help: "Numeric address to listen on.")
    var host = "127.0.0.1"

    @Option(help: "Port to listen on; 0 picks a free one.")
    var port: UInt16 = 7_700

    @Option(help: "How to talk to the kernel: auto, ring (io_uring) or epoll.")
    var backend = "auto"

    @Option(help: "Threads that serve connections, 1 to 63; by default one a processor.")
    var shards: Int?

    @Option(
        help: "Where tasks are matched: shard (the first one's thread), thread (its own) or auto.")
    var dispatcher = "auto"

    @Option(help: "MiB for request bodies.")
    var bodyMemory = 256

    @Option(help: "MiB for answers on their way.")
    var answerMemory = 256

    @Flag(help: "Drain and stop when standard input closes.")
    var parentPipe = false

    func validate() throws {
        guard ["auto", "ring", "epoll"].contains(backend) else {
            throw ValidationError("--backend is '\(backend)'; expected auto, ring or epoll")
        }
        guard (1...63).contains(shards ?? 1) else {
            throw ValidationError("--shards is \(shards ?? 0); expected 1 to 63")
        }
        guard ["auto", "shard", "thread"].contains(dispatcher) else {
            throw ValidationError("--dispatcher is '\(dispatcher)'; expected auto, shard or thread")
        }
        guard (1...1_024).contains(bodyMemory), (1...1_024).contains(answerMemory) else {
            throw ValidationError("--body-memory and --answer-memory take 1 to 1024 MiB")
        }
    }

    func run() throws {
        guard ProcessGuard.harden() else {
            throw ValidationError(
                "cannot start again with crash backtraces off; is /proc mounted?")
        }
        var configuration = BrokerConfiguration(
            runDirectory: runDirectory, directory: directory, certificateFile: certificate,
            privateKeyFile: privateKey)
        configuration.host = host
        configuration.port = port
        configuration.backend = BackendChoice(rawValue: backend) ?? .automatic
        configuration.limits.bodyArenaBytes = bodyMemory << 20
        configuration.limits.answerArenaBytes = answerMemory << 20
        configuration.shards = shards ?? min(KernelThread.processorCount, 63)
        configuration.dispatcherHasThread =
            dispatcher == "thread" || dispatcher == "auto" && configuration.shards >= 8
        configuration.stopsWithParent = parentPipe
        try BrokerProcess.run(configuration)
    }
}
