import ArgumentParser
import Foundation
import ProcessConfiguration

/// `sluice config`
struct ConfigCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "config",
        abstract: "Check the configuration file; show what counts and why.",
        subcommands: [Check.self, Show.self])

    /// `sluice config check`
    struct Check: ParsableCommand {
        static let configuration = CommandConfiguration(
            abstract: "Say everything that is wrong with a configuration file.",
            discussion: """
                Looks at the file alone, and for whether broker and sidecar could start from it, \
                unless it speaks of a worker or gateway alone; flags and environment may still \
                override it. \
                Exit code 1 if something is wrong.
                """)

        @Argument(help: "The file.")
        var file: String

        @Flag(help: "Print a JSON object.")
        var json = false

        func run() throws {
            var problems: [ConfigurationProblem] = []
            do {
                let file = try ConfigurationFile(path: file)
                for process in file.processes {
                    problems += Self.problems(of: process, file)
                }
            } catch {
                problems = error.problems
            }
            if json {
                Output.line(Self.report(file, problems))
            } else if problems.isEmpty {
                Output.line("\(file): nothing is wrong")
            } else {
                for problem in Self.distinct(problems) { Output.note(problem.description) }
            }
            if !problems.isEmpty { throw ExitCode(ExitStatus.failed.rawValue) }
        }

        private static func problems(
            of process: ConfiguredProcess, _ file: ConfigurationFile
        ) -> [ConfigurationProblem] {
            do throws(ConfigurationError) {
                _ = try EffectiveConfiguration(process, environment: [:], file: file)
                return []
            } catch {
                return error.problems
            }
        }

        /// Broker and sidecar miss the same shared setting once.
        private static func distinct(_ all: [ConfigurationProblem]) -> [ConfigurationProblem] {
            var seen: [ConfigurationProblem] = []
            for problem in all where !seen.contains(problem) { seen.append(problem) }
            return seen
        }

        private static func report(_ file: String, _ problems: [ConfigurationProblem]) -> String {
            ConfigCommand.json([
                "file": file, "ok": problems.isEmpty,
                "problems": distinct(problems).map {
                    ["key": $0.key, "text": $0.description]
                },
            ])
        }
    }

    /// `sluice config show`
    struct Show: ParsableCommand {
        static let configuration = CommandConfiguration(
            abstract:
                "Show the settings that count for each process, and where they come from.",
            discussion: """
                As processes would see them that are started with this --config and environment \
                and no other flags; those of worker and gateway where any is set. A password is \
                never shown.
                """)

        @Option(help: "The file; else that of SLUICE_CONFIG.")
        var config: String?

        @Flag(help: "Print one JSON object a line.")
        var json = false

        func run() throws {
            let environment = ProcessInfo.processInfo.environment
            var hasFailed = false
            for process in Self.processes(config ?? environment["SLUICE_CONFIG"]) {
                do throws(ConfigurationError) {
                    let source = ConfigurationSource(
                        process, path: config, environment: environment)
                    let settings = try source.read()
                    // Most files are not a supplier's, nor a gateway's: nothing is said of defaults.
                    let isNamed = settings.entries.contains { $0.origin != .fallback }
                    if process == .broker || process == .sidecar || isNamed { show(settings) }
                } catch {
                    Output.note("\(process.rawValue): \(error)")
                    hasFailed = true
                }
            }
            if hasFailed { throw ExitCode(ExitStatus.failed.rawValue) }
        }

        /// Those that the file is for. What is wrong with it is said when they read it.
        private static func processes(_ path: String?) -> [ConfiguredProcess] {
            guard let path, !path.isEmpty, let file = try? ConfigurationFile(path: path)
            else { return ConfiguredProcess.allCases }
            return file.processes
        }

        private func show(_ settings: EffectiveConfiguration) {
            let process = settings.process.rawValue
            for entry in settings.entries {
                let reload = entry.key.isReloaded ? "SIGHUP" : "start"
                guard json else {
                    Output.line(
                        Self.column(process, 8) + Self.column(entry.key.name, 20)
                            + Self.column(entry.origin.rawValue, 12) + Self.column(reload, 7)
                            + entry.shown)
                    continue
                }
                Output.line(
                    ConfigCommand.json([
                        "process": process, "key": entry.key.path, "flag": "--\(entry.key.name)",
                        "variable": entry.key.variable, "origin": entry.origin.rawValue,
                        "takesEffect": reload, "isSet": entry.value != nil,
                        "value": entry.shown,
                    ]))
            }
        }

        private static func column(_ text: String, _ width: Int) -> String {
            text.padding(toLength: max(width, text.count + 1), withPad: " ", startingAt: 0)
        }
    }

    /// One line of JSON.
    private static func json(_ value: [String: Any]) -> String {
        let data = try? JSONSerialization.data(
            withJSONObject: value, options: [.sortedKeys, .withoutEscapingSlashes])
        return String(decoding: data ?? Data(), as: UTF8.self)
    }
}
