import Foundation
import SluiceClient

/// Asks one question and shows the answer as it comes:
///
///     ask HOST:PORT ca.pem client.key MODEL PROMPT
@main struct Ask {
    static func main() async throws {
        let arguments = CommandLine.arguments
        guard arguments.count == 6 else {
            print("usage: ask HOST:PORT CA-FILE KEY-FILE MODEL PROMPT")
            exit(64)
        }
        let key = try String(contentsOfFile: arguments[3], encoding: .utf8)
        let configuration = SluiceClient.Configuration(
            brokers: [arguments[1]], key: key.trimmingCharacters(in: .whitespacesAndNewlines),
            trust: .file(arguments[2]))
        try await SluiceClient.withClient(configuration) { _ in
            // Tasks go here.
        }
    }
}
