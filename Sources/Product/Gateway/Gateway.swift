import EventLoopTasks
import Foundation
import HTTPTypes
import Hummingbird
import HummingbirdCore
import HummingbirdTLS
import Logging
import NIOCore
import NIOPosix
import NIOSSL
import ServiceLifecycle
package import SluiceClient

/// What a gateway is told at its start.
package struct GatewayConfiguration: Sendable {
    /// Address to listen on.
    package var host = "127.0.0.1"
    /// 0 takes a free port.
    package var port = 0
    /// Where Prometheus may ask, in plain HTTP; nil = nowhere. Port 0 takes a free one.
    package var metrics: (host: String, port: Int)?
    /// What clients are shown; nil = plain HTTP.
    package var certificate: GatewayCertificate?
    /// Brokers as `host:port`.
    package var brokers: [String]
    /// Whose certificates the brokers' certificates may come from.
    package var trust: BrokerTrust
    /// What is listed, and what is asked for in its place.
    package var models = ModelBook()
    /// Largest body of a request.
    package var bodyBytesMax = 16 * 1_024 * 1_024
    /// Bodies that are held at once, over all requests.
    package var heldBodyBytesMax = 256 * 1_024 * 1_024
    /// Largest answer that is joined for a client that wants no stream.
    package var answerBytesMax = 16 * 1_024 * 1_024
    /// HTTP connections at once; more wait to be accepted.
    package var connectionsMax = 16_384
    /// Between two signs of life to a client whose request is queued.
    package var keepAlive = Duration.seconds(5)
    /// Longest wait for a connection to a broker.
    package var connectTime = Duration.seconds(10)
    /// How long answers may go on after the stop.
    package var graceTime = Duration.seconds(30)
    /// Secret of the keys of conversations' prefixes; nil = a new one each start.
    package var affinitySecret: [UInt8]?

    /// The rest are defaults.
    package init(brokers: [String], trust: BrokerTrust) {
        (self.brokers, self.trust) = (brokers, trust)
    }

    var patience: OpenAnswer.Patience {
        OpenAnswer.Patience(keepAlive: keepAlive, connect: connectTime)
    }
}

/// Why a gateway cannot serve. One line for a person.
package enum GatewayError: Error, CustomStringConvertible {
    /// The certificate or its key cannot be read.
    case certificate(String)
    /// The address cannot be listened on.
    case listen(String)

    package var description: String {
        switch self {
        case .certificate(let reason): "the certificate or its key cannot be used: \(reason)"
        case .listen(let reason): "cannot listen: \(reason)"
        }
    }
}

/// The door for OpenAI's clients: HTTP in, tasks of the broker out (`Protocol/HTTP.md`). It keeps
/// nothing and logs nothing.
package enum Gateway {
    /// Serves until `stops` yields, then lets answers go on for the grace time; a second stop ends
    /// them at once. `onListening` is told the port, and that of the metrics where there is one.
    package static func run(
        _ configuration: GatewayConfiguration, stops: AsyncStream<Void>,
        onListening: @escaping @Sendable (Int, Int?) -> Void
    ) async throws {
        let pool = ClientPool(brokers: configuration.brokers, trust: configuration.trust)
        defer { pool.close() }
        let loops = MultiThreadedEventLoopGroup.singleton
        let metrics = GatewayMetrics()
        let responder = GatewayResponder(
            configuration: configuration, pool: pool,
            bodies: BodyBudget(limit: configuration.heldBodyBytesMax),
            affinity: PrefixAffinity(secret: configuration.affinitySecret ?? randomSecret()),
            metrics: metrics,
            executors: loops.makeIterator().reduce(into: [:]) { executors, loop in
                executors[ObjectIdentifier(loop)] = EventLoopExecutor(loop)
            }, startedAt: wallClockSeconds())
        // A logger of a library could be given a request; this one has no output.
        let logger = Logger(label: "sluice-gateway") { _ in SwiftLogNoOpLogHandler() }
        let (metricsPorts, metricsPort) = AsyncStream<Int>.makeStream()
        let application = Application(
            responder: responder, server: try server(configuration),
            configuration: ApplicationConfiguration(
                address: .hostname(configuration.host, port: configuration.port), backlog: 1_024,
                availableConnectionsDelegate: MaximumAvailableConnections(
                    configuration.connectionsMax)),
            onServerRunning: { channel in
                let port = channel.localAddress?.port ?? 0
                guard configuration.metrics != nil else { return onListening(port, nil) }
                for await metricsPort in metricsPorts { return onListening(port, metricsPort) }
            }, eventLoopGroupProvider: .shared(loops), logger: logger)
        var services = [ServiceGroupConfiguration.ServiceConfiguration(service: application)]
        if let (host, port) = configuration.metrics {
            let door = Application(
                responder: MetricsResponder(metrics: metrics),
                server: .http1(configuration: .init(idleTimeout: .seconds(75))),
                configuration: ApplicationConfiguration(
                    address: .hostname(host, port: port),
                    availableConnectionsDelegate: MaximumAvailableConnections(64)),
                onServerRunning: { metricsPort.yield($0.localAddress?.port ?? 0) },
                eventLoopGroupProvider: .shared(loops), logger: logger)
            services.append(.init(service: door))
        }
        var group = ServiceGroupConfiguration(services: services, logger: logger)
        group.maximumGracefulShutdownDuration = configuration.graceTime
        try await serve(ServiceGroup(configuration: group), pool, stops)
    }

    private static func serve(
        _ services: ServiceGroup, _ pool: ClientPool, _ stops: AsyncStream<Void>
    ) async throws {
        let serving = Task { try await services.run() }
        let upkeep = Task {
            while !Task.isCancelled {
                try await Task.sleep(for: .seconds(10))
                pool.closeIdle()
            }
        }
        let stopping = Task {
            var isFirst = true
            for await _ in stops {
                if isFirst { await services.triggerGracefulShutdown() } else { serving.cancel() }
                isFirst = false
            }
        }
        defer {
            upkeep.cancel()
            stopping.cancel()
        }
        do {
            try await serving.value
        } catch let error as IOError {
            throw GatewayError.listen("\(error)")
        } catch is CancellationError {
            // The second stop.
        }
    }

    private static func server(
        _ configuration: GatewayConfiguration
    ) throws(GatewayError) -> HTTPServerBuilder {
        let plain = HTTPServerBuilder.http1(
            configuration: .init(
                additionalChannelHandlers: [PeerWatch()], idleTimeout: .seconds(75)))
        guard let certificate = configuration.certificate else { return plain }
        do {
            return try .tls(plain, tlsConfiguration: certificate.configuration)
        } catch {
            throw .certificate("\(error)")
        }
    }

    private static func randomSecret() -> [UInt8] {
        var generator = SystemRandomNumberGenerator()
        return (0..<32).map { _ in UInt8.random(in: 0...255, using: &generator) }
    }
}

/// Seconds since 1970.
func wallClockSeconds() -> Int64 {
    Int64(Date().timeIntervalSince1970)
}
