/// What counts for one process, and where each value comes from: a flag, else the environment,
/// else the file, else the default.
package struct EffectiveConfiguration: Sendable {
    /// Where a value comes from.
    package enum Origin: String, Sendable {
        case flag, environment, file
        case fallback = "default"
    }

    /// A setting and its value.
    package struct Entry: Sendable {
        package let key: ConfigurationKey
        /// Nil where the process works it out or does without.
        package let value: String?
        package let origin: Origin

        /// For people: never a password.
        package var shown: String {
            guard let value else { return key.fallbackWords ?? "not set" }
            if case .database = key.kind, ConfigurationKey.holdsPassword(value) {
                return "a database whose URL holds a password (not shown)"
            }
            return value
        }
    }

    package let process: ConfiguredProcess
    /// Every setting of the process, in the order of `ConfigurationKey.all`.
    package let entries: [Entry]

    /// `flags` by name, those that were given. Says everything that is wrong at once.
    package init(
        _ process: ConfiguredProcess, flags: [String: String] = [:], environment: [String: String],
        file: ConfigurationFile?
    ) throws(ConfigurationError) {
        var problems: [ConfigurationProblem] = []
        var entries: [Entry] = []
        for key in ConfigurationKey.all where key.readers.contains(process) {
            let variable = environment[key.variable].flatMap { $0.isEmpty ? nil : $0 }
            let (value, origin, place): (String?, Origin, String) =
                if let flag = flags[key.name] {
                    (flag, .flag, "--\(key.name)")
                } else if let variable {
                    (variable, .environment, "\(key.variable) in the environment")
                } else if let text = file?.values[key.path] {
                    (text, .file, key.path)
                } else {
                    (key.fallback, .fallback, key.path)
                }
            if let value, let words = key.expectation(of: value) {
                problems.append(
                    ConfigurationProblem(key.path, "\(place) is \"\(value)\"; \(words)"))
            }
            entries.append(Entry(key: key, value: value, origin: origin))
        }
        Self.preferStoreFile(&entries)
        self.process = process
        self.entries = entries
        problems += missing()
        guard problems.isEmpty else { throw ConfigurationError(problems: problems) }
    }

    /// Of the two ways to name the database, the one that stands nearer to the process counts.
    private static func preferStoreFile(_ entries: inout [Entry]) {
        let ranks: [Origin] = [.flag, .environment, .file, .fallback]
        guard let store = entries.firstIndex(where: { $0.key.name == "store" }),
            let file = entries.firstIndex(where: { $0.key.name == "store-file" }),
            entries[store].value != nil, entries[file].value != nil,
            let storeRank = ranks.firstIndex(of: entries[store].origin),
            let fileRank = ranks.firstIndex(of: entries[file].origin)
        else { return }
        let loser = fileRank <= storeRank ? store : file
        entries[loser] = Entry(key: entries[loser].key, value: nil, origin: .fallback)
    }

    private func missing() -> [ConfigurationProblem] {
        entries.compactMap { entry in
            let name = entry.key.name
            guard entry.value == nil else { return nil }
            switch (process, name) {
            case (_, "run"), (.sidecar, "data"), (.broker, "certificate"),
                (.broker, "private-key"):
                break
            case (.broker, "directory") where self.text("data") == nil: break
            default: return nil
            }
            return ConfigurationProblem(
                entry.key.path,
                "\(entry.key.path) is not set; give --\(name), \(entry.key.variable) in the "
                    + "environment, or \(entry.key.path) in the configuration file")
        }
    }

    /// A setting's value.
    package func text(_ name: String) -> String? {
        entries.first { $0.key.name == name }?.value
    }

    /// The texts of a list; none where it is not set.
    package func list(_ name: String) -> [String] {
        text(name)?.split(separator: ",").map(String.init) ?? []
    }

    /// Whether a setting says true.
    package func isTrue(_ name: String) -> Bool { text(name) == "true" }

    /// A number's value; nil where it is not set.
    package func number(_ name: String) -> Int? {
        text(name).flatMap { Int($0) }
    }

    /// A setting that has a value: required ones, and those with a default.
    package func required(_ name: String) -> String {
        guard let value = text(name) else {
            preconditionFailure("a setting without a value or default was taken as set")
        }
        return value
    }

    /// Settings whose values differ and that a running process does not take over.
    package func waiting(after earlier: EffectiveConfiguration) -> [String] {
        zip(entries, earlier.entries).compactMap { now, before in
            now.key.isReloaded || now.value == before.value ? nil : now.key.path
        }
    }
}
