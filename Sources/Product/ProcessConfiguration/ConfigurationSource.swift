/// Where a process takes its settings from, so that it can read them again. The path of the file
/// comes from a flag, else from SLUICE_CONFIG.
package struct ConfigurationSource: Sendable {
    private let process: ConfiguredProcess
    private let path: String?
    private let flags: [String: String]
    private let environment: [String: String]

    /// `flags` by name; nil where one was not given.
    package init(
        _ process: ConfiguredProcess, path: String?, flags: [String: String?] = [:],
        environment: [String: String]
    ) {
        self.process = process
        self.path = path ?? environment["SLUICE_CONFIG"].flatMap { $0.isEmpty ? nil : $0 }
        self.flags = flags.compactMapValues { $0 }
        self.environment = environment
    }

    /// Reads the file, if there is one, and says what counts.
    package func read() throws(ConfigurationError) -> EffectiveConfiguration {
        var file: ConfigurationFile?
        if let path { file = try ConfigurationFile(path: path) }
        return try EffectiveConfiguration(
            process, flags: flags, environment: environment, file: file)
    }
}
