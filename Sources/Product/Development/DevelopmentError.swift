/// Why a development set-up could not be made or run. Its description is one line for a person;
/// it names files and programs, never a secret.
package enum DevelopmentError: Error, Equatable, Sendable, CustomStringConvertible {
    /// Another `sluice dev` runs on the same directory.
    case alreadyRunning(directory: String)
    /// A file or directory could not be made, read or written.
    case file(String, reason: String)
    /// A file of an earlier run does not hold what it should.
    case damaged(String)
    /// A certificate could not be made.
    case certificate(reason: String)
    /// A program of this package is not beside `sluice`.
    case programMissing(String)
    /// A program could not be started.
    case notStarted(program: String, reason: String)
    /// A program ended, or said nothing, before it could serve.
    case notReady(program: String, reason: String)
    /// The store of records cannot be used.
    case store(reason: String)

    package var description: String {
        switch self {
        case .alreadyRunning(let directory):
            "another `sluice dev` runs on \(directory); stop it first, or use another --data"
        case .file(let path, let reason): "\(path): \(reason)"
        case .damaged(let path):
            "\(path) is not what an earlier run wrote; remove it to begin anew"
        case .certificate(let reason): "the certificate was not made: \(reason)"
        case .programMissing(let path):
            "\(path) is missing; build all programs with: swift build -c release"
        case .notStarted(let program, let reason): "\(program) was not started: \(reason)"
        case .notReady(let program, let reason): "\(program) cannot serve: \(reason)"
        case .store(let reason): "the records cannot be read or written: \(reason)"
        }
    }
}
