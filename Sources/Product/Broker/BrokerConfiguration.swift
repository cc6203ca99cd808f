package import LinuxIO
package import SluiceBrokerCore

/// What a broker needs to know to start. Paths are as the operator gave them.
package struct BrokerConfiguration: Sendable {
    /// Where instances live: a directory on tmpfs that broker and sidecar share.
    package var runDirectory: String
    /// Where the directory of credentials lives.
    package var directory: String
    /// PEM files of the server's certificate chain and key.
    package var certificateFile: String
    package var privateKeyFile: String
    /// PEM file of the authorities whose certificates clients may show; nil: none is asked for.
    package var clientAuthoritiesFile: String?
    package var host: String
    /// 0 = any free one.
    package var port: UInt16
    package var backend: BackendChoice
    package var limits: BrokerLimits
    /// Threads that serve connections, 1…63.
    package var shards: Int
    /// The dispatcher has a thread of its own instead of sharing shard 0's.
    package var dispatcherHasThread: Bool
    /// Drain and stop when standard input closes: the parent is gone.
    package var stopsWithParent: Bool
    /// Reads the configuration again, for SIGHUP; any thread. Nil where it cannot be used: then
    /// everything stays as it is.
    package var reread: @Sendable () -> Reloadable?

    /// What a broker takes over while it serves; all else counts from its next start on.
    package struct Reloadable: Sendable {
        package var certificateFile: String
        package var privateKeyFile: String
        package var clientAuthoritiesFile: String?
        /// Settings that have changed and wait for the next start.
        package var waitingSettings: Int

        package init(
            certificateFile: String, privateKeyFile: String, clientAuthoritiesFile: String? = nil,
            waitingSettings: Int = 0
        ) {
            self.certificateFile = certificateFile
            self.privateKeyFile = privateKeyFile
            self.clientAuthoritiesFile = clientAuthoritiesFile
            self.waitingSettings = waitingSettings
        }
    }

    package init(
        runDirectory: String, directory: String, certificateFile: String, privateKeyFile: String,
        clientAuthoritiesFile: String? = nil
    ) {
        self.runDirectory = runDirectory
        self.directory = directory
        self.certificateFile = certificateFile
        self.privateKeyFile = privateKeyFile
        self.clientAuthoritiesFile = clientAuthoritiesFile
        host = "127.0.0.1"
        port = 7_700
        backend = .automatic
        limits = BrokerLimits()
        shards = 1
        dispatcherHasThread = false
        stopsWithParent = false
        reread = {
            Reloadable(
                certificateFile: certificateFile, privateKeyFile: privateKeyFile,
                clientAuthoritiesFile: clientAuthoritiesFile)
        }
    }
}

/// Why a broker did not start. Each says what was wrong and what to do.
package enum BrokerStartError: Error, CustomStringConvertible {
    case instance(String)
    case certificate(String)
    case clientAuthorities(file: String, reason: String)
    case listen(host: String, port: UInt16, reason: String)
    case inheritedListeners(count: Int, reason: String)
    case memory(byteCount: Int)
    case network(String)

    package var description: String {
        switch self {
        case .instance(let reason):
            "cannot make an instance in the run directory: \(reason); "
                + "expected a directory of this user on a tmpfs with some 40 MiB free"
        case .certificate(let reason):
            "cannot use the certificate or key: \(reason); expected PEM files of a P-256 "
                + "certificate and its key ('sluice certs' makes a pair)"
        case .clientAuthorities(let file, let reason):
            "cannot use \(file) for client certificates: \(reason); expected a PEM file of one or "
                + "more certificate authorities"
        case .listen(let host, let port, let reason):
            "cannot listen on \(host):\(port): \(reason); choose another --port or stop what "
                + "uses it"
        case .inheritedListeners(let count, let reason):
            "cannot use the \(count) sockets that the service supervisor passed: \(reason); "
                + "expected one TCP socket that listens (LISTEN_FDS=1)"
        case .memory(let byteCount):
            "cannot reserve \(byteCount) bytes for content; lower --body-memory or "
                + "--answer-memory"
        case .network(let reason):
            "cannot start the network backend: \(reason); try --backend epoll"
        }
    }
}
