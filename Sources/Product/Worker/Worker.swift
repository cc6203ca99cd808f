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

    /// How many tasks run at once.
    package enum Slots: Equatable, Sendable {
        /// So many, ≥ 1.
        case fixed(Int)
        /// As many as the engine carries: measured before anything is offered, and kept current.
        case measured

        /// Before anything is known.
        var first: Int {
            switch self {
            case .fixed(let slots): slots
            case .measured: 1
            }
        }

        /// The most that it can become.
        var most: Int {
            switch self {
            case .fixed(let slots): slots
            case .measured: SlotProbe.concurrencyMax
            }
        }
    }

    /// `host:port` of each broker.
    package var brokers: [String]
    package var trust: BrokerTrust
    /// The supplier token, never printed, or a certificate.
    package var credential: BrokerCredential
    package var source: Source
    package var selection: ModelSelection
    /// Tasks at once, over all models and brokers.
    package var slots: Slots
    package var prices: TokenPrices
    /// What each model is offered for.
    package var operations: Set<TaskOperation>
    /// Whether a short text can be asked for: what loads a model, and measures an engine.
    var answersText: Bool { !operations.isDisjoint(with: [.chat, .completion]) }
    package var supplyType: SupplyType
    package var dataPolicy: DataPolicy
    package var region: String?
    /// How long running tasks may go on after a stop was asked for.
    package var drainTime: Duration
    package var intervals: UpstreamMonitor.Intervals

    /// Makes a configuration with the usual values for what is not given.
    package init(
        brokers: [String], trust: BrokerTrust, credential: BrokerCredential, source: Source,
        selection: ModelSelection = .everything, slots: Slots = .fixed(8),
        prices: TokenPrices = TokenPrices(),
        operations: Set<TaskOperation> = [.chat, .completion], supplyType: SupplyType = .community,
        dataPolicy: DataPolicy = .unstated, region: String? = nil,
        drainTime: Duration = .seconds(30),
        intervals: UpstreamMonitor.Intervals = UpstreamMonitor.Intervals()
    ) {
        precondition(slots.first >= 1)
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
        let plan = SupplyPlan(configuration)
        let runner = runner(plan) { [byModel] in byModel[$0] }
        if configuration.slots == .measured, let first = models.first,
            let engine = byModel[first.name]
        {
            _ = await measure(engine, model: first.name, for: plan)
        }
        log.record(.offered(models: models.map { $0.name }, skippedCount: 0))
        let supplier = supplier(runner, offers: plan.begin(with: models), slots: plan.slots)
        let publishing = Task {
            await plan.publish { await supplier.update(offers: $0, slots: $1) }
        }
        defer { publishing.cancel() }
        try await run(supplier, runner, stops: stops)
    }

    private func serve(
        _ address: UpstreamAddress, stops: AsyncStream<StopReason>
    ) async throws(Fault) {
        let client = UpstreamClient(address, tasksMax: configuration.slots.most)
        let loads = ModelLoads(client)
        let engine = UpstreamEngine(client, loads: loads)
        let monitor = UpstreamMonitor(
            client, engine: engine, selection: configuration.selection,
            intervals: configuration.intervals)
        engine.onUnreachable { monitor.hurry() }
        let plan = SupplyPlan(configuration)
        let log = log
        loads.onChange { change in
            plan.load(loads.loading)
            log.record(WorkerEvent(change))
        }
        let runner = runner(plan) { _ in engine }
        let supplier = supplier(runner, offers: [], slots: plan.slots)
        let publishing = Task {
            await plan.publish { await supplier.update(offers: $0, slots: $1) }
        }
        let watching = Task { await watch(monitor, loads, engine, plan) }
        defer {
            watching.cancel()
            publishing.cancel()
        }
        try await run(supplier, runner, stops: stops)
        watching.cancel()
        await watching.value
        await client.shutdown()
    }

    /// Follows the upstream until the Swift task is cancelled.
    private func watch(
        _ monitor: UpstreamMonitor, _ loads: ModelLoads, _ engine: UpstreamEngine,
        _ plan: SupplyPlan
    ) async {
        let answersText = configuration.answersText
        var mustMeasure = configuration.slots == .measured && answersText
        await monitor.run { change in
            switch change {
            case .serving(let models, let skippedCount):
                if answersText { await loads.recognise() }
                // What was named, or is alone, is wanted in memory before its first task; many
                // others would only push each other out.
                if answersText,
                    models.count == 1 || !configuration.selection.named.isEmpty
                {
                    await loads.preload(models.map(\.engineName))
                }
                plan.load(loads.loading)
                // The first may be one that writes no text, as models of embeddings.
                for model in models.prefix(Self.measuredModelsMax) where mustMeasure {
                    _ = await loads.ready(model.engineName, before: .now + .seconds(900))
                    mustMeasure = await !measure(engine, model: model.name, for: plan)
                }
                plan.serve(models)
                log.record(.offered(models: models.map { $0.name }, skippedCount: skippedCount))
            case .lost(let loss):
                plan.serve([])
                log.record(.upstreamLost(loss))
            }
        }
    }

    /// Models that are asked for their speed, one after the other, until one answers.
    private static let measuredModelsMax = 4

    /// True when the model answered.
    private func measure(
        _ engine: some Engine, model: String, for plan: SupplyPlan
    ) async -> Bool {
        let result = await SlotProbe(engine, model: model).run()
        plan.follow(SlotLimit(result))
        log.record(
            .measured(
                model: model, slots: result.slots,
                firstTokenMs: result.single.map {
                    Int(EngineTiming.seconds($0.firstToken) * 1_000)
                },
                tokensPerSecond: result.single.map { Int($0.tokensPerSecond) }))
        return result.single != nil
    }

    private func runner(
        _ plan: SupplyPlan, engine: @escaping @Sendable (_ model: String) -> (any Engine)?
    ) -> EngineRunner {
        let log = log
        return EngineRunner(
            log: log,
            onSpeed: { speed, running in
                guard let slots = plan.saw(tokensPerSecond: speed, running: running) else {
                    return
                }
                log.record(.slots(slots))
            }, engine: engine)
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

    private func supplier(
        _ runner: EngineRunner, offers: [Offer], slots: Int
    ) -> SluiceSupplier {
        let log = log
        return SluiceSupplier(
            brokers: configuration.brokers, credential: configuration.credential,
            offers: offers,
            configuration: SluiceSupplier.Configuration(
                trust: configuration.trust, slots: slots,
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
