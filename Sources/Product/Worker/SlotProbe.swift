import SluiceWire
import Synchronization

/// Measures how fast an engine answers and how many answers at once it carries, with a prompt and
/// answers of a few words. Nothing of an answer is kept.
package struct SlotProbe: Sendable {
    /// What one round of answers showed.
    package struct Speed: Equatable, Sendable {
        /// The slowest first token.
        package var firstToken: Duration
        /// Of each answer, on average; after its first token.
        package var tokensPerSecond: Double
        /// Answers at once.
        package var concurrency: Int

        /// Makes a speed.
        package init(firstToken: Duration, tokensPerSecond: Double, concurrency: Int) {
            self.firstToken = firstToken
            self.tokensPerSecond = tokensPerSecond
            self.concurrency = concurrency
        }
    }

    /// What a whole probe showed.
    package struct Result: Equatable, Sendable {
        /// Alone; nil where not even one answer came.
        package var single: Speed?
        /// As many as kept the floor, ≥ 1.
        package var slots: Int

        /// Makes a result.
        package init(single: Speed?, slots: Int) {
            self.single = single
            self.slots = slots
        }
    }

    /// Most answers at once that are tried, and how long a probe takes at most.
    package static let concurrencyMax = 64
    package static let longest = Duration.seconds(20)
    /// The part of its speed alone that an answer must keep.
    package static let floor = 0.5

    private static let prompt = "Count from one to thirty in words."
    private static let tokens: UInt32 = 24

    private let engine: any Engine
    private let model: String

    /// Makes a probe of a model that the engine serves.
    package init(_ engine: any Engine, model: String) {
        self.engine = engine
        self.model = model
    }

    /// Tries 1, 2, 4, … answers at once until one keeps less than `floor` of its speed alone, waits
    /// four times as long for its first token (and a second more), or fails.
    package func run(upTo most: Int = SlotProbe.concurrencyMax) async -> Result {
        let limit = ContinuousClock.now + Self.longest
        guard let single = await measure(1, timeout: Self.longest) else {
            return Result(single: nil, slots: 1)
        }
        var slots = 1
        var next = 2
        while next <= most, ContinuousClock.now < limit {
            guard let speed = await measure(next, timeout: limit - ContinuousClock.now),
                Self.keepsFloor(speed, single: single)
            else { break }
            slots = next
            next *= 2
        }
        return Result(single: single, slots: slots)
    }

    /// Whether answers at this speed are still worth a slot each.
    package static func keepsFloor(_ speed: Speed, single: Speed) -> Bool {
        speed.tokensPerSecond >= single.tokensPerSecond * floor
            && speed.firstToken <= single.firstToken * 4 + .seconds(1)
    }

    /// So many answers at once; nil where one of them failed or took too long.
    package func measure(_ concurrency: Int, timeout: Duration) async -> Speed? {
        let timings = await withTaskGroup(of: Timing?.self) { group in
            for number in 0..<concurrency {
                group.addTask { await answer(UInt64(number), timeout: timeout) }
            }
            var timings: [Timing?] = []
            for await timing in group { timings.append(timing) }
            return timings
        }
        let whole = timings.compactMap { $0 }
        guard whole.count == concurrency, let slowest = whole.map(\.firstToken).max() else {
            return nil
        }
        let rates = whole.map(\.tokensPerSecond)
        return Speed(
            firstToken: slowest, tokensPerSecond: rates.reduce(0, +) / Double(rates.count),
            concurrency: concurrency)
    }

    private struct Timing {
        var firstToken: Duration
        var tokensPerSecond: Double
    }

    private func answer(_ number: UInt64, timeout: Duration) async -> Timing? {
        let start = ContinuousClock.now
        let sink = TimingSink()
        let assignment = Assignment(
            id: TaskID(instance: 0, counter: number), model: model, operation: .chat,
            payload: .text(Self.prompt), maxOutputTokens: Self.tokens, deadline: start + timeout)
        do {
            _ = try await engine.answer(assignment, to: sink)
        } catch {
            return nil
        }
        let (first, last, later) = sink.state.withLock { ($0.first, $0.last, $0.laterTokens) }
        guard let first, let last else { return nil }
        let seconds = max(EngineTiming.seconds(last - first), 0.000_001)
        // An answer of one piece says nothing about what follows; its whole time has to do.
        let rate = later > 0 ? Double(later) / seconds : 1 / EngineTiming.seconds(last - start)
        return Timing(firstToken: first - start, tokensPerSecond: rate)
    }

    /// Counts tokens with their times, and drops the text.
    private final class TimingSink: AnswerSink {
        struct State {
            var first: ContinuousClock.Instant?
            var last: ContinuousClock.Instant?
            /// Tokens after the first piece.
            var laterTokens = 0
        }

        let state = Mutex(State())

        private func count(_ tokens: Int) {
            guard tokens > 0 else { return }
            state.withLock { state in
                let now = ContinuousClock.now
                if state.first == nil { state.first = now } else { state.laterTokens += tokens }
                state.last = now
            }
        }

        func started(inputTokens: UInt32, cachedTokens: UInt32) async throws {}
        func write(_ text: String, tokens: Int, reasoning: Bool) async throws { count(tokens) }
        func write(event: [UInt8], tokens: Int, reasoning: Bool) async throws { count(tokens) }
        func write(part: [UInt8], results: Int) async throws { count(results) }
        func writeError(_ body: [UInt8]) async throws {}
        func finish(_ reason: FinishReason) async throws {}
    }
}
