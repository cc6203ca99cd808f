import ArgumentParser
import Foundation

/// A secret from a flag, else a file, else the environment. Never part of a message.
enum Secret {
    static func read(
        value: String?, file: String?, environment: String, name: String
    ) throws -> String? {
        if let value { return value }
        if let file {
            guard let text = try? String(contentsOfFile: file, encoding: .utf8) else {
                throw ValidationError("The file with the \(name) cannot be read.")
            }
            let secret = text.trimmingCharacters(in: .whitespacesAndNewlines)
            guard !secret.isEmpty else {
                throw ValidationError("The file with the \(name) is empty.")
            }
            return secret
        }
        let found = ProcessInfo.processInfo.environment[environment] ?? ""
        return found.isEmpty ? nil : found
    }
}
