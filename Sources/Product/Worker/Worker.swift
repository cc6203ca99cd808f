import Foundation
package import SluiceSupplier
package import SluiceWire
import Synchronization

/// What a worker is told when it starts.
package struct WorkerConfiguration: Sendable {
    /// What answers the tasks.
    package enum Source: Sendable {
        /// An OpenAI-compatible server.
        case upstream(UpstreamAddress)
        /// Engines of its own; at most one of a kind.
        case builtIn([BuiltInEngine])
    }

    /// `host:port` of each broker.
    package var brokers: [String]
    package var trust: BrokerTrust
    /// The supplier token, never printed, or a certificate.
    package var credential: BrokerCredential
    package var source: Source
    package var selection: ModelSelection
    /// Tasks at once, over all models and brokers, ≥ 1.
    package var slots: Int
    package var prices: TokenPrices
    /// What each model is offered for.
    package var operations: Set<TaskOperation>
    package var supplyType: SupplyType
    package var dataPolicy: DataPolicy
    package var region: String?
    /// How long running tasks may go on after a stop was asked for.
    package var drainTime: Duration
    package var intervals: UpstreamMonitor.Intervals

    /// Makes a configuration with the usual values for what is not given.
    package init(
        brokers: [String], trust: BrokerTrust, credential: BrokerCredential, source: Source,
        selection: ModelSelection = .everything, slots: Int = 8,
        prices: TokenPrices = TokenPrices(),
        operations: Set<TaskOperation> = [.chat, .completion], supplyType: SupplyType = .community,
        dataPolicy: DataPolicy = .unstated, region: String? = nil,
        drainTime: Duration = .seconds(30),
        intervals: UpstreamMonitor.Intervals = UpstreamMonitor.Intervals()
    ) {
        precondition(slots >= 1)
        self.brokers = brokers
        self.trust = trust
        self.credential = credential
        self.source = source
        self.selection = selection
        self.slots = slots
        self.prices = prices
        self.operations = operations
        self.supplyType = supplyType
        self.dataPolicy = dataPolicy
        self.region = region
        self.drainTime = drainTime
        self.intervals = intervals
    }
}

/// Why a worker stops.
package enum StopReason: Sendable {
    /// It was asked to: running tasks get the drain time.
    case asked
    /// Its parent process is gone, and with it whoever would read an answer.
    case parentGone
}

/// A supplier process: offers what its engine serves, answers tasks, drains when it is stopped.
package struct Worker: Sendable {
    /// Why a configuration cannot work.
    package enum Fault: Error, Equatable {
        /// A `--model` names none of the engines.
        case modelWithoutEngine
        /// The supplier could not be set up.
        case transport(TransportError)
    }

    private let configuration: WorkerConfiguration
    private let log: WorkerLog

    /// Makes a worker.
    package init(_ configuration: WorkerConfiguration, log: WorkerLog) {
        self.configuration = configuration
        self.log = log
    }

    /// Serves until `stops` brings a reason, then drains. Called once.
    package func run(stops: AsyncStream<StopReason>) async throws(Fault) {
        switch configuration.source {
        case .builtIn(let engines): try await serve(engines, stops: stops)
        case .upstream(let address): try await serve(address, stops: stops)
        }
    }

    private func serve(
        _ engines: [BuiltInEngine], stops: AsyncStream<StopReason>
    ) async throws(Fault) {
        let models = try Self.models(of: engines, selection: configuration.selection)
        var byModel: [String: BuiltInEngine] = [:]
        for model in models {
            byModel[model.name] = engines.first { $0.kind.rawValue == model.engineName }
        }
        let runner = EngineRunner(log: log) { [byModel] in byModel[$0] }
        log.record(.offered(models: models.map { $0.name }, skippedCount: 0))
        let supplier = supplier(runner, offers: offers(of: models))
        try await run(supplier, runner, stops: stops)
    }

    private func serve(
        _ address: UpstreamAddress, stops: AsyncStream<StopReason>
    ) async throws(Fault) {
        let client = UpstreamClient(address, tasksMax: configuration.slots)
        let engine = UpstreamEngine(client)
        let monitor = UpstreamMonitor(
            client, engine: engine, selection: configuration.selection,
            intervals: configuration.intervals)
        engine.onUnreachable { monitor.hurry() }
        let runner = EngineRunner(log: log) { _ in engine }
        let supplier = supplier(runner, offers: [])
        let watching = Task {
            await monitor.run { change in
                switch change {
                case .serving(let models, let skippedCount):
                    await supplier.update(offers: offers(of: models))
                    log.record(
                        .offered(models: models.map { $0.name }, skippedCount: skippedCount))
                case .lost(let loss):
                    await supplier.update(offers: [])
                    log.record(.upstreamLost(loss))
                }
            }
        }
        defer { watching.cancel() }
        try await run(supplier, runner, stops: stops)
        watching.cancel()
        await watching.value
        await client.shutdown()
    }

    /// What happens to a running supplier.
    private enum Happening: Sendable {
        case stopAsked(StopReason)
        case ended(TransportError?)
        /// What a drain may take has passed.
        case overtime
    }

    private func run(
        _ supplier: SluiceSupplier, _ runner: EngineRunner, stops: AsyncStream<StopReason>
    ) async throws(Fault) {
        let (happenings, happened) = AsyncStream.makeStream(of: Happening.self)
        Task {
            do throws(TransportError) {
                try await supplier.run()
                happened.yield(.ended(nil))
            } catch {
                happened.yield(.ended(error))
            }
        }
        let listening = Task {
            for await reason in stops { happened.yield(.stopAsked(reason)) }
        }
        defer { listening.cancel() }
        for await happening in happenings {
            switch happening {
            case .stopAsked(let reason):
                let grace = grace(reason, runner)
                log.record(.draining(seconds: Int(grace.components.seconds)))
                supplier.drain()
                Task {
                    // The farewell to the brokers takes its own time.
                    try? await Task.sleep(for: grace + .seconds(2))
                    happened.yield(.overtime)
                }
            case .ended(let error?): throw .transport(error)
            case .ended(nil), .overtime:
                log.record(.stopped(code: nil))
                return
            }
        }
    }

    /// How long running tasks may go on.
    private func grace(_ reason: StopReason, _ runner: EngineRunner) -> Duration {
        switch reason {
        case .parentGone: .zero
        case .asked: runner.runningCount == 0 ? .zero : configuration.drainTime
        }
    }

    private func supplier(_ runner: EngineRunner, offers: [Offer]) -> SluiceSupplier {
        let log = log
        return SluiceSupplier(
            brokers: configuration.brokers, credential: configuration.credential,
            offers: offers,
            configuration: SluiceSupplier.Configuration(
                trust: configuration.trust, slots: configuration.slots,
                drainTime: configuration.drainTime
            ) { event in
                if let line = WorkerEvent(event) { log.record(line) }
            }
        ) { task, writer in
            do throws(EngineFailure) {
                return try await runner.run(Assignment(task), to: WriterSink(writer: writer))
            } catch {
                throw TaskFailure(error)
            }
        }
    }

    private func offers(of models: [OfferedModel]) -> [Offer] {
        models.map { model in
            Offer(
                model: model.name, slots: configuration.slots,
                inputPrice: configuration.prices.input, outputPrice: configuration.prices.output,
                cachedPrice: configuration.prices.cached,
                reasoningPrice: configuration.prices.reasoning,
                contextTokens: Int(model.contextTokens), supplyType: configuration.supplyType,
                dataPolicy: configuration.dataPolicy, operations: configuration.operations,
                region: configuration.region)
        }
    }

    /// What built-in engines offer: each its own name, or the names that were asked for. With one
    /// engine alone every name is its.
    package static func models(
        of engines: [BuiltInEngine], selection: ModelSelection
    ) throws(Fault) -> [OfferedModel] {
        let kinds = engines.map { $0.kind.rawValue }
        guard !selection.named.isEmpty else {
            return kinds.map { OfferedModel(name: $0, engineName: $0) }
        }
        var models: [OfferedModel] = []
        for var model in selection.named {
            if !kinds.contains(model.engineName) {
                guard kinds.count == 1, model.engineName == model.name else {
                    throw .modelWithoutEngine
                }
                model.engineName = kinds[0]
            }
            models.append(model)
        }
        return models
    }
}
