import SluiceSupplier
import Synchronization

/// What is offered now, from what the upstream serves, what it is loading, and how many answers at
/// once it carries. Any thread; one publisher hands it on, so that the last word is the latest.
final class SupplyPlan: Sendable {
    private struct State {
        var models: [OfferedModel] = []
        /// By the upstream's names.
        var loading: Set<String> = []
        var slots: Int
        /// Set where `slots` follows the engine.
        var limit: SlotLimit?
    }

    private let configuration: WorkerConfiguration
    private let state: Mutex<State>
    private let changes: AsyncStream<Void>
    private let changed: AsyncStream<Void>.Continuation

    init(_ configuration: WorkerConfiguration) {
        self.configuration = configuration
        state = Mutex(State(slots: configuration.slots.first))
        (changes, changed) = AsyncStream.makeStream(bufferingPolicy: .bufferingNewest(1))
    }

    /// Hands on what is offered, after each change, until the Swift task is cancelled.
    func publish(_ hand: ([Offer], _ slots: Int) async -> Void) async {
        for await _ in changes {
            let now = offers()
            await hand(now.offers, now.slots)
        }
    }

    /// Tasks at once over all models, now.
    var slots: Int { state.withLock { $0.slots } }

    /// These models are served, and no other.
    func serve(_ models: [OfferedModel]) {
        state.withLock { $0.models = models }
        changed.yield()
    }

    /// The same before anything was handed on. What is offered from the start.
    func begin(with models: [OfferedModel]) -> [Offer] {
        state.withLock { $0.models = models }
        return offers().offers
    }

    /// These load: no slot of theirs is offered.
    func load(_ names: Set<String>) {
        state.withLock { $0.loading = names }
        changed.yield()
    }

    /// The engine was measured.
    func follow(_ limit: SlotLimit) {
        state.withLock { state in
            state.limit = limit
            state.slots = limit.slots
        }
        changed.yield()
    }

    /// An answer showed its speed. The new number of slots, where it changed.
    func saw(tokensPerSecond: Double, running: Int) -> Int? {
        let slots = state.withLock { state -> Int? in
            guard state.limit?.saw(tokensPerSecond: tokensPerSecond, running: running) == true,
                let slots = state.limit?.slots
            else { return nil }
            state.slots = slots
            return slots
        }
        if slots != nil { changed.yield() }
        return slots
    }

    private func offers() -> (offers: [Offer], slots: Int) {
        state.withLock { state in
            let offers = state.models.map { model in
                Offer(
                    model: model.name,
                    slots: state.loading.contains(model.engineName) ? 0 : state.slots,
                    inputPrice: configuration.prices.input,
                    outputPrice: configuration.prices.output,
                    cachedPrice: configuration.prices.cached,
                    reasoningPrice: configuration.prices.reasoning,
                    contextTokens: Int(model.contextTokens),
                    supplyType: configuration.supplyType, dataPolicy: configuration.dataPolicy,
                    operations: configuration.operations, region: configuration.region)
            }
            return (offers, state.slots)
        }
    }
}
