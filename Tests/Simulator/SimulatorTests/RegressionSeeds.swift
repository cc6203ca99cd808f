/// A run that failed once. It is never removed: what broke may break again.
struct RegressionSeed: Sendable, CustomStringConvertible {
    let seed: UInt64
    /// How its options differ from what the seed draws, as a report prints it.
    let words: String
    /// What had been wrong.
    let fault: String

    var description: String { "seed \(seed) \(words)" }

    static let all: [RegressionSeed] = []
}
