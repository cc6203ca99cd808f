import LinuxIO
import Synchronization

/// Where a run stands. Every thread of the generator follows it.
enum RunPhase: Int, Sendable {
    /// Suppliers connect and offer, or listen.
    case suppliers
    /// Clients connect.
    case clients
    /// Tasks run; nothing is recorded yet.
    case warmUp
    /// The window of the measurement is open.
    case measure
    /// No task is begun; those that run end with their next token.
    case drain
    case stop
}

/// What one thread of the generator counted, at one moment.
struct EngineSnapshot: Sendable {
    var nowNs: UInt64 = 0
    var processorNs: UInt64 = 0
    var tokensSent: UInt64 = 0
    var tokensReceived: UInt64 = 0
    var submitted: UInt64 = 0
    var ended: UInt64 = 0
    var faults = [UInt64](repeating: 0, count: RunFault.allCases.count)
}

/// What one thread leaves behind.
struct EngineResult: Sendable {
    var last = EngineSnapshot()
    var measures: [GroupMeasures] = []
    /// From when a paced token was meant to be sent to when it was: the generator's own lateness,
    /// and waits for credit.
    var sendDelay = LatencyHistogram()
    var churn = LatencyHistogram()
    /// Processor time within the window.
    var windowProcessorNs: UInt64 = 0
    /// The thread could not go on; why.
    var failure: String?
}

/// How the thread that orders a run and those that make its load talk to each other.
final class GeneratorControl: Sendable {
    private let current = Atomic<Int>(RunPhase.suppliers.rawValue)
    private let windowFrom = Atomic<UInt64>(.max)
    private let windowUntil = Atomic<UInt64>(.max)

    private struct Board {
        /// The last phase whose goal each thread has reached, and its counts.
        var reached: [Int]
        var snapshots: [EngineSnapshot]
        var results: [EngineResult?]
        var doorbells: [Doorbell?]
    }
    private let board: Mutex<Board>

    init(engineCount: Int) {
        board = Mutex(
            Board(
                reached: [Int](repeating: -1, count: engineCount),
                snapshots: [EngineSnapshot](repeating: EngineSnapshot(), count: engineCount),
                results: [EngineResult?](repeating: nil, count: engineCount),
                doorbells: [Doorbell?](repeating: nil, count: engineCount)))
    }

    var phase: RunPhase { RunPhase(rawValue: current.load(ordering: .acquiring)) ?? .stop }

    var window: MeasuringWindow {
        var window = MeasuringWindow()
        window.fromNs = windowFrom.load(ordering: .acquiring)
        window.untilNs = windowUntil.load(ordering: .acquiring)
        return window
    }

    // MARK: The ordering thread

    /// Orders a phase; the window opens with `measure` and closes with `drain`.
    func order(_ phase: RunPhase, nowNs: UInt64) {
        if phase == .measure { windowFrom.store(nowNs, ordering: .releasing) }
        if phase == .drain { windowUntil.store(nowNs, ordering: .releasing) }
        current.store(phase.rawValue, ordering: .releasing)
        // Rung under the lock: a thread takes its bell away before it is gone.
        board.withLock { board in
            for bell in board.doorbells { bell?.ring() }
        }
    }

    /// Whether every thread has reached the goal of a phase.
    func isReached(_ phase: RunPhase) -> Bool {
        board.withLock { $0.reached.allSatisfy { $0 >= phase.rawValue } }
    }

    var snapshots: [EngineSnapshot] { board.withLock { $0.snapshots } }

    /// The results, once every thread is gone.
    var results: [EngineResult]? {
        board.withLock { board in
            let all = board.results.compactMap { $0 }
            return all.count == board.results.count ? all : nil
        }
    }

    /// Why some thread is gone early; nil as long as none is.
    var failure: String? {
        board.withLock { board in board.results.lazy.compactMap { $0?.failure }.first }
    }

    // MARK: The load's threads

    func attach(_ engine: Int, _ doorbell: Doorbell) {
        board.withLock { $0.doorbells[engine] = doorbell }
    }

    func publish(_ engine: Int, _ snapshot: EngineSnapshot, reached: RunPhase?) {
        board.withLock { board in
            board.snapshots[engine] = snapshot
            if let reached { board.reached[engine] = max(board.reached[engine], reached.rawValue) }
        }
    }

    func detach(_ engine: Int) {
        board.withLock { $0.doorbells[engine] = nil }
    }

    func finish(_ engine: Int, _ result: EngineResult) {
        board.withLock { board in
            board.doorbells[engine] = nil
            board.results[engine] = result
        }
    }
}
