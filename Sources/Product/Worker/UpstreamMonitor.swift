import Synchronization

/// Watches which models an upstream serves, so that offers follow it: gone when it is gone, back
/// when it is back.
package final class UpstreamMonitor: Sendable {
    /// What a look at the upstream changed.
    package enum Change: Equatable, Sendable {
        /// These models are served now; replaces what was said before.
        case serving([OfferedModel], skippedCount: Int)
        /// Nothing is served.
        case lost(Loss)
    }

    /// Why nothing is served.
    package enum Loss: Equatable, Sendable {
        /// No connection, or it broke.
        case unreachable
        /// No answer in time.
        case silent
        /// The server has no model list, and no model was named.
        case noList
        /// The server answers the request for its list with this HTTP status.
        case refused(status: Int)
    }

    /// How often the upstream is asked.
    package struct Intervals: Sendable {
        /// Between two looks at an upstream that answers.
        package var steady: Duration
        /// Between two looks at one that does not.
        package var lost: Duration
        /// How long one answer may take.
        package var timeout: Duration

        /// Makes intervals; the usual ones by default.
        package init(
            steady: Duration = .seconds(15), lost: Duration = .seconds(2),
            timeout: Duration = .seconds(10)
        ) {
            self.steady = steady
            self.lost = lost
            self.timeout = timeout
        }
    }

    private let client: UpstreamClient
    private let engine: UpstreamEngine
    private let selection: ModelSelection
    private let intervals: Intervals
    private let state = Mutex(State())

    private struct State {
        /// The pause before the next look.
        var pause: Task<Void, Never>?
        /// The next pause is left out.
        var isHurried = false
    }

    /// Makes a monitor of the upstream behind `client`, whose tasks `engine` runs.
    package init(
        _ client: UpstreamClient, engine: UpstreamEngine, selection: ModelSelection,
        intervals: Intervals = Intervals()
    ) {
        self.client = client
        self.engine = engine
        self.selection = selection
        self.intervals = intervals
    }

    /// Looks now instead of at the end of the interval.
    package func hurry() {
        state.withLock { state in
            state.isHurried = true
            state.pause?.cancel()
        }
    }

    /// Watches until the Swift task is cancelled; `report` is called with each change.
    package func run(_ report: (Change) async -> Void) async {
        var last: Change?
        while !Task.isCancelled {
            let change = await look()
            guard !Task.isCancelled else { return }
            if let change, change != last {
                if case .serving(let models, _) = change { engine.serve(models) }
                await report(change)
                last = change
            }
            await pause(for: last?.isLoss ?? true ? intervals.lost : intervals.steady)
        }
    }

    /// What the upstream serves; nil where it cannot be told.
    private func look() async -> Change? {
        switch await client.list(timeout: intervals.timeout) {
        case .models(let listed):
            let (models, skippedCount) = selection.offered(of: listed)
            return .serving(models, skippedCount: skippedCount)
        case .unsupported:
            // It answers, so what the operator named is believed.
            return selection.named.isEmpty
                ? .lost(.noList) : .serving(selection.named, skippedCount: 0)
        case .silent:
            // Some servers answer nothing else while they work on a task.
            return engine.runningCount > 0 ? nil : .lost(.silent)
        case .unreachable: return .lost(.unreachable)
        case .refused(let status): return .lost(.refused(status: status))
        }
    }

    private func pause(for interval: Duration) async {
        let pause = Task { _ = try? await Task.sleep(for: interval) }
        state.withLock { state in
            state.pause = pause
            if state.isHurried { pause.cancel() }
        }
        await withTaskCancellationHandler {
            await pause.value
        } onCancel: {
            pause.cancel()
        }
        state.withLock { $0 = State() }
    }
}

extension UpstreamMonitor.Change {
    fileprivate var isLoss: Bool {
        if case .lost = self { true } else { false }
    }
}
