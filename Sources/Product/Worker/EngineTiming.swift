/// How fast an engine wrote one answer: the time between the pieces that it wrote. An answer whose
/// reader was waited for says nothing, because the engine went on meanwhile.
struct EngineTiming {
    private var lastWrite: ContinuousClock.Instant?
    private var lastReturn: ContinuousClock.Instant?
    private var tokens = 0
    private var time = Duration.zero
    private var waitingTime = Duration.zero

    /// Answers with fewer tokens after the first piece show too little.
    private static let tokensMin = 8

    /// The engine brings a piece.
    mutating func willWrite(tokens count: Int, now: ContinuousClock.Instant = .now) {
        if let lastReturn {
            time += now - lastReturn
            tokens += count
        }
        lastWrite = now
    }

    /// The reader has taken it.
    mutating func didWrite(now: ContinuousClock.Instant = .now) {
        if let lastWrite { waitingTime += now - lastWrite }
        lastReturn = now
    }

    /// Nil where the answer was too short to tell, or waited for its reader.
    var tokensPerSecond: Double? {
        guard tokens >= Self.tokensMin, time > .zero, waitingTime * 4 < time else { return nil }
        return Double(tokens) / Self.seconds(time)
    }

    static func seconds(_ duration: Duration) -> Double {
        Double(duration.components.seconds)
            + Double(duration.components.attoseconds) / 1e18
    }
}
