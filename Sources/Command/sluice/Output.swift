import ArgumentParser
import Foundation

/// Standard output and standard error of the command.
enum Output {
    /// Writes one line to standard output, at once.
    static func line(_ text: some CustomStringConvertible) {
        try? FileHandle.standardOutput.write(contentsOf: Data("\(text)\n".utf8))
    }

    /// Writes one line to standard error.
    static func note(_ text: some CustomStringConvertible) {
        try? FileHandle.standardError.write(contentsOf: Data("sluice: \(text)\n".utf8))
    }

    /// Says what went wrong in one line, and gives the exit code to throw.
    static func failure(_ error: some Error, _ code: ExitStatus = .failed) -> ExitCode {
        note("\(error)")
        return ExitCode(code.rawValue)
    }
}

/// The exit codes of `sluice`, part of its contract. `sluice ask --help` lists them.
enum ExitStatus: Int32 {
    /// Done; for `ask`: the answer is complete.
    case done = 0
    /// Anything without a code of its own; the line on standard error says what.
    case failed = 1
    /// No broker reached, or the connection was lost.
    case notConnected = 10
    /// The key is unknown, expired, revoked, or not for clients.
    case keyRefused = 11
    /// No supplier offers the model.
    case modelUnknown = 12
    /// Refused for now: no free supplier, a full queue, a limit, or a draining broker.
    case busy = 13
    /// Refused for good: the request itself.
    case requestRefused = 14
    /// The account or the task's budget is used up.
    case budgetExhausted = 15
    /// The deadline passed.
    case deadlineExceeded = 16
    /// The supplier's connection was lost.
    case supplierLost = 17
    /// The supplier could not complete the task.
    case supplierFailed = 18
    /// The answer could not be written to standard output.
    case outputClosed = 19
    /// The broker drained and the task did not end in time.
    case drained = 20
    /// `bench`: a program of a target is not installed.
    case notInstalled = 21
    /// `bench`: a run had errors or lost tokens.
    case runInvalid = 22
    /// A wrong use of options (as in sysexits.h).
    case usage = 64
    /// Cancelled by SIGINT or SIGTERM.
    case cancelled = 130
}
