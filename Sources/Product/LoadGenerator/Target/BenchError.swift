/// Why a benchmark could not be run. Each says what was wrong and what to do.
package enum BenchError: Error, Equatable, CustomStringConvertible {
    case workload(String)
    /// A target's program is not there; how to get it.
    case notInstalled(target: String, program: String, remedy: String)
    case notStarted(target: String, reason: String)
    /// The generator could not do its part.
    case generator(String)
    case file(String)

    package var description: String {
        switch self {
        case .workload(let reason): "this workload cannot be run: \(reason)"
        case .notInstalled(let target, let program, let remedy):
            "target \(target) needs \(program), which is not installed; get it with: \(remedy)"
        case .notStarted(let target, let reason): "target \(target) did not start: \(reason)"
        case .generator(let reason): "the load could not be made: \(reason)"
        case .file(let reason): reason
        }
    }
}
