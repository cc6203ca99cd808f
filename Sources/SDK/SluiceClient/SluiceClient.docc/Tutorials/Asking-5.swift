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
        try await SluiceClient.withClient(configuration) { sluice in
            let answer = sluice.stream(
                .chat(arguments[4], arguments[5]) {
                    $0.deadline = .seconds(20)
                    $0.maxOutputTokens = 200
                    $0.budget = 10_000  // one US cent, in millionths of a dollar
                })
            do {
                for try await chunk in answer {
                    FileHandle.standardOutput.write(Data(chunk.bytes))
                }
                let end = try await answer.completion()
                print("\n\(end.usage.outputTokens) tokens for \(end.cost.rawValue) µ$")
            } catch let error as SluiceError {
                print("\n\(error); a retry can help: \(error.retry)")
                exit(1)
            }
        }
    }
}
