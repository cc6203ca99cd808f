import Foundation
import ProcessConfiguration

/// Any bytes as a configuration file, and what then counts for each process. A message never
/// carries a password, and stays of bounded length.
package enum ConfigurationFuzz {
    private static let path = "/etc/sluice.json"

    package static func run(_ bytes: [UInt8]) {
        let text = Data(bytes)
        let file: ConfigurationFile
        do throws(ConfigurationError) {
            file = try ConfigurationFile(path: path, data: text)
        } catch {
            check(error)
            return
        }
        for process in ConfiguredProcess.allCases {
            do throws(ConfigurationError) {
                let effective = try EffectiveConfiguration(process, environment: [:], file: file)
                for entry in effective.entries {
                    _ = entry.shown
                    if case .number(let range) = entry.key.kind, entry.value != nil {
                        let number = effective.number(entry.key.name)
                        precondition(
                            number.map { range.contains($0) } == true,
                            "a number beyond its range counts")
                    }
                }
                precondition(effective.waiting(after: effective).isEmpty)
            } catch {
                check(error)
            }
        }
    }

    private static func check(_ error: ConfigurationError) {
        precondition(!error.problems.isEmpty, "an error without a problem")
        for problem in error.problems {
            precondition(problem.description.count < 512, "a message without a bound")
            precondition(
                problem.description.unicodeScalars.allSatisfy { $0.value >= 32 },
                "a message of several lines")
        }
    }
}
