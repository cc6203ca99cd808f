/// One thing that the doctor looked at. Numbers, names and the operator's own settings; never a
/// token, a prompt or an answer.
package struct DoctorCheck: Equatable, Sendable {
    /// How it stands.
    package enum Level: String, Sendable {
        case ok = "OK"
        /// It works, but not as well as it could.
        case warn = "WARN"
        /// No task can come, or none can be answered.
        case fail = "FAIL"
    }

    /// What was looked at: `upstream`, `broker host:port: tls`.
    package var name: String
    package var level: Level
    /// What was seen.
    package var found: String
    /// What would have been right; nil where all is well.
    package var expected: String?
    /// What to do about it.
    package var remedy: String?

    /// Makes a check.
    package init(
        _ name: String, _ level: Level, _ found: String, expected: String? = nil,
        remedy: String? = nil
    ) {
        self.name = name
        self.level = level
        self.found = found
        self.expected = expected
        self.remedy = remedy
    }
}
